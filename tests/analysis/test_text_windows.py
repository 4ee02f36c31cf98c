"""Windows of text with a value per token, in any script."""

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers as pre

from lse_interp.analysis.example_collection import collect_examples
from lse_interp.analysis.example_streams import WHICH
from lse_interp.analysis.text_windows import Span, encode, spans
from lse_interp.core.errors import MismatchError
from lse_interp.models.hooked import HookedModel
from tests.analysis.test_neuron_examples import BLOCK, short_blocks, slow_values
from tests.test_ablation import byte_tokenizer, tiny_hf, tiny_model

TEXTS = (
    "ħobż u żejt",
    "გამარჯობა",
    "नमस्ते दुनिया",
    "مرحبا بالعالم",
    "你好，世界",
    "👩‍👩‍👧 x",
    "e\u0301te\u0301",
)


def fallback_tokenizer():
    """Byte fallback as in Gemma: letters of ASCII are tokens, all else is bytes."""
    words = ["<unk>", "▁", *map(chr, range(97, 123)), *(f"<0x{i:02X}>" for i in range(256))]
    vocab = {word: i for i, word in enumerate(words)}
    backend = Tokenizer(models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.ByteFallback()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


def whitespace_tokenizer():
    backend = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    backend.pre_tokenizer = pre.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


@pytest.mark.parametrize("make", [byte_tokenizer, fallback_tokenizer, whitespace_tokenizer])
@pytest.mark.parametrize("text", TEXTS)
def test_pieces_are_whole_characters_and_make_up_the_text(make, text):
    model = HookedModel(tiny_hf(vocab_size=300), make(), name="tiny")
    (encoded,) = encode(model, [text])
    found = spans(text, encoded.offsets)
    assert "".join(span.text for span in found) == text
    assert found[0].first == 0
    assert found[-1].last == len(encoded.ids)
    assert all(a.last == b.first for a, b in zip(found, found[1:], strict=False))
    for span in found:
        assert span.text
        assert span.first < span.last


def test_bytes_of_a_letter_are_one_piece():
    (encoded,) = encode(tiny_model(), ["aħი"])
    assert spans("aħი", encoded.offsets) == [Span("a", 0, 1), Span("ħ", 1, 3), Span("ი", 3, 6)]


def test_marks_stay_with_their_letter():
    assert spans("नमस्ते", [(i, i + 1) for i in range(6)]) == [
        Span("न", 0, 1),
        Span("म", 1, 2),
        Span("स्", 2, 4),
        Span("ते", 4, 6),
    ]


@pytest.mark.parametrize(
    ("offsets", "expected"),
    [
        ([(0, 0), (0, 1), (1, 3)], [Span("a", 0, 2), Span(" b ", 2, 3)]),
        ([(1, 1), (0, 3)], [Span("a b ", 0, 2)]),
        ([(0, 2), (1, 3)], [Span("a b ", 0, 2)]),
        ([(0, 1), (2, 3), (3, 3)], [Span("a", 0, 1), Span(" b ", 1, 3)]),
        ([(0, 0)], [Span("a b ", 0, 1)]),
        ([], []),
    ],
)
def test_spans_join_tokens_without_characters_of_their_own(offsets, expected):
    assert spans("a b ", offsets) == expected


@pytest.mark.parametrize("which", WHICH)
def test_windows_show_the_value_of_every_token(which):
    model = short_blocks()
    documents = ["", *TEXTS]
    examples = collect_examples(model, {"mlt": documents}, k=6)
    values = slow_values(model, documents, "mlp.hook_act")[1, :, 3]
    starts = torch.tensor([0, *examples.lengths["mlt"]]).cumsum(dim=0)
    windows = examples.windows(1, 3, "mlt", which, model=model, before=5, after=3)
    assert len(windows) == len(examples.of(1, 3, "mlt", which)) > 0
    for window in windows:
        position = int(starts[window.document]) + window.token
        assert window.value == pytest.approx(values[position], rel=1e-6)
        assert window.text in documents[window.document]
        n_before = sum(len(piece.values) for piece in window.pieces[: window.at])
        piece = window.pieces[window.at]
        inside = next(
            i for i, v in enumerate(piece.values) if v == pytest.approx(window.value, rel=1e-6)
        )
        start = position - n_before - inside
        shown = [value for piece in window.pieces for value in piece.values]
        assert shown == pytest.approx(values[start : start + len(shown)].tolist(), rel=1e-5)
        assert piece.value == max(piece.values)
        length = examples.lengths["mlt"][window.document]
        assert window.whole[0] or n_before + inside >= 5 or window.token % (BLOCK - 1) < 5
        if window.whole == (True, True) and length < BLOCK:
            assert window.text == documents[window.document]


def test_windows_refuse_another_model_or_tokenizer():
    model = short_blocks()
    examples = collect_examples(model, {"mlt": TEXTS})
    with pytest.raises(MismatchError, match="other weights"):
        examples.windows(0, 0, "mlt", model=short_blocks(seed=1))
    other = HookedModel(model.hf, whitespace_tokenizer(), name="tiny")
    with pytest.raises(MismatchError, match="with the tokenizer that the examples"):
        examples.windows(0, 0, "mlt", model=other)
