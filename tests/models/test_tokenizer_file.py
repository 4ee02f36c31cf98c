import json
import logging

import pytest
import transformers
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

from lse_interp.core.errors import LseError
from lse_interp.models.tokenizer_file import PROBE, read_tokenizer

SPECIAL = ["<unk>", "<s>", "</s>", "<pad>"]
BYTES = pre_tokenizers.ByteLevel.alphabet()
OPTIONS = {"show_progress": False, "special_tokens": SPECIAL}


def trained(model, trainer, *, pre_tokenizer, decoder, normalizer=None):
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizer, decoder
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.train_from_iterator(PROBE.split("\n") * 3, trainer)
    return tokenizer


def byte_level():
    return trained(
        models.BPE(),
        trainers.BpeTrainer(vocab_size=500, initial_alphabet=BYTES, **OPTIONS),
        pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoder=decoders.ByteLevel(),
    )


def metaspace():
    return trained(
        models.BPE(unk_token="<unk>"),
        trainers.BpeTrainer(vocab_size=500, **OPTIONS),
        pre_tokenizer=pre_tokenizers.Metaspace(),
        decoder=decoders.Metaspace(),
    )


def unigram():
    return trained(
        models.Unigram(),
        trainers.UnigramTrainer(vocab_size=400, unk_token="<unk>", **OPTIONS),
        pre_tokenizer=pre_tokenizers.Metaspace(),
        decoder=decoders.Metaspace(),
        normalizer=normalizers.NFKC(),
    )


def word_piece():
    return trained(
        models.WordPiece(unk_token="<unk>"),
        trainers.WordPieceTrainer(vocab_size=500, **OPTIONS),
        pre_tokenizer=pre_tokenizers.BertPreTokenizer(),
        decoder=decoders.WordPiece(),
        normalizer=normalizers.Sequence([normalizers.NFD(), normalizers.Lowercase()]),
    )


def byte_fallback():
    learned = json.loads(metaspace().to_str())["model"]
    vocab = learned["vocab"]
    vocab |= {f"<0x{byte:02X}>": len(vocab) + byte for byte in range(256)}
    merges = [tuple(pair) for pair in learned["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def with_template():
    tokenizer = byte_level()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return tokenizer


def save(folder, tokenizer, *, model_type, **settings):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names | settings))
    tokenizer.save(str(folder / "tokenizer.json"))
    return str(folder)


FAMILIES = "llama mistral gemma gemma3_text qwen2 gpt2 gpt_neox bloom opt xglm cohere phi glm4"


@pytest.mark.parametrize(
    "make", [byte_level, metaspace, unigram, word_piece, byte_fallback, with_template]
)
def test_read_tokenizer_reads_as_the_file_whatever_the_model(make, tmp_path):
    core = make()
    for family in FAMILIES.split():
        of_family = TOKENIZER_MAPPING_NAMES.get(family) or "LlamaTokenizer"
        for name in ("PreTrainedTokenizerFast", of_family):
            folder = save(
                tmp_path / f"{family}-{name}",
                core,
                model_type=family,
                tokenizer_class=name,
                model_max_length=77,
                chat_template="{{ messages }}",
            )
            found = read_tokenizer(folder)
            for special in (True, False):
                ids = core.encode(PROBE, add_special_tokens=special).ids
                read = found(PROBE, add_special_tokens=special, verbose=False)
                assert read["input_ids"] == ids, folder
            assert found.decode(ids) == core.decode(ids, skip_special_tokens=False), folder
            own = (found.unk_token_id, found.bos_token_id, found.eos_token_id, found.pad_token_id)
            assert own == (0, 1, 2, 3), folder
            assert (found.model_max_length, found.chat_template) == (77, "{{ messages }}")


def test_a_tokenizer_that_is_not_its_class_is_named_once_and_saved_as_it_is(tmp_path, caplog):
    core = metaspace()
    folder = save(tmp_path / "adapted", core, model_type="qwen2")
    plain = transformers.AutoTokenizer.from_pretrained(folder)
    assert plain.decode(plain("jibżgħu")["input_ids"]) != "jibżgħu"
    with caplog.at_level(logging.WARNING):
        found = read_tokenizer(folder)
    assert found.decode(found("jibżgħu")["input_ids"]) == "jibżgħu"
    (record,) = caplog.records
    assert record.getMessage() == (
        f"The tokenizer of {folder} is used as in its tokenizer.json (transformers reads text "
        "differently, as a Qwen2Tokenizer)."
    )
    found.save_pretrained(folder)
    again = read_tokenizer(folder)
    assert again(PROBE)["input_ids"] == core.encode(PROBE).ids


def test_a_tokenizer_that_is_its_class_stays_that_class(tmp_path, caplog):
    tokenizer = transformers.Qwen2Tokenizer.from_pretrained(
        save(tmp_path / "made", byte_level(), model_type="qwen2")
    )
    tokenizer.save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "config.json").write_text('{"model_type": "qwen2"}')
    with caplog.at_level(logging.WARNING):
        assert type(read_tokenizer(str(tmp_path / "saved"))) is transformers.Qwen2Tokenizer
    assert not caplog.records


def without_nfc(tokenizer):
    tokenizer.normalizer = None


def with_numbers_whole(tokenizer):
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator(
        ["2024 987"] * 9, trainers.BpeTrainer(initial_alphabet=BYTES, **OPTIONS)
    )


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (without_nfc, "e\u0301"),
        (with_numbers_whole, "2024 987"),
    ],
)
@pytest.mark.parametrize("family", ["qwen2", "qwen3_5"])
def test_one_part_that_is_not_that_of_the_class_is_seen(change, text, family, tmp_path):
    made = save(tmp_path / "made", byte_level(), model_type=family)
    core = transformers.AutoTokenizer.from_pretrained(made).backend_tokenizer
    change(core)
    folder = save(tmp_path / "changed", core, model_type=family)
    assert read_tokenizer(folder)(text)["input_ids"] == core.encode(text).ids


def test_padding_and_truncation_in_the_file_do_not_change_text(tmp_path):
    core = byte_level()
    core.enable_truncation(4)
    core.enable_padding(length=9)
    found = read_tokenizer(save(tmp_path / "cut", core, model_type="llama"))
    core.no_truncation()
    core.no_padding()
    assert found(PROBE, add_special_tokens=False)["input_ids"] == core.encode(PROBE).ids


def test_a_damaged_tokenizer_file_is_named(tmp_path):
    folder = save(tmp_path / "cut", byte_level(), model_type="llama")
    (tmp_path / "cut" / "tokenizer.json").write_text('{"version": "1.0", "mod')
    with pytest.raises(LseError, match=r"cut/tokenizer\.json is no tokenizer: .*Save it again"):
        read_tokenizer(folder)


def test_a_class_that_cannot_be_built_from_the_file_is_passed_over(tmp_path):
    # Unigram's pieces are a list of pairs, where XGLM's own class takes a mapping.
    core = word_piece()
    folder = save(tmp_path / "xglm", core, model_type="xglm")
    with pytest.raises(TypeError):
        transformers.AutoTokenizer.from_pretrained(folder)
    assert read_tokenizer(folder)(PROBE)["input_ids"] == core.encode(PROBE).ids
