import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lse_interp.core.errors import ArtifactError, LanguageError, MismatchError
from lse_interp.counting.counts import ActivationCounts, merge
from lse_interp.models.info import ModelInfo

INFO = ModelInfo(
    name="tiny",
    fingerprint="0123456789abcdef",
    architecture="LlamaForCausalLM",
    n_layers=2,
    d_model=4,
    d_mlp=3,
    n_parameters=100,
)


def counts(n_positive, n_tokens, *, text=None, **changes):
    n_positive = torch.as_tensor(n_positive, dtype=torch.int64)
    values = {
        "language": "mlt",
        "model": INFO,
        "site": "mlp.hook_act",
        "shard_n_positive": n_positive,
        "shard_activation_sum": n_positive.double() / 4 - 1,
        "shard_n_tokens": torch.as_tensor(n_tokens, dtype=torch.int64),
        "provenance": {} if text is None else {"settings": {"text": text}},
    }
    return ActivationCounts(**values | changes)


TWO_SHARDS = [[[0, 1, 2], [3, 4, 0]], [[6, 5, 4], [3, 2, 0]]]


def test_activation_counts_totals_by_hand():
    found = counts(TWO_SHARDS, [4, 6])
    assert (found.n_shards, found.n_tokens) == (2, 10)
    assert found.n_positive.tolist() == [[6, 6, 6], [6, 6, 0]]
    assert found.activation_sum.tolist() == [[-0.5, -0.5, -0.5], [-0.5, -0.5, -2.0]]
    assert found.probability.tolist() == [[0.6, 0.6, 0.6], [0.6, 0.6, 0.0]]
    assert found.probability.dtype == torch.float64


def test_a_language_in_any_spelling_is_turned_into_its_code():
    spelt = [counts(TWO_SHARDS, [4, 6], language=name) for name in ("en", "English", "eng_Latn")]
    assert {found.language for found in spelt} == {"eng"}
    assert merge(spelt[0], spelt[1]).n_tokens == 20


def test_to_frame_has_a_row_per_neuron():
    frame = counts(TWO_SHARDS, [4, 6]).to_frame()
    assert list(frame) == ["language", "layer", "neuron", "n_positive", "probability", "mean"]
    assert frame.iloc[-1].to_list() == ["mlt", 1, 2, 0, 0.0, -0.2]
    assert (len(frame), frame["n_positive"].sum()) == (6, 30)


@pytest.mark.parametrize("totals", [False, True])
def test_save_load_keeps_every_bit(tmp_path, totals):
    saved = counts(TWO_SHARDS, [4, 6], provenance={"settings": {"text": "a"}})
    path = saved.save(tmp_path / "mlt.safetensors")
    found = ActivationCounts.load(path, totals=totals)
    assert (found.language, found.model, found.site) == ("mlt", INFO, "mlp.hook_act")
    assert found.provenance == saved.provenance
    assert torch.equal(found.n_positive, saved.n_positive)
    assert torch.equal(found.activation_sum, saved.activation_sum)
    assert found.n_tokens == saved.n_tokens
    assert found.n_shards == (1 if totals else 2)
    if not totals:
        assert torch.equal(found.shard_n_positive, saved.shard_n_positive)
        assert torch.equal(found.shard_activation_sum, saved.shard_activation_sum)


def test_load_refuses_truncated_file(tmp_path):
    path = counts(TWO_SHARDS, [4, 6]).save(tmp_path / "mlt.safetensors")
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ArtifactError, match="truncated"):
        ActivationCounts.load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"language": "xxx"}, "unknown language 'xxx'"),
        ({"shard_n_tokens": torch.tensor([4, 0])}, r"text in each; got \[4, 0\] tokens"),
        (
            {"shard_n_tokens": torch.tensor([4, 5])},
            "1 counts of mlt are larger than the number of tokens; the first is 6 of 5 tokens, for "
            "neuron 0 of layer 0 in shard 1",
        ),
        (
            {"shard_n_positive": torch.tensor(TWO_SHARDS) - 1},
            "3 counts of mlt are negative; the first is -1 of 4 tokens, for neuron 0 of layer 0",
        ),
        (
            {"model": dataclasses.replace(INFO, d_mlp=5)},
            r"\[shard layer neuron\] = \[2, 2, 5\] for tiny; got \[2, 2, 3\]",
        ),
        (
            {"shard_activation_sum": torch.full((2, 2, 3), torch.nan, dtype=torch.float64)},
            "An activation sum of mlt is not a finite number",
        ),
    ],
)
def test_activation_counts_refuses(changes, message):
    error = LanguageError if "language" in changes else MismatchError
    with pytest.raises(error, match=message):
        counts(TWO_SHARDS, [4, 6], **changes)


n_positive = hnp.arrays(
    np.int64, st.tuples(st.integers(1, 4), st.just(2), st.just(3)), elements=st.integers(0, 9)
)


@settings(deadline=None, max_examples=30)
@given(a=n_positive, b=n_positive)
def test_merge_adds_up_exactly(a, b):
    first, second = counts(a, [9] * len(a)), counts(b, [9] * len(b))
    both = merge(first, second)
    assert torch.equal(both.n_positive, first.n_positive + second.n_positive)
    assert torch.equal(both.activation_sum, first.activation_sum + second.activation_sum)
    assert both.n_tokens == first.n_tokens + second.n_tokens
    assert both.n_shards == first.n_shards + second.n_shards


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"language": "deu"}, "one language can be merged; got mlt and deu"),
        ({"site": "mlp.hook_post"}, "one site can be merged; got mlp.hook_act and mlp.hook_post"),
        (
            {"model": dataclasses.replace(INFO, fingerprint="f" * 16)},
            "second counts of mlt belongs to other weights: expected fingerprint 0123456789abcdef",
        ),
    ],
)
def test_merge_refuses_counts_that_do_not_belong_together(changes, message):
    with pytest.raises(MismatchError, match=message):
        merge(counts(TWO_SHARDS, [4, 6]), counts(TWO_SHARDS, [4, 6], **changes))


def test_merge_refuses_the_same_text_twice():
    first, second, third = (counts(TWO_SHARDS, [4, 6], text=text) for text in "abc")
    with pytest.raises(MismatchError, match="hold the same text, which would count twice"):
        merge(merge(first, second), merge(third, second))


def test_split_half_correlation_matches_numpy():
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, 50, size=(5, 2, 3))
    even, odd = drawn[[0, 2, 4]].sum(axis=0), drawn[[1, 3]].sum(axis=0)
    expected = np.corrcoef((even / 150).ravel(), (odd / 100).ravel())[0, 1]
    assert counts(drawn, [50] * 5).split_half_correlation() == pytest.approx(expected, abs=1e-12)


def test_split_half_correlation_refuses_what_cannot_be_halved():
    with pytest.raises(MismatchError, match="at least 2 shards; the counts of mlt have 1"):
        counts(TWO_SHARDS[:1], [4]).split_half_correlation()
    with pytest.raises(MismatchError, match="All neurons of tiny are equally active"):
        counts(np.ones((2, 2, 3)), [4, 6]).split_half_correlation()
