"""Tokens that neurons promote: against the model itself, and their scripts."""

import pytest
import torch

from lse_interp.analysis import promoted_tokens as module
from lse_interp.analysis.promoted_tokens import promoted_tokens, script_of
from lse_interp.core.errors import ActivationError, LseError, UnsupportedModelError
from lse_interp.models.hooked import HookedModel
from tests.tiny_models import D_MLP, VOCAB, tiny_hf, tiny_tokenizer

FAMILIES = ("llama", "gpt2", "gemma3", "olmo2", "glm4", "opt", "bloom", "gpt_neox", "cohere")


def model_of(family):
    hf = tiny_hf(family).double()
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in hf.parameters():
            weight.add_(torch.randn_like(weight) * 0.3)
    return HookedModel(hf, tiny_tokenizer(), name="tiny")


def scores_by_hand(model, layer, neuron):
    """The logits of a residual stream that is the neuron's huge contribution alone."""
    slope = []
    path = model.layout.blocks[layer]
    with torch.no_grad():
        down = model.hf.get_submodule(path.projections["down"]).weight
        column = down[neuron] if path.transposed else down[:, neuron]
    last = model.layout.blocks[-1].block
    for scale in (1.0, 0.0):
        block = model.hf.get_submodule(path.block)
        column_out = scale * column[None, None].detach()
        for name in ("post_feedforward_layernorm", "post_mlp_layernorm"):
            if hasattr(block, name):
                column_out = getattr(block, name)(column_out).detach()

        def replace(module, inputs, output, value=column_out):
            return (value, *output[1:]) if isinstance(output, tuple) else value

        handle = model.hf.get_submodule(last).register_forward_hook(replace)
        with torch.no_grad():
            slope.append(model.hf(torch.tensor([[5]])).logits[0, 0])
        handle.remove()
    return slope[0] - slope[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_the_logits_of_the_column(family, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", 7)
    model = model_of(family)
    # Of models that scale their logits, too.
    scale = getattr(model.hf.config, "logit_scale", None) or 1.0
    frame = promoted_tokens(model, 1, [3, 0], k=VOCAB)
    for neuron in (3, 0):
        expected = scores_by_hand(model, 1, neuron) / scale
        for direction in ("promoted", "demoted"):
            rows = frame.query(f"neuron == {neuron} and not control and direction == '{direction}'")
            order = expected.argsort(descending=direction == "promoted")
            assert rows["token"].tolist() == order.tolist()
            found = torch.tensor(rows["score"].to_numpy())
            torch.testing.assert_close(found, expected[order], rtol=1e-8, atol=1e-10)


def test_promoted_tokens_lists_neuron_and_control():
    model = model_of("llama")
    frame = promoted_tokens(model, 2, range(D_MLP), k=3)
    assert len(frame) == D_MLP * 2 * 2 * 3
    own, control = frame[~frame["control"]], frame[frame["control"]]
    assert (own["source"] == own["neuron"]).all()
    assert (control["source"] != control["neuron"]).all()
    assert control["source"].between(0, D_MLP - 1).all()
    assert frame["rank"].tolist() == [1, 2, 3] * (D_MLP * 4)
    assert frame["text"][0] == model.tokenizer.decode([frame["token"][0]])
    one = promoted_tokens(model, 2, control["source"].unique()[:1].tolist(), k=3)
    same = control[control["source"] == one["source"][0]][:3]
    assert same["token"].tolist() == one["token"][:3].tolist()
    assert promoted_tokens(model, 2, range(D_MLP), k=3).equals(frame)
    assert not promoted_tokens(model, 2, range(D_MLP), k=3, seed=1).equals(frame)


def test_rows_that_the_tokenizer_lacks_are_left_out():
    hf = tiny_hf("llama")
    hf.resize_token_embeddings(VOCAB + 20)
    with torch.no_grad():
        hf.get_output_embeddings().weight[VOCAB:] = 100
    frame = promoted_tokens(HookedModel(hf, tiny_tokenizer(), name="tiny"), 0, [1])
    assert frame["token"].max() < VOCAB


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("▁ħobż", "Latn"),
        ("жa и", "Cyrl"),
        ("ხ", "Geor"),
        ("בְ", "Hebr"),
        ("مرحبا،", "Arab"),
        ("的 a 是", "Hani"),
        ("カ", "Kana"),
        ("ी", "Deva"),
        ("👩‍👧", "Zyyy"),
        ("\ufffd", "Zyyy"),
        ("<3 1.0", "Zyyy"),
        ("", "Zyyy"),
    ],
)
def test_script_of(text, script):
    assert script_of(text) == script


def test_promoted_tokens_refuses_bad_arguments():
    model = model_of("llama")
    with pytest.raises(ActivationError, match="layer must be in 0 to 2; got 3"):
        promoted_tokens(model, 3, [0])
    with pytest.raises(ActivationError, match="neurons must be in 0 to 23; got 3 to 24"):
        promoted_tokens(model, 0, [24, 3])
    with pytest.raises(ActivationError, match="one neuron or more"):
        promoted_tokens(model, 0, [])
    for k in (0, VOCAB + 1):
        with pytest.raises(LseError, match=f"`k` must be in 1 to {VOCAB}, the tokens; got {k}"):
            promoted_tokens(model, 0, [0], k=k)
    with pytest.raises(LseError, match="no tokenizer"):
        promoted_tokens(HookedModel(model.hf, name="tiny"), 0, [0])


def test_promoted_tokens_refuses_a_projection_before_the_unembedding():
    hf = tiny_hf("llama")
    hf.set_output_embeddings(torch.nn.Linear(8, VOCAB))
    with pytest.raises(UnsupportedModelError, match=r"found \[40, 8\] of Linear"):
        promoted_tokens(HookedModel(hf, tiny_tokenizer(), name="tiny"), 0, [0])
