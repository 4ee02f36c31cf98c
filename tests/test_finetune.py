"""The fine-tuning stage: every method, reuse, seeds, kill and resume, processes, bad input."""

import dataclasses
import logging
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from lse_interp.artifacts.paths import RunPaths
from lse_interp.core.errors import CorpusError, LanguageError, LseError, MismatchError
from lse_interp.data.corpora import load_corpus
from lse_interp.data.parallel import ParallelText, load_parallel
from lse_interp.finetune import main
from lse_interp.models.loading import load_model
from lse_interp.models.mlp_weights import read_rows
from lse_interp.models.packaged import packaged_folder
from lse_interp.neurons.sets import NeuronSets
from lse_interp.subnetworks.apply import apply_subnetwork
from lse_interp.subnetworks.finetune_run import FinetuneRun
from lse_interp.subnetworks.load_tuned import load_tuned
from lse_interp.training.checkpoints import CheckpointStore, State
from lse_interp.training.finetune_language import finetune_language
from lse_interp.training.text_sources import require_kinds
from tests.tiny_models import tiny_hf
from tests.training.tiny_runs import (
    NEURONS,
    OPTIONS,
    TRAINING,
    VALIDATION,
    neuron_sets,
    same_run,
    tiny_model,
    tiny_text,
    tune,
)
from tests.training.tiny_stage import (
    Place,
    environment,
    kill,
    last_checkpoint,
    start,
    wait_for_checkpoint,
)

DENSE_FFN = tuple(
    f"mlp.{name}.{part}"
    for name in ("gate_proj", "up_proj", "down_proj")
    for part in ("weight", "bias")
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Place(tmp_path_factory.mktemp("stage"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corpus": "one text"}, "`corpus` must be a list of texts; got one text of 8 characters"),
        ({"validation": {"mlt": "one text"}}, "`mlt` must be a list of texts"),
    ],
)
def test_one_text_does_not_pass_for_many(changes, message):
    with pytest.raises(CorpusError, match=message):
        tune(tiny_model(), **changes)


def test_arguments_of_other_kinds_are_named():
    with pytest.raises(LseError, match="`validation` must map languages to .* got list"):
        require_kinds([], ["text"], None)
    with pytest.raises(LseError, match="`neurons` must be NeuronSets, .* got tuple"):
        require_kinds([], {}, ())


def weights(model):
    return {name: weight.detach().clone() for name, weight in model.hf.named_parameters()}


def same_weights(found, expected):
    assert found.keys() == expected.keys()
    return [name for name in found if not torch.equal(found[name], expected[name])]


def validation_loss(hf, text):
    """Mean loss over tokens, one block of 16 at a time."""
    nats = []
    for ids, labels in zip(text.ids.long(), text.labels.long(), strict=True):
        with torch.no_grad():
            log_p = hf(ids[None]).logits[0].double().log_softmax(-1)
        nats += [-log_p[t - 1, ids[t]].item() for t in range(1, 16) if labels[t] >= 0]
    return np.mean(nats)


@pytest.fixture(scope="module")
def validation_text():
    return tiny_text(tiny_model(), OPTIONS).validation["mlt"]


@pytest.mark.parametrize("engine", ["compact", "masked"])
@pytest.mark.parametrize("method", ["target", "random"])
def test_neuron_methods_leave_rows_and_the_model_as_it_was(
    tmp_path, method, engine, validation_text
):
    model = tiny_model()
    before = weights(model)
    flags = [weight.requires_grad for weight in model.hf.parameters()]
    run = tune(model, method=method, engine=engine, n_tokens=150, folder=tmp_path)
    assert same_weights(weights(model), before) == []
    assert [weight.requires_grad for weight in model.hf.parameters()] == flags
    assert not model.hf.training
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"subnetwork.safetensors", "subnetwork.json", "curves.csv", "tensorboard"}
    assert list((tmp_path / "tensorboard").glob("events*"))
    assert [len(layer) for layer in run.neurons] != [0, 0, 0]
    assert sum(map(len, run.neurons)) == sum(map(len, NEURONS))
    assert run.results["n_trainable"] == 3 * sum(map(len, NEURONS)) * model.d_model
    for layer, (chosen, base) in enumerate(zip(run.neurons, run.base, strict=True)):
        assert torch.equal(base, read_rows(model, layer, chosen))
    if method == "target":
        assert run.method == "target"
        assert [layer.tolist() for layer in run.neurons] == [list(layer) for layer in NEURONS]
    else:
        assert run.method == "random:size"

    saved = FinetuneRun.load(tmp_path)
    same_run(saved, run)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "curves.csv"), run.curves)
    apply_subnetwork(model, saved)
    after = weights(model)
    _only_chosen_changed(before, after, run.neurons)
    found = validation_loss(model.hf, validation_text)
    assert found == pytest.approx(run.results["validation_loss"]["mlt"], rel=1e-5)
    assert found < run.results["base_validation_loss"]["mlt"]


def _only_chosen_changed(before, after, neurons):
    for name, weight in after.items():
        changed = weight != before[name]
        if ".mlp." not in name or name.endswith("bias"):
            assert not changed.any(), name
            continue
        layer = int(name.split(".")[2])
        of_neuron = changed if "down_proj" not in name else changed.T
        rows = of_neuron.any(dim=1).nonzero().flatten()
        assert torch.equal(rows, neurons[layer]), name


@pytest.mark.parametrize("method", ["ffn", "full"])
def test_dense_methods_leave_a_plain_model(tmp_path, method, validation_text):
    model = tiny_model()
    before = weights(model)
    run = tune(model, method=method, n_tokens=150, folder=tmp_path)
    assert same_weights(weights(model), before) == []
    assert not run.is_subnetwork and run.neurons is None
    tuned = load_model(str(tmp_path / "model"), device="cpu")
    changed = set(same_weights(weights(tuned), before))
    expected = {n for n in before if method == "full" or n.split(".", 3)[-1] in DENSE_FFN}
    assert changed == expected
    assert run.results["n_trainable"] == sum(before[name].numel() for name in expected)
    assert validation_loss(tuned.hf, validation_text) == pytest.approx(
        run.results["validation_loss"]["mlt"], rel=1e-5
    )
    assert tuned.tokenizer("w3 w4")["input_ids"] == model.tokenizer("w3 w4")["input_ids"]
    same = FinetuneRun.load(tmp_path)
    assert (same.method, same.rows) == (method, None)


# peft asks transformers by the older name.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_lora_leaves_an_adapter(tmp_path, validation_text):
    model = tiny_model()
    before = weights(model)
    flags = [weight.requires_grad for weight in model.hf.parameters()]
    modules = [type(module) for module in model.hf.modules()]
    run = tune(model, method="lora", lora_rank=3, n_tokens=150, folder=tmp_path)
    assert same_weights(weights(model), before) == []
    assert [type(module) for module in model.hf.modules()] == modules
    assert [weight.requires_grad for weight in model.hf.parameters()] == flags
    assert {path.name for path in tmp_path.iterdir()} >= {"adapter", "run.safetensors"}
    adapter = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert sum(weight.numel() for weight in adapter.values()) == run.results["n_trainable"]
    tuned = PeftModel.from_pretrained(tiny_hf("llama"), tmp_path / "adapter")
    found = validation_loss(tuned.eval(), validation_text)
    assert found == pytest.approx(run.results["validation_loss"]["mlt"], rel=1e-5)
    assert found < run.results["base_validation_loss"]["mlt"]


def test_a_failed_run_leaves_the_model_as_it_was(tmp_path):
    for method in ("target", "full", "lora"):
        model = tiny_model()
        before = weights(model)
        calls = []

        def fail(*_, calls=calls):
            calls.append(torch.is_grad_enabled())
            if sum(calls) == 3:
                raise KeyboardInterrupt

        # Inside the model: the oldest peft calls `forward` past its own hooks.
        handle = model.hf.get_input_embeddings().register_forward_pre_hook(fail)
        with pytest.raises(KeyboardInterrupt):
            tune(model, method=method, folder=tmp_path / method)
        handle.remove()
        assert same_weights(weights(model), before) == []
        assert all(weight.requires_grad for weight in model.hf.parameters())


def test_random_neurons_follow_the_seed_and_the_match():
    model = tiny_model()

    def drawn(**changes):
        run = tune(model, method="random", n_tokens=40, **changes)
        return run.method, [layer.tolist() for layer in run.neurons]

    first = drawn()
    assert drawn() == first
    assert drawn(seed=1)[1] != first[1]
    method, layers = drawn(random_match="layer")
    assert method == "random:layer"
    assert [len(layer) for layer in layers] == [len(layer) for layer in NEURONS]


def test_bfloat16_models_keep_their_dtype():
    model = tiny_model(dtype=torch.bfloat16)
    before = weights(model)
    run = tune(model, n_tokens=100)
    assert same_weights(weights(model), before) == []
    assert {rows.dtype for rows in run.rows} == {torch.bfloat16}


def test_a_method_that_changes_matrices_needs_a_folder():
    with pytest.raises(LseError, match="Method full changes whole matrices; give a `folder`"):
        tune(tiny_model(), method="full")


def test_stage_reuses_what_is_finished(place, caplog):
    command = place.arguments("--n-tokens", "60", "120", runs="reused")
    with caplog.at_level(logging.INFO):
        assert main(command) == 0
    assert re.search(r"training mlt: \d+ steps over 58 tokens; every \d+ steps, val", caplog.text)
    caplog.clear()
    folders = [place.run(f"target-{n}", runs="reused") for n in (60, 120)]
    runs = [FinetuneRun.load(folder) for folder in folders]
    assert [run.settings["tokens"] for run in runs] == [60, 120]
    # With separators, and without the first position of every block.
    assert [run.curves["tokens"].max() for run in runs] == [60 + 2 - 4, 120 + 5 - 8]
    written = [(folder / "subnetwork.safetensors").stat().st_mtime_ns for folder in folders]
    with caplog.at_level(logging.INFO):
        assert main(command) == 0
    assert caplog.text.count("is finished; --overwrite trains again") == 2
    again = [(folder / "subnetwork.safetensors").stat().st_mtime_ns for folder in folders]
    assert again == written


def test_stage_refuses_a_finished_run_with_other_settings(place, capsys):
    flags = {"name": "mine", "runs": "named", "n_tokens": 60}
    assert main(place.arguments(**flags)) == 0
    assert main(place.arguments(**flags | {"lr": 0.02})) == 2
    error = capsys.readouterr().err
    assert "holds a finished run with other settings: lr was 0.01, now 0.02. Pass --name" in error
    # Another method under the same name takes the place of the first, files and all.
    assert main(place.arguments("--overwrite", method="lora", neurons=None, **flags)) == 0
    assert FinetuneRun.load(place.run("mine", runs="named")).method == "lora"
    assert not (place.run("mine", runs="named") / "subnetwork.safetensors").exists()
    assert main(place.arguments("--overwrite", **flags)) == 0
    assert FinetuneRun.load(place.run("mine", runs="named")).method == "target"


def test_stage_names_runs_by_what_they_are(place):
    assert main(place.arguments(method="random", seed=3, n_tokens=40, random_match="layer")) == 0
    run = FinetuneRun.load(place.run("random-layer-40-seed3"))
    assert (run.method, run.settings["seed"]) == ("random:layer", 3)
    assert main(place.arguments(profile="authors", n_tokens=40)) == 0
    assert FinetuneRun.load(place.run("target-authors-40")).settings["profile"] == "authors"


def test_stage_trains_the_embedded_model_with_its_defaults(tmp_path):
    neurons = tmp_path / "neurons.safetensors"
    model = load_model("embedded")
    NeuronSets(
        indices={"mlt": tuple(torch.arange(3) for _ in range(model.n_layers))},
        model=model.info,
        site="mlp.hook_act",
        method="hand",
    ).save(neurons)
    words = ["--lang", "maltese", "--n-tokens", "600", "--neurons", str(neurons)]
    assert main([*words, "--root", str(tmp_path), "--device", "cpu"]) == 0
    run = FinetuneRun.load(tmp_path / "embedded/finetune/mlt/target-600")
    assert run.settings["lr"] == 1e-3
    assert (run.settings["block_size"], run.settings["validate_every"]) == (128, 20)
    assert set(run.results["validation_loss"]) == {"mlt", "eng"}
    assert run.results["validation_loss"]["mlt"] < run.results["base_validation_loss"]["mlt"]


@pytest.mark.slow
def test_killed_run_goes_on_as_if_nothing_had_happened(place, caplog):
    command = place.arguments("--epochs", "2", runs="killed")
    folder = place.run("target", runs="killed")
    process = start(command)
    wait_for_checkpoint(process, folder)
    kill(process)
    assert not FinetuneRun.exists(folder)
    done = last_checkpoint(folder)
    with caplog.at_level(logging.INFO):
        assert main(command) == 0
    found = FinetuneRun.load(folder)
    assert 0 < done < found.curves["step"].max()
    lines = [r.getMessage() for r in caplog.records if r.getMessage().startswith("step ")]
    assert int(lines[0].split()[1]) == done + 2  # it went on; it did not begin again

    assert main(place.arguments("--epochs", "2", runs="whole")) == 0
    same_run(found, FinetuneRun.load(place.run("target", runs="whole")))


@pytest.mark.slow
def test_two_processes_train_as_one_with_twice_the_batch(place):
    # Whole steps: 8 and 12 blocks, of which the last is padded.
    budgets = ("--n-tokens", "120", "176")
    alone = place.arguments(*budgets, batch_size=4, runs="alone")
    together = place.arguments(*budgets, batch_size=2, runs="together")
    launch = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    shared = subprocess.run(
        [sys.executable, *launch, "-m", "lse_interp.finetune", *together],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert shared.returncode == 0, shared.stderr
    assert shared.stderr.count("weights trained") == 2  # one report per budget
    assert main(alone) == 0
    for name in ("target-120", "target-176"):
        expected = FinetuneRun.load(place.run(name, runs="alone"))
        found = FinetuneRun.load(place.run(name, runs="together"))
        keys = ["step", "tokens", "split", "language"]
        pd.testing.assert_frame_equal(found.curves[keys], expected.curves[keys])
        np.testing.assert_allclose(found.curves["loss"], expected.curves["loss"], rtol=1e-5)
        for ours, theirs in zip(found.rows, expected.rows, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
        assert found.settings["n_processes"] == 2
        assert found.results["step"] == expected.results["step"]
    assert len(list((place.root / "together").rglob("subnetwork.safetensors"))) == 2
    assert not list((place.root / "together").rglob("*checkpoints"))
    assert len(list((place.root / "together").rglob("events*"))) == 2


@pytest.fixture
def refused(place, capsys):
    """Return a function that runs the stage, expects its refusal, and returns the message."""

    def run(*words, **flags):
        status = main(place.arguments(*words, **{"runs": "refused"} | flags))
        error = capsys.readouterr().err
        assert status == 2
        assert "Traceback" not in error
        return error[error.index("error: ") :]

    return run


def test_main_refuses_neurons_of_another_model(place, refused, tmp_path):
    neuron_sets(tiny_model(seed=1)).save(tmp_path / "other.safetensors")
    error = refused(neurons=tmp_path / "other.safetensors")
    assert "The neuron set" in error and "fingerprint" in error


def test_neurons_found_in_float32_are_trained_in_bfloat16(place):
    assert main(place.arguments(runs="narrow", dtype="bfloat16", n_tokens=150)) == 0
    run = FinetuneRun.load(next((place.root / "narrow").rglob("subnetwork.safetensors")).parent)
    assert run.rows[0].dtype == torch.bfloat16
    base = load_model(place.model, device="cpu")
    base.info.require_same(run.model, what="The run")
    with pytest.raises(MismatchError, match="held in bfloat16; it is held in float32 now. Load it"):
        base.info.require_same(run.model, what="The run", exact=True)


def test_main_refuses_an_empty_set(refused, tmp_path):
    sets = neuron_sets(tiny_model(), mlt=((), (), ()))
    sets.save(tmp_path / "empty.safetensors")
    for method in ("target", "random"):
        error = refused(neurons=tmp_path / "empty.safetensors", method=method)
        assert "The set of mlt is empty, so there is nothing to train." in error
        assert "choose another language: eng" in error


def test_main_refuses_a_language_without_a_set(refused):
    error = refused(lang="isl", validation="embedded", corpus="embedded")
    assert "isl" in error and "mlt" in error


def test_main_refuses_missing_neurons(refused, tmp_path):
    assert "none.safetensors does not exist" in refused(neurons=tmp_path / "none.safetensors")


def test_main_refuses_text_that_is_missing_or_empty(refused, tmp_path):
    # Said before neurons are read, or a model.
    absent: dict = {"neurons": tmp_path / "none.safetensors", "model": tmp_path / "none"}
    assert "no text for Maltese (mlt) at" in refused(corpus=tmp_path / "nowhere.txt", **absent)
    assert "no text for Maltese (mlt) at" in refused(validation=tmp_path / "nowhere.txt", **absent)
    (tmp_path / "empty.txt").write_text("\n\n", encoding="utf-8")
    assert "no text" in refused(corpus=tmp_path / "empty.txt")
    assert "1,000,000 text tokens were asked for" in refused(n_tokens=10**6)


def test_main_refuses_leakage(place, refused):
    error = refused(validation=place.root / "train.{lang}.jsonl", against="mlt")
    assert "Validation text of mlt is also training text, so its loss would say nothing" in error


def test_main_refuses_checkpoints_of_another_run(place, refused):
    folder = place.run("target", runs="refused") / "checkpoints"
    store = CheckpointStore(folder, {"lr": 0.5})
    store.save({}, state=State(step=2))
    error = refused()
    assert f"{folder.parent} holds an unfinished run with other settings: " in error
    assert "lr was 0.5, now 0.01" in error
    store.tidy(keep=False)


def test_main_refuses_a_block_longer_than_the_context(refused):
    error = refused(block_size=65)
    assert "`block_size` must be at most the 64 positions" in error


def test_main_refuses_contradictions_all_at_once_before_any_work(place, refused):
    error = refused(
        "--n-tokens", "10", "0", method="full", random_match="layer", name="x", dtype="float16",
        engine="masked", lora_rank=3, batch_size=0, model="no/such-model",
    )  # fmt: skip
    for part in (
        "--method full takes no --random-match; got layer.",
        "--neurons is of no use to --method full. Leave it out.",
        "--name fits one run; --n-tokens asks for several.",
        "--n-tokens must be at least 1; got 10, 0.",
        "--dtype float16 overflows in training",
        "`engine` masked is of no use to method full. Leave it out.",
        "`lora_rank` 3 is of no use to method full. Leave it out.",
        "`batch_size` must be at least 1; got 0.",
    ):
        assert part in error
    assert error.count("\n") == 8


def test_main_refuses_an_unknown_language(refused):
    assert "unknown language 'nlt'" in refused(lang="nlt")
    assert "unknown language 'enk'" in refused(against="enk")


def test_finetune_refuses_what_does_not_fit(tmp_path):
    model = tiny_model()
    with pytest.raises(MismatchError, match="The neuron set"):
        finetune_language(
            model, TRAINING, language="mlt", validation=VALIDATION,
            neurons=neuron_sets(tiny_model(seed=1)),
        )  # fmt: skip
    with pytest.raises(LseError, match="Method target needs neurons"):
        finetune_language(model, TRAINING, language="mlt", validation=VALIDATION)
    with pytest.raises(LanguageError, match="unknown language"):
        finetune_language(model, TRAINING, language="nlt", validation=VALIDATION)
    with pytest.raises(LseError, match="There is no fine-tuning method 'all'"):
        tune(model, method="all", folder=tmp_path)


def test_finetune_refuses_a_keyword_it_does_not_know():
    for wrong, meant in (("learning_rate", "lr"), ("n_token", "n_tokens")):
        with pytest.raises(LseError, match=f"hyper-parameter `{wrong}`. Did you mean {meant}"):
            tune(tiny_model(), **{wrong: 3})


def test_finetune_takes_hyperparameters_by_name_and_parallel_text():
    mapping = tune(tiny_model(), options=dataclasses.replace(OPTIONS, lr=3e-3), n_tokens=60)
    assert mapping.settings["lr"] == 3e-3
    text = ParallelText(("mlt", "eng"), {c: tuple(t) for c, t in VALIDATION.items()}, "", None)
    same_run(tune(tiny_model(), validation=text, lr=3e-3, n_tokens=60), mapping)


def test_finetune_takes_any_spelling_and_any_iterable():
    by_code = tune(tiny_model(), n_tokens=60)
    model = tiny_model()
    spelled = finetune_language(
        model, (text for text in TRAINING), language="Maltese",
        validation={"en": VALIDATION["eng"], "mt": iter(VALIDATION["mlt"])},
        neurons=neuron_sets(model), options=OPTIONS, n_tokens=60,
    )  # fmt: skip
    same_run(spelled, by_code)


@pytest.mark.parametrize(
    "method", ["target", *(pytest.param(m, marks=pytest.mark.slow) for m in ("lora", "full"))]
)
def test_function_and_command_train_alike_by_name_and_by_path(tmp_path, method):
    neurons = tmp_path / "neurons.safetensors"
    copy = tmp_path / "copy"
    shutil.copytree(packaged_folder("embedded"), copy)
    model = load_model("embedded", device="cpu")
    marked = tuple(torch.arange(0, model.d_mlp, 40) for _ in range(model.n_layers))
    NeuronSets(indices={"mlt": marked}, model=model.info, site="mlp.hook_act", method="hand").save(
        neurons
    )
    words = ["--lang", "mlt", "--method", method, "--n-tokens", "600", "--device", "cpu"]
    words += ["--neurons", str(neurons)] if method == "target" else []
    found = []
    for name in ("embedded", str(copy)):
        assert main([*words, "--model", name, "--root", str(tmp_path / Path(name).name)]) == 0
        folder = RunPaths(tmp_path / Path(name).name, name).finetune("mlt", f"{method}-600")
        found.append(FinetuneRun.load(folder))
        tuned = load_tuned(folder)
        assert dataclasses.replace(tuned.defaults, bos=model.defaults.bos) == model.defaults
        assert tuned.prefix == model.prefix
    for name in ("embedded", str(copy)):
        by_function = finetune_language(
            load_model(name, device="cpu"),
            load_corpus("embedded", language="mlt", split="adapt"),
            language="mlt",
            validation=load_parallel("embedded", languages=("mlt", "eng"), split="dev").sentences,
            method=method,
            neurons=NeuronSets.load(neurons) if method == "target" else None,
            n_tokens=600,
            folder=tmp_path / "function" / Path(name).name,
        )
        found.append(by_function)
    first = found[0]
    assert first.settings["lr"] == (1e-4 if method == "full" else 1e-3)
    assert first.settings["block_size"] == 128
    for other in found[1:]:
        assert other.settings == first.settings
        pd.testing.assert_frame_equal(other.curves, first.curves, check_exact=True)
        for ours, theirs in zip(other.rows or (), first.rows or (), strict=True):
            assert torch.equal(ours, theirs)
