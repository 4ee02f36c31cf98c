"""Blocks and their labels, the released code's blocks, and training text kept apart."""

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from lse_interp.core.errors import CorpusError, LseError
from lse_interp.data.packing import IGNORE
from lse_interp.models.hooked import HookedModel
from lse_interp.training.hyperparameters import Hyperparameters, Profile
from lse_interp.training.token_blocks import (
    Packing,
    pack_text,
    require_disjoint,
    token_blocks,
)
from tests.tiny_models import tiny_hf, tiny_tokenizer

from .tiny_runs import TRAINING, VALIDATION, counting, noise, tiny_model

PAD, BOS, EOS = 0, 1, 2
GEORGIAN = "ქართული ენა ძალიან ლამაზია და ძველია. ის საქართველოში ითქმის."
NEPALI = "नेपाली भाषा हिमालमा बोलिन्छ। यो धेरै पुरानो हो।"
FEW = settings(max_examples=30, deadline=None, derandomize=True)


def authors_blocks(*arguments, padding_is_label=True):
    """Pack as the released code does."""
    profile = Profile(reencode=True, padding_is_label=padding_is_label)
    return token_blocks(*arguments, profile=profile)


def byte_tokenizer(*, pad=True, bos=False):
    """A token per byte, so that a Georgian or Devanagari character takes three."""
    words = ["<pad>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if bos:
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", BOS)]
        )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        **{"pad_token": "<pad>"} if pad else {},
    )


def blocks_by_hand(documents, tokenizer, packing):
    """Pack one token at a time; return lists of ids and of labels."""
    stream = []
    for document in documents:
        ids = tokenizer(document, add_special_tokens=False)["input_ids"]
        if stream and ids and packing.separator == "eos":
            stream.append((EOS, EOS))
        if ids and packing.bos_at == "document":
            stream += [(token, IGNORE) for token in packing.prefix]
        stream += [(token, token) for token in ids]
    head = [(token, IGNORE) for token in packing.prefix if packing.bos_at == "block"]
    room = packing.block_size - len(head)
    rows = [head + stream[start : start + room] for start in range(0, len(stream), room)]
    ids, labels = [], []
    for row in rows:
        spare = packing.block_size - len(row)
        if all(label == IGNORE for _, label in row[1:]):
            continue
        ids.append([token for token, _ in row] + [0] * spare)
        labels.append([IGNORE] + [label for _, label in row[1:]] + [IGNORE] * spare)
    return ids, labels


def test_token_blocks_label_text_and_separators_alone():
    found = token_blocks(
        ["w0 w1 w2", "w3 w4 w5"],
        tiny_tokenizer(),
        Packing(block_size=6, prefix=(BOS,), bos_at="document"),
    )
    assert found.ids.tolist() == [[1, 4, 5, 6, 2, 1], [7, 8, 9, 0, 0, 0]]
    assert found.labels.tolist() == [[-100, 4, 5, 6, 2, -100], [-100, 8, 9, -100, -100, -100]]
    assert (len(found), found.n_labels) == (2, 6)


@FEW
@given(
    documents=st.lists(
        st.lists(st.integers(0, 35), max_size=9).map(lambda w: " ".join(f"w{i}" for i in w)),
        min_size=1,
        max_size=8,
    ).filter(any),
    block_size=st.integers(3, 11),
    prefix=st.sampled_from([(), (BOS,), (EOS,), (EOS, BOS)]),
    bos_at=st.sampled_from(["block", "document"]),
    separator=st.sampled_from(["eos", "none"]),
)
def test_token_blocks_agree_with_packing_by_hand(documents, block_size, prefix, bos_at, separator):
    packing = Packing(block_size, prefix, bos_at, separator)
    ids, labels = blocks_by_hand(documents, tiny_tokenizer(), packing)
    if not ids:
        with pytest.raises(CorpusError, match="too short to predict any token of it"):
            token_blocks(documents, tiny_tokenizer(), packing)
        return
    found = token_blocks(documents, tiny_tokenizer(), packing)
    assert found.ids.tolist() == ids
    assert found.labels.tolist() == labels
    # Padding ends the last block, and stands nowhere else.
    assert PAD not in found.ids[:-1]
    assert found.ids[-1].nonzero().max() + 1 == (found.ids[-1] != PAD).sum()


@pytest.mark.parametrize("pack", [token_blocks, authors_blocks])
def test_blocks_with_nothing_to_predict_are_left_out(pack):
    """The mean loss over a step of such a block alone would be 0 / 0."""
    words = {"padding_is_label": False} if pack is authors_blocks else {}
    packing = Packing(block_size=3, separator="none")
    found = pack(["w0 w1 w2 w3"], tiny_tokenizer(), packing, **words)
    assert found.ids.tolist() == [[4, 5, 6]]
    with pytest.raises(CorpusError, match="too short to predict any token of it"):
        pack(["w0"], tiny_tokenizer(), packing, **words)


def test_token_blocks_read_an_ordinary_token_that_bos_looks_like():
    """A BOS that the text itself holds is text."""
    found = token_blocks(["w0 <s> w1"], tiny_tokenizer(), Packing(block_size=4))
    assert found.labels.tolist() == [[-100, 1, 5, -100]]


def test_token_blocks_take_exactly_the_tokens_asked_for():
    packing = Packing(block_size=7, prefix=(BOS,))
    found = token_blocks(TRAINING, tiny_tokenizer(), packing, n_tokens=50)
    text = (found.ids != BOS) & (found.ids != EOS) & (found.ids != PAD)
    assert text.sum() == 50
    with pytest.raises(CorpusError, match="401 text tokens were asked for, but the corpus has 400"):
        token_blocks(TRAINING, tiny_tokenizer(), packing, n_tokens=401)


def test_token_blocks_stop_with_the_block_that_reaches_the_most():
    packing = Packing(block_size=7, separator="none")
    every = token_blocks(TRAINING, tiny_tokenizer(), packing)
    found = token_blocks(TRAINING, tiny_tokenizer(), packing, at_most=50)
    assert len(found) == 8  # ceil(50 / 7)
    assert torch.equal(found.ids, every.ids[:8])


def test_digest_tells_texts_and_labels_apart():
    def digest(documents, **changes):
        packing = Packing(**{"block_size": 6} | changes)
        return token_blocks(documents, tiny_tokenizer(), packing).digest

    text = ["w0 w1 w2 w3", "w4 w5"]
    found = [
        digest(text),
        digest(text[::-1]),
        digest(text, block_size=7),
        digest(text, separator="none"),
        digest(["w0 w1 w2 w3 w4 w5"], separator="none", block_size=5),
    ]
    assert len(set(found)) == len(found)
    assert digest(text) == found[0]


@pytest.mark.parametrize("text", [GEORGIAN, NEPALI])
@pytest.mark.parametrize("block_size", [4, 5, 16])
def test_characters_split_over_blocks_survive(text, block_size):
    tokenizer = byte_tokenizer()
    documents = [text, text[::-1]]
    found = token_blocks(documents, tokenizer, Packing(block_size=block_size))
    ids = found.ids[found.ids != PAD]
    split = (ids == EOS).nonzero().item()
    assert [tokenizer.decode(ids[:split]), tokenizer.decode(ids[split + 1 :])] == documents

    again = authors_blocks(documents, tokenizer, Packing(block_size=block_size))
    assert "\ufffd" in tokenizer.decode(again.ids[0], skip_special_tokens=True)


@pytest.mark.parametrize("bos", [False, True])
def test_authors_blocks_decode_encode_cut_and_pad(bos):
    tokenizer = byte_tokenizer(bos=bos)
    packing = Packing(block_size=16, prefix=(BOS,) if bos else ())
    plain = token_blocks([GEORGIAN, "abc"], tokenizer, packing)
    found = authors_blocks([GEORGIAN, "abc"], tokenizer, packing)
    for row, before in zip(found.ids.tolist(), plain.ids.tolist(), strict=True):
        kept = [token for token in before if token > EOS]
        ids = tokenizer(tokenizer.decode(kept))["input_ids"][:16]
        assert row == ids + [PAD] * (16 - len(ids))
    assert not torch.equal(found.ids, plain.ids)


def test_authors_blocks_label_padding():
    packing = Packing(block_size=8, separator="none")
    documents = ["w0 w1 w2", "w3 w4 w5 w6 w7 w8 w9"]
    found = authors_blocks(documents, tiny_tokenizer(), packing)
    plain = token_blocks(documents, tiny_tokenizer(), packing)
    assert torch.equal(found.ids, plain.ids)
    assert found.labels[-1].tolist() == [-100, 13, 0, 0, 0, 0, 0, 0]
    assert (found.n_labels, plain.n_labels) == (14, 8)
    without = authors_blocks(documents, tiny_tokenizer(), packing, padding_is_label=False)
    assert torch.equal(without.labels, plain.labels)


def test_authors_blocks_pad_with_eos_where_there_is_no_padding_token():
    found = authors_blocks(["ab"], byte_tokenizer(pad=False), Packing(block_size=4))
    assert found.labels[0, 2:].tolist() == [EOS, EOS]
    bare = byte_tokenizer(pad=False)
    bare.eos_token = None
    with pytest.raises(LseError, match="pads, and the tokenizer has neither PAD nor EOS"):
        authors_blocks(["ab"], bare, Packing(block_size=4, separator="none"))


HELD_OUT = "The first sentence is here. Then comes another sentence! Is this the third one?"


@pytest.mark.parametrize(
    "training",
    [
        [HELD_OUT],
        ["Something else came first.", HELD_OUT.upper()],
        ["A line.\n  The first  sentence\tis here.  \nAnother line."],
        ["Quite another document. Then comes another sentence! And on it goes."],
        ["Is this the third one? Nobody knows, nobody asks."],
        ["The first sentence is here. Then comes another sentence!", "Is this the third one?"],
    ],
)
def test_require_disjoint_refuses_a_document_line_or_sentence_on_both_sides(training):
    with pytest.raises(CorpusError, match="Validation text of mlt is also training text") as caught:
        require_disjoint(training, [HELD_OUT], language="mlt")
    assert "--validation" in str(caught.value)


def test_require_disjoint_refuses_text_that_is_grouped_differently():
    sentences = [f"Sentence number {i} of the text is this." for i in range(12)]
    joined = [" ".join(sentences[i : i + 3]) for i in range(0, 12, 3)]
    for training, validation in ((joined, sentences[7:8]), (sentences[7:8], joined)):
        with pytest.raises(CorpusError, match="'sentence number 7 of the text is this.'"):
            require_disjoint(training, validation, language="mlt")
    require_disjoint(joined[:2], joined[2:], language="mlt")


@pytest.mark.parametrize(
    ("training", "validation"),
    [
        ("यो पहिलो वाक्य लामो छ। यो अर्को वाक्य हो।", "केही अरू। यो पहिलो वाक्य लामो छ।"),
        (
            "これは最初の長い文章であると言えます。次の文。",
            "別の文。これは最初の長い文章であると言えます。",
        ),
        ("هل هذه هي الجملة الأولى هنا؟ نعم", "لا أدري. هل هذه هي الجملة الأولى هنا؟"),
    ],
)
def test_require_disjoint_knows_the_ends_of_sentences_in_other_scripts(training, validation):
    with pytest.raises(CorpusError, match="also training text"):
        require_disjoint([training], [validation], language="npi")


def test_require_disjoint_lets_similar_and_short_text_pass():
    training = ["The first sentence is there. Yes. No!", "Chapter 1\nThen comes one more sentence."]
    held_out = [HELD_OUT, "Yes. No!", "Chapter 1\nSome sentence that is nowhere else."]
    assert require_disjoint(training, held_out, language="mlt") is None


OPTIONS = Hyperparameters(block_size=16)


def packed(model, training=TRAINING, validation=VALIDATION, *, n_tokens=None, options=OPTIONS):
    return pack_text(
        model, lambda: training, validation, language="mlt", n_tokens=n_tokens, options=options
    )


def test_pack_text_puts_the_trained_language_first():
    swapped = dict(reversed(VALIDATION.items()))
    text = packed(tiny_model(), validation=swapped)
    assert list(text.validation) == ["mlt", "eng"]
    by_hand = token_blocks(VALIDATION["eng"], tiny_tokenizer(), Packing(block_size=16))
    assert text.validation["eng"].digest == by_hand.digest


@pytest.mark.parametrize(
    ("n_texts", "options"),
    [
        (200, {}),
        (50, {"validation_sentences": 50}),
        (1000, {"validation_sentences": "all"}),
        (1000, {"profile": "authors"}),
    ],
)
def test_pack_text_validates_on_texts_from_the_whole_length(n_texts, options):
    lines = [f"w{i % 50} w{i // 50}" for i in range(1000)]
    options = Hyperparameters(block_size=16, **options)
    text = packed(tiny_model(), validation={"mlt": lines, "eng": lines[:20]}, options=options)
    every = 1000 // n_texts
    by_hand = token_blocks(lines[::every], tiny_tokenizer(), Packing(block_size=16))
    assert text.validation["mlt"].digest == by_hand.digest
    whole = token_blocks(lines[:20], tiny_tokenizer(), Packing(block_size=16))
    assert text.validation["eng"].digest == whole.digest


def test_pack_text_follows_the_tokenizer_in_bos():
    hf = tiny_hf("llama")
    with_bos = HookedModel(hf, byte_tokenizer(bos=True), name="tiny")
    text = packed(with_bos, training=["abc"], validation={"mlt": ["xyz"]})
    assert text.training.ids[0, :4].tolist()[0] == BOS
    without = HookedModel(hf, byte_tokenizer(), name="tiny")
    text = packed(without, training=["abc"], validation={"mlt": ["xyz"]})
    assert BOS not in text.training.ids


def test_pack_text_of_authors_changes_training_text_alone():
    model = tiny_model()
    fixed = packed(model)
    authors = packed(model, options=Hyperparameters(block_size=16, profile="authors"))
    assert authors.training.digest != fixed.training.digest
    # Separators are lost on the way, so every block that held one is padded.
    n_separators = int((fixed.training.ids == EOS).sum())
    n_padded = int((fixed.training.ids[-1] == PAD).sum())
    assert int((authors.training.ids == PAD).sum()) == n_separators + n_padded
    assert authors.training.n_labels == authors.training.ids.numel() - len(authors.training)
    assert {c: b.digest for c, b in authors.validation.items()} == {
        c: b.digest for c, b in fixed.validation.items()
    }


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"validation": {"eng": noise(2)}}, CorpusError, "no validation text of mlt.*got eng"),
        ({"validation": {"mlt": []}}, CorpusError, "validation text of mlt is empty"),
        ({"training": []}, CorpusError, "the corpus has no text"),
        ({"training": ["", " "]}, CorpusError, "the corpus has no text"),
        ({"n_tokens": 10**6}, CorpusError, "1,000,000 text tokens were asked for"),
        ({"validation": {"mlt": counting([3])}}, CorpusError, "also training text"),
        (
            {"options": Hyperparameters(block_size=65)},
            LseError,
            "`block_size` must be at most the 64 positions that tiny was made for; got 65",
        ),
    ],
)
def test_pack_text_refuses_bad_input(changes, error, message):
    with pytest.raises(error, match=message):
        packed(tiny_model(), **changes)


def test_pack_text_needs_a_tokenizer():
    with pytest.raises(LseError, match="tiny has no tokenizer, so there is no text to train on"):
        packed(HookedModel(tiny_hf("llama"), name="tiny"))
