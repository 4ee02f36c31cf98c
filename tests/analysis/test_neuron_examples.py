"""Examples of neurons in text: which positions are kept, from whatever batches and text."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lse_interp
from lse_interp.analysis.example_collection import collect_examples
from lse_interp.analysis.example_streams import ABSENT, WHICH, NeuronStream
from lse_interp.analysis.neuron_examples import NeuronExamples
from lse_interp.core.errors import (
    ActivationError,
    CorpusError,
    LanguageError,
    LseError,
    MismatchError,
)
from lse_interp.data.corpora import load_corpus
from lse_interp.models.defaults import ModelDefaults
from lse_interp.models.hooked import HookedModel
from tests.test_ablation import D_MLP, N_LAYERS, TEXT, byte_tokenizer, parallel, tiny_hf, tiny_model

BLOCK = 12
HOSTILE = (
    "<script>alert('x')</script>",
    "",
    "</s><s><pad>",
    "\x00\u202eabc\u200b",
    "👩‍👩‍👧 e\u0301",
    "  \n\t",
    '{"documents": [1]}',
    "مرحبا، नमस्ते ไทย",
)


def short_blocks(**kwargs):
    """A model in float64, so that batches round alike, that reads 11 tokens of text at once."""
    defaults = ModelDefaults(block_size=BLOCK)
    hf = tiny_hf(dtype=torch.float64, **kwargs)
    return HookedModel(hf, byte_tokenizer(), name="tiny", defaults=defaults)


def mixed(number):
    """The finaliser of MurmurHash3 in Python's own numbers."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        number = ((number ^ (number >> shift)) * factor) % 2**32
    return number


def chance(position, *, layer, neuron, seed):
    key = (mixed(mixed(mixed(seed) + layer) + neuron) ^ mixed(position)) * 0x9E3779B1 % 2**32
    return key - 2**32 if key >= 2**31 else key


def slow_values(model, documents, site):
    """Values [layer token neuron] as float32: one block per forward pass, all kept."""
    rows = []
    for text in documents:
        ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
        for start in range(0, len(ids), BLOCK - 1):
            batch = torch.tensor([[1, *ids[start : start + BLOCK - 1]]])
            found = model.collect(batch, site)
            rows.append(torch.stack([values[0, 1:] for values in found.values()]))
    return torch.cat(rows, dim=1).float().numpy()


def slow_examples(values, *, k, sample, layer, neuron, seed):
    """Which -> positions of one neuron, by sorting everything."""
    order = sorted(range(len(values)), key=lambda p: (-values[p], p))
    hashed = sorted(
        range(len(values)),
        key=lambda p: chance(p, layer=layer, neuron=neuron, seed=seed),
        reverse=True,
    )
    active = [p for p in hashed if values[p] > 0]
    pool = sorted(active[: max(sample, k)], key=lambda p: (values[p], p))
    start = max(0, (len(pool) - k) // 2)
    return {
        "top": order[:k],
        "middle": pool[start : start + k],
        "weak": pool[:k],
        "active": active[:k],
        "random": hashed[:k],
    }


def assert_same(a, b):
    assert a.languages == b.languages
    assert torch.equal(a.positions, b.positions)
    torch.testing.assert_close(a.values, b.values, rtol=1e-6, atol=0, equal_nan=True)


@pytest.mark.parametrize("site", ["mlp.hook_act", "mlp.hook_post"])
def test_collect_examples_agrees_with_sorting_all_values(site):
    model = short_blocks()
    k, sample, seed = 3, 7, 5
    options = {"site": site, "k": k, "sample": sample, "seed": seed}
    examples = collect_examples(model, parallel(), **options, batch_tokens=30)
    for place, (code, documents) in enumerate(TEXT.items()):
        values = slow_values(model, documents, site)
        assert examples.n_tokens[code] == values.shape[1]
        for layer in range(N_LAYERS):
            for neuron in range(D_MLP):
                column = values[layer, :, neuron]
                found = examples.positions[:, place, layer, neuron]
                expected = slow_examples(
                    column, k=k, sample=sample, layer=layer, neuron=neuron, seed=seed
                )
                for kind, positions in zip(WHICH, found.tolist(), strict=True):
                    assert [p for p in positions if p != ABSENT] == expected[kind]
                np.testing.assert_allclose(
                    examples.values[:, place, layer, neuron].numpy(),
                    np.where(found == ABSENT, np.nan, column[found.clamp(min=0)]),
                    rtol=1e-6,
                )


def test_of_locates_examples_in_documents():
    model = short_blocks()
    documents = ["", "Il-qattus jorqod, u l-kelb ukoll.", "", "Xita."]
    examples = collect_examples(model, {"Maltese": documents}, k=3)
    rows = [
        (document, token)
        for document, text in enumerate(documents)
        for token in range(len(model.tokenizer(text, add_special_tokens=False)["input_ids"]))
    ]
    values = slow_values(model, documents, "mlp.hook_act")
    for which in WHICH:
        frame = examples.of(1, 4, "mt", which)
        assert list(frame.columns) == ["value", "document", "token"]
        for row in frame.itertuples():
            at = rows.index((row.document, row.token))
            assert row.value == pytest.approx(values[1, at, 4], rel=1e-6)
    top = examples.of(1, 4, "mt")
    assert top["value"].is_monotonic_decreasing
    assert top["value"][0] == pytest.approx(values[1, :, 4].max(), rel=1e-6)


def test_to_frame_lists_what_of_does():
    examples = collect_examples(short_blocks(), TEXT, k=3)
    frame = examples.to_frame()
    for which in ("weak", "random"):
        rows = frame.query(
            f"which == '{which}' and language == 'kat' and layer == 1 and neuron == 5"
        )
        expected = examples.of(1, 5, "kat", which)
        assert rows[["document", "token"]].to_numpy().tolist() == (
            expected[["document", "token"]].to_numpy().tolist()
        )
        assert rows["value"].tolist() == expected["value"].tolist()


@pytest.mark.parametrize("batch_tokens", [1, 40, 5000])
def test_examples_do_not_depend_on_the_size_of_batches(batch_tokens):
    model = short_blocks()
    expected = collect_examples(model, TEXT, k=4, batch_tokens=25)
    assert_same(collect_examples(model, TEXT, k=4, batch_tokens=batch_tokens), expected)


def test_padding_on_the_left_changes_nothing():
    model = short_blocks()
    expected = collect_examples(model, TEXT)
    model.tokenizer.padding_side = "left"
    assert_same(collect_examples(model, TEXT), expected)


def stream_over(values, parts, **options):
    stream = NeuronStream(3, k=4, sample=8, seed=0, **options)
    for part in parts:
        stream.add(values[part], part)
    return stream


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    n=st.integers(1, 60),
    cuts=st.lists(st.integers(1, 59), max_size=5),
    first=st.integers(0, 5),
    seed=st.integers(0, 99),
)
def test_examples_do_not_depend_on_batches_their_order_or_merging(n, cuts, first, seed):
    generator = torch.Generator().manual_seed(seed)
    # Few distinct values, so that ties decide.
    values = torch.randint(-2, 3, (n, 5), generator=generator) * 0.5
    values[values == 0] = torch.tensor([0.0, -0.0])[seed % 2]
    together = stream_over(values, [torch.arange(n)]).finish()
    order = torch.randperm(n, generator=generator)
    parts = [part for part in order.tensor_split(sorted(cut % n for cut in cuts)) if len(part)]
    some, others = parts[:first] or parts[:1], parts[first:] if parts[:first] else parts[1:]
    stream = stream_over(values, others)
    if others:
        stream.merge(stream_over(values, some))
    else:
        stream = stream_over(values, some)
    for a, b in zip(stream.finish(), together, strict=True):
        assert torch.equal(a.nan_to_num(99), b.nan_to_num(99))


def test_equal_values_keep_the_earliest_positions():
    found = stream_over(torch.ones(50, 2), [torch.arange(25, 50), torch.arange(25)]).finish()[1]
    assert found[WHICH.index("top")].tolist() == [[0, 1, 2, 3]] * 2


def test_random_positions_are_uniform():
    n, n_neurons, k = 40, 4000, 4
    stream = NeuronStream(0, k=k, sample=8, seed=1)
    values = torch.ones(n, n_neurons)
    values[::2] = -1
    stream.add(values, torch.arange(n))
    positions = stream.finish()[1]
    for which, among in (("random", torch.arange(n)), ("active", torch.arange(1, n, 2))):
        drawn = positions[WHICH.index(which)].long()
        assert (drawn.sort(dim=1).values.diff(dim=1) > 0).all()
        counts = torch.bincount(drawn.flatten(), minlength=n)[among].double()
        assert counts.sum() == n_neurons * k
        expected = n_neurons * k / len(among)
        # 5 standard deviations of a count; its share of the neurons is k / len(among).
        spread = (expected * (1 - k / len(among))) ** 0.5
        assert ((counts - expected).abs() < 5 * spread).all()
    pairs = torch.zeros(n, n, dtype=torch.float64)
    drawn = positions[WHICH.index("random")].long()
    for i in range(k):
        for j in range(k):
            pairs.index_put_(
                (drawn[:, i], drawn[:, j]), torch.tensor(1.0).double(), accumulate=True
            )
    pairs.fill_diagonal_(n_neurons * k * (k - 1) / (n * (n - 1)))
    expected = n_neurons * k * (k - 1) / (n * (n - 1))
    assert ((pairs - expected).abs() < 6 * expected**0.5).all()


def test_layers_and_seeds_have_different_random_positions():
    def drawn(layer, seed):
        stream = NeuronStream(layer, k=4, sample=8, seed=seed)
        stream.add(torch.ones(1000, 6), torch.arange(1000))
        return stream.finish()[1][WHICH.index("random")]

    assert torch.equal(drawn(0, 0), drawn(0, 0))
    for layer, seed in ((1, 0), (0, 1)):
        assert (drawn(layer, seed) != drawn(0, 0)).any(dim=1).all()


def test_middle_and_weak_lie_where_they_say():
    values = torch.arange(1, 1001.0)[torch.randperm(1000)][:, None].repeat(1, 50)
    stream = NeuronStream(0, k=4, sample=32, seed=0)
    stream.add(values, torch.arange(1000))
    means = stream.finish()[0].mean(dim=(1, 2))
    assert means[WHICH.index("top")] == 998.5
    assert 420 < means[WHICH.index("middle")] < 580
    # The mean of the k lowest of n uniform draws: (k + 1) / 2 / (n + 1).
    assert 50 < means[WHICH.index("weak")] < 100
    assert 420 < means[WHICH.index("active")] < 580


def test_more_examples_than_positions_leaves_places_empty():
    model = short_blocks()
    examples = collect_examples(model, {"mlt": ["Xita."]}, k=9, sample=2)
    assert examples.positions.shape[-1] == 9
    top = examples.positions[0, 0]
    assert (top[..., :5].sort(dim=-1).values == torch.arange(5)).all()
    assert (top[..., 5:] == ABSENT).all()
    assert torch.equal(examples.values.isnan(), examples.positions == ABSENT)
    assert len(examples.of(0, 0, "mlt")) == 5
    assert len(examples.windows(0, 0, "mlt", model=model)) == 5


def test_a_neuron_that_is_never_active_has_no_weak_examples():
    stream = NeuronStream(0, k=2, sample=4, seed=0)
    stream.add(-torch.rand(20, 3), torch.arange(20))
    positions = dict(zip(WHICH, stream.finish()[1], strict=True))
    for which in ("middle", "weak", "active"):
        assert (positions[which] == ABSENT).all()
    assert (positions["top"] != ABSENT).all()


def test_n_tokens_stops_after_a_whole_document():
    model = short_blocks()
    examples = collect_examples(model, {"mlt": ["Xita.", "Kif?", "Illum."]}, n_tokens=6)
    assert examples.documents == {"mlt": ("Xita.", "Kif?")}
    assert examples.n_tokens == {"mlt": 9}


def test_corpora_and_hostile_documents_are_read(tmp_path):
    model = short_blocks()
    corpus = load_corpus("embedded", language="mlt")
    examples = collect_examples(model, {"eng": HOSTILE, "Maltese": corpus}, n_tokens=200)
    assert examples.languages == ("eng", "mlt")
    assert examples.documents["eng"] == HOSTILE
    loaded = lse_interp.load(examples.save(tmp_path / "examples.safetensors"))
    assert isinstance(loaded, NeuronExamples)
    assert_same(loaded, examples)
    assert loaded.documents == examples.documents
    assert loaded.lengths == examples.lengths
    for which in WHICH:
        for window in loaded.windows(0, 1, "eng", which, model=model):
            assert window.text in HOSTILE[window.document]
    assert collect_examples(model, corpus, n_tokens=50).languages == ("mlt",)


def test_join_gives_what_one_pass_gives():
    model = short_blocks()
    parts = [collect_examples(model, {code: text}) for code, text in TEXT.items()]
    assert_same(NeuronExamples.join(parts), collect_examples(model, TEXT))
    with pytest.raises(LanguageError, match="each once"):
        NeuronExamples.join(parts[:1] * 2)
    with pytest.raises(MismatchError, match="share `seed`"):
        NeuronExamples.join([parts[0], dataclasses.replace(parts[1], seed=1)])
    with pytest.raises(MismatchError, match="share `k`"):
        NeuronExamples.join([parts[0], collect_examples(model, {"eng": TEXT["eng"]}, k=1)])
    with pytest.raises(LseError, match="at least one part"):
        NeuronExamples.join([])


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        ({}, CorpusError, "There is no text"),
        ({"mlt": []}, CorpusError, "text of mlt has no token"),
        ({"mlt": ["", ""]}, CorpusError, "text of mlt has no token"),
        ({"mlt": "Xita."}, CorpusError, "mlt has one string"),
        ({"mlt": ["\ud800"]}, CorpusError, "half of a UTF-16 pair"),
        ({"nonsense": ["Xita."]}, LanguageError, "nonsense"),
    ],
)
def test_collect_examples_refuses_text_it_cannot_read(texts, error, message):
    with pytest.raises(error, match=message):
        collect_examples(short_blocks(), texts)


def test_collect_examples_refuses_bad_arguments():
    model = short_blocks()
    for name in ("k", "sample", "n_tokens", "batch_tokens"):
        with pytest.raises(LseError, match=f"`{name}` must be at least 1; got 0"):
            collect_examples(model, TEXT, **{name: 0})
    with pytest.raises(LseError, match="`site` must be one of"):
        collect_examples(model, TEXT, site="hook_resid_post")
    with pytest.raises(LseError, match="tokenizer with offsets"):
        collect_examples(HookedModel(model.hf, name="tiny"), TEXT)
    with torch.no_grad():
        model.hf.model.layers[1].mlp.gate_proj.weight.fill_(torch.nan)
    with pytest.raises(ActivationError, match="not finite") as caught:
        collect_examples(model, TEXT)
    assert caught.value.__notes__ == ["At blocks.1.mlp.hook_act of tiny."]


def test_examples_refuse_what_does_not_fit():
    examples = collect_examples(tiny_model(), TEXT)
    for wrong, message in (
        ({"languages": ("mlt",)}, "`documents` should be of mlt"),
        ({"model": dataclasses.replace(examples.model, n_layers=3)}, "`values` should be"),
        ({"positions": examples.positions + 10_000}, "must be in 0 to"),
        ({"lengths": examples.lengths | {"mlt": (1000,)}}, "needs its number of tokens"),
    ):
        with pytest.raises(MismatchError, match=message):
            dataclasses.replace(examples, **wrong)
    with pytest.raises(LanguageError, match="no examples in deu"):
        examples.of(0, 0, "deu")
    with pytest.raises(LseError, match="`which` must be one of"):
        examples.of(0, 0, "mlt", "topp")
    with pytest.raises(ActivationError, match="`neuron` must be in 0 to 23; got 24"):
        examples.of(0, 24, "mlt")
