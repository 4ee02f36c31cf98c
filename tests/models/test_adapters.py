"""Models of peft: what they wrap is read as it is without them."""

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model

from lse_interp.core.errors import UnsupportedModelError
from lse_interp.models.hooked import HookedModel
from lse_interp.models.mlp_weights import weight_views
from lse_interp.models.sites import site_name
from lse_interp.training.engines.base import NeuronRows
from lse_interp.training.engines.compact import CompactRows
from tests.tiny_models import N_LAYERS, tiny_hf

# peft reads a property that transformers 5 renames.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

TARGETS = {"gpt2": ["c_fc", "c_proj"], "phi3": ["gate_up_proj"], "llama": ["up_proj", "down_proj"]}


def adapted(family):
    config = LoraConfig(
        target_modules=TARGETS[family],
        r=2,
        fan_in_fan_out=family == "gpt2",
        task_type="CAUSAL_LM",
        init_lora_weights=False,
    )
    return get_peft_model(tiny_hf(family), config).eval()


@pytest.mark.parametrize("backend", ["torch", "nnsight"])
@pytest.mark.parametrize("family", TARGETS)
def test_left_padding_does_not_change_an_adapted_model(family, backend, ids):
    hf = adapted(family)
    model, short = HookedModel(hf, backend=backend), ids[:1, :4]
    zeros, ones = torch.zeros(1, 3, dtype=torch.int64), torch.ones_like(short)
    batch = {
        "input_ids": torch.cat([zeros, short], dim=1),
        "attention_mask": torch.cat([zeros, ones], dim=1),
    }
    site = site_name("hook_resid_post", N_LAYERS - 1)
    alone = model.collect(short, [site])[site]
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(model.collect(batch, [site])[site][:, 3:], alone, **close)
    assert torch.equal(model(short), hf(short).logits)
    assert not torch.allclose(alone, HookedModel(tiny_hf(family)).collect(short, [site])[site])


@pytest.mark.parametrize("family", TARGETS)
def test_weights_under_an_adapter_have_one_row_a_neuron(family):
    found, expected = HookedModel(adapted(family)), HookedModel(tiny_hf(family))
    assert found.layout.transposed == expected.layout.transposed == (family == "gpt2")
    for name, rows in weight_views(expected, 1).items():
        assert torch.equal(weight_views(found, 1)[name], rows)


def test_the_head_of_an_adapted_model_is_not_run(ids):
    model = HookedModel(adapted("llama"))
    calls = []
    model.hf.get_output_embeddings().register_forward_hook(lambda *args: calls.append("head"))
    assert model.run_with_hooks(ids, {}) is None
    assert not calls


def test_what_an_adapter_makes_wrong_is_refused():
    with pytest.raises(UnsupportedModelError, match="Merge them first"):
        HookedModel(adapted("phi3"), backend="lens")
    with pytest.raises(UnsupportedModelError, match="use --engine masked"):
        CompactRows(NeuronRows(HookedModel(adapted("llama")), [torch.tensor([1])] * N_LAYERS))
    prompt = PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")
    with pytest.raises(UnsupportedModelError, match="a learned prompt"):
        HookedModel(get_peft_model(tiny_hf("llama"), prompt))
