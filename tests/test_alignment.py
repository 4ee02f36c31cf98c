import copy
import dataclasses
import itertools
import logging
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from lse_interp.alignment import main
from lse_interp.analysis.alignment import AlignmentCurves, measure_alignment
from lse_interp.analysis.cosine import (
    STATISTICS,
    VECTORS,
    compare_sentences,
    pair_cosine,
    retrieval_at_1,
    shuffled_cosine,
)
from lse_interp.analysis.sentence_vectors import embed, embed_counting_sinks
from lse_interp.artifacts.paths import RunPaths
from lse_interp.core.errors import (
    ActivationError,
    ArtifactError,
    CorpusError,
    LanguageError,
    LseError,
    MismatchError,
)
from lse_interp.core.statistics import bootstrap_interval
from lse_interp.data.embedded import sentences
from lse_interp.data.parallel import ParallelText, load_parallel
from lse_interp.models.hooked import HookedModel
from lse_interp.models.loading import load_model
from lse_interp.subnetworks.apply import with_subnetworks
from tests.subnetworks.making_runs import make_run

SITES = ("hook_resid_post", "hook_mlp_out", "mlp.hook_post")
TEXT = {
    "mlt": ("Il-qattus jorqod.", "Xita.", "Illum il-baħar hu kalm ħafna u sabiħ.", "Kif int?"),
    "eng": ("The cat is asleep.", "Rain.", "Today the sea is very calm and fine.", "How are you?"),
    "kat": ("კატას სძინავს.", "წვიმა.", "დღეს ზღვა ძალიან წყნარია.", "როგორ ხარ?"),
}


def byte_tokenizer(*, bos=True, padding_side="right"):
    """One token per byte; `<s>` before every text if asked for."""
    words = ["<pad>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if bos:
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 1)]
        )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        padding_side=padding_side,
    )


def tiny_hf(*, seed=0, dtype=torch.float32, n_layers=3, context=512):
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=259,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=n_layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=context,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
    )
    hf = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for weight in hf.parameters():
            weight.normal_(std=0.3)
    return hf.to(dtype).eval()


def tiny_model(*, bos=True, padding_side="right", **kwargs):
    tokenizer = byte_tokenizer(bos=bos, padding_side=padding_side)
    return HookedModel(tiny_hf(**kwargs), tokenizer, name="tiny")


def parallel(text=TEXT):
    return ParallelText(languages=tuple(text), sentences=text, spec="test text", split=None)


def vectors(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def reference_embed(hooked, sentences, *, site, pooling):
    """One sentence per forward pass, no padding, plain torch hooks, NumPy pooling."""
    hf = copy.deepcopy(hooked.hf)
    layers = hf.model.layers
    result = np.empty((len(layers), len(sentences), 24 if site == "mlp.hook_post" else 16))
    seen = {}

    def keep(i):
        return lambda _module, _args, out: seen.update({i: out})

    def keep_input(i):
        return lambda _module, args: seen.update({i: args[0]})

    for i, layer in enumerate(layers):
        if site == "hook_resid_post":
            layer.register_forward_hook(keep(i))
        elif site == "hook_mlp_out":
            layer.mlp.register_forward_hook(keep(i))
        else:
            layer.mlp.down_proj.register_forward_pre_hook(keep_input(i))
    for s, sentence in enumerate(sentences):
        ids = hooked.tokenizer(sentence, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            hf(input_ids=ids)
        for i in range(len(layers)):
            tokens = seen[i].reshape(ids.shape[1], -1)[1:].double().numpy()
            result[i, s] = tokens.mean(axis=0) if pooling == "mean" else tokens[-1]
    return result


def reference_cosines(a, b):
    """All cosines [layer, i, j], one pair at a time."""
    n_layers, n, _ = a.shape
    cosine = np.empty((n_layers, n, n))
    for layer in range(n_layers):
        for i in range(n):
            for j in range(n):
                x, y = a[layer, i], b[layer, j]
                cosine[layer, i, j] = (x @ y) / (np.sqrt(x @ x) * np.sqrt(y @ y))
    return cosine


# Sentence vectors


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_embed_agrees_with_one_sentence_per_forward(site, pooling, dtype, tolerance):
    model = tiny_model(dtype=dtype)
    sentences = TEXT["mlt"] + TEXT["kat"]
    expected = reference_embed(model, sentences, site=site, pooling=pooling)
    found = embed(model, sentences, site=site, pooling=pooling, batch_size=3)
    assert found.dtype == dtype
    torch.testing.assert_close(
        found.double(), torch.from_numpy(expected), rtol=tolerance, atol=tolerance
    )


def test_embed_without_bos_pools_all_but_the_first_token():
    model = tiny_model(bos=False, dtype=torch.float64)
    expected = reference_embed(model, TEXT["eng"], site="hook_resid_post", pooling="mean")
    found = embed(model, TEXT["eng"])
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_embed_does_not_depend_on_batch_size_or_padding_side(pooling, dtype, tolerance):
    sentences = [line for lines in TEXT.values() for line in lines]
    alone = embed(tiny_model(dtype=dtype), sentences, pooling=pooling, batch_size=1)
    for padding_side in ("left", "right"):
        model = tiny_model(dtype=dtype, padding_side=padding_side)
        for batch_size in (5, 100):
            found = embed(model, sentences, pooling=pooling, batch_size=batch_size)
            torch.testing.assert_close(found, alone, rtol=tolerance, atol=tolerance)


def test_embed_keeps_the_order_of_the_sentences():
    model = tiny_model(dtype=torch.float64)
    sentences = TEXT["eng"]
    found = embed(model, sentences[::-1], batch_size=2)
    torch.testing.assert_close(found, embed(model, sentences).flip(1), rtol=1e-12, atol=1e-12)


def test_embed_ignores_what_stands_at_padding():
    model = tiny_model()
    expected = embed(model, ["abcdef", "ab"])

    def spoil(activation, site):
        activation = activation.clone()
        # BOS and two letters, then padding.
        activation[1, 3:] = torch.nan
        return activation

    with model.edits({"blocks.2.hook_resid_post": spoil}):
        assert torch.equal(embed(model, ["abcdef", "ab"]), expected)


def test_embed_names_the_layer_with_values_that_are_not_finite():
    model = tiny_model()
    with torch.no_grad():
        model.hf.model.layers[1].mlp.down_proj.weight[0, 0] = torch.nan
    with pytest.raises(ActivationError, match=r"Values at blocks\.1\.hook_mlp_out of tiny are not"):
        embed(model, TEXT["eng"], site="hook_mlp_out")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"site": "mlp.hook_pre"}, ActivationError, r"got site 'mlp.hook_pre'. Did you mean mlp"),
        ({"pooling": "max"}, LseError, "`pooling` must be mean or last; got 'max'"),
        ({"sinks": "no"}, LseError, "`sinks` must be drop or keep; got 'no'"),
        ({"batch_size": 0}, LseError, "`batch_size` must be at least 1; got 0"),
        ({"sentences": []}, CorpusError, "There is no sentence"),
        ({"sentences": ["a", ""]}, CorpusError, "Sentence 2 has no token"),
        ({"sentences": ["a", "b" * 512]}, CorpusError, "Sentence 2 has 513 tokens, more than the"),
    ],
)
def test_embed_refuses(change, error, message):
    with pytest.raises(error, match=message):
        embed(tiny_model(), **{"sentences": TEXT["eng"], **change})


def test_embed_refuses_one_token_without_prefix_and_takes_it_with_one():
    with pytest.raises(CorpusError, match="Sentence 2 has 1 token, which tiny reads first"):
        embed(tiny_model(bos=False), ["ab", "c"])
    assert embed(tiny_model(), ["ab", "c"]).shape[1] == 2


def with_sink(token, **kwargs):
    """A model whose residual stream is huge at one token."""
    model = tiny_model(dtype=torch.float64, **kwargs)
    with torch.no_grad():
        model.hf.model.embed_tokens.weight[token] += 1000
    return model


def old_embed(hooked, sentences):
    """The mean over all text tokens, the first among them."""
    rows = []
    sites = [f"blocks.{layer}.hook_resid_post" for layer in range(hooked.n_layers)]
    for sentence in sentences:
        found = hooked.collect(sentence, sites)
        rows.append(torch.stack([found[site][0].mean(dim=0) for site in sites]))
    return torch.stack(rows, dim=1)


def test_a_sink_at_the_first_token_swallows_retrieval_unless_it_is_left_out():
    # The two languages say the same, after a first token that differs from sentence to sentence:
    # that of a sentence is the first of the next one's translation.
    bodies = [" jorqod il-qattus", "u l-baħar hu kalm", "kif int? tajjeb", "xita u riħ qawwi"]
    text = {
        "mlt": tuple(letter + body for letter, body in zip("abcd", bodies, strict=True)),
        "eng": tuple(letter + body for letter, body in zip("bcda", bodies, strict=True)),
    }
    model = tiny_model(bos=False, dtype=torch.float64)
    with torch.no_grad():
        for layer in model.hf.model.layers:
            # Positions do not see each other.
            layer.self_attn.o_proj.weight.zero_()

    def enlarge(_module, _args, output):
        scale = torch.ones_like(output)
        scale[:, 0] = 1000
        return scale * output

    model.hf.model.embed_tokens.register_forward_hook(enlarge)
    old = [old_embed(model, lines) for lines in text.values()]
    before = compare_sentences(*old).mean(dim=-1)[:, STATISTICS.index("retrieval")]
    curves = measure(model, text=text, against=["eng"])
    assert (before == 0).all()
    for kind in VECTORS:
        assert (curves.curve("retrieval", vectors=kind) == 1).all()


@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_positions_of_massive_norm_are_left_out_and_counted(pooling, padding_side, caplog):
    comma = tiny_model().tokenizer(",", add_special_tokens=False)["input_ids"][0]
    model = with_sink(comma, padding_side=padding_side)
    sentences = ["ab,cdef,", "gh", "ijk,l"]
    options = {"site": "hook_resid_post", "pooling": pooling, "batch_size": 2}
    found = embed_counting_sinks(model, sentences, sinks="drop", **options)
    kept = embed_counting_sinks(model, sentences, sinks="keep", **options)
    assert found.n_sinks.tolist() == kept.n_sinks.tolist() == [3, 3, 3]
    site = "blocks.0.hook_resid_post"
    for row, (sentence, places) in enumerate(
        zip(sentences, ([1, 2, 4, 5, 6, 7], [1, 2], [1, 2, 3, 5]), strict=True)
    ):
        values = model.collect(sentence, [site])[site][0]
        pooled = values[places].mean(dim=0) if pooling == "mean" else values[places[-1]]
        torch.testing.assert_close(found.vectors[0, row], pooled, rtol=1e-10, atol=1e-10)
        pooled = values[1:].mean(dim=0) if pooling == "mean" else values[-1]
        torch.testing.assert_close(kept.vectors[0, row], pooled, rtol=1e-10, atol=1e-10)
    embed(model, sentences, sinks="keep")
    assert "positions of massive norm per layer, pooled: 0: 3, 1: 3, 2: 3" in caplog.text


def test_an_infinity_is_no_sink():
    model = tiny_model()

    def overflow(activation, site):
        activation = activation.clone()
        activation[0, 2] = torch.inf
        return activation

    with (
        model.edits({"blocks.2.hook_resid_post": overflow}),
        pytest.raises(ActivationError, match="are not finite"),
    ):
        embed(model, ["abcdef"])


def test_embed_refuses_a_model_without_tokenizer():
    with pytest.raises(LseError, match="tiny has no tokenizer"):
        embed(HookedModel(tiny_hf(), name="tiny"), ["a"])


# Cosine, control, retrieval, intervals


def test_pair_cosine_by_hand():
    a = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 0.0]])
    b = torch.tensor([[4.0, 3.0], [-2.0, 0.0], [1.0, 1.0]])
    torch.testing.assert_close(
        pair_cosine(a, b), torch.tensor([0.96, -1.0, 0.0], dtype=torch.float64)
    )


def test_shuffled_cosine_by_hand():
    # Unit vectors at 0, 90 and 180 degrees against themselves: 6 pairs, cosines 0 and -1.
    a = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-5.0, 0.0]])
    # The means of each with the others are -1/2, 0 and -1/2, so the shares are 2 u_i - u.
    expected = torch.tensor([-2 / 3, 1 / 3, -2 / 3], dtype=torch.float64)
    torch.testing.assert_close(shuffled_cosine(a, a), expected)
    assert shuffled_cosine(a, a).mean().item() == pytest.approx(-1 / 3)


def test_retrieval_at_1_by_hand():
    a = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    b = torch.tensor([[1.0, 0.05], [-1.0, 0.3], [0.1, 1.0]])
    cosine = reference_cosines(a[None].double().numpy(), b[None].double().numpy())[0]
    assert cosine.argmax(axis=1).tolist() == [0, 0, 2]
    assert cosine.argmax(axis=0).tolist() == [0, 2, 2]
    expected = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(retrieval_at_1(a, b), expected)


def test_retrieval_at_1_of_equal_vectors_is_chance():
    a = vectors(1, 33).expand(50, 33)
    torch.testing.assert_close(retrieval_at_1(a, a), torch.full((50,), 0.02, dtype=torch.float64))


def test_retrieval_at_1_finds_every_row_across_chunks(monkeypatch):
    monkeypatch.setattr("lse_interp.analysis.cosine._ROWS_PER_CHUNK", 4)
    a, b = vectors(2, 11, 3), vectors(2, 11, 3, seed=1)
    cosine = reference_cosines(a.numpy(), b.numpy())
    expected = [
        ((c.argmax(axis=0) == range(11)).mean() + (c.argmax(axis=1) == range(11)).mean()) / 2
        for c in cosine
    ]
    found = [retrieval_at_1(x, y).mean().item() for x, y in zip(a, b, strict=True)]
    assert found == pytest.approx(expected)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 8), st.integers(1, 5), st.integers(0, 10_000))
def test_similarities_agree_with_every_pair_one_by_one(n, width, seed):
    a, b = vectors(2, n, width, seed=seed), vectors(2, n, width, seed=seed + 1)
    found = compare_sentences(a, b).mean(dim=-1).numpy()
    assert found.shape == (2, 4, 2)
    for kind in VECTORS:
        x, y = a.numpy(), b.numpy()
        if kind == "centred":
            x, y = (v - v.mean(axis=1, keepdims=True) for v in (x, y))
        cosine = reference_cosines(x, y)
        matching = [np.diag(c).mean() for c in cosine]
        others = [c[~np.eye(n, dtype=bool)].mean() for c in cosine]
        expected = [matching, others, np.subtract(matching, others)]
        np.testing.assert_allclose(found[VECTORS.index(kind), :3], expected, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(7)), st.integers(0, 10_000))
def test_similarities_do_not_depend_on_the_order_of_sentences_or_languages(order, seed):
    a, b = vectors(2, 7, 3, seed=seed), vectors(2, 7, 3, seed=seed + 1)
    order = list(order)
    found = compare_sentences(a, b)
    torch.testing.assert_close(found[..., order], compare_sentences(a[:, order], b[:, order]))
    torch.testing.assert_close(compare_sentences(b, a), found)


@settings(max_examples=30, deadline=None)
@given(st.floats(1e-3, 1e3), st.integers(0, 10_000))
def test_similarities_do_not_depend_on_scale(scale, seed):
    a, b = vectors(2, 6, 4, seed=seed), vectors(2, 6, 4, seed=seed + 1)
    torch.testing.assert_close(compare_sentences(scale * a, b), compare_sentences(a, b))


def test_a_common_direction_hides_in_the_raw_cosine_and_not_in_the_centred_one():
    # Translations share a part of their own; every sentence of a language shares a huge direction.
    shared, noise = vectors(1, 200, 64), [vectors(1, 200, 64, seed=seed) for seed in (1, 2)]
    a, b = (shared + 0.5 * part + 100 * vectors(1, 1, 64, seed=3) for part in noise)
    found = compare_sentences(a, b + 10 * vectors(1, 1, 64, seed=4)).mean(dim=-1)[..., 0]
    centred, raw = (dict(zip(STATISTICS, row.tolist(), strict=True)) for row in found)
    assert raw["cosine"] > 0.98 and raw["gap"] < 0.001
    # The cosine that was planted is 1 / (1 + 0.5^2).
    assert centred["cosine"] == pytest.approx(0.8, abs=0.02)
    assert abs(centred["shuffled"]) < 0.02 and centred["gap"] > 0.78
    assert centred["retrieval"] == 1


def test_the_interval_of_the_gap_has_the_width_of_the_spread_between_samples():
    gaps, widths = [], []
    for seed in range(60):
        x = vectors(1, 40, 5, seed=seed)
        y = x + vectors(1, 40, 5, seed=seed + 1000) + 1
        terms = compare_sentences(x + 1, y)[1]
        gaps.append(terms[1:3].mean(dim=-1))
        low, high = bootstrap_interval(terms[1:3])
        widths.append(high - low)
    spread = torch.stack(gaps).std(dim=0)
    torch.testing.assert_close(
        torch.stack(widths).mean(dim=0), 2 * 1.96 * spread, rtol=0.25, atol=0
    )


def test_shuffled_cosine_needs_two_sentences():
    with pytest.raises(LseError, match="at least 2 sentences; got 1"):
        shuffled_cosine(vectors(1, 3), vectors(1, 3))


def test_bootstrap_interval_contains_the_mean_and_shrinks():
    widths = []
    for n in (20, 200, 2000):
        values = vectors(3, n)
        low, high = bootstrap_interval(values)
        assert ((low < values.mean(dim=-1)) & (values.mean(dim=-1) < high)).all()
        widths.append((high - low).mean().item())
    assert widths[0] > 2 * widths[1] > 4 * widths[2]


def test_bootstrap_interval_is_near_the_normal_one():
    values = vectors(1, 1000)
    low, high = bootstrap_interval(values, n_bootstrap=4000)
    half = 1.96 * values.std(dim=-1) / 1000**0.5
    torch.testing.assert_close((high - low) / 2, half, rtol=0.05, atol=0)


def test_bootstrap_interval_agrees_with_resampling_one_by_one():
    values, n_bootstrap = vectors(2, 9), 50
    drawn = torch.randint(9, (n_bootstrap, 9), generator=torch.Generator().manual_seed(3)).numpy()
    means = np.array([[row[d].mean() for d in drawn] for row in values.numpy()])
    low, high = bootstrap_interval(values, n_bootstrap=n_bootstrap, seed=3, confidence=0.8)
    np.testing.assert_allclose(low.numpy(), np.quantile(means, 0.1, axis=-1), atol=1e-12)
    np.testing.assert_allclose(high.numpy(), np.quantile(means, 0.9, axis=-1), atol=1e-12)


def test_bootstrap_interval_is_repeatable_and_follows_the_seed():
    values = vectors(2, 30)
    assert torch.equal(bootstrap_interval(values, seed=1)[0], bootstrap_interval(values, seed=1)[0])
    other = bootstrap_interval(values, seed=2)[0]
    assert not torch.equal(bootstrap_interval(values, seed=1)[0], other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_bootstrap": 0}, "`n_bootstrap` must be at least 1; got 0"),
        ({"confidence": 95.0}, r"`confidence` must be in \(0, 1\); got 95.0. Pass a fraction"),
    ],
)
def test_bootstrap_interval_refuses(change, message):
    with pytest.raises(LseError, match=message):
        bootstrap_interval(vectors(1, 5), **change)


# Curves


def measure(models=None, text=TEXT, **kwargs):
    options = {"lang": "mlt", "against": ["eng", "kat"], "n_bootstrap": 50} | kwargs
    return measure_alignment(models or tiny_model(), parallel(text), **options)


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_measure_alignment_agrees_with_a_slow_reference(site, dtype, tolerance):
    model = tiny_model(dtype=dtype)
    curves = measure(model, site=site, batch_size=3)
    kept = {code: reference_embed(model, TEXT[code], site=site, pooling="mean") for code in TEXT}
    n = len(TEXT["mlt"])
    means = {code: values.mean(axis=1, keepdims=True) for code, values in kept.items()}
    for (v, kind), (k, code) in itertools.product(enumerate(VECTORS), enumerate(("eng", "kat"))):
        x, y = (kept[c] - (means[c] if kind == "centred" else 0) for c in ("mlt", code))
        for layer, cosine in enumerate(reference_cosines(x, y)):
            matching = np.diag(cosine).mean()
            others = cosine[~np.eye(n, dtype=bool)].mean()
            found = np.mean([cosine.argmax(axis=axis) == np.arange(n) for axis in (0, 1)])
            expected = [matching, others, matching - others, found]
            np.testing.assert_allclose(
                curves.estimate[0, v, :, k, layer], expected, atol=3 * tolerance
            )
    assert (curves.n_sinks == 0).all()


def test_measure_alignment_of_identical_sentences_is_1():
    text = {"mlt": TEXT["mlt"], "eng": TEXT["mlt"]}
    curves = measure(text=text, against=["eng"])
    ones = torch.ones(1, 1, 3, dtype=torch.float64)
    for kind in VECTORS:
        torch.testing.assert_close(curves.curve("cosine", vectors=kind), ones, rtol=0, atol=1e-9)
        torch.testing.assert_close(curves.curve("retrieval", vectors=kind), ones)
        assert (curves.curve("shuffled", vectors=kind) < 0.999).all()


def test_measure_alignment_takes_a_dictionary_and_a_folder(tmp_path):
    expected, model = measure(against=["eng"]), tiny_model()
    for code, lines in TEXT.items():
        (tmp_path / f"{code}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    plain = {"Maltese": list(TEXT["mlt"]), "en": list(TEXT["eng"])}
    # Of the paper's languages, the folder has English alone.
    for text in (plain, tmp_path):
        found = measure_alignment(model, text, lang="mt", n_bootstrap=50)
        assert found.against == ("eng",)
        assert torch.equal(found.estimate, expected.estimate)


def test_measure_alignment_does_not_depend_on_the_order_of_sentences():
    order = [2, 0, 3, 1]
    moved = {code: tuple(lines[i] for i in order) for code, lines in TEXT.items()}
    first = measure(tiny_model(dtype=torch.float64))
    second = measure(tiny_model(dtype=torch.float64), text=moved)
    torch.testing.assert_close(first.estimate, second.estimate)


def test_measure_alignment_labels_every_axis():
    curves = measure(
        {"base": tiny_model(), "tuned": tiny_model(seed=1)}, lang="Maltese", against=["en", "kat"]
    )
    assert curves.models == ("base", "tuned")
    assert (curves.language, curves.against) == ("mlt", ("eng", "kat"))
    assert (curves.layers, curves.n_sentences) == ((0, 1, 2), 4)
    alone = measure({"tuned": tiny_model(seed=1)})
    assert torch.equal(curves.select(["tuned"]).estimate, alone.estimate)
    assert curves.select(["tuned"]).infos == alone.infos
    assert (curves.low <= curves.estimate).all() and (curves.estimate <= curves.high).all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"lang": "nlt"}, LanguageError, "unknown language 'nlt'.*Did you mean .*mlt"),
        ({"against": ["egn"]}, LanguageError, "unknown language 'egn'"),
        ({"lang": "slv"}, LanguageError, "of test text were loaded without slv, for mlt, eng"),
        ({"against": ["eng", "deu"]}, LanguageError, "of test text were loaded without deu"),
        ({"lang": "eng", "against": []}, LanguageError, "none of the languages that the paper"),
        ({"against": ["eng", "mt"]}, LanguageError, "each named once; got mlt against eng, mlt"),
        ({"site": "hook_resid_pre"}, ActivationError, "got site 'hook_resid_pre'. Did you mean"),
        ({"pooling": "max"}, LseError, "`pooling` must be mean or last"),
        ({"n_bootstrap": 0}, LseError, "`n_bootstrap` must be at least 1"),
        (
            {"text": {code: lines[:1] for code, lines in TEXT.items()}},
            CorpusError,
            "at least 2 sentences.*test text has 1",
        ),
        ({"models": {}}, LseError, "Nothing to measure; give at least one model"),
    ],
)
def test_measure_alignment_refuses(change, error, message):
    with pytest.raises(error, match=message):
        measure(**change) if "models" not in change else measure_alignment(
            {}, parallel(), lang="mlt", against=["eng"]
        )


def test_parallel_text_without_sentences_is_refused():
    with pytest.raises(CorpusError, match="test text holds no sentence"):
        parallel({"mlt": (), "eng": ()})


def test_concat_equals_measuring_together():
    first, second = tiny_model(), tiny_model(seed=1)
    together = measure({"a": first, "b": second})
    apart = AlignmentCurves.concat([measure({"a": first}), measure({"b": second})])
    assert apart.models == together.models and apart.infos == together.infos
    assert list(apart.provenance["measured"]) == ["a", "b"]
    for name in AlignmentCurves.VALUES:
        assert torch.equal(getattr(apart, name), getattr(together, name))


def test_concat_refuses_what_was_not_measured_alike():
    curves = measure({"a": tiny_model()})
    with pytest.raises(LseError, match="a stands for more than one"):
        AlignmentCurves.concat([curves, curves])
    with pytest.raises(LseError, match="Nothing to put together"):
        AlignmentCurves.concat([])
    with pytest.raises(
        MismatchError, match="a and b were not measured alike: pooling was mean, now last"
    ):
        AlignmentCurves.concat([curves, measure({"b": tiny_model()}, pooling="last")])
    shorter = {code: lines[:3] for code, lines in TEXT.items()}
    with pytest.raises(MismatchError, match="n_sentences was 4, now 3"):
        AlignmentCurves.concat([curves, measure({"b": tiny_model()}, text=shorter)])
    other = TEXT | {"eng": TEXT["eng"][::-1]}
    with pytest.raises(MismatchError, match="text was"):
        AlignmentCurves.concat([curves, measure({"b": tiny_model()}, text=other)])
    with pytest.raises(MismatchError, match="Compare models of one depth"):
        AlignmentCurves.concat([curves, measure({"b": tiny_model(n_layers=2)})])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"models": ("a", "b")},
            r"`estimate` should be \[model vectors statistic lang layer\] = \[2, 2, 4, 2, 3\]",
        ),
        ({"estimate": torch.full((1, 2, 4, 2, 3), 1.5).double()}, r"`cosine` must be in \[-1, 1\]"),
        ({"estimate": torch.full((1, 2, 4, 2, 3), torch.nan).double()}, "`cosine` must be in"),
        ({"estimate": torch.full((1, 2, 4, 2, 3), -0.5).double()}, r"`retrieval` must be in \[0,"),
        ({"low": torch.full((1, 2, 4, 2, 3), 3.0).double()}, "`low` must not lie above `high`"),
        ({"infos": ()}, "got 0 of infos"),
    ],
)
def test_curves_refuse_values_they_cannot_have(change, message):
    with pytest.raises(MismatchError, match=message):
        dataclasses.replace(measure(), **change)


def test_select_lists_near_misses():
    with pytest.raises(LseError, match="No model 'tuend' here. Did you mean tuned"):
        measure({"tuned": tiny_model()}).select(["tuend"])


def test_to_frame_holds_every_value_under_its_labels():
    curves = measure({"a": tiny_model(), "b": tiny_model(seed=1)})
    frame = curves.to_frame()
    assert list(frame) == [
        *("model", "language", "vectors", "against", "layer"),
        *(f"{name}{end}" for name in STATISTICS for end in ("", "_low", "_high")),
    ]
    assert len(frame) == 2 * 2 * 2 * 3
    row = frame.query("model == 'b' and vectors == 'raw' and against == 'kat' and layer == 2")
    row = row.iloc[0]
    assert row["language"] == "mlt"
    for place, name in enumerate(STATISTICS):
        assert row[name] == curves.estimate[1, 1, place, 1, 2].item()
        assert row[f"{name}_low"] == curves.low[1, 1, place, 1, 2].item()
        assert row[f"{name}_high"] == curves.high[1, 1, place, 1, 2].item()


def test_layer_average_has_a_row_per_model_and_percent():
    curves = measure({"a": tiny_model(), "b": tiny_model(seed=1)})
    table = curves.layer_average()
    assert list(table.index) == ["a", "b"] and list(table) == ["eng", "kat", "mean"]
    per_language = 100 * curves.curve("cosine").numpy().mean(axis=-1)
    np.testing.assert_allclose(table[["eng", "kat"]].to_numpy(), per_language)
    np.testing.assert_allclose(table["mean"], per_language.mean(axis=-1))
    gap = curves.layer_average("cosine") - curves.layer_average("shuffled")
    np.testing.assert_allclose(curves.layer_average("gap"), gap)
    raw = 100 * curves.curve("cosine", vectors="raw").numpy().mean(axis=(-1, -2))
    np.testing.assert_allclose(curves.layer_average(vectors="raw")["mean"], raw)
    with pytest.raises(LseError, match="Curves are cosine, shuffled, .*got 'cosin'"):
        curves.layer_average("cosin")
    with pytest.raises(LseError, match="Curves are centred, raw; got 'centered'"):
        curves.layer_average(vectors="centered")


def test_curves_survive_saving_and_loading(tmp_path):
    curves = measure({"a": tiny_model(), "b": tiny_model(seed=1)})
    loaded = AlignmentCurves.load(curves.save(tmp_path / "mlt.safetensors"))
    assert loaded.setup == curves.setup
    assert (loaded.models, loaded.infos) == (curves.models, curves.infos)
    for name in AlignmentCurves.VALUES:
        assert torch.equal(getattr(loaded, name), getattr(curves, name))


def test_load_refuses_a_truncated_file(tmp_path):
    path = measure().save(tmp_path / "mlt.safetensors")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ArtifactError, match="truncated"):
        AlignmentCurves.load(path)


# The stage


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("base", "tuned")):
        tiny_hf(seed=seed, context=1024).save_pretrained(root / name)
        byte_tokenizer().save_pretrained(root / name)
    return root


@pytest.fixture
def stage(folders, tmp_path):
    """Return a function that runs the stage on a few embedded sentences."""

    def run_stage(*more, lang="mlt", model="base"):
        argv = ["--lang", lang, "--model", str(folders / model), "--device", "cpu"]
        few = [] if "--n-sentences" in more else ["--n-sentences", "3"]
        argv += [*few, "--n-bootstrap", "20"]
        argv += ["--root", str(tmp_path / "runs"), "--figures", str(tmp_path / "figures")]
        return main([*argv, *more])

    return run_stage


@pytest.fixture
def artefact(folders, tmp_path):
    return RunPaths(tmp_path / "runs", str(folders / "base")).alignment("mlt")


def test_stage_measures_two_folders_into_one_artefact_and_draws(
    stage, artefact, folders, tmp_path, caplog
):
    caplog.set_level(logging.INFO)
    more = ["--against", "eng", "kat", "--models", str(folders / "tuned")]
    assert stage(*more, f"again={folders / 'base'}") == 0
    curves = AlignmentCurves.load(artefact)
    assert curves.models == ("base", "tuned", "again")
    assert (curves.against, curves.n_sentences) == (("eng", "kat"), 3)
    assert torch.equal(curves.estimate[0], curves.estimate[2])
    assert not torch.equal(curves.estimate[0], curves.estimate[1])
    assert curves.provenance["measured"]["tuned"]["dtype"] == "torch.float32"
    assert curves.provenance["config"]["n_bootstrap"] == 20
    written = {path.name for path in (tmp_path / "figures").iterdir()}
    pictures = ("fig07_alignment_mlt_base", "fig07c_layer_average_mlt_base")
    assert written == {
        *(f"{name}.{suffix}" for name in pictures for suffix in ("csv", "pdf", "png")),
        "table_alignment_mlt_base.csv",
        "table_alignment_mlt_base.md",
    }
    table = curves.layer_average().T.rename_axis(None, axis=1)
    assert table.to_string(float_format="{:.2f}".format) in caplog.text
    assert "sentences of two languages (left out): none." in caplog.text
    assert f"wrote {artefact}" in caplog.text


def test_stage_compares_with_the_papers_nine_by_default(stage, tmp_path, folders):
    assert stage(lang="deu") == 0
    path = RunPaths(tmp_path / "runs", str(folders / "base")).alignment("deu")
    against = AlignmentCurves.load(path).against
    assert against == ("arb", "eng", "spa", "fra", "ita", "jpn", "rus", "zho")


def test_stage_reuses_what_was_measured_alike(stage, artefact, folders, caplog):
    caplog.set_level(logging.INFO)
    skipped = "is measured already"
    assert stage("--against", "eng") == 0
    assert skipped not in caplog.text
    first = AlignmentCurves.load(artefact)
    # A value that no measurement gives shows where the numbers come from.
    marked = dataclasses.replace(first, n_sinks=torch.full_like(first.n_sinks, 123))
    marked.save(artefact)

    assert stage("--against", "eng", "--models", str(folders / "tuned")) == 0
    both = AlignmentCurves.load(artefact)
    assert caplog.text.count(skipped) == 1
    assert torch.equal(both.n_sinks[:1], marked.n_sinks)
    assert not (both.n_sinks[1:] == 123).any()

    for changed in (["--site", "hook_mlp_out"], []):
        marked.save(artefact)
        assert stage("--against", "eng", *changed, "--overwrite") == 0
        assert not (AlignmentCurves.load(artefact).n_sinks == 123).any()


def test_stage_keeps_models_that_were_not_asked_for(stage, artefact, folders, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    more = ["--against", "eng", "--models", str(folders / "tuned"), f"again={folders / 'base'}"]
    assert stage(*more) == 0
    both = AlignmentCurves.load(artefact)
    assert stage("--against", "eng", "--models", f"again={folders / 'tuned'}") == 0
    assert "kept from before, not measured now: tuned (--overwrite drops them)" in caplog.text
    found = AlignmentCurves.load(artefact)
    assert found.models == ("base", "tuned", "again")
    assert torch.equal(found.estimate[:2], both.estimate[:2])
    assert torch.equal(found.select(["again"]).estimate, both.select(["tuned"]).estimate)
    drawn = pd.read_csv(next((tmp_path / "figures").glob("fig07_alignment_mlt*.csv")))
    assert set(drawn["model"]) == {"base", "again"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (["--site", "hook_mlp_out"], "site was hook_resid_post, now hook_mlp_out"),
        (["--split", "dev"], "split was None, now dev"),
        (["--pooling", "last"], "pooling was mean, now last"),
        (["--sinks", "keep"], "sinks was drop, now keep"),
        (["--against", "eng", "kat"], "against was eng, now eng kat"),
        (["--bos", "none"], "bos was None, now none"),
    ],
)
def test_stage_replaces_nothing_that_was_measured_otherwise(stage, artefact, capsys, change, told):
    assert stage("--against", "eng") == 0
    before = artefact.read_bytes()
    assert stage(*([] if "--against" in change else ["--against", "eng"]), *change) == 2
    error = capsys.readouterr().err
    assert f"{artefact} was measured with other settings: " in error
    assert told in error and "Pass --overwrite to measure again" in error
    assert artefact.read_bytes() == before


def test_stage_compares_with_languages_that_are_there(stage, artefact, tmp_path, caplog, capsys):
    caplog.set_level(logging.INFO)
    folder = tmp_path / "par"
    folder.mkdir()
    for code in ("mlt", "eng", "kat"):
        lines = "\n".join(s.text for s in sentences(code, "devtest")[:5])
        (folder / f"{code}.txt").write_text(lines, encoding="utf-8")
    assert stage("--parallel", str(folder)) == 0
    assert AlignmentCurves.load(artefact).against == ("eng",)
    assert "has no sentences in arb, deu, spa, fra, ita, jpn, rus, zho: left out" in caplog.text
    (folder / "eng.txt").unlink()
    assert stage("--parallel", str(folder), "--overwrite") == 2
    assert "Name others with --against" in capsys.readouterr().err


def test_stage_measures_again_when_the_weights_change(stage, artefact, folders, tmp_path):
    assert stage("--against", "eng") == 0
    before = AlignmentCurves.load(artefact)
    weights = folders / "base" / "model.safetensors"
    kept = weights.read_bytes()
    try:
        weights.write_bytes((folders / "tuned" / "model.safetensors").read_bytes())
        assert stage("--against", "eng") == 0
    finally:
        weights.write_bytes(kept)
    after = AlignmentCurves.load(artefact)
    assert after.infos[0].fingerprint != before.infos[0].fingerprint
    assert not torch.equal(after.estimate, before.estimate)


@pytest.mark.parametrize(
    ("more", "lang", "message"),
    [
        ([], "nlt", "error: unknown language 'nlt'"),
        (["--against", "mlt"], "mlt", "error: Alignment compares a language with others, each"),
        (["--against", "swe"], "mlt", "error: the embedded corpus has no language 'swe'"),
        (["--models", "a/x", "b/x"], "mlt", "error: Every model needs a label of its own; x"),
        (["--models", "/nowhere/model"], "mlt", "error: There is no model folder at /nowhere"),
        (["--n-sentences", "1"], "mlt", "error: Alignment needs at least 2 sentences"),
        (["--batch-size", "0"], "mlt", "error: `batch_size` must be at least 1; got 0"),
    ],
)
def test_stage_ends_with_one_clear_line(stage, capsys, artefact, more, lang, message):
    assert stage(*more, lang=lang) == 2
    assert message in capsys.readouterr().err
    assert not artefact.exists()


def test_stage_checks_every_model_before_it_loads_one(stage, capsys, monkeypatch):
    monkeypatch.setattr("lse_interp.subnetworks.find.load_from_args", pytest.fail)
    assert stage("--models", "/nowhere/model") == 2
    assert "error: There is no model folder at /nowhere" in capsys.readouterr().err


@pytest.fixture
def runs(folders, tmp_path):
    """A target and a random run of `base` in Maltese, where the stage looks for them."""
    model = load_model(folders / "base", device="cpu")
    paths = RunPaths(tmp_path / "runs", str(folders / "base"))
    made = {}
    for seed, name in enumerate(("random-size", "target")):
        made[name] = make_run(model, method=name.replace("-", ":"), seed=seed)
        made[name].save(paths.finetune("mlt", name))
    return made


def test_stage_measures_runs_beside_their_base(stage, artefact, runs, folders):
    assert stage("--against", "eng", "kat", "--runs", "all") == 0
    curves = AlignmentCurves.load(artefact)
    assert curves.models == ("base", "target", "random-size")
    base = str(folders / "base")
    names = (base, f"{base}+mlt:target", f"{base}+mlt:random:size")
    assert tuple(info.name for info in curves.infos) == names
    model = load_model(folders / "base", device="cpu")
    parallel = load_parallel("embedded", languages=("mlt", "eng", "kat"), n_sentences=3)
    options = {"lang": "mlt", "against": ["eng", "kat"], "n_bootstrap": 20}
    expected = [measure_alignment(model, parallel, **options)]
    for name in ("target", "random-size"):
        with with_subnetworks(model, runs[name]):
            expected.append(measure_alignment(model, parallel, **options))
    for m, alone in enumerate(expected):
        assert torch.equal(curves.estimate[m : m + 1], alone.estimate)
    assert not torch.equal(curves.estimate[0], curves.estimate[1])
    assert not torch.equal(curves.estimate[1], curves.estimate[2])


def test_stage_takes_runs_by_name_folder_and_label(stage, artefact, runs, folders, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    runs["random-size"].save(elsewhere)
    named = ["--runs", "target", f"noise={elsewhere}", str(elsewhere)]
    assert stage("--against", "eng", *named, "--models", str(folders / "tuned")) == 0
    curves = AlignmentCurves.load(artefact)
    assert curves.models == ("base", "target", "noise", "elsewhere", "tuned")
    assert torch.equal(curves.estimate[2], curves.estimate[3])


def test_stage_knows_the_base_by_its_weights_whatever_its_label(stage, artefact, runs, caplog):
    caplog.set_level(logging.INFO)
    assert stage("--against", "eng") == 0
    first = AlignmentCurves.load(artefact)
    # A value that no measurement gives shows where the numbers come from.
    dataclasses.replace(first, n_sinks=torch.full_like(first.n_sinks, 123)).save(artefact)
    assert stage("--against", "eng", "--runs", "source=target") == 0
    curves = AlignmentCurves.load(artefact)
    assert "base is measured already" in caplog.text
    assert curves.models == ("base", "source")
    assert list(curves.provenance["measured"]) == ["base", "source"]
    assert (curves.n_sinks[0] == 123).all() and not (curves.n_sinks[1] == 123).any()


def test_stage_refuses_a_run_of_another_base_before_it_measures(
    stage, artefact, runs, folders, capsys, tmp_path
):
    folder = tmp_path / "other"
    make_run(load_model(folders / "tuned", device="cpu")).save(folder)
    assert stage("--against", "eng", "--runs", "target", str(folder)) == 2
    assert "belongs to other weights: expected fingerprint" in capsys.readouterr().err
    assert not artefact.exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--runs", "tagret"], "no finished run 'tagret' of mlt in .*Did you mean target"),
        (["--runs", "all", "target"], "needs a label of its own; target stands for more than"),
        (["--runs", "base=target"], "needs a label of its own; base stands for more than one"),
    ],
)
def test_stage_refuses_runs(stage, artefact, runs, capsys, more, message):
    assert stage("--against", "eng", *more) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not artefact.exists()


def test_stage_without_any_run_says_how_to_make_one(stage, capsys):
    assert stage("--against", "eng", "--runs", "all") == 2
    message = "holds no finished run, so `all` names none. Make one with `python -m lse_interp.fin"
    assert message in capsys.readouterr().err
    assert stage("--against", "eng", "--runs", "target") == 2
    assert "There is no run yet. Make it with" in capsys.readouterr().err


def test_stage_starts_without_a_warning():
    command = [sys.executable, "-W", "error", "-m", "lse_interp.alignment", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--lang" in done.stdout
