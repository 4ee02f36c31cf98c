"""Small artefacts to draw, and no figure left open."""

import matplotlib.pyplot as plt
import pytest
import torch

from analyses import drawing
from analyses.registry import Request
from lse_interp.analysis.alignment import AlignmentCurves
from lse_interp.models.info import ModelInfo
from lse_interp.neurons.sets import NeuronSets


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


@pytest.fixture
def make_neurons():
    """Neuron sets from language -> layer -> indices."""

    def make(lists, *, d_mlp=10, name="embedded", method="lape"):
        indices = {
            code: tuple(torch.tensor(layer, dtype=torch.int64) for layer in layers)
            for code, layers in lists.items()
        }
        n_layers = len(next(iter(lists.values())))
        info = ModelInfo(name, "abc", "LlamaForCausalLM", n_layers, 4, d_mlp, 1000)
        return NeuronSets(
            indices=indices,
            model=info,
            site="mlp.hook_act",
            method=method,
            thresholds={"k": 0.05},
        )

    return make


@pytest.fixture
def neurons(make_neurons):
    return make_neurons(
        {"slv": [[0, 1, 2], [5]], "mlt": [[], [9]], "slk": [[1, 2], [5, 6]], "ekk": [[], []]}
    )


@pytest.fixture
def make_curves():
    """Alignment curves whose values say where they belong."""

    def make(models=("base",), *, against=("eng", "ita", "arb"), n_layers=4, language="mlt"):
        shape = (len(models), 2, len(against), n_layers)
        cosine = torch.arange(torch.tensor(shape).prod(), dtype=torch.float64).reshape(shape)
        cosine = 0.5 + 0.4 * cosine / cosine.numel()
        gap = torch.full_like(cosine, 0.3)
        estimate = torch.stack([cosine, cosine - gap, gap, cosine / 2], dim=2)
        return AlignmentCurves(
            models=tuple(models),
            infos=tuple(
                ModelInfo("embedded", label, "LlamaForCausalLM", n_layers, 4, 8, 1000)
                for label in models
            ),
            language=language,
            against=tuple(against),
            site="hook_resid_post",
            pooling="mean",
            sinks="drop",
            n_sentences=7,
            text="abc",
            n_bootstrap=10,
            seed=0,
            estimate=estimate,
            low=estimate - 0.02,
            high=estimate + 0.03,
            n_sinks=torch.zeros(len(models), len(against), n_layers, dtype=torch.int64),
        )

    return make


@pytest.fixture
def draw(tmp_path):
    """Draw a figure into `tmp_path / "figures"`: name, files, flags -> files written."""

    def run(name, *files, **flags):
        return drawing.draw(Request(name, files, **{"figures": tmp_path / "figures", **flags}))

    return run
