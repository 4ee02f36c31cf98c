import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lse_interp.core.errors import ActivationError, MismatchError, UnsupportedModelError
from lse_interp.models.hooked import HookedModel
from lse_interp.models.info import projections
from lse_interp.models.mlp_weights import (
    read_rows,
    row_slices,
    weight_slices,
    weight_views,
    write_rows,
)
from lse_interp.models.placement.dtensors import local_part
from lse_interp.models.sites import site_name
from tests.tiny_models import D_MODEL, FAMILIES, N_LAYERS, tiny_hf

WEIGHTS = {
    "llama": ("model.layers.1.mlp.gate_proj", "model.layers.1.mlp.up_proj"),
    "phi3": ("model.layers.1.mlp.gate_up_proj", "model.layers.1.mlp.gate_up_proj"),
    "gpt2": (None, "transformer.h.1.mlp.c_fc"),
    "opt": (None, "model.decoder.layers.1.fc1"),
    "gpt_neox": (None, "gpt_neox.layers.1.mlp.dense_h_to_4h"),
    "bloom": (None, "transformer.h.1.mlp.dense_h_to_4h"),
}
BIASED = {
    "llama": {"gate_bias", "up_bias", "down_bias"},
    "gpt2": {"up_bias", "down_bias"},
    "opt": {"up_bias", "down_bias"},
    "gpt_neox": {"up_bias", "down_bias"},
    "bloom": {"up_bias", "down_bias"},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_weight_views_are_neuron_first(family):
    model = HookedModel(tiny_hf(family))
    for layer in range(N_LAYERS):
        mlp = weight_views(model, layer)
        matrices = projections(gated=model.gated)
        assert all(mlp[name].shape == (model.d_mlp, D_MODEL) for name in matrices)
        assert set(mlp) == {*matrices, *BIASED.get(family, ())}


@pytest.mark.parametrize("family", WEIGHTS)
def test_weight_slices_name_the_parameters_it_shows(family):
    model = HookedModel(tiny_hf(family))
    gate, up = WEIGHTS[family]
    views, slices = weight_views(model, 1), weight_slices(model, 1)
    assert slices["up"].name == f"{up}.weight"
    assert gate is None or slices["gate"].name == f"{gate}.weight"
    for field, place in slices.items():
        parameter = model.hf.get_parameter(place.name)
        view = views[field]
        if place.neuron_dim is None:
            assert torch.equal(view, parameter)
        else:
            neuron = 3
            row = parameter.select(place.neuron_dim, place.start + neuron)
            assert torch.equal(view[neuron], row)


def test_weight_views_of_a_fused_matrix_have_gate_first():
    hf = tiny_hf("phi3")
    mlp = weight_views(HookedModel(hf), 0)
    fused = hf.model.layers[0].mlp.gate_up_proj.weight
    assert torch.equal(mlp["gate"], fused.chunk(2, dim=0)[0])
    assert torch.equal(mlp["up"], fused.chunk(2, dim=0)[1])


GATED = ("llama", "mistral", "qwen3", "gemma", "phi3")
FIELDS = [(f, "gate") for f in GATED] + [(f, p) for f in FAMILIES for p in ("up", "down")]


@pytest.mark.parametrize(("family", "field"), FIELDS)
def test_weight_views_writing_a_row_moves_that_neuron_alone(family, field, ids):
    model = HookedModel(tiny_hf(family))
    kind = {"gate": "mlp.hook_pre", "up": "mlp.hook_pre_linear", "down": "hook_mlp_out"}[field]
    if field == "up" and not model.gated:
        kind = "mlp.hook_pre"
    site, post = site_name(kind, 0), site_name("mlp.hook_post", 0)
    before = model.collect(ids, [site, post])
    rows = weight_views(model, 0)[field]
    old = rows[5].clone()
    rows[5] = 1.0
    after = model.collect(ids, [site, post])
    change = after[site] - before[site]
    if field == "down":
        # Neuron 5 writes its new row instead of its old one.
        expected = before[post][..., 5, None] * (1.0 - old)
        torch.testing.assert_close(change, expected, rtol=1e-4, atol=1e-4)
        assert torch.equal(after[post], before[post])
    else:
        moved = change.abs().amax(dim=(0, 1)) > 1e-4
        assert moved.nonzero().flatten().tolist() == [5]


def test_weight_views_layer_out_of_range_is_refused():
    with pytest.raises(ActivationError, match="layer must be in 0 to 2; got 3"):
        weight_views(HookedModel(tiny_hf("llama")), 3)


def test_weight_views_quantised_weight_is_refused():
    hf = tiny_hf("llama")
    up = hf.model.layers[0].mlp.up_proj
    packed = torch.zeros_like(up.weight, dtype=torch.uint8)
    up.weight = torch.nn.Parameter(packed, requires_grad=False)
    with pytest.raises(UnsupportedModelError, match=r"up_proj\.weight is stored as torch\.uint8"):
        weight_views(HookedModel(hf), 0)


# Where each family keeps gate, up and down, by hand: module, and whether it stores [in out].
MODULES = {
    "llama": (
        "model.layers.{}.mlp.gate_proj",
        "model.layers.{}.mlp.up_proj",
        "model.layers.{}.mlp.down_proj",
    ),
    "gpt2": (None, "transformer.h.{}.mlp.c_fc", "transformer.h.{}.mlp.c_proj"),
    "opt": (None, "model.decoder.layers.{}.fc1", "model.decoder.layers.{}.fc2"),
    "gpt_neox": (
        None,
        "gpt_neox.layers.{}.mlp.dense_h_to_4h",
        "gpt_neox.layers.{}.mlp.dense_4h_to_h",
    ),
    "bloom": (None, "transformer.h.{}.mlp.dense_h_to_4h", "transformer.h.{}.mlp.dense_4h_to_h"),
}
MODULES |= dict.fromkeys(("mistral", "qwen3", "gemma"), MODULES["llama"])


def reference_rows(hf, family, layer, neuron):
    """The rows of one neuron, read from the parameters by name, in NumPy."""
    if family == "phi3":
        mlp = f"model.layers.{layer}.mlp"
        fused = hf.get_parameter(f"{mlp}.gate_up_proj.weight").detach().numpy()
        down = hf.get_parameter(f"{mlp}.down_proj.weight").detach().numpy()
        return np.stack([fused[neuron], fused[len(fused) // 2 + neuron], down[:, neuron]])
    rows = []
    for name, module in zip(("gate", "up", "down"), MODULES[family], strict=True):
        if module is None:
            continue
        weight = hf.get_parameter(f"{module.format(layer)}.weight").detach().numpy()
        by_output = weight.T if family == "gpt2" else weight
        rows.append(by_output[:, neuron] if name == "down" else by_output[neuron])
    return np.stack(rows)


@pytest.mark.parametrize("family", FAMILIES)
def test_read_rows_agrees_with_the_parameters(family):
    model = HookedModel(tiny_hf(family))
    neurons = torch.tensor([0, 5, model.d_mlp - 1])
    for layer in range(N_LAYERS):
        found = read_rows(model, layer, neurons)
        assert found.shape == (len(projections(gated=model.gated)), 3, D_MODEL)
        for i, neuron in enumerate(neurons.tolist()):
            expected = reference_rows(model.hf, family, layer, neuron)
            np.testing.assert_array_equal(found[:, i].numpy(), expected)


def test_read_rows_copies():
    model = HookedModel(tiny_hf("llama"))
    rows = read_rows(model, 0, torch.tensor([3]))
    before = model.info.fingerprint
    rows.zero_()
    assert model.info.fingerprint == before and not rows.requires_grad


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_write_rows_changes_these_entries_and_no_other(family, data):
    model = HookedModel(tiny_hf(family))
    layer = data.draw(st.integers(0, N_LAYERS - 1))
    neurons = data.draw(st.lists(st.integers(0, model.d_mlp - 1), unique=True, max_size=6))
    neurons = torch.tensor(neurons, dtype=torch.int64)
    before = {name: weight.detach().clone() for name, weight in model.hf.named_parameters()}
    old = read_rows(model, layer, neurons)
    new = torch.randn(old.shape) + 10
    write_rows(model, layer, neurons, new)
    assert torch.equal(read_rows(model, layer, neurons), new)
    changed = {n: int((w != before[n]).sum()) for n, w in model.hf.named_parameters()}
    expected = dict.fromkeys(changed, 0)
    for source in row_slices(model, layer):
        expected[source.name] += len(neurons) * D_MODEL
    assert changed == expected
    write_rows(model, layer, neurons, old)
    assert all(torch.equal(w, before[name]) for name, w in model.hf.named_parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_write_rows_moves_the_neurons_own_activation(family, ids):
    model = HookedModel(tiny_hf(family))
    neurons, site = torch.tensor([7]), site_name("mlp.hook_pre", 1)
    before = model.collect(ids, [site])[site]
    write_rows(model, 1, neurons, 2 * read_rows(model, 1, neurons))
    after = model.collect(ids, [site])[site]
    moved = (after != before).flatten(0, -2).any(dim=0)
    assert moved.nonzero().flatten().tolist() == [7]


def test_write_rows_rounds_to_the_dtype_of_the_model():
    model = HookedModel(tiny_hf("llama").to(torch.bfloat16))
    neurons = torch.tensor([1, 4])
    rows = torch.randn(3, 2, D_MODEL)
    write_rows(model, 2, neurons, rows)
    assert torch.equal(read_rows(model, 2, neurons), rows.bfloat16())


def test_write_rows_is_seen_by_the_fingerprint():
    model = HookedModel(tiny_hf("gpt2"))
    before = model.info.fingerprint
    neurons = torch.tensor([2])
    old = read_rows(model, 0, neurons)
    write_rows(model, 0, neurons, old + 1)
    assert model.info.fingerprint != before
    write_rows(model, 0, neurons, old)
    assert model.info.fingerprint == before


def test_write_rows_refuses_another_shape():
    neurons = torch.tensor([1, 4])
    with pytest.raises(MismatchError, match=r"= \[3, 2, 16\] for .*; got \[2, 2, 16\]"):
        write_rows(HookedModel(tiny_hf("llama")), 0, neurons, torch.zeros(2, 2, D_MODEL))
    with pytest.raises(MismatchError, match=r"= \[2, 2, 16\] for .*; got \[3, 2, 16\]"):
        write_rows(HookedModel(tiny_hf("opt")), 0, neurons, torch.zeros(3, 2, D_MODEL))


@pytest.mark.parametrize("neuron", [-1, 24])
def test_neurons_that_do_not_exist_are_refused(neuron):
    """Also in Phi-3, where row 24 of the fused matrix is the up row of neuron 0."""
    for family in ("llama", "phi3"):
        model = HookedModel(tiny_hf(family))
        before = model.info.fingerprint
        neurons = torch.tensor([neuron])
        with pytest.raises(ActivationError, match=rf"neurons must be in 0 to 23; got .*{neuron}"):
            read_rows(model, 0, neurons)
        with pytest.raises(ActivationError, match=rf"neurons must be in 0 to 23; got .*{neuron}"):
            write_rows(model, 0, neurons, torch.zeros(3, 1, D_MODEL))
        assert model.info.fingerprint == before


def test_layers_that_do_not_exist_are_refused():
    with pytest.raises(ActivationError, match="layer must be in 0 to 2; got 3"):
        read_rows(HookedModel(tiny_hf("llama")), 3, torch.tensor([0]))


def test_projections_name_the_rows():
    assert projections(gated=True) == ("gate", "up", "down")
    assert projections(gated=False) == ("up", "down")
    model = HookedModel(tiny_hf("phi3"))
    assert [s.start for s in row_slices(model, 1)] == [0, 24, 0]


def test_local_part_of_a_whole_parameter_is_itself():
    parameter = torch.zeros(4, 2)
    assert local_part(parameter) == (parameter, 0)
