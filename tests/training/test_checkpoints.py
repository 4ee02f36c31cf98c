"""Checkpoints: whole or not at all, of one run alone, and a disk that is full."""

import logging
import resource

import pytest
import torch

from lse_interp.core.errors import ArtifactError, LseError, MismatchError
from lse_interp.finetune import main
from lse_interp.subnetworks.finetune_run import FinetuneRun
from lse_interp.training.checkpoints import CheckpointStore, State
from tests.full_disk import largest_file

from .tiny_runs import same_run, stopped_at, tiny_model, tune
from .tiny_stage import Place, last_checkpoint, start, wait_for_checkpoint

SETTINGS = {"lr": 0.1, "text": {"mlt": "abc"}, "neurons": None}


@pytest.fixture
def store(tmp_path):
    return CheckpointStore(tmp_path / "checkpoints", SETTINGS)


def write(store, step, value=1.0):
    store.save({"leaf/0": torch.tensor([value])}, state=State(step=step))


def files(store):
    return sorted(path.name for path in store.folder.iterdir())


def test_a_checkpoint_comes_back_as_it_was_saved(store):
    assert store.found() is None
    state = State(step=4, tokens=99, best_step=2, best_loss=0.1 + 0.2)
    state.curves.append((2, 50, "validation", "mlt", 1 / 3))
    store.save({"leaf/0": torch.arange(3.0)}, state=state)
    assert CheckpointStore(store.folder, SETTINGS).found() == state
    assert torch.equal(store.load()["leaf/0"], torch.arange(3.0))


def test_save_keeps_the_newest_alone(store):
    for step in (9, 10, 100):
        write(store, step, value=float(step))
        assert store.found().step == step
    assert files(store) == ["last.json", "last.safetensors"]
    assert store.load()["leaf/0"].item() == 100


def test_save_keeps_the_old_checkpoint_when_a_write_fails(store):
    write(store, 2)
    with largest_file(10_000), pytest.raises(LseError) as caught:
        store.save({"leaf/0": torch.zeros(10_000)}, state=State(step=4))
    message = str(caught.value)
    assert message.startswith(f"Could not write {store.path} (")
    assert "Nothing that was there before is lost." in message
    assert "MB are free" in message
    assert files(store) == ["last.json", "last.safetensors"]
    assert store.found().step == 2


def test_save_says_that_the_folder_cannot_be_made(store):
    store.folder.write_text("a file")
    with pytest.raises(LseError, match=f"Could not write {store.folder}"):
        write(store, 4)


def test_tidy_deletes_what_a_killed_process_left_half_written(store):
    store.tidy(keep=True)
    write(store, 2)
    (store.folder / ".last.safetensors.abcd1234.safetensors").write_text("half")
    store.tidy(keep=True)
    assert files(store) == ["last.json", "last.safetensors"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff" * 100])
def test_a_damaged_checkpoint_is_refused(store, content):
    write(store, 2)
    store.path.write_bytes(content)
    with pytest.raises(ArtifactError, match="Pass --overwrite to train from the beginning"):
        store.found()
    with pytest.raises(ArtifactError, match="Pass --overwrite to train from the beginning"):
        store.load()


def test_save_best_keeps_the_old_weights_when_a_write_fails(store):
    first = {"0": torch.arange(3.0)}
    store.save_best(first, step=2)
    with (
        largest_file(10_000),
        pytest.raises(LseError, match="Could not write .*best.safetensors"),
    ):
        store.save_best({"0": torch.zeros(10_000)}, step=4)
    assert torch.equal(store.load_best()["0"], first["0"])
    assert files(store) == ["best.json", "best.safetensors"]


def test_tidy_deletes_the_folder(store):
    write(store, 2)
    store.tidy(keep=False)
    assert not store.folder.exists()
    store.tidy(keep=False)


@pytest.mark.parametrize("content", ["damaged", "altered", "other settings"])
def test_overwrite_ignores_a_checkpoint_that_is_of_no_use(store, content):
    write(store, 2)
    settings = SETTINGS
    if content == "damaged":
        store.path.write_bytes(b"{")
    elif content == "altered":
        store.path.write_bytes(store.path.read_bytes()[:-1] + b"!")
    else:
        settings = SETTINGS | {"lr": 0.2}
        with pytest.raises(MismatchError, match="unfinished run with other settings: lr was 0.1"):
            CheckpointStore(store.folder, settings).found()
    again = CheckpointStore(store.folder, settings, overwrite=True)
    assert again.found() is None
    again.save({"leaf/0": torch.tensor([1.0])}, state=State(step=4))
    assert again.found().step == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0.02}, "lr was 0.01, now 0.02"),
        ({"seed": 1}, "seed was 0, now 1"),
        ({"method": "random"}, "method was target, now random:size, neurons was"),
        ({"n_tokens": 200}, "training_text was"),
        ({"validation": {"mlt": ["w7 w7 w7"]}}, "validation_text was"),
    ],
)
def test_an_unfinished_run_is_continued_by_its_own_command_alone(tmp_path, changes, message):
    model = tiny_model()
    with stopped_at(model, 3):
        tune(model, folder=tmp_path)
    with pytest.raises(MismatchError, match=f"unfinished run with other settings: {message}"):
        tune(model, folder=tmp_path, **changes)


def test_a_run_without_a_checkpoint_refuses_no_other(tmp_path):
    model, changes = tiny_model(), {"lr": 0.02, "n_tokens": 100}
    with stopped_at(model, 1):
        tune(model, folder=tmp_path / "a")
    found = tune(model, folder=tmp_path / "a", **changes)
    same_run(found, tune(model, folder=tmp_path / "b", **changes))


def test_overwrite_leaves_an_unfinished_run_behind(tmp_path):
    model = tiny_model()
    with stopped_at(model, 9):
        tune(model, folder=tmp_path / "a")
    changes = {"lr": 0.02, "n_tokens": 100}
    found = tune(model, folder=tmp_path / "a", overwrite=True, **changes)
    same_run(found, tune(model, folder=tmp_path / "b", **changes))


def test_overwrite_goes_on_where_it_was_killed(tmp_path, caplog):
    model, folder = tiny_model(), tmp_path / "a"
    caplog.set_level(logging.INFO)
    first = tune(model, folder=folder)
    with stopped_at(model, 9):
        tune(model, folder=folder, overwrite=True)
    last = last_checkpoint(folder)

    # Without the flag, the first is finished, and what was begun stays.
    found = tune(model, folder=folder)
    assert found.provenance == first.provenance
    assert last_checkpoint(folder) == last

    caplog.clear()
    with stopped_at(model, 2):
        tune(model, folder=folder, overwrite=True)
    again = tune(model, folder=folder, overwrite=True)
    assert min(steps_in(caplog.messages)) > last >= 4
    same_run(again, first)
    assert again.provenance["created"] >= first.provenance["created"]
    assert not list(folder.glob("*checkpoints"))


def test_overwrite_that_was_killed_at_its_very_end_is_done(tmp_path, monkeypatch):
    save = FinetuneRun.save

    def save_and_die(run, folder):
        save(run, folder)
        raise KeyboardInterrupt

    model = tiny_model()
    first = tune(model, folder=tmp_path)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(FinetuneRun, "save", save_and_die)
        tune(model, folder=tmp_path, overwrite=True)
    with stopped_at(model, 0, expected=False):
        same_run(tune(model, folder=tmp_path, overwrite=True), first)
    assert not list(tmp_path.glob("*checkpoints"))
    with stopped_at(model, 0):
        tune(model, folder=tmp_path, overwrite=True)


def steps_in(messages):
    return [int(message.split()[1]) for message in messages if message.startswith("step ")]


@pytest.mark.parametrize("damage", ["settings", "checkpoint"])
def test_overwrite_starts_afresh_where_going_on_is_of_no_use(tmp_path, caplog, damage):
    model = tiny_model()
    caplog.set_level(logging.INFO)
    with stopped_at(model, 9):
        tune(model, folder=tmp_path, overwrite=True)
    assert last_checkpoint(tmp_path) >= 4
    changes = {"lr": 0.02} if damage == "settings" else {}
    if damage == "checkpoint":
        file = tmp_path / "new-checkpoints" / "last.safetensors"
        file.write_bytes(file.read_bytes()[:-1])
    caplog.clear()
    tune(model, folder=tmp_path, overwrite=True, **changes)
    assert min(steps_in(caplog.messages)) <= 2


def test_a_run_of_another_model_is_not_continued(tmp_path):
    model = tiny_model()
    with stopped_at(model, 3):
        tune(model, folder=tmp_path)
    with pytest.raises(MismatchError, match="model was [0-9a-f]{16}.*, now [0-9a-f]{16}"):
        tune(tiny_model(seed=1), folder=tmp_path)


@pytest.mark.slow
def test_a_disk_that_fills_up_costs_nothing(tmp_path):
    place = Place(tmp_path)
    command = place.arguments("--epochs", "2", runs="full")
    folder = place.run("target", runs="full")
    process = start(command)
    wait_for_checkpoint(process, folder)
    # From now on the disk takes no file of more than 4 kB, which every optimizer state is.
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    _, log = process.communicate()
    assert process.returncode == 2, log
    error = log[log.index("error: ") :]
    assert error.startswith("error: Could not write ")
    done = last_checkpoint(folder)
    assert "Nothing that was there before is lost. Make room, and repeat" in error
    assert not FinetuneRun.exists(folder)

    assert main(command) == 0
    found = FinetuneRun.load(folder)
    assert found.curves["step"].max() > done
    assert main(place.arguments("--epochs", "2", runs="roomy")) == 0
    same_run(found, FinetuneRun.load(place.run("target", runs="roomy")))


def test_a_result_that_cannot_be_written_is_written_later(tmp_path):
    model = tiny_model()
    in_the_way = tmp_path / "subnetwork.safetensors" / "file"
    in_the_way.mkdir(parents=True)
    with pytest.raises(
        LseError, match=f"Could not write {tmp_path}/subnetwork.safetensors .* Nothing"
    ):
        tune(model, folder=tmp_path, n_tokens=100)
    in_the_way.rmdir()
    in_the_way.parent.rmdir()
    batches = []
    model.hf.register_forward_pre_hook(lambda *_: batches.append(torch.is_grad_enabled()))
    found = tune(model, folder=tmp_path, n_tokens=100)
    assert not any(batches)  # nothing is trained twice
    same_run(found, tune(tiny_model(), n_tokens=100))
