import pytest
import torch
import transformers
from tokenizers import processors

from lse_interp.core.errors import LseError
from lse_interp.models.hooked import HookedModel
from lse_interp.models.tokenization import auto_bos, pad
from tests.tiny_models import tiny_hf, tiny_tokenizer

BOS = ("<s>", 1)


def before_text(*special):
    """A tokenizer that puts special tokens before every text."""
    tokenizer = tiny_tokenizer()
    template = " ".join(name for name, _ in special)
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{template} $A </s>", special_tokens=[*special, ("</s>", 2)]
    )
    return tokenizer


@pytest.mark.parametrize(
    ("special", "prefix", "bos"),
    [((), (), "none"), ((BOS,), (1,), "block"), ((("<unk>", 3), BOS), (3, 1), "block")],
)
def test_prefix_is_what_the_tokenizer_puts_before_text(special, prefix, bos):
    tokenizer = before_text(*special) if special else tiny_tokenizer()
    model = HookedModel(tiny_hf("llama"), tokenizer)
    assert model.prefix == prefix
    assert auto_bos(model) == bos


def test_prefix_of_a_tokenizer_that_asks_for_a_bos_it_lacks_is_that_of_the_model():
    tokenizer = tiny_tokenizer()
    core = tokenizer._tokenizer
    plain = transformers.PreTrainedTokenizerFast(tokenizer_object=core)
    asks = transformers.PreTrainedTokenizerFast(tokenizer_object=core, add_bos_token=True)
    hf = tiny_hf("llama")
    assert hf.config.bos_token_id == 1
    assert HookedModel(hf, plain).prefix == ()
    assert HookedModel(hf, asks).prefix == (1,)
    assert HookedModel(hf).prefix == ()


def test_auto_bos_needs_a_tokenizer():
    with pytest.raises(LseError, match="tiny has no tokenizer"):
        auto_bos(HookedModel(tiny_hf("llama"), name="tiny"))


def test_pad_marks_text_on_either_side():
    for left in (True, False):
        batch, is_text = pad([[5, 6], [7]], prefix=(1,), left=left)
        short = [0, 1, 7] if left else [1, 7, 0]
        assert batch["input_ids"].tolist() == [[1, 5, 6], short]
        assert batch["attention_mask"].tolist() == [[1, 1, 1], [int(i > 0) for i in short]]
        assert torch.equal(is_text, batch["input_ids"] > 1)
