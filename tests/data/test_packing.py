import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from lse_interp.core.errors import CorpusError
from lse_interp.data import embedded
from lse_interp.data.packing import Block, batches, pack

BOS, EOS = 0, 1
LETTERS = {letter: 2 + i for i, letter in enumerate("abcdefgh")}


def word_tokenizer(*, eos="</s>"):
    vocabulary = {"<s>": BOS, "</s>": EOS, **LETTERS}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="</s>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token=eos, model_max_length=4
    )


def byte_tokenizer(texts):
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")


TOKENIZER = word_tokenizer()
DOCUMENTS = ["a b c", "d e", "f g h a"]


def as_lists(blocks):
    return [(block.ids.tolist(), block.is_text.int().tolist()) for block in blocks]


def ids(text):
    return [{"^": BOS, "|": EOS, **LETTERS}[letter] for letter in text]


def slow_reference(documents, *, block_size, n_tokens, prefix, bos_at, separator):
    """Walk position by position, one document and one token at a time."""
    stream = []
    for document in documents:
        tokens = TOKENIZER.encode(document, add_special_tokens=False)
        if not tokens:
            continue
        if stream and separator == "eos":
            stream.append((EOS, 0))
        if bos_at == "document":
            stream.extend((token, 0) for token in prefix)
        stream.extend((token, 1) for token in tokens)
    if n_tokens is not None:
        ends = np.flatnonzero(np.cumsum([flag for _, flag in stream]) == n_tokens)
        stream = stream[: ends[0] + 1]
    blocks, block = [], []
    for position in stream:
        if not block and bos_at == "block":
            block.extend((token, 0) for token in prefix)
        block.append(position)
        if len(block) == block_size:
            blocks.append(block)
            block = []
    if block:
        blocks.append(block)
    return [([token for token, _ in b], [flag for _, flag in b]) for b in blocks]


@pytest.mark.parametrize(
    ("prefix", "bos_at", "separator", "expected"),
    [
        ("^", "block", "eos", ["^abc", "^|de", "^|fg", "^ha"]),
        ("^", "block", "none", ["^abc", "^def", "^gha"]),
        ("^", "document", "eos", ["^abc", "|^de", "|^fg", "ha"]),
        ("^", "document", "none", ["^abc", "^de^", "fgha"]),
        ("|^", "block", "none", ["|^ab", "|^cd", "|^ef", "|^gh", "|^a"]),
        ("|^", "document", "eos", ["|^ab", "c||^", "de||", "^fgh", "a"]),
        ("", "block", "eos", ["abc|", "de|f", "gha"]),
        ("", "document", "none", ["abcd", "efgh", "a"]),
    ],
)
def test_pack_puts_prefix_and_separators_where_asked(prefix, bos_at, separator, expected):
    options = {"prefix": ids(prefix), "bos_at": bos_at, "separator": separator}
    blocks = list(pack(DOCUMENTS, TOKENIZER, block_size=4, **options))

    assert [block.ids.tolist() for block in blocks] == [ids(text) for text in expected]
    for block in blocks:
        assert torch.equal(block.is_text, block.ids >= 2)
        assert block.ids.dtype == torch.int64


def test_pack_stops_at_the_last_text_token_asked_for():
    blocks = list(pack(DOCUMENTS, TOKENIZER, block_size=4, n_tokens=6, prefix=[BOS]))

    assert as_lists(blocks) == [
        (ids("^abc"), [0, 1, 1, 1]),
        (ids("^|de"), [0, 0, 1, 1]),
        (ids("^|f"), [0, 0, 1]),
    ]
    assert [block.start for block in blocks] == [0, 3, 5]


@pytest.mark.parametrize("n_tokens", [3, 5, 9])
def test_pack_ends_without_a_dangling_separator(n_tokens):
    last = list(pack(DOCUMENTS, TOKENIZER, block_size=4, n_tokens=n_tokens))[-1]

    assert last.is_text[-1]


def test_pack_passes_over_documents_without_tokens():
    with_blanks = ["", *DOCUMENTS[:1], " ", "\n", *DOCUMENTS[1:], ""]

    assert as_lists(pack(with_blanks, TOKENIZER, block_size=5)) == as_lists(
        pack(DOCUMENTS, TOKENIZER, block_size=5)
    )


def test_pack_reads_no_further_than_it_needs():
    def endless():
        while True:
            yield "a b c d"

    blocks = list(pack(endless(), TOKENIZER, block_size=8, n_tokens=100))

    assert sum(block.n_text for block in blocks) == 100


@settings(max_examples=60, deadline=None)
@given(
    documents=st.lists(
        st.lists(st.sampled_from("abcdefgh"), max_size=9).map(" ".join), min_size=1, max_size=300
    ).filter(lambda documents: any(documents)),
    block_size=st.integers(3, 11),
    prefix=st.sampled_from([[], [BOS], [EOS], [EOS, BOS]]),
    bos_at=st.sampled_from(["block", "document"]),
    separator=st.sampled_from(["eos", "none"]),
    data=st.data(),
)
def test_pack_agrees_with_a_slow_reference(documents, block_size, prefix, bos_at, separator, data):
    available = sum(len(document.split()) for document in documents)
    n_tokens = data.draw(st.none() | st.integers(1, available))
    options = {
        "block_size": block_size,
        "n_tokens": n_tokens,
        "prefix": prefix,
        "bos_at": bos_at,
        "separator": separator,
    }

    blocks = list(pack(documents, TOKENIZER, **options))

    assert as_lists(blocks) == slow_reference(documents, **options)
    n_text = [block.n_text for block in blocks]
    assert sum(n_text) == (available if n_tokens is None else n_tokens)
    assert [block.start for block in blocks] == [0, *np.cumsum(n_text)[:-1].tolist()]
    assert all(len(block.ids) == block_size for block in blocks[:-1])


def test_pack_never_encodes_text_twice():
    texts = embedded.documents("kat", "dev") + embedded.documents("jpn", "dev")
    tokenizer = byte_tokenizer(texts[:8])

    blocks = pack(texts, tokenizer, block_size=32)

    packed = torch.cat([block.ids[block.is_text] for block in blocks])
    apart = [token for text in texts for token in tokenizer(text)["input_ids"]]
    assert torch.equal(packed, torch.tensor(apart))
    assert tokenizer.decode(packed) == "".join(texts)


def test_pack_is_silent_about_documents_longer_than_the_model_takes(caplog, recwarn):
    list(pack(["a " * 100], TOKENIZER, block_size=8))

    assert not caplog.records
    assert not recwarn.list


def test_pack_reports_fewer_tokens_than_asked():
    with pytest.raises(
        CorpusError, match=r"12,000 text tokens were asked for, but the corpus has 9\. Ask for at"
    ):
        list(pack(DOCUMENTS, TOKENIZER, block_size=4, n_tokens=12_000))


def test_pack_refuses_one_text_whose_letters_would_pass_for_documents():
    with pytest.raises(CorpusError, match="must be a list of texts; got one text of 5"):
        pack("words", TOKENIZER, block_size=4)


def test_pack_reports_a_corpus_without_tokens():
    with pytest.raises(CorpusError, match="no document gave a token"):
        list(pack(["", " "], TOKENIZER, block_size=4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"block_size": 2, "prefix": [EOS, BOS]},
            "`block_size` must be at least 3, with 2 tokens of prefix in every block; got 2",
        ),
        ({"block_size": 0}, "`block_size` must be at least 1, with 0 tokens"),
        ({"block_size": 4, "n_tokens": 0}, r"`n_tokens` must be at least 1, or None"),
    ],
)
def test_pack_refuses_sizes_out_of_range(options, message):
    with pytest.raises(CorpusError, match=message):
        pack(DOCUMENTS, TOKENIZER, **options)


def test_pack_refuses_a_special_token_the_tokenizer_lacks():
    with pytest.raises(CorpusError, match=r"no EOS token\. Pass separator='none'"):
        pack(DOCUMENTS, word_tokenizer(eos=None), block_size=4)


def test_batches_keeps_order_and_gives_a_short_block_its_own_batch():
    blocks = list(pack(DOCUMENTS, TOKENIZER, block_size=4, prefix=[BOS]))

    stacked = list(batches(blocks, 2))

    assert [tuple(ids.shape) for ids, _ in stacked] == [(2, 4), (1, 4), (1, 3)]
    for attribute, column in (("ids", 0), ("is_text", 1)):
        flat = torch.cat([batch[column].flatten() for batch in stacked])
        assert torch.equal(flat, torch.cat([getattr(block, attribute) for block in blocks]))


def test_batches_refuses_an_empty_batch():
    with pytest.raises(CorpusError, match="`batch_size` must be at least 1; got 0"):
        next(batches([], 0))


def test_block_refuses_parts_of_unequal_length():
    # The shape checker objects first where it is on; without it the block does.
    with pytest.raises(Exception, match="pos|as many ids as is_text"):
        Block(torch.zeros(3, dtype=torch.int64), torch.ones(2, dtype=torch.bool), 0)


def test_block_refuses_to_be_empty():
    with pytest.raises(CorpusError, match="at least one"):
        Block(torch.zeros(0, dtype=torch.int64), torch.ones(0, dtype=torch.bool), 0)
