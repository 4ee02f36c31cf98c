"""Every backend over every family: the same values at every site, and the model left as it was."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from lse_interp.models.backends import BACKENDS
from lse_interp.models.hooked import HookedModel
from lse_interp.models.mlp_weights import weight_views
from lse_interp.models.sites import site_name
from tests.tiny_models import FAMILIES, N_LAYERS


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


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_backend_changes_the_tokenizer(load, backend):
    model = load("llama")
    model.tokenizer.padding_side = "right"
    before = model.tokenizer.padding_side, model.tokenizer.special_tokens_map
    HookedModel(model.hf, model.tokenizer, backend=backend)(["w1 w2", "w3"])
    assert (model.tokenizer.padding_side, model.tokenizer.special_tokens_map) == before
