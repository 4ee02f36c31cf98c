import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lse_interp.artifacts.format import save_artifact
from lse_interp.artifacts.paths import RunPaths
from lse_interp.core.errors import ArtifactError, LseError
from lse_interp.models.info import ModelInfo
from lse_interp.subnetworks.finetune_run import CURVE_COLUMNS, FinetuneRun

N_LAYERS, D_MODEL, D_MLP = 3, 4, 10
INFO = ModelInfo("tiny", "f" * 16, "LlamaForCausalLM", N_LAYERS, D_MODEL, D_MLP, 1000)
CURVES = pd.DataFrame(
    [
        (0, 0, "validation", "mlt", 2.5),
        (1, 64, "train", "mlt", 2.4),
        (1, 64, "validation", "eng", 3),
    ],
    columns=list(CURVE_COLUMNS),
)


def make(lists=((1, 4), (), (9,)), *, info=INFO, dtype=torch.float32, **changes):
    random = torch.Generator().manual_seed(0)
    n = 3 if info.gated else 2
    shapes = [(n, len(layer), info.d_model) for layer in lists]
    fields = {
        "language": "mlt",
        "method": "target",
        "model": info,
        "neurons": tuple(torch.tensor(layer, dtype=torch.int64) for layer in lists),
        "rows": tuple(torch.randn(shape, generator=random).to(dtype) for shape in shapes),
        "base": tuple(torch.randn(shape, generator=random).to(dtype) for shape in shapes),
        "curves": CURVES,
        "settings": {"lr": 1e-4, "corpus": "embedded"},
        "results": {"step": 1, "validation_loss": {"mlt": 2.4}},
        "provenance": {"command": "test"},
    }
    return FinetuneRun(**fields | changes)


def alone(method="lora", **changes):
    return make(neurons=None, rows=None, base=None, method=method, **changes)


def test_to_frame_names_the_run_and_both_languages():
    frame = make(settings={"seed": 3}).to_frame()
    assert frame.columns.tolist() == [
        *("method", "language", "seed", "measured", "split", "step", "tokens", "loss")
    ]
    assert frame.iloc[2].tolist() == ["target", "mlt", 3, "eng", "validation", 1, 64, 3]
    assert make(settings={}).to_frame()["seed"].unique().tolist() == [0]


def assert_same(run, other):
    for name in ("language", "method", "model", "settings", "results", "provenance"):
        assert getattr(run, name) == getattr(other, name)
    pd.testing.assert_frame_equal(run.curves, other.curves)
    for name in ("neurons", "rows", "base"):
        parts = zip(getattr(run, name), getattr(other, name), strict=True)
        assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in parts)


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_run_survives_saving_and_loading(dtype, gated, tmp_path):
    run = make(dtype=dtype, info=dataclasses.replace(INFO, gated=gated))
    path = run.save(tmp_path / "run")
    assert path == tmp_path / "run" / "subnetwork.safetensors"
    for where in (path, tmp_path / "run", str(tmp_path / "run")):
        loaded = FinetuneRun.load(where)
        assert_same(loaded, run)
        assert (loaded.folder, loaded.is_subnetwork) == (tmp_path / "run", True)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "run" / "curves.csv"), CURVES)
    twin = json.loads((tmp_path / "run" / "subnetwork.json").read_text())
    assert twin["meta"]["results"]["validation_loss"] == {"mlt": 2.4}


@settings(max_examples=30, deadline=None)
@given(
    lists=st.lists(
        st.lists(st.integers(0, D_MLP - 1), unique=True).map(sorted),
        min_size=N_LAYERS,
        max_size=N_LAYERS,
    )
)
def test_any_neurons_survive_and_mask_counts_them(lists, tmp_path_factory):
    run = make(lists)
    folder = tmp_path_factory.mktemp("run")
    run.save(folder)
    loaded = FinetuneRun.load(folder)
    assert_same(loaded, run)
    mask = np.zeros((N_LAYERS, D_MLP), dtype=bool)
    for layer, neurons in enumerate(lists):
        for neuron in neurons:
            mask[layer, neuron] = True
    np.testing.assert_array_equal(loaded.mask().numpy(), mask)


@pytest.mark.parametrize("method", ["lora", "ffn", "full"])
def test_run_without_rows_survives_and_says_so(method, tmp_path):
    run = alone(method)
    path = run.save(tmp_path)
    assert path.name == "run.safetensors"
    loaded = FinetuneRun.load(tmp_path)
    assert (loaded.neurons, loaded.rows, loaded.base) == (None, None, None)
    assert (loaded.method, loaded.is_subnetwork) == (method, False)
    with pytest.raises(LseError, match=f"method '{method}' holds no rows. Compare the model in"):
        _ = loaded.deltas
    with pytest.raises(LseError, match=f"method '{method}' chose no neurons"):
        loaded.mask()


def test_deltas_of_narrow_rows_are_float32():
    run = make(dtype=torch.bfloat16)
    for layer, delta in enumerate(run.deltas):
        assert delta.dtype == torch.float32
        expected = run.rows[layer].float().numpy() - run.base[layer].float().numpy()
        np.testing.assert_array_equal(delta.numpy(), expected)
    assert {delta.dtype for delta in make(dtype=torch.float64).deltas} == {torch.float64}


def test_exists_says_whether_a_run_is_finished(tmp_path):
    assert not FinetuneRun.exists(tmp_path)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "curves.csv").write_text("")
    assert not FinetuneRun.exists(tmp_path)
    alone().save(tmp_path)
    assert FinetuneRun.exists(tmp_path)


def test_load_names_what_writes_a_run(tmp_path):
    with pytest.raises(ArtifactError, match=r"no finished fine-tuning run.*lse_interp.finetune`"):
        FinetuneRun.load(tmp_path)


@pytest.mark.parametrize("make_one", [make, alone])
@pytest.mark.parametrize("kept", [0, 4, 0.5, -1])
def test_load_refuses_a_truncated_file(make_one, kept, tmp_path):
    path = make_one().save(tmp_path)
    octets = path.read_bytes()
    path.write_bytes(octets[: int(kept * len(octets)) if isinstance(kept, float) else kept])
    with pytest.raises(ArtifactError, match="truncated or not safetensors"):
        FinetuneRun.load(tmp_path)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_load_refuses_any_flipped_bit(data, tmp_path_factory):
    path = make().save(tmp_path_factory.mktemp("run"))
    octets = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(octets) - 1))
    octets[at] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(octets)
    with pytest.raises(ArtifactError, match=r"altered|truncated|not an artefact|holds|version"):
        FinetuneRun.load(path)


def test_load_refuses_another_kind(tmp_path):
    path = make().save(tmp_path)
    save_artifact(path, kind="neuron_sets", version=1, tensors={}, meta={})
    with pytest.raises(ArtifactError, match="holds `neuron_sets`; expected `finetune_run`"):
        FinetuneRun.load(tmp_path)
    save_artifact(path, kind="finetune_run", version=9, tensors={}, meta={"provenance": {}})
    with pytest.raises(ArtifactError, match="format version 9 of `finetune_run`"):
        FinetuneRun.load(tmp_path)


def test_saving_again_replaces_the_run(tmp_path):
    make().save(tmp_path)
    again = make([[2], [3], [4]], settings={"lr": 1.0})
    again.save(tmp_path)
    assert_same(FinetuneRun.load(tmp_path), again)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"curves": CURVES.drop(columns="tokens")}, "Curves need the columns .*; tokens missing"),
        ({"rows": None}, "Neurons, rows and base belong together: give all three or none"),
        ({"neurons": None}, "Neurons, rows and base belong together"),
        ({"neurons": (torch.tensor([1]),)}, "listed for each of the 3 layers of tiny; got 1"),
        ({"rows": make().rows[:2]}, "`rows` should be .* in each of the 3 layers of tiny: "),
        ({"base": make().base[::-1]}, r"`base` should be .* \[\[3, 2, 4\].*; got \[\[3, 1, 4\]"),
        (
            {"model": dataclasses.replace(INFO, gated=False)},
            r"`rows` should be \[projection neuron d_model\] in each .*: \[\[2, 2, 4\], ",
        ),
        (
            {"neurons": tuple(torch.tensor(n, dtype=torch.int64) for n in ([4, 1], [], [9]))},
            r"`neurons` in layer 0 must be indices in \[0, 10\) \(tiny\) that .*got \[4, 1\]",
        ),
        (
            {"neurons": tuple(torch.tensor(n, dtype=torch.int64) for n in ([1, 1], [], [9]))},
            "`neurons` in layer 0 must be .*ascend",
        ),
        (
            {"neurons": tuple(torch.tensor(n, dtype=torch.int64) for n in ([1, 4], [], [10]))},
            r"`neurons` in layer 2 must be indices in \[0, 10\) \(tiny\) .*got \[10\]",
        ),
        (
            {"neurons": tuple(torch.tensor(n, dtype=torch.int64) for n in ([-1, 4], [], [9]))},
            "`neurons` in layer 0 must be .*ascend",
        ),
    ],
)
def test_run_refuses_parts_that_do_not_fit(changes, message):
    with pytest.raises(LseError, match=message):
        make(**changes)


def test_run_paths_keep_runs_by_language_and_name(tmp_path):
    paths = RunPaths(tmp_path, "org/model")
    assert paths.finetune("mlt", "random-size") == (
        tmp_path / "org--model" / "finetune" / "mlt" / "random-size"
    )
    assert paths.deltas("mlt", "target") == (
        tmp_path / "org--model" / "deltas" / "mlt" / "target.safetensors"
    )
