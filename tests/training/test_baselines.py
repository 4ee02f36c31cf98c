"""Whole matrices and LoRA, against AdamW by hand."""

import pytest
import torch

from lse_interp.training.methods.dense import DenseMasters, every_weight, ffn_weights
from lse_interp.training.methods.lora import add_lora

from .conftest import (
    FAMILIES,
    MAX_NORM,
    PLACES,
    TOLERANCE,
    batches,
    tiny,
    train,
    train_by_hand,
    weights_of,
)

WEIGHTS = {"ffn": ffn_weights, "full": every_weight}

# Biases of the MLPs, by family: gate, up, down as far as they exist.
BIASES = {
    "llama": ("gate_proj", "up_proj", "down_proj"),
    "gpt2": ("c_fc", "c_proj"),
    "opt": ("fc1", "fc2"),
    "gpt_neox": ("dense_h_to_4h", "dense_4h_to_h"),
    "bloom": ("dense_h_to_4h", "dense_4h_to_h"),
}


def all_true(weights):
    return {name: torch.ones_like(weight).bool() for name, weight in weights.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_ffn_trains_the_mlps_with_their_biases_and_nothing_else(family):
    model = tiny(family)
    places = [name.format(layer) for layer in range(3) for name, _, _ in PLACES[family]]
    expected = set(places)
    if family in BIASES:
        expected |= {name.removesuffix("weight") + "bias" for name in places}
        assert all(any(bias in name for name in expected) for bias in BIASES[family])
    found = ffn_weights(model)
    assert set(found) == expected
    assert all(weight is model.hf.get_parameter(name) for name, weight in found.items())


@pytest.mark.parametrize("family", FAMILIES)
def test_full_trains_every_weight_once(family):
    model = tiny(family)
    found = every_weight(model)
    assert {id(w) for w in found.values()} == {id(w) for w in model.hf.parameters()}
    assert len(found) == len(list(model.hf.parameters()))


@pytest.mark.parametrize(
    ("family", "method"), [("llama", "ffn"), ("phi3", "ffn"), ("gpt2", "full")]
)
def test_dense_methods_match_adamw_by_hand(family, method):
    steps = batches()
    by_hand = tiny(family)
    expected = train_by_hand(by_hand.hf, all_true(WEIGHTS[method](by_hand)), steps)
    model = tiny(family)
    before = weights_of(model.hf)
    weights = WEIGHTS[method](model)
    engine = DenseMasters(model.hf, weights)
    assert engine.leaves() == weights, "float64 weights need no masters"
    found = train(model.hf, engine, steps)
    assert found.gap(expected) < TOLERANCE
    assert min(found.norms) > MAX_NORM
    for name, weight in found.weights.items():
        assert torch.equal(weight, before[name]) == (name not in weights), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_dense_masters_are_float32_and_the_model_holds_them_rounded(dtype):
    model = tiny("llama", dtype=dtype)
    before = weights_of(model.hf)
    flags = [weight.requires_grad for weight in model.hf.parameters()]
    weights = ffn_weights(model)
    engine = DenseMasters(model.hf, weights)

    def check():
        for name, master in engine.leaves().items():
            assert master.dtype == torch.float32
            assert torch.equal(weights[name], master.to(dtype))

    found = train(model.hf, engine, batches()[:3], after_step=check)
    for name, weight in found.weights.items():
        assert weight.dtype == dtype
        assert torch.equal(weight, before[name]) == (name not in weights), name
    assert [weight.requires_grad for weight in model.hf.parameters()] == flags
    if dtype == torch.bfloat16:
        assert all(w.grad is None for w in model.hf.parameters()), "narrow gradients are freed"


def test_float32_masters_follow_what_bfloat16_weights_lose():
    def change(dtype, *, masters=True):
        model = tiny("llama_plain", dtype=torch.bfloat16)
        model.hf.to(dtype)
        weights = ffn_weights(model)
        engine = DenseMasters(model.hf, weights)
        if not masters:
            engine.leaves().update(weights)
        start = _flat(engine.leaves())
        train(model.hf, engine, batches()[:10], lr=1e-4)
        return _flat(engine.leaves()) - start

    expected = change(torch.float32)
    with_masters = change(torch.bfloat16)
    without = change(torch.bfloat16, masters=False)
    assert (with_masters - expected).norm() < 0.1 * expected.norm()
    assert (without - expected).norm() > 0.9 * expected.norm()
    assert (without != 0).float().mean() < 0.15, "nine weights in ten should be stuck"


def _flat(leaves):
    return torch.cat([leaf.detach().float().flatten() for leaf in leaves.values()])


def lora(model, *, down=False, seed=0):
    return add_lora(model, rank=2, alpha=4.0, down=down, seed=seed)


@pytest.mark.parametrize("family", ["llama_plain", "gpt2"])
def test_lora_matches_adamw_by_hand_and_leaves_the_base_alone(family):
    peft, weights = lora(tiny(family))
    expected = train_by_hand(peft, all_true(weights), batches())
    model = tiny(family)
    before = weights_of(model.hf)
    names = list(model.hf.state_dict())
    with torch.no_grad():
        logits = model.hf(batches()[0, 0]).logits
    peft, weights = lora(model)
    initial = {name: weight.detach().clone() for name, weight in weights.items()}
    found = train(peft, DenseMasters(peft, weights), batches())
    assert found.gap(expected) < TOLERANCE
    assert all(not torch.equal(found.weights[name], initial[name]) for name in weights)
    with torch.no_grad():
        assert not torch.allclose(peft(batches()[0, 0]).logits, logits)
        assert peft.unload() is model.hf
        assert list(model.hf.state_dict()) == names
        assert torch.equal(model.hf(batches()[0, 0]).logits, logits)
    assert all(torch.equal(w, before[name]) for name, w in weights_of(model.hf).items())


@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_lora_adapts_gate_and_up_and_down_on_demand(family, down):
    model = tiny(family)
    places = PLACES[family] if down else PLACES[family][:-1]
    modules = {
        name.format(layer).removesuffix(".weight") for layer in range(3) for name, *_ in places
    }
    _, weights = lora(model, down=down)
    expected = {
        f"base_model.model.{module}.lora_{half}.default.weight"
        for module in modules
        for half in "AB"
    }
    assert set(weights) == expected
    assert {min(weight.shape) for weight in weights.values()} == {2}


def test_lora_draws_from_its_seed_alone():
    torch.manual_seed(5)
    first = _flat(lora(tiny("llama_plain"), seed=1)[1])
    torch.manual_seed(6)
    model = tiny("llama_plain")
    expected = torch.get_rng_state()
    again = _flat(lora(model, seed=1)[1])
    assert torch.equal(torch.get_rng_state(), expected)
    assert torch.equal(first, again)
    assert not torch.equal(first, _flat(lora(tiny("llama_plain"), seed=2)[1]))


def test_lora_trains_behind_a_loss_in_chunks():
    whole = train(*_lora_engine(), batches()[:4])
    chunked = train(*_lora_engine(), batches()[:4], chunk=5)
    assert chunked.gap(whole) < TOLERANCE


def _lora_engine():
    peft, weights = lora(tiny("llama_plain"))
    return peft, DenseMasters(peft, weights)
