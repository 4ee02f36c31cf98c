import pytest
import torch

from lse_interp.models.backends import BACKENDS
from lse_interp.models.hooked import HookedModel
from lse_interp.models.mlp_weights import weight_views
from lse_interp.models.sites import SITES, site_name
from tests.tiny_models import FAMILIES, tiny_hf


def editable(model):
    return [kind for kind in SITES if model.gated or kind != "mlp.hook_pre_linear"]


def replay(model, ids, kind, layer, factor):
    """Compute the logits of an edit `activation * factor` with bare torch hooks, as a reference."""
    at = model.layout.blocks[layer]
    split = model.d_mlp if at.fused and kind == "mlp.hook_pre_linear" else 0
    module, on_input = {
        "mlp.hook_pre": (at.act, True),
        "mlp.hook_pre_linear": (at.up, False),
        "mlp.hook_act": (at.act, False),
        "mlp.hook_post": (at.down, True),
        "hook_mlp_out": (at.down, False),
        "hook_resid_post": (at.block, False),
    }[kind]
    module = model.hf.get_submodule(module)
    original = module.forward

    def scale(value):
        if isinstance(value, tuple):
            return (scale(value[0]), *value[1:])
        value = value.clone()
        value[..., split:] *= factor
        return value

    def forward(x, *args, **kwargs):
        return original(scale(x), *args) if on_input else scale(original(x, *args, **kwargs))

    module.forward = forward
    try:
        with torch.no_grad():
            return model.hf(ids).logits
    finally:
        del module.forward


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_replacement_reaches_the_logits_from_every_site(load, ids, family, backend):
    model = load(family, backend)
    clean = model.hf(ids).logits.detach()
    for kind in editable(model):
        hooks = {site_name(kind, 1): lambda a, s: a * -1.5}
        found = model.run_with_hooks(ids, hooks, logits=True)
        expected = replay(model, ids, kind, 1, -1.5)
        assert not torch.allclose(expected, clean, atol=1e-4), f"{kind}: the edit does nothing"
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4, msg=kind)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", ["llama", "phi3", "opt"])
def test_editing_act_changes_post(load, ids, family, backend):
    model = load(family, backend)
    act, post = site_name("mlp.hook_act", 0), site_name("mlp.hook_post", 0)
    clean = model.collect(ids, [post])[post]
    with model.edits({act: lambda a, s: a * 2}):
        doubled = model.collect(ids, [act, post])
    torch.testing.assert_close(doubled[post], clean * 2, rtol=1e-6, atol=1e-6)
    assert torch.equal(model.collect(ids, [post])[post], clean)


@pytest.mark.parametrize("backend", BACKENDS)
def test_collect_sees_the_edited_value_of_the_same_site(load, ids, backend):
    model = load("llama", backend)
    site = site_name("mlp.hook_pre", 1)
    with model.edits({site: lambda a, s: torch.full_like(a, 3.0)}):
        assert (model.collect(ids, [site])[site] == 3.0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_edits_nest_in_order(load, ids, backend):
    model = load("llama", backend)
    site = site_name("mlp.hook_act", 1)
    with (
        model.edits({site: lambda a, s: torch.full_like(a, 3.0)}),
        model.edits({site: lambda a, s: a + 1.0}),
    ):
        assert (model.collect(ids, [site])[site] == 4.0).all()
    assert model._edits == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_edit_in_place_counts(load, ids, backend):
    model = load("phi3", backend)
    site, post = site_name("mlp.hook_pre_linear", 0), site_name("mlp.hook_post", 0)

    def silence(activation, site):
        activation[..., 3] = 0

    with model.edits({site: silence}):
        edited = model.collect(ids, [post])[post]
    assert (edited[..., 3] == 0).all()
    assert (edited[..., 4] != 0).any()


@pytest.mark.parametrize("family", FAMILIES)
def test_edits_hold_in_generate(family, ids):
    model = HookedModel(tiny_hf(family))
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    options |= {"attention_mask": torch.ones_like(ids), "return_dict_in_generate": True}
    options["output_logits"] = True
    clean = model.hf.generate(ids, **options)
    sites = [site_name("hook_mlp_out", layer) for layer in range(model.n_layers)]
    shapes = []

    def silence(activation, site):
        shapes.append(tuple(activation.shape))
        return torch.zeros_like(activation)

    with model.edits(dict.fromkeys(sites, silence)):
        edited = model.hf.generate(ids, **options)
    # The prompt, then one new token per step.
    assert shapes == [(2, 7, 16)] * 3 + [(2, 1, 16)] * 3 * 5

    for layer in range(model.n_layers):
        mlp = weight_views(model, layer)
        mlp["down"].zero_()
        if "down_bias" in mlp:
            mlp["down_bias"].zero_()
    silenced = model.hf.generate(ids, **options)
    assert torch.equal(edited.sequences, silenced.sequences)
    for found, expected, before in zip(edited.logits, silenced.logits, clean.logits, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(found, before)


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_edits_cast_the_replacement_to_the_models_dtype(family, ids):
    model = HookedModel(tiny_hf(family).to(torch.bfloat16))
    site = site_name("mlp.hook_act", 0)
    with model.edits({site: lambda a, s: a.double() * 0 + 1}):
        found = model.collect(ids, [site])[site]
    assert found.dtype == torch.bfloat16
    assert (found == 1).all()
