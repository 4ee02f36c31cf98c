"""A function and its command measure the same, bit by bit, by name and by path."""

from pathlib import Path

import pytest
import torch

from lse_interp import ablation, alignment, load_model, load_parallel, measure_alignment
from lse_interp import measure_ablation as measure
from lse_interp.analysis.ablation_matrix import AblationMatrix
from lse_interp.core.cli import ModelArgs
from lse_interp.neurons.sets import NeuronSets

LANGUAGES = ("mlt", "eng", "deu")
AGAINST = ("eng", "deu")
N_SENTENCES = 6


@pytest.fixture(scope="module", params=["name", "path"])
def named(request) -> str:
    """The embedded model, by its name and by its folder."""
    import lse_interp.models.packaged as packaged

    folder = next(iter(Path(packaged.__file__).parent.rglob("defaults.json"))).parent
    return "embedded" if request.param == "name" else str(folder)


@pytest.fixture(scope="module")
def parallel():
    return load_parallel("embedded", languages=LANGUAGES, n_sentences=N_SENTENCES)


def test_alignment_command_and_function_agree(named, parallel, tmp_path):
    config = alignment.Config(
        "mlt",
        ModelArgs(named),
        against=AGAINST,
        n_sentences=N_SENTENCES,
        root=tmp_path / "runs",
        figures=tmp_path / "figures",
    )
    found = alignment.run(config)
    expected = measure_alignment(load_model(named), parallel, lang="mlt", against=AGAINST)
    assert found.setup == expected.setup
    assert found.infos[0].fingerprint == expected.infos[0].fingerprint
    for name in found.VALUES:
        assert torch.equal(getattr(found, name), getattr(expected, name))


def test_ablation_command_and_function_agree(named, parallel, tmp_path):
    model = load_model(named)
    generator = torch.Generator().manual_seed(0)
    draws = torch.rand(2, model.n_layers, model.d_mlp, generator=generator) < 0.01
    masks = dict(zip(("mlt", "eng"), draws, strict=True))
    indices = {
        code: tuple(layer.nonzero().flatten() for layer in mask) for code, mask in masks.items()
    }
    neurons = NeuronSets(
        indices=indices, model=model.info, site="mlp.hook_act", method="lape", thresholds={}
    )
    path = neurons.save(tmp_path / "neurons.safetensors")
    config = ablation.Config(
        ModelArgs(named),
        against=("deu",),
        neurons=path,
        n_sentences=N_SENTENCES,
        root=tmp_path / "runs",
    )
    found = ablation.run(config)
    expected = measure(model, neurons, parallel)
    assert isinstance(found, AblationMatrix)
    assert found.setup == expected.setup
    for name in ("intact", "without", "without_random", "n_neurons"):
        assert torch.equal(getattr(found, name), getattr(expected, name))
