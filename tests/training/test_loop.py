"""The loop: losses, tokens, best weights, resuming, and a loss that is not a number."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lse_interp.core.errors import ActivationError, UnsupportedModelError
from lse_interp.data.packing import IGNORE
from lse_interp.models.mlp_weights import weight_views
from lse_interp.training.checkpoints import CheckpointStore
from lse_interp.training.token_blocks import TokenBlocks

from .tiny_runs import (
    NEURONS,
    OPTIONS,
    fit,
    noise,
    rows_engine,
    same_run,
    stopped_at,
    tiny_model,
    tiny_text,
    tune,
)
from .tiny_stage import last_checkpoint

STILL = dataclasses.replace(OPTIONS, lr=1e-13, weight_decay=0.0, validate_every=1)
"""Options that leave the weights where they are, as far as a loss can tell."""


def token_losses(model, blocks):
    """Nats of every label, one block at a time, in NumPy; and their number."""
    nats = []
    for ids, labels in zip(blocks.ids.tolist(), blocks.labels.tolist(), strict=True):
        with torch.no_grad():
            logits = model.hf(torch.tensor([ids])).logits[0].double().numpy()
        for t in range(1, len(ids)):
            if labels[t] != IGNORE:
                scores = logits[t - 1] - logits[t - 1].max()
                nats.append(np.log(np.exp(scores).sum()) - scores[labels[t]])
    return np.array(nats)


@pytest.fixture
def recorded():
    """Return a function that lists the rows of ids a model trains on, batch by batch."""

    def record(model):
        batches = []

        def note(module, args, kwargs):
            if torch.is_grad_enabled():
                batches.append(kwargs["input_ids"].clone())

        model.hf.register_forward_pre_hook(note, with_kwargs=True)
        return batches

    return record


def labels_of(batch, text):
    """Find the labels of a batch of blocks, all of which are different."""
    known = {tuple(ids): row for ids, row in zip(text.ids.tolist(), text.labels, strict=True)}
    return torch.stack([known[tuple(ids)] for ids in batch.tolist()])


def losses(trained, split, language="mlt"):
    curves = trained.curves
    chosen = curves[(curves["split"] == split) & (curves["language"] == language)]
    return dict(zip(chosen["step"], chosen["loss"], strict=True))


def test_validation_loss_is_a_mean_over_tokens(tmp_path):
    model = tiny_model()
    # Two validation blocks of 15 and 4 labels: a mean over blocks would differ.
    text = tiny_text(model, OPTIONS, validation={"mlt": noise(1, seed=5), "eng": noise(2, seed=6)})
    before = {code: token_losses(model, blocks) for code, blocks in text.validation.items()}
    assert [len(nats) for nats in before.values()] == [18, 38]
    with rows_engine(model) as engine:
        found = fit(model, engine, tmp_path, text=text)
        after = {code: token_losses(model, blocks) for code, blocks in text.validation.items()}
    for code in ("mlt", "eng"):
        expected = (before[code].mean(), after[code].mean())
        reported = (found.results[k][code] for k in ("base_validation_loss", "validation_loss"))
        assert tuple(reported) == pytest.approx(expected, rel=1e-6)
        curve = losses(found, "validation", code)
        assert curve[0] == found.results["base_validation_loss"][code]
        assert curve[found.results["step"]] == found.results["validation_loss"][code]


@pytest.mark.parametrize(("batch_size", "accumulation"), [(2, 1), (2, 3), (4, 2)])
def test_training_loss_and_tokens_are_exact_over_accumulation(
    tmp_path, recorded, batch_size, accumulation
):
    model = tiny_model()
    options = dataclasses.replace(STILL, batch_size=batch_size, accumulation=accumulation)
    text = tiny_text(model, options)
    batches = recorded(model)
    with rows_engine(model) as engine:
        found = fit(model, engine, tmp_path, options=options, text=text)
    steps = [batches[i : i + accumulation] for i in range(0, len(batches), accumulation)]
    n_tokens, expected = 0, {}
    for step, parts in enumerate(steps, start=1):
        ids = torch.cat(parts)
        nats = token_losses(model, TokenBlocks(ids.int(), labels_of(ids, text.training)))
        n_tokens += len(nats)
        expected[step] = (n_tokens, nats.mean())
    train = found.curves[found.curves["split"] == "train"]
    assert train["step"].tolist() == list(expected)
    assert train["tokens"].tolist() == [n for n, _ in expected.values()]
    np.testing.assert_allclose(train["loss"], [loss for _, loss in expected.values()], rtol=1e-5)
    assert n_tokens == text.training.n_labels
    validated = found.curves[found.curves["split"] == "validation"]
    assert validated["step"].tolist() == sorted([0, *expected] * 2)
    assert validated.groupby("step")["tokens"].first().tolist() == [0, *train["tokens"]]


def test_a_block_is_read_once_per_epoch_in_another_order(tmp_path, recorded):
    model = tiny_model()
    options = dataclasses.replace(STILL, epochs=2, validate_every=50)
    text = tiny_text(model, options)
    batches = recorded(model)
    with rows_engine(model) as engine:
        fit(model, engine, tmp_path, options=options, text=text)
    read = torch.cat(batches).tolist()
    n = len(text.training)
    assert sorted(read[:n]) == sorted(read[n:]) == sorted(text.training.ids.tolist())
    assert read[:n] != read[n:] and read[:n] != text.training.ids.tolist()


@pytest.fixture(scope="module")
def overfitted(tmp_path_factory):
    """Learn one noisy block by heart, and be worse and worse at another."""
    torch.set_num_threads(1)
    model = tiny_model()
    options = dataclasses.replace(OPTIONS, lr=0.05, epochs=40, validate_every=4)
    text = tiny_text(model, options, training=noise(1), validation={"mlt": noise(2, seed=9)})
    folder = tmp_path_factory.mktemp("overfitted")
    with rows_engine(model) as engine:
        found = fit(model, engine, folder / "run", options=options, text=text, log_folder=folder)
        loss = token_losses(model, text.validation["mlt"]).mean()
    return found, loss, folder


def test_best_weights_are_those_of_the_best_validation(overfitted):
    found, loss_of_the_model, _ = overfitted
    curve = losses(found, "validation")
    after = {step: loss for step, loss in curve.items() if step}
    best = min(after, key=after.get)
    assert 0 < best < max(curve) == 40
    assert after[max(curve)] > after[best] + 0.05
    assert found.results["step"] == best
    assert found.results["validation_loss"]["mlt"] == after[best]
    assert loss_of_the_model == pytest.approx(after[best], rel=1e-5)
    at_best = found.curves[found.curves["step"] == best]
    assert found.results["tokens"] == at_best["tokens"].iloc[-1]


def test_losses_go_to_tensorboard(overfitted):
    found, _, folder = overfitted
    events = EventAccumulator(str(folder))
    events.Reload()
    logged = {event.step: event.value for event in events.Scalars("eval/loss_mlt")}
    assert logged == pytest.approx(losses(found, "validation"), rel=1e-6)
    logged = {event.step: event.value for event in events.Scalars("train/loss")}
    assert logged == pytest.approx(losses(found, "train"), rel=1e-6)


def test_speed_and_memory_are_measured(overfitted):
    results = overfitted[0].results
    assert 1 < results["tokens_per_second"] < 1e7
    assert 50e6 < results["peak_memory_bytes"] < 100e9


@pytest.mark.parametrize(
    ("schedule", "warmup_steps", "scale"),
    [
        ("constant", 0, lambda s: 1.0),
        ("constant", 4, lambda s: min(1.0, s / 4)),
        ("linear", 4, lambda s: s / 4 if s < 4 else (14 - s) / 10),
        ("cosine", 0, lambda s: 0.5 * (1 + math.cos(math.pi * s / 14))),
    ],
)
def test_decay_factor_is_what_decay_leaves_of_a_weight(tmp_path, schedule, warmup_steps, scale):
    options = dataclasses.replace(
        OPTIONS, lr=0.1, weight_decay=0.3, schedule=schedule, warmup_steps=warmup_steps
    )
    model = tiny_model(dtype=torch.float64)
    layer, neuron = 2, NEURONS[2][3]
    # This neuron is off and reaches nothing: its up row gets no gradient, and decays.
    views = weight_views(model, layer)
    with torch.no_grad():
        views["gate"][neuron] = 0
        views["down"][neuron] = 0
        model.hf.model.layers[layer].mlp.gate_proj.bias[neuron] = 0
    before = views["up"][neuron].clone()
    with rows_engine(model) as engine:
        found = fit(model, engine, tmp_path, options=options)
        after = weight_views(model, layer)["up"][neuron].clone()
    step = found.results["step"]
    assert step > warmup_steps
    product = 1.0
    for taken in range(step):
        product *= 1 - 0.1 * scale(taken) * 0.3
    assert found.results["decay_factor"] == pytest.approx(product, rel=1e-12)
    torch.testing.assert_close(after, before * product, rtol=1e-10, atol=0)


def step_of(folder):
    found = CheckpointStore(folder, {}).found()
    return 0 if found is None else found.step


def poisoned(model, *, word="w35"):
    """Break the embedding of one word."""
    token = model.tokenizer.convert_tokens_to_ids(word)
    with torch.no_grad():
        model.hf.get_input_embeddings().weight[token] = torch.nan
    return token


CLEAN = ["w0 w1 w2 w3 w4 w5 w6 w7 w8 w9 w10 w11 w12 w13 w14"] * 12
SOME = {"mlt": ["w0 w2 w4 w6 w8 w10 w12 w14"], "eng": ["w1 w3 w5 w7 w9 w11"]}


@pytest.mark.parametrize("accumulation", [1, 2])
def test_nan_loss_stops_before_it_reaches_the_weights(tmp_path, accumulation):
    model = tiny_model()
    token = poisoned(model)
    options = dataclasses.replace(OPTIONS, batch_size=1, accumulation=accumulation)
    text = tiny_text(model, options, training=[*CLEAN, "w35 " * 15], validation=SOME)
    with rows_engine(model) as engine:
        snapshots, poison = [], []

        def note(module, args, kwargs):
            if torch.is_grad_enabled():
                poison.append(bool((kwargs["input_ids"] == token).any()))
                leaves = engine.leaves().values()
                snapshots.append([leaf.detach().clone() for leaf in leaves])

        model.hf.register_forward_pre_hook(note, with_kwargs=True)
        with pytest.raises(ActivationError) as caught:
            fit(model, engine, tmp_path, options=options, text=text)
        after = [leaf.detach() for leaf in engine.leaves().values()]
        assert all(torch.equal(a, b) for a, b in zip(after, snapshots[-1], strict=True))
    step = (len(poison) - 1) // accumulation + 1
    assert poison[-1] and not any(poison[:-1]) and step > 2
    last = (step - 1) // 2 * 2
    assert step_of(tmp_path) == last
    message = str(caught.value)
    assert message.startswith(f"The loss of step {step} is nan, so training ends here. ")
    assert f"stays in {tmp_path}" in message and "Lower --lr" in message


def test_nan_gradient_stops_before_it_reaches_the_weights(tmp_path):
    model = tiny_model()
    with rows_engine(model) as engine:
        leaf = engine.leaves()["2"]
        seen = []

        def spoil(gradient):
            seen.append(leaf.detach().clone())
            return gradient * math.inf if len(seen) == 4 else gradient

        leaf.register_hook(spoil)
        with pytest.raises(ActivationError, match="norm of the gradient of step 4 is (nan|inf), "):
            fit(model, engine, tmp_path)
        assert torch.equal(leaf, seen[-1])
    assert step_of(tmp_path) == 2


@pytest.mark.parametrize("language", ["mlt", "eng"])
def test_nan_validation_loss_stops_before_anything_is_trained(tmp_path, language):
    model = tiny_model()
    poisoned(model)
    text = tiny_text(model, OPTIONS, training=CLEAN, validation=SOME | {language: ["w35 w35 w35"]})
    with (
        rows_engine(model) as engine,
        pytest.raises(
            ActivationError,
            match=f"validation loss of {language} after step 0 is nan, so training ends",
        ),
    ):
        fit(model, engine, tmp_path, text=text)
    assert step_of(tmp_path) == 0


def test_overflow_in_training_keeps_the_last_good_checkpoint(tmp_path):
    model = tiny_model()
    with rows_engine(model) as engine:
        leaf = engine.leaves()["2"]
        n_steps = []

        def explode(gradient):
            n_steps.append(1)
            if len(n_steps) == 4:  # the fourth step, after which the loss is measured
                with torch.no_grad():
                    leaf.fill_(torch.inf)
            return gradient

        leaf.register_hook(explode)
        with pytest.raises(
            ActivationError, match="validation loss of mlt after step 4 is nan"
        ) as e:
            fit(model, engine, tmp_path)
    assert step_of(tmp_path) == 2
    assert f"stays in {tmp_path}" in str(e.value)


VARIANTS = {
    "accumulation": {"accumulation": 2, "batch_size": 1, "validate_every": 3},
    "epochs": {"epochs": 2, "validate_every": 4},
    "schedule": {"schedule": "cosine", "warmup_steps": 3},
    "masked": {"engine": "masked"},
    "authors": {"profile": "authors"},
    "rare validation": {"batch_size": 1, "validate_every": 21},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path, variant):
    changes = VARIANTS[variant]
    expected = tune(tiny_model(), folder=tmp_path / "whole", **changes)
    n_steps = expected.curves["step"].max()
    n_batches = {"rare validation": 25, "epochs": 22}.get(variant, 9)
    assert n_batches // changes.get("accumulation", 1) < n_steps
    model = tiny_model()
    with stopped_at(model, n_batches):
        tune(model, folder=tmp_path / "cut", **changes)
    assert 0 < last_checkpoint(tmp_path / "cut") < n_steps
    same_run(tune(model, folder=tmp_path / "cut", **changes), expected)
    assert not (tmp_path / "cut/checkpoints").exists()


def test_a_run_stopped_before_its_first_checkpoint_begins_again(tmp_path):
    expected = tune(tiny_model(), n_tokens=100)
    model = tiny_model()
    with stopped_at(model, 1):
        tune(model, folder=tmp_path, n_tokens=100)
    same_run(tune(model, folder=tmp_path, n_tokens=100), expected)


@pytest.mark.parametrize("options", [{"checkpointing": True}, {"loss_chunk": 7}])
def test_ways_to_save_memory_change_nothing(options):
    plain = tune(tiny_model(dtype=torch.float64), n_tokens=150)
    model = tiny_model(dtype=torch.float64)
    found = tune(model, n_tokens=150, **options)
    np.testing.assert_allclose(found.curves["loss"], plain.curves["loss"], rtol=1e-9)
    for ours, theirs in zip(found.rows, plain.rows, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)
    assert not any(getattr(part, "gradient_checkpointing", False) for part in model.hf.modules())


def test_chunked_loss_is_refused_where_it_would_be_another():
    model = tiny_model()
    forward = model.hf.forward

    def scaled(*args, **kwargs):
        found = forward(*args, **kwargs)
        found.logits = found.logits / 2
        return found

    model.hf.forward = scaled
    with pytest.raises(UnsupportedModelError, match="Leave out --loss-chunk"):
        tune(model, loss_chunk=8)


def test_the_seed_decides_the_order_of_the_text(recorded):
    orders = []
    for seed in (0, 0, 1):
        model = tiny_model()
        batches = recorded(model)
        tune(model, seed=seed, n_tokens=150)
        orders.append(torch.cat(batches).tolist())
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2])


def test_a_helper_that_stops_nothing_fails():
    with pytest.raises(pytest.fail.Exception), stopped_at(tiny_model(), 10):
        pass
