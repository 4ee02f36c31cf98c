"""The paper's values, what contradicts what, and what `authors` changes."""

import dataclasses
import json

import pytest
import torch
import transformers

from lse_interp.core.errors import LseError
from lse_interp.models.defaults import ModelDefaults
from lse_interp.models.packaged import packaged_folder
from lse_interp.training.checkpoints import CheckpointStore
from lse_interp.training.hyperparameters import Hyperparameters, Profile
from lse_interp.training.methods import METHODS

from .tiny_runs import NEURONS, fit, rows_engine, tiny_model, tiny_text, tune

EMBEDDED = ModelDefaults.read(packaged_folder("embedded"))


@pytest.mark.parametrize("method", METHODS.names())
def test_with_defaults_are_those_of_the_paper(method):
    found = Hyperparameters().with_defaults(METHODS[method], ModelDefaults())
    assert found.lr == (1e-5 if method in ("ffn", "full") else 1e-4)
    assert found.weight_decay == 0.01
    assert (found.batch_size, found.accumulation, found.block_size) == (2, 1, 512)
    assert (found.epochs, found.schedule, found.warmup_steps) == (1, "constant", 0)
    assert (found.max_grad_norm, found.validate_every) == (1.0, 500)
    assert found.switches == Profile(
        padding_is_label=False,
        reencode=False,
        rebuild_optimizer=False,
        lora_rank=62,
        lora_alpha=32.0,
        lora_down=False,
    )


@pytest.mark.parametrize("method", METHODS.names())
def test_with_defaults_suits_the_embedded_model(method):
    found = Hyperparameters().with_defaults(METHODS[method], EMBEDDED)
    assert found.lr == (1e-4 if method in ("ffn", "full") else 1e-3)
    assert (found.block_size, found.validate_every) == (128, 20)


def test_with_defaults_keeps_what_was_given():
    given = Hyperparameters(lr=3e-4, block_size=32, validate_every=7)
    assert given.with_defaults(METHODS["full"], EMBEDDED) == given


def test_authors_switches_are_those_of_the_released_code():
    assert Hyperparameters(profile="authors").switches == Profile(
        padding_is_label=True,
        reencode=True,
        rebuild_optimizer=True,
        validation_sentences="all",
        lora_rank=32,
        lora_alpha=64.0,
        lora_down=True,
    )
    found = Hyperparameters(profile="authors", lora_rank=4).switches
    assert (found.lora_rank, found.lora_alpha, found.lora_down) == (4, 64, True)
    found = Hyperparameters(lora_alpha=5.0).switches
    assert (found.lora_rank, found.lora_alpha, found.lora_down) == (62, 5.0, False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0.0}, "`lr` must be above 0; got 0.0."),
        ({"lr": float("nan")}, "`lr` must be above 0; got nan."),
        ({"max_grad_norm": float("inf")}, "`max_grad_norm` must be above 0; got inf."),
        ({"max_grad_norm": -1.0}, "`max_grad_norm` must be above 0; got -1.0."),
        ({"weight_decay": -0.1}, "`weight_decay` must be at least 0; got -0.1."),
        ({"weight_decay": float("nan")}, "`weight_decay` must be at least 0; got nan."),
        ({"warmup_steps": -1}, "`warmup_steps` must be at least 0; got -1."),
        ({"seed": -1}, "`seed` must be at least 0; got -1."),
        ({"batch_size": 0}, "`batch_size` must be at least 1; got 0."),
        ({"accumulation": 0}, "`accumulation` must be at least 1; got 0."),
        ({"epochs": 0}, "`epochs` must be at least 1; got 0."),
        ({"validate_every": 0}, "`validate_every` must be at least 1; got 0."),
        ({"validation_sentences": 0}, "`validation_sentences` must be at least 1; got 0."),
        ({"loss_chunk": 0}, "`loss_chunk` must be at least 1; got 0."),
        ({"block_size": 1}, "`block_size` must be at least 2; got 1."),
        ({"lora_rank": 4}, "`lora_rank` 4 is of no use to method target. Leave it out."),
        ({"lora_alpha": 4.0}, "`lora_alpha` 4.0 is of no use to method target. Leave it out."),
        ({"lr": 2.0, "weight_decay": 0.5}, "`lr` x `weight_decay` must be below 1"),
    ],
)
def test_with_defaults_refuses_what_cannot_be(changes, message):
    with pytest.raises(LseError) as caught:
        Hyperparameters(**changes).with_defaults(METHODS["target"], ModelDefaults())
    (line,) = str(caught.value).splitlines()
    assert line.startswith(message)


@pytest.mark.parametrize("method", ["ffn", "full", "lora"])
def test_with_defaults_refuses_hooks_without_neurons(method):
    with pytest.raises(LseError, match=f"`engine` masked is of no use to method {method}"):
        Hyperparameters(engine="masked").with_defaults(METHODS[method], ModelDefaults())


def test_with_defaults_names_every_fault_at_once():
    options = Hyperparameters(lr=-1.0, batch_size=0, block_size=1, engine="masked", lora_rank=4)
    with pytest.raises(LseError) as caught:
        options.with_defaults(METHODS["full"], EMBEDDED)
    lines = str(caught.value).splitlines()
    faults = {line.split("`")[1] for line in lines}
    assert faults == {"lr", "batch_size", "block_size", "engine", "lora_rank"}


def test_describe_lists_what_the_result_depends_on():
    plain = Hyperparameters()
    found = plain.describe(METHODS["target"])
    assert "lora_rank" not in found and "loss_chunk" not in found and "checkpointing" not in found
    assert found["engine"] == "compact"
    for change in (
        {"lr": 1.0},
        {"weight_decay": 0.5},
        {"batch_size": 3},
        {"accumulation": 2},
        {"block_size": 3},
        {"epochs": 2},
        {"schedule": "linear"},
        {"warmup_steps": 1},
        {"max_grad_norm": 2.0},
        {"validate_every": 3},
        {"engine": "masked"},
        {"profile": "authors"},
        {"seed": 1},
    ):
        assert dataclasses.replace(plain, **change).describe(METHODS["target"]) != found, change
    for change in ({"loss_chunk": 8}, {"checkpointing": True}):
        assert dataclasses.replace(plain, **change).describe(METHODS["target"]) == found
    assert "engine" not in plain.describe(METHODS["full"])
    lora = plain.describe(METHODS["lora"])
    assert (lora["lora_rank"], lora["lora_alpha"], lora["lora_down"]) == (62, 32.0, False)


def moved(folder, profile, *, n_steps=5, lr=2.0**-9):
    """Train on the same blocks whatever the profile; return (change of every weight) / lr."""
    model = tiny_model(dtype=torch.float64)
    options = Hyperparameters(
        lr=lr, weight_decay=0.0, block_size=16, validate_every=1, profile=profile
    )
    text = tiny_text(model, options, n_blocks=2 * n_steps)
    with rows_engine(model) as engine:
        before = [leaf.detach().clone() for leaf in engine.leaves().values()]
        found = fit(model, engine, folder, options=options, text=text)
        after = [leaf.detach().clone() for leaf in engine.leaves().values()]
    assert found.results["step"] == n_steps  # every validation was a new best
    change = torch.cat([(a - b).flatten() for a, b in zip(after, before, strict=True)]) / lr
    saved = CheckpointStore(folder, {}).load()
    return change, [name for name in saved if name.endswith("/exp_avg")]


def test_rebuild_optimizer_forgets_momenta_at_every_new_best(tmp_path):
    # The first step of a fresh AdamW moves every weight by lr, up or down; so five of them add up
    # to an odd number of lr. With momenta kept, they do not.
    change, state = moved(tmp_path / "authors", "authors")
    odd = (change.abs() - 1) / 2
    assert (odd - odd.round()).abs().quantile(0.9) < 1e-3
    assert state == []
    change, state = moved(tmp_path / "fixed", "fixed")
    odd = (change.abs() - 1) / 2
    assert (odd - odd.round()).abs().quantile(0.5) > 0.05
    assert len(state) == sum(bool(layer) for layer in NEURONS)


@pytest.mark.parametrize(
    ("profile", "rank", "alpha", "projections"),
    [("fixed", 62, 32, {"gate_proj", "up_proj"}), ("authors", 32, 64, None)],
)
def test_lora_of_each_profile(tmp_path, profile, rank, alpha, projections):
    model = tiny_model()
    run = tune(
        model, method="lora", folder=tmp_path / "run", profile=profile, epochs=1, n_tokens=40
    )
    config = json.loads((tmp_path / "run/adapter/adapter_config.json").read_text(encoding="utf-8"))
    assert (config["r"], config["lora_alpha"]) == (rank, alpha)
    named = {name.rpartition(".")[2] for name in config["target_modules"]}
    assert named == (projections or {"gate_proj", "up_proj", "down_proj"})
    n_projections = len(named)
    n_weights = model.n_layers * n_projections * rank * (model.d_model + model.d_mlp)
    assert run.results["n_trainable"] == n_weights


@pytest.mark.parametrize("warmup", [0, 1, 4, 30])
@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_lr_scale_is_that_of_transformers(schedule, warmup):
    options = Hyperparameters(schedule=schedule, warmup_steps=warmup)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    name = "constant_with_warmup" if schedule == "constant" else schedule
    theirs = transformers.get_scheduler(
        name, optimizer, num_warmup_steps=warmup, num_training_steps=17
    )
    for step in range(18):
        expected = theirs.lr_lambdas[0](step)
        assert options.lr_scale(step, n_steps=17) == expected


def test_decay_factor_by_hand():
    options = Hyperparameters(lr=0.1, weight_decay=0.5, warmup_steps=2)
    expected = 1.0 * (1 - 0.05 * 0.5) * (1 - 0.05)
    assert options.decay_factor(3, n_steps=9) == pytest.approx(expected, rel=1e-15)
    assert options.decay_factor(0, n_steps=9) == 1.0
