import json
import logging

import pytest
import torch
import transformers
from tokenizers import processors

from lse_interp.core.errors import LseError
from lse_interp.models.defaults import ModelDefaults
from lse_interp.models.hooked import HookedModel
from lse_interp.models.loading import load_model
from lse_interp.models.tokenization import _warn_once, pad
from tests.tiny_models import tiny_hf, tiny_tokenizer

BOS, EOS = ("<s>", 1), ("</s>", 2)


def before_text(*special):
    """A tokenizer that puts special tokens before every text."""
    tokenizer = tiny_tokenizer()
    template = " ".join([*(name for name, _ in special), "$A </s>"])
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[*{*special, EOS}]
    )
    return tokenizer


def model_of(tokenizer, *, bos="auto", bos_id=None, eos_id=2):
    hf = tiny_hf("llama")
    hf.config.bos_token_id, hf.config.eos_token_id = bos_id, eos_id
    return HookedModel(hf, tokenizer, name="tiny", defaults=ModelDefaults(bos=bos))


@pytest.fixture
def log(caplog):
    _warn_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        yield caplog


@pytest.mark.parametrize(
    ("special", "prefix"),
    [((), ()), ((BOS,), (1,)), ((EOS,), (2,)), ((("<unk>", 3), BOS), (3, 1))],
    ids=["none", "bos", "eos as in XGLM", "two as in GLM"],
)
def test_prefix_is_what_the_tokenizer_puts_before_text_and_never_what_it_appends(special, prefix):
    tokenizer = before_text(*special)
    assert tokenizer("w1")["input_ids"] == [*prefix, 5, 2]
    model = model_of(tokenizer)
    assert model.prefix == prefix
    assert model.to_tokens("w1 w2")["input_ids"].tolist() == [[*prefix, 5, 6]]


def test_the_bos_of_a_model_whose_tokenizer_puts_none_is_put_and_named_once(log):
    """As Gemma without its template, whose loss doubles without BOS."""
    assert model_of(tiny_tokenizer(), bos_id=1).prefix == (1,)
    assert model_of(tiny_tokenizer(), bos_id=1).prefix == (1,)
    (record,) = log.records
    assert record.getMessage() == (
        "tiny: the configuration names a BOS, 1, which the tokenizer does not put before text. It "
        "is put there, as such a model may be lost without; --bos none leaves it out."
    )


def test_a_bos_that_the_tokenizer_does_not_call_so_is_named_and_not_put(log):
    assert model_of(tiny_tokenizer(), bos_id=3).prefix == ()
    (record,) = log.records
    assert "does not call BOS (its own is 1). Nothing is put there; --bos config" in record.message


@pytest.mark.parametrize(
    ("settings", "ids", "prefix"),
    [
        ({"add_bos_token": False}, {"bos_id": 1}, ()),
        ({"add_bos_token": True}, {"bos_id": 3}, (1,)),
        ({"add_bos_token": True, "bos_token": None}, {"bos_id": 3}, (3,)),
        ({}, {"bos_id": 1, "eos_id": 1}, ()),
        ({}, {"bos_id": 1, "eos_id": [2, 1]}, ()),
        ({}, {"bos_id": None}, ()),
    ],
)
def test_settings_decide_and_what_is_also_eos_is_no_bos(settings, ids, prefix, log):
    names = {"bos_token": "<s>", "eos_token": "</s>"} | settings
    core = tiny_tokenizer()._tokenizer
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=core, **names)
    tokenizer.init_kwargs |= settings
    core.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    assert model_of(tokenizer, **ids).prefix == prefix
    assert not log.records


def test_settings_of_tokenizer_config_are_read_and_a_saved_copy_keeps_the_prefix(tmp_path, log):
    hf, tokenizer = tiny_hf("llama"), tiny_tokenizer()
    hf.config.bos_token_id = 1
    hf.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"add_bos_token": False}))
    model = load_model(tmp_path / "model", device="cpu")
    assert model.prefix == ()
    model.hf.save_pretrained(tmp_path / "copy")
    model.tokenizer.save_pretrained(tmp_path / "copy")
    model.write_defaults(tmp_path / "copy")
    assert load_model(tmp_path / "copy", device="cpu").prefix == ()
    assert load_model(tmp_path / "copy", device="cpu", bos="config").prefix == (1,)
    assert load_model(tmp_path / "copy", device="cpu", bos=[3, 1]).prefix == (3, 1)
    assert not log.records


@pytest.mark.parametrize(
    ("bos", "prefix"),
    [("none", ()), ("config", (7,)), ("3", (3,)), ("3,1", (3, 1)), ((3, 1), (3, 1))],
)
def test_bos_that_is_asked_for_comes_first(bos, prefix, log):
    model = model_of(before_text(BOS), bos=bos, bos_id=7)
    assert model.prefix == prefix
    assert HookedModel(model.hf, **model.wrapping).prefix == prefix
    assert not log.records


@pytest.mark.parametrize("bos", ["yes", "", "1,", "-1", ()])
def test_another_bos_is_refused_before_anything_is_read(bos):
    with pytest.raises(LseError, match="`bos` must be auto, none, config, or token ids such as 1"):
        load_model("/nowhere/model", bos=bos)


def test_the_bos_of_a_configuration_without_one_is_refused():
    with pytest.raises(LseError, match="configuration of tiny names no BOS. Give token ids"):
        model_of(tiny_tokenizer(), bos="config")


def test_a_prefix_that_the_model_has_no_embedding_for_is_refused():
    with pytest.raises(LseError, match="tiny has 40 token ids, 0 to 39; got bos=40"):
        model_of(tiny_tokenizer(), bos="40")


def test_a_model_without_tokenizer_has_no_prefix():
    assert model_of(None, bos_id=1).prefix == ()


def test_pad_marks_text_on_either_side():
    for left in (True, False):
        batch, is_text = pad([[5, 6], [7]], prefix=(1,), left=left)
        short = [0, 1, 7] if left else [1, 7, 0]
        assert batch["input_ids"].tolist() == [[1, 5, 6], short]
        assert batch["attention_mask"].tolist() == [[1, 1, 1], [int(i > 0) for i in short]]
        assert torch.equal(is_text, batch["input_ids"] > 1)
