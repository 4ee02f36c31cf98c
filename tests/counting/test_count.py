import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lse_interp.core.errors import (
    ActivationError,
    CorpusError,
    LanguageError,
    LseError,
    MismatchError,
)
from lse_interp.counting.count import count_activations
from lse_interp.counting.counter import add_up
from lse_interp.data.corpora import load_corpus
from lse_interp.models.hooked import HookedModel

BOS, EOS = 1, 2
OPTIONS = {"language": "mlt", "n_tokens": 300, "block_size": 16, "batch_size": 4, "n_shards": 5}


def sequences(documents, *, n_tokens, block_size, bos_at, separator):
    """Build blocks word by word: lists of (token id, is text)."""
    stream, n_text = [], 0
    for i, document in enumerate(documents):
        if i and separator == "eos":
            stream.append((EOS, False))
        if bos_at == "document":
            stream.append((BOS, False))
        for word in document.split():
            stream.append((int(word[1:]) + 4, True))
            n_text += 1
            if n_text == n_tokens:
                head = [(BOS, False)] if bos_at == "block" else []
                room = block_size - len(head)
                return [head + stream[j : j + room] for j in range(0, len(stream), room)]
    raise AssertionError("too few documents")


def reference(model, blocks, site):
    """Count with NumPy, one sequence and one token at a time, from each MLP's input."""
    layers = model.hf.model.layers
    inputs = {}

    def keep(layer):
        return lambda module, args: inputs.__setitem__(layer, args[0][0].double().numpy())

    handles = [b.mlp.register_forward_pre_hook(keep(i)) for i, b in enumerate(layers)]
    n_positive = np.zeros((model.n_layers, model.d_mlp), dtype=np.int64)
    total = np.zeros((model.n_layers, model.d_mlp))
    n_tokens = 0
    for block in blocks:
        with torch.no_grad():
            model.hf(torch.tensor([[token for token, _ in block]]))
        n_tokens += sum(is_text for _, is_text in block)
        for layer, b in enumerate(layers):
            gate = b.mlp.gate_proj.weight.detach().double().numpy()
            up = b.mlp.up_proj.weight.detach().double().numpy()
            for x, (_, is_text) in zip(inputs[layer], block, strict=True):
                g = gate @ x
                act = g / (1 + np.exp(-g))
                value = {"mlp.hook_act": act, "mlp.hook_pre": g, "mlp.hook_post": act * (up @ x)}
                if is_text:
                    n_positive[layer] += value[site] > 0
                    total[layer] += value[site]
    for handle in handles:
        handle.remove()
    return n_positive, total, n_tokens


@pytest.mark.parametrize(
    ("site", "bos_at", "separator", "dtype"),
    [
        ("mlp.hook_act", None, "none", torch.float32),
        ("mlp.hook_act", "document", "eos", torch.float32),
        ("mlp.hook_act", "block", "eos", torch.float64),
        ("mlp.hook_pre", "block", "none", torch.float32),
        ("mlp.hook_post", "document", "eos", torch.float64),
    ],
)
def test_count_activations_matches_numpy(make_model, documents, site, bos_at, separator, dtype):
    model = make_model(dtype=dtype, bos="none" if bos_at is None else "1")
    options = {"bos_at": bos_at, "separator": separator}
    found = count_activations(model, documents, site=site, **options, **OPTIONS)
    blocks = sequences(documents, n_tokens=300, block_size=16, **options)
    n_positive, total, n_tokens = reference(model, blocks, site)
    assert found.n_tokens == n_tokens == 300
    assert np.array_equal(found.n_positive.numpy(), n_positive)
    np.testing.assert_allclose(found.activation_sum.numpy(), total, rtol=1e-5, atol=1e-4)


def test_count_activations_by_hand(make_model):
    model = make_model(bos="1")
    with torch.no_grad():
        # The stream carries the embedding unchanged. Its axis 0 is -1 for w7 and +1 for all else;
        # neuron 0 reads it, neuron 1 its negative, the others read nothing.
        for block in model.hf.model.layers:
            block.self_attn.o_proj.weight[:] = 0
            block.mlp.down_proj.weight[:] = 0
            block.post_attention_layernorm.weight[:] = 1
            block.mlp.gate_proj.weight[:] = 0
            block.mlp.gate_proj.weight[0, 0] = 1
            block.mlp.gate_proj.weight[1, 0] = -1
        model.hf.model.embed_tokens.weight[:, 0] = 1
        model.hf.model.embed_tokens.weight[4 + 7, 0] = -1
    found = count_activations(
        model, ["w7 w1 w2", "w7 w3"], language="mlt", n_tokens=5, block_size=8, bos_at="document"
    )
    expected = torch.zeros(model.n_layers, model.d_mlp, dtype=torch.int64)
    expected[:, 0], expected[:, 1] = 3, 2
    assert torch.equal(found.n_positive, expected)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 20),
    st.integers(1, 5),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_add_up_matches_numpy(n_pos, n_neurons, dtype, masked, seed):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(n_pos, n_neurons, generator=generator).to(dtype)
    rows[torch.rand(n_pos, n_neurons, generator=generator) < 0.2] = 0
    text = torch.rand(n_pos, generator=generator) < 0.5 if masked else None
    n_positive, total = add_up(rows, text)
    kept = rows.double().numpy()[slice(None) if text is None else text.numpy()]
    assert np.array_equal(n_positive.numpy(), (kept > 0).sum(axis=0))
    np.testing.assert_allclose(total.numpy(), kept.sum(axis=0), rtol=1e-5, atol=1e-5)


def test_counts_depend_on_neither_batch_size_nor_shards(model, documents):
    found = [
        count_activations(
            model, documents, **OPTIONS | {"batch_size": batch_size, "n_shards": n_shards}
        )
        for batch_size, n_shards in itertools.product((1, 3, 50), (1, 4, 9))
    ]
    assert [counts.n_shards for counts in found] == [1, 4, 9] * 3
    for counts in found:
        assert torch.equal(counts.n_positive, found[0].n_positive)
        # The forward pass is float32, and its last bits vary with the shape of the batch.
        torch.testing.assert_close(
            counts.activation_sum, found[0].activation_sum, rtol=1e-5, atol=1e-4
        )


def test_separators_are_read_but_not_counted(model):
    """The same five tokens in a row, the fourth as a separator and as text."""
    options = {"language": "mlt", "block_size": 8}
    parted = count_activations(model, ["w1 w2 w3", "w4"], n_tokens=4, **options)
    whole = count_activations(model, ["w1 w2 w3 </s> w4"], n_tokens=5, **options)
    at_separator = whole.n_positive - parted.n_positive
    assert at_separator.unique().tolist() == [0, 1]


def test_backends_count_the_same(model, documents):
    model.hf.set_attn_implementation("eager")
    expected = count_activations(model, documents, **OPTIONS)
    for backend in ("lens", "nnsight"):
        other = HookedModel(model.hf, model.tokenizer, name="tiny", backend=backend)
        found = count_activations(other, documents, **OPTIONS)
        assert torch.equal(found.n_positive, expected.n_positive)


def test_shards_are_never_smaller_than_a_block(model, documents):
    found = count_activations(model, documents, **OPTIONS | {"n_tokens": 20, "n_shards": 64})
    assert found.shard_n_tokens.tolist() == [16, 4]


def test_count_activations_takes_a_corpus_whole(model, documents, tmp_path):
    path = tmp_path / "mlt.txt"
    path.write_text("\n".join(documents), encoding="utf-8")
    corpus = load_corpus(str(path), language="mlt")
    found = count_activations(model, corpus, **OPTIONS | {"n_tokens": "all"})
    assert found.n_tokens == sum(len(document.split()) for document in documents)
    assert found.provenance["settings"]["corpus"] == str(path)
    with pytest.raises(MismatchError, match="opened for mlt; asked for deu"):
        count_activations(model, corpus, **OPTIONS | {"language": "deu"})


def test_nan_activations_name_layer_site_and_language(make_model, documents):
    model = make_model()
    with torch.no_grad():
        model.hf.model.layers[1].mlp.gate_proj.weight[5, 3] = torch.nan
    with pytest.raises(
        ActivationError,
        match=r"blocks\.1\.mlp\.hook_act gave values that are not finite .* on mlt text",
    ):
        count_activations(model, documents, **OPTIONS)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"language": "nlt"}, LanguageError, "unknown language 'nlt'.*Did you mean.* mlt"),
        ({"n_tokens": 0}, CorpusError, "`n_tokens` must be at least 1, or 'all'.*; got 0"),
        (
            {"n_tokens": 10**6},
            CorpusError,
            r"1,000,000 text tokens were asked for, but the corpus has \d+",
        ),
        ({"site": "mlp.hook_ac"}, ActivationError, "got 'mlp.hook_ac'. Did you mean mlp.hook_act"),
        (
            {"site": "hook_resid_post"},
            ActivationError,
            "whose last axis is neurons; got 'hook_resid_post'",
        ),
        (
            {"block_size": 65},
            LseError,
            "at most the 64 positions that tiny was made for; got 65",
        ),
        ({"batch_size": 0}, LseError, "`batch_size` must be at least 1; got 0"),
        ({"n_shards": -1}, LseError, "`n_shards` must be at least 1; got -1"),
    ],
)
def test_count_activations_refuses_bad_input(model, documents, changes, error, message):
    with pytest.raises(error, match=message):
        count_activations(model, documents, **OPTIONS | changes)


def test_count_activations_needs_a_tokenizer(make_model, documents):
    with pytest.raises(LseError, match="tiny has no tokenizer"):
        count_activations(make_model(tokenizer=False), documents, **OPTIONS)
