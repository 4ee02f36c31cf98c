"""Every backend over every family: the same values at every site, and the model left as it was."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from lse_interp.models.backends import BACKENDS
from lse_interp.models.hooked import HookedModel
from lse_interp.models.mlp_weights import weight_views
from lse_interp.models.sites import SITES, site_name
from tests.tiny_models import FAMILIES, N_LAYERS

UNGATED = ("gpt2", "opt", "gpt_neox", "bloom")
FUSED_TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


def all_sites(model):
    kinds = [k for k in SITES if model.gated or k != "mlp.hook_pre_linear"]
    return [site_name(kind, layer) for layer in range(model.n_layers) for kind in kinds]


def mlp_inputs(model, ids):
    """Collect the input of every up projection with bare torch hooks."""
    seen, handles = [], []
    for at in model.layout.blocks:
        up = model.hf.get_submodule(at.up)
        handles.append(up.register_forward_pre_hook(lambda module, args: seen.append(args[0])))
    with torch.no_grad():
        output = model.hf(ids, output_hidden_states=True)
    for handle in handles:
        handle.remove()
    return [x.reshape(*ids.shape, -1) for x in seen], output


@pytest.mark.parametrize("family", FAMILIES)
def test_sites_follow_their_equations(load, ids, family):
    model = load(family)
    at = model.collect(ids, all_sites(model))
    inputs, output = mlp_inputs(model, ids)
    assert model.gated == (family not in UNGATED)
    for layer in range(N_LAYERS):
        mlp = weight_views(model, layer)
        act = model.hf.get_submodule(model.layout.blocks[layer].act)

        def value(kind, layer=layer):
            return at[site_name(kind, layer)]

        def linear(rows, bias, layer=layer):
            product = inputs[layer] @ rows.T
            return product if bias is None else product + bias

        up = linear(mlp["up"], mlp.get("up_bias"))
        pre = linear(mlp["gate"], mlp.get("gate_bias")) if model.gated else up
        post = act(pre) * up if model.gated else act(pre)
        out = (
            post @ mlp["down"] if "down_bias" not in mlp else post @ mlp["down"] + mlp["down_bias"]
        )
        # float32 sums over 16 to 64 terms in another order.
        close = {"rtol": 1e-4, "atol": 1e-5}
        torch.testing.assert_close(value("mlp.hook_pre"), pre, **close)
        torch.testing.assert_close(value("mlp.hook_act"), act(pre), **close)
        torch.testing.assert_close(value("mlp.hook_post"), post, **close)
        torch.testing.assert_close(value("hook_mlp_out"), out, **close)
        if model.gated:
            torch.testing.assert_close(value("mlp.hook_pre_linear"), up, **close)
        if layer < N_LAYERS - 1:
            # The last hidden state that transformers reports is behind the final norm.
            assert torch.equal(value("hook_resid_post"), output.hidden_states[layer + 1])


@pytest.mark.parametrize("backend", ["lens", "nnsight"])
@pytest.mark.parametrize("family", FAMILIES)
def test_backends_agree_at_every_site(load, ids, family, backend):
    reference, other = load(family), load(family, backend)
    sites = all_sites(reference)
    expected, found = reference.collect(ids, sites), other.collect(ids, sites)
    for site in sites:
        # Bridges split fused projections, which changes the order of float32 sums.
        torch.testing.assert_close(found[site], expected[site], **FUSED_TOLERANCE)
    logits = other.run_with_hooks(ids, {}, logits=True)
    torch.testing.assert_close(logits, reference.hf(ids).logits.detach(), **FUSED_TOLERANCE)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_padding_side_does_not_change_values(load, ids, family, backend):
    model = load(family, backend)
    sites = [site_name("mlp.hook_act", 1), site_name("hook_resid_post", N_LAYERS - 1)]
    short = ids[:1, :4]
    alone = model.collect(short, sites)
    pad = torch.zeros(1, 3, dtype=torch.long)
    ones = torch.ones_like(short)
    left = {"input_ids": torch.cat([pad, short], 1), "attention_mask": torch.cat([pad, ones], 1)}
    right = {"input_ids": torch.cat([short, pad], 1), "attention_mask": torch.cat([ones, pad], 1)}
    for batch, real in ((left, slice(3, None)), (right, slice(0, 4))):
        rows = torch.cat([batch["input_ids"], ids])
        mask = torch.cat([batch["attention_mask"], torch.ones_like(ids)])
        padded = model.collect({"input_ids": rows, "attention_mask": mask}, sites)
        for site in sites:
            torch.testing.assert_close(
                padded[site][:1, real], alone[site], rtol=1e-4, atol=1e-4, msg=site
            )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_model_stays_ordinary_and_savable_after_any_backend(
    folders, ids, family, backend, tmp_path
):
    hf = AutoModelForCausalLM.from_pretrained(folders(family))
    before = {name: tensor.clone() for name, tensor in hf.state_dict().items()}
    classes = [type(module) for module in hf.modules()]
    forwards = [module.forward.__func__ for module in hf.modules()]
    config, attention = hf.config.to_dict(), hf.config._attn_implementation
    model = HookedModel(hf, backend=backend)
    sites = [site_name("mlp.hook_act", 0), site_name("hook_resid_post", 1)]
    model.collect(ids, sites)

    assert [type(module) for module in hf.modules()] == classes
    assert [module.forward.__func__ for module in hf.modules()] == forwards
    assert hf.config.to_dict() == config
    assert hf.config._attn_implementation == attention
    hf.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    assert again.keys() == before.keys()
    for name, tensor in before.items():
        assert torch.equal(hf.state_dict()[name], tensor)
        assert torch.equal(again[name], tensor)


def test_native_objects_share_weights_with_the_model(load, ids):
    model = load("llama")
    weight = weight_views(model, 0)["down"]
    weight[5] = 7.0
    assert type(model.bridge).__name__ == "TransformerBridge"
    assert torch.equal(model.bridge.blocks[0].mlp.out.weight[:, 5], weight[5])
    assert torch.equal(model.nnsight.model.layers[0].mlp.down_proj.weight[:, 5], weight[5])
    logits = model.hf(ids).logits
    # Written after the native objects were built: no second copy of the weights exists.
    weight[6] = -3.0
    changed = model.hf(ids).logits
    assert not torch.allclose(changed, logits)
    torch.testing.assert_close(model.bridge(ids), changed, rtol=1e-5, atol=1e-5)


def test_bridge_reads_text_through_its_own_tokenizer(load):
    model = load("llama")
    assert model.bridge.to_tokens("w1 w2", prepend_bos=False).tolist() == [[5, 6]]
    assert model.tokenizer("w1 w2")["input_ids"] == [5, 6]
