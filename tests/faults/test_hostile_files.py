"""Files made to do harm: code in a pickle is never run, and edited neurons are refused."""

import json
import os
import pickle
import shutil

import pytest
import torch
from safetensors import safe_open

from lse_interp.artifacts.format import save_artifact
from lse_interp.core.errors import ArtifactError, LseError
from lse_interp.lape import main as lape
from lse_interp.models.loading import load_model
from lse_interp.neurons.sets import NeuronSets
from lse_interp.overlap import main as overlap
from lse_interp.subnetworks.finetune_run import FinetuneRun
from tests.tiny_models import tiny_hf, tiny_tokenizer
from tests.training.tiny_runs import stopped_at, tiny_model, tune

from .small_artefacts import INFO, finetune_run, neurons


class Bomb:
    """Leaves a file where it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.system, (f"touch {self.trace}",)


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "code-was-run"
    yield path
    assert not path.exists()


def test_the_bomb_works(tmp_path):
    path = tmp_path / "trace"
    pickle.loads(pickle.dumps(Bomb(path)))
    assert path.exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrap", [lambda bomb: bomb, lambda bomb: [[torch.tensor([1]), bomb]]])
def test_masks_with_code_are_refused(tmp_path, trace, zipped, wrap):
    path = tmp_path / "masks.pth"
    torch.save(wrap(Bomb(trace)), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ArtifactError, match="holds more than tensors"):
        NeuronSets.from_masks(path, languages=["mlt"], model=INFO)


def test_a_bare_pickle_is_refused(tmp_path, trace, capsys):
    path = tmp_path / "llama-3.1-5"
    path.write_bytes(pickle.dumps(Bomb(trace)))
    with pytest.raises(ArtifactError, match="cannot be read as neuron masks"):
        NeuronSets.from_masks(path, languages=["mlt"], model=INFO)
    assert overlap(["--masks", str(path), "--root", str(tmp_path)]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {path} cannot be read")


@pytest.mark.parametrize("name", ["neurons.safetensors", "neurons.parquet"])
def test_a_pickle_under_another_name_is_refused(tmp_path, trace, name):
    path = tmp_path / name
    path.write_bytes(pickle.dumps(Bomb(trace)))
    read = NeuronSets.load if path.suffix == ".safetensors" else NeuronSets.from_parquet
    with pytest.raises(ArtifactError, match="cannot be read as"):
        read(path)


def test_a_checkpoint_with_code_is_refused(tmp_path, trace):
    model = tiny_model()
    with stopped_at(model, 3):
        tune(model, folder=tmp_path / "run")
    checkpoints = tmp_path / "run" / "checkpoints"
    assert {path.suffix for path in checkpoints.iterdir()} == {".safetensors", ".json"}
    torch.save(Bomb(trace), checkpoints / "last.safetensors")
    with pytest.raises(ArtifactError, match="cannot be read.*--overwrite"):
        tune(tiny_model(), folder=tmp_path / "run")


@pytest.fixture
def model_folder(tmp_path):
    folder = tmp_path / "model"
    tiny_hf("llama").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def test_weights_with_code_are_refused(model_folder, trace):
    (model_folder / "model.safetensors").unlink()
    torch.save({"model.embed_tokens.weight": Bomb(trace)}, model_folder / "pytorch_model.bin")
    with pytest.raises(LseError, match="weights"):
        load_model(model_folder, device="cpu")


def test_a_model_that_brings_code_is_refused(model_folder, trace):
    config = json.loads((model_folder / "config.json").read_text(encoding="utf-8"))
    config |= {
        "model_type": "own",
        "auto_map": {"AutoConfig": "code.Own", "AutoModelForCausalLM": "code.Own"},
    }
    (model_folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (model_folder / "code.py").write_text(f"open({str(trace)!r}, 'w')\n", encoding="utf-8")
    with pytest.raises(LseError, match="configuration"):
        load_model(model_folder, device="cpu")


def edited(path, folder, **changes):
    """Write the artefact of a file anew, with other tensors and a checksum that fits them."""
    with safe_open(path, framework="pt") as file:
        description = json.loads(file.metadata()["lse_interp"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    folder.mkdir(exist_ok=True)
    return save_artifact(
        folder / path.name,
        kind=description["kind"],
        version=description["version"],
        tensors={name: changes.get(name, tensor) for name, tensor in tensors.items()},
        meta=description["meta"],
    )


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ([0, -1, 3, 1, 5], "got .*-1|ascend|-1"),
        ([0, 6, 3, 1, 5], r"mlt in layer 0 must be indices in \[0, 6\)"),
        ([0, 2**40, 3, 1, 5], r"in \[0, 6\)"),
        ([3, 0, 3, 1, 5], "mlt in layer 0 must be .*ascend without repeats"),
        ([3, 3, 3, 1, 5], "ascend without repeats"),
        ([0, 3, 3, 1], "holds 4 neuron indices; its sets should have 5"),
        ([0, 3, 3, 1, 5, 5], "holds 6 neuron indices; its sets should have 5"),
    ],
)
def test_edited_neurons_are_refused(tmp_path, capsys, listed, message):
    path = neurons().save(tmp_path / "neurons.safetensors")
    path = edited(path, tmp_path / "edited", neurons=torch.tensor(listed))
    with pytest.raises(LseError, match=message):
        NeuronSets.load(path)
    assert overlap(["--neurons", str(path), "--root", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("error: ") == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"n_neurons": torch.tensor([[2, 0], [-1, 4]])},
        {"n_neurons": torch.tensor([[2, 0, 1, 2]])},
        {"n_neurons": torch.tensor([[2.0, 0.0], [1.0, 2.0]])},
        {"neurons": torch.tensor([0.0, 3.0, 3.0, 1.0, 5.0])},
        {"neurons": torch.tensor([[0, 3, 3, 1, 5]])},
        {
            "scores": torch.zeros(2, 5, dtype=torch.float64),
            "probability": torch.zeros(2, 2, 5, dtype=torch.float64),
        },
        {"probability": torch.full((2, 2, 6), -1.0, dtype=torch.float64)},
    ],
)
def test_edited_shapes_and_types_are_refused(tmp_path, changes):
    path = neurons().save(tmp_path / "neurons.safetensors")
    with pytest.raises(LseError):
        NeuronSets.load(edited(path, tmp_path / "edited", **changes))


def test_neurons_of_another_model_are_not_trained(tmp_path):
    """The indices fit this model too; the weights they were found in do not."""
    with pytest.raises(LseError, match="belongs to another model|belongs to other weights"):
        NeuronSets.load(neurons().save(tmp_path / "neurons.safetensors"), model=tiny_model().info)


@pytest.mark.parametrize(
    "changes",
    [
        {"neurons": torch.tensor([0, 6, 2])},
        {"neurons": torch.tensor([3, 0, 2])},
        {"neurons": torch.tensor([0, 3])},
        {"n_neurons": torch.tensor([1, 2])},
        {"n_neurons": torch.tensor([3])},
        {"rows.0": torch.zeros(3, 1, 4)},
        {"base.1": torch.zeros(3, 2, 4)},
    ],
)
def test_edited_runs_are_refused(tmp_path, changes):
    path = finetune_run().save(tmp_path / "run")
    with pytest.raises(LseError):
        FinetuneRun.load(edited(path, tmp_path / "edited", **changes))


def test_counts_filed_under_another_language_are_refused(tmp_path, capsys):
    from .small_artefacts import counts

    folder = tmp_path / "embedded" / "counts"
    counts().save(folder / "mlt.safetensors")
    shutil.copy(folder / "mlt.safetensors", folder / "eng.safetensors")
    assert lape(["--root", str(tmp_path)]) == 2
    assert "Counts filed under eng are of mlt" in capsys.readouterr().err
