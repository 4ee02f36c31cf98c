"""Every family over every backend: values, edits, padding, training and export, as measured."""

import pytest
import torch
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from lse_interp.core.errors import UnsupportedModelError
from lse_interp.models.hooked import HookedModel
from scripts.compatibility.__main__ import PAGE, head, page
from scripts.compatibility._tiny import FAMILIES, tiny_hf
from scripts.compatibility.families import measure
from tests.tiny_models import FAMILIES as SHARED

# peft reads a property that transformers 5 renames.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

# A post-norm, a sub-norm, dropout inside the MLP, one activation module for all blocks.
QUICK = (*SHARED, "gemma2", "bitnet", "seed_oss", "openai-gpt")


@pytest.mark.parametrize(
    "family",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in FAMILIES],
)
def test_every_site_is_its_equation(family):
    if family.split()[0] not in CONFIG_MAPPING:
        pytest.skip(f"this version of transformers has no {family}")
    row = measure(family)
    assert row["mlp.hook_act"] in ("all", "torch, nnsight")
    assert row["trains"] == row["exports"] == "yes"


def test_values_that_padding_would_change_are_refused():
    batch = {"input_ids": torch.tensor([[0, 5, 6]]), "attention_mask": torch.tensor([[0, 1, 1]])}
    with pytest.raises(UnsupportedModelError, match="BartForCausalLM counts positions .* right"):
        HookedModel(tiny_hf("bart"))(batch)
    model = HookedModel(tiny_hf("openai-gpt"), backend="lens")
    with pytest.raises(UnsupportedModelError, match="With an attention mask, TransformerLens"):
        model(batch)


def test_a_bridge_that_cannot_run_the_model_is_refused():
    with pytest.raises(UnsupportedModelError, match="otherwise than transformers"):
        HookedModel(tiny_hf("granitemoehybrid"), backend="lens")


@pytest.mark.slow
def test_the_page_is_what_was_measured():
    written = PAGE.read_text(encoding="utf-8")
    if not written.startswith(head()):
        pytest.skip("the page was measured with other versions of the libraries")
    assert written == page(), "python -m scripts.compatibility"
