import pytest
import torch

from lse_interp.core.errors import ActivationError, UnsupportedModelError
from lse_interp.models import HookedModel, site_name
from lse_interp.models.mlp_weights import ffn
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
def test_ffn_is_neuron_first(family):
    model = HookedModel(tiny_hf(family))
    for layer in range(N_LAYERS):
        mlp = ffn(model, layer)
        for rows in (mlp.gate, mlp.up, mlp.down):
            assert rows is None or rows.shape == (model.d_mlp, D_MODEL)
        assert (mlp.gate is not None) == mlp.gated == model.gated
        found = {f for f in ("gate_bias", "up_bias", "down_bias") if getattr(mlp, f) is not None}
        assert found == BIASED.get(family, set())
        fields = {"up", "down"} | ({"gate"} if model.gated else set()) | found
        assert set(mlp.slices) == fields


@pytest.mark.parametrize("family", WEIGHTS)
def test_ffn_names_the_parameters_it_shows(family):
    model = HookedModel(tiny_hf(family))
    gate, up = WEIGHTS[family]
    mlp = ffn(model, 1)
    assert mlp.slices["up"].name == f"{up}.weight"
    assert (mlp.slices["gate"].name if gate else None) == (f"{gate}.weight" if gate else None)
    for field, source in mlp.slices.items():
        parameter = model.hf.get_parameter(source.name)
        view = getattr(mlp, field)
        if source.neuron_dim is None:
            assert torch.equal(view, parameter)
        else:
            neuron = 3
            row = parameter.select(source.neuron_dim, source.start + neuron)
            assert torch.equal(view[neuron], row)


def test_ffn_fused_has_gate_first():
    hf = tiny_hf("phi3")
    mlp = ffn(HookedModel(hf), 0)
    fused = hf.model.layers[0].mlp.gate_up_proj.weight
    assert torch.equal(mlp.gate, fused.chunk(2, dim=0)[0])
    assert torch.equal(mlp.up, fused.chunk(2, dim=0)[1])


GATED = ("llama", "mistral", "qwen3", "gemma", "phi3")
FIELDS = [(f, "gate") for f in GATED] + [(f, p) for f in FAMILIES for p in ("up", "down")]


@pytest.mark.parametrize(("family", "field"), FIELDS)
def test_ffn_writing_a_row_moves_that_neuron_alone(family, field, ids):
    model = HookedModel(tiny_hf(family))
    kind = {"gate": "mlp.hook_pre", "up": "mlp.hook_pre_linear", "down": "hook_mlp_out"}[field]
    if field == "up" and not model.gated:
        kind = "mlp.hook_pre"
    site, post = site_name(kind, 0), site_name("mlp.hook_post", 0)
    before = model.collect(ids, [site, post])
    rows = getattr(ffn(model, 0), field)
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


def test_ffn_layer_out_of_range_is_refused():
    with pytest.raises(ActivationError, match="layer must be in 0 to 2; got 3"):
        ffn(HookedModel(tiny_hf("llama")), 3)


def test_ffn_quantised_weight_is_refused():
    hf = tiny_hf("llama")
    up = hf.model.layers[0].mlp.up_proj
    packed = torch.zeros_like(up.weight, dtype=torch.uint8)
    up.weight = torch.nn.Parameter(packed, requires_grad=False)
    with pytest.raises(UnsupportedModelError, match=r"up_proj\.weight is stored as torch\.uint8"):
        ffn(HookedModel(hf), 0)
