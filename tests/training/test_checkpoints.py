"""Checkpoints: whole or not at all, of one run alone, and a disk that is full."""

import json
import logging
import resource

import pytest
import torch

from lse_interp.core.errors import LseError, MismatchError
from lse_interp.finetune import main
from lse_interp.subnetworks.finetune_run import FinetuneRun
from lse_interp.training.checkpoints import CheckpointStore
from tests.full_disk import largest_file

from .tiny_runs import same_run, stopped_at, tiny_model, tune
from .tiny_stage import Place, start, wait_for_checkpoint

SETTINGS = {"lr": 0.1, "text": {"mlt": "abc"}, "neurons": None}


@pytest.fixture
def store(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints", SETTINGS)
    assert store.open(overwrite=False) is None
    return store


def write(store, step, content="x"):
    with store.staged(step) as folder:
        (folder / f"checkpoint-{step}").mkdir()
        (folder / f"checkpoint-{step}" / "file").write_text(content)


def files(store):
    return sorted(path.name for path in store.folder.iterdir())


def test_open_claims_the_folder(store):
    again = CheckpointStore(store.folder, SETTINGS)
    assert again.open(overwrite=False) is None
    write(store, 2)
    assert again.open(overwrite=False) == store.folder / "checkpoint-2"
    found = json.loads((store.folder / "settings.json").read_text(encoding="utf-8"))
    assert found == SETTINGS


def test_open_refuses_checkpoints_of_another_run(store):
    write(store, 2)
    other = SETTINGS | {"lr": 0.2, "text": {"mlt": "xyz"}}
    with pytest.raises(MismatchError) as caught:
        CheckpointStore(store.folder, other).open(overwrite=False)
    message = str(caught.value)
    assert "lr was 0.1, now 0.2, text was {'mlt': 'abc'}, now {'mlt': 'xyz'}. Repeat" in message
    assert str(store.folder) in message and "--overwrite" in message
    assert store.last() is not None
    with pytest.raises(MismatchError, match="n_processes was None, now 2"):
        CheckpointStore(store.folder, SETTINGS | {"n_processes": 2}).open(overwrite=False)


def test_open_with_overwrite_starts_afresh(store):
    write(store, 2)
    other = CheckpointStore(store.folder, SETTINGS | {"lr": 0.2})
    assert other.open(overwrite=True, is_main=False) is None
    assert store.last() is not None  # the main process alone deletes
    assert other.open(overwrite=True) is None
    assert files(store) == ["overwrites.json", "settings.json"]
    assert other.open(overwrite=False) is None


def test_staged_keeps_the_newest_alone(store):
    for step in (9, 10, 100):
        write(store, step)
        assert store.last() == store.folder / f"checkpoint-{step}"
    assert files(store) == ["checkpoint-100", "settings.json"]
    write(store, 100, "again")
    assert (store.folder / "checkpoint-100/file").read_text() == "again"


def test_staged_keeps_the_old_checkpoint_when_a_write_fails(store):
    write(store, 2)
    with pytest.raises(LseError) as caught, store.staged(4) as folder:
        (folder / "checkpoint-4").mkdir()
        raise OSError(28, "No space left on device")
    message = str(caught.value)
    assert message.startswith(f"Could not write the checkpoint of step 4 into {store.folder} ([Err")
    assert f"Nothing is lost: {store.folder / 'checkpoint-2'} is complete. Make room" in message
    assert "MB are free" in message
    assert files(store) == ["checkpoint-2", "settings.json"]
    with pytest.raises(KeyboardInterrupt), store.staged(4) as folder:
        (folder / "checkpoint-4").mkdir()
        raise KeyboardInterrupt
    assert files(store) == ["checkpoint-2", "settings.json"]


def test_staged_says_that_nothing_was_saved_before(store):
    with pytest.raises(LseError, match="there is no earlier checkpoint"), store.staged(4):
        raise OSError("full")


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("Connection closed by peer")],
    ids=["memory", "peer"],
)
def test_staged_blames_the_disk_for_failed_writes_alone(store, error):
    with pytest.raises(type(error), match=str(error)), store.staged(4):
        raise error


def test_staged_says_that_the_folder_cannot_be_made(store):
    store.clear()
    store.folder.write_text("a file")
    with pytest.raises(LseError, match="Could not write the checkpoint of step 4"), store.staged(4):
        pass


def test_what_a_killed_process_left_half_written_is_no_checkpoint(store):
    write(store, 2)
    (store.staging / "checkpoint-4").mkdir(parents=True)
    assert store.last() == store.folder / "checkpoint-2"
    write(store, 6)
    assert files(store) == ["checkpoint-6", "settings.json"]


def test_save_best_keeps_the_old_weights_when_a_write_fails(store):
    first = {"0": torch.arange(3.0)}
    store.save_best(first, step=2)
    with (
        largest_file(10_000),
        pytest.raises(LseError, match="Could not write the best weights, of step 4"),
    ):
        store.save_best({"0": torch.zeros(10_000)}, step=4)
    assert store.best_step() == 2
    assert torch.equal(store.load_best()["0"], first["0"])
    assert files(store) == ["best.json", "best.safetensors", "settings.json"]


def test_open_says_that_the_folder_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("in the way")
    store = CheckpointStore(tmp_path / "file" / "checkpoints", SETTINGS)
    with pytest.raises(LseError, match="Could not write the settings of the run into"):
        store.open(overwrite=False)


def test_clear_deletes_the_folder(store):
    write(store, 2)
    store.clear()
    assert not store.folder.exists()
    store.clear()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0.02}, "lr was 0.01, now 0.02"),
        ({"seed": 1}, "seed was 0, now 1"),
        ({"method": "random"}, "method was target, now random:size, neurons was"),
        ({"tokens": 200}, "training_text was"),
        ({"validation": {"mlt": ["w7 w7 w7"]}}, "validation_text was"),
    ],
)
def test_an_unfinished_run_is_continued_by_its_own_command_alone(tmp_path, changes, message):
    model = tiny_model()
    with stopped_at(model, 3):
        tune(model, folder=tmp_path)
    with pytest.raises(MismatchError, match=f"unfinished run with other settings: {message}"):
        tune(model, folder=tmp_path, **changes)


def test_overwrite_leaves_an_unfinished_run_behind(tmp_path):
    model = tiny_model()
    with stopped_at(model, 9):
        tune(model, folder=tmp_path / "a")
    changes = {"lr": 0.02, "tokens": 100}
    found = tune(model, folder=tmp_path / "a", overwrite=True, **changes)
    same_run(found, tune(model, folder=tmp_path / "b", **changes))


def test_overwrite_goes_on_where_it_was_killed(tmp_path, caplog):
    model, folder = tiny_model(), tmp_path / "a"
    caplog.set_level(logging.INFO)
    first = tune(model, folder=folder)
    with stopped_at(model, 9):
        tune(model, folder=folder, overwrite=True)
    last = CheckpointStore(folder / "checkpoints", {}).last()

    # Without the flag, the first is finished, and what was begun stays.
    found = tune(model, folder=folder)
    assert found.provenance == first.provenance
    assert f"training it again ended early; --overwrite goes on from {last}" in caplog.text

    caplog.clear()
    with stopped_at(model, 2):
        tune(model, folder=folder, overwrite=True)
    again = tune(model, folder=folder, overwrite=True)
    assert min(steps_in(caplog.messages)) > int(last.name.split("-")[1]) >= 4
    same_run(again, first)
    assert again.provenance["created"] >= first.provenance["created"]
    assert not (folder / "checkpoints").exists()


def test_overwrite_that_was_killed_at_its_very_end_is_done(tmp_path, monkeypatch):
    model = tiny_model()
    tune(model, folder=tmp_path)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(CheckpointStore, "clear", _clear_once())
        tune(model, folder=tmp_path, overwrite=True)
    done = (tmp_path / "subnetwork.safetensors").stat().st_mtime_ns
    tune(model, folder=tmp_path, overwrite=True)
    assert (tmp_path / "subnetwork.safetensors").stat().st_mtime_ns == done
    assert not (tmp_path / "checkpoints").exists()
    tune(model, folder=tmp_path, overwrite=True)
    assert (tmp_path / "subnetwork.safetensors").stat().st_mtime_ns > done


def steps_in(messages):
    return [int(message.split()[1]) for message in messages if message.startswith("step ")]


def _clear_once():
    """Return a `clear` that is interrupted the second time."""
    calls = iter([CheckpointStore.clear])

    def clear(store):
        work = next(calls, None)
        if work is None:
            raise KeyboardInterrupt
        work(store)

    return clear


@pytest.mark.parametrize("damage", ["settings", "checkpoint"])
def test_overwrite_starts_afresh_where_going_on_is_of_no_use(tmp_path, caplog, damage):
    model = tiny_model()
    caplog.set_level(logging.INFO)
    with stopped_at(model, 9):
        tune(model, folder=tmp_path, overwrite=True)
    changes = {"lr": 0.02} if damage == "settings" else {}
    if damage == "checkpoint":
        (file,) = tmp_path.glob("checkpoints/checkpoint-*/leaves.safetensors")
        file.write_bytes(file.read_bytes()[:-1])
    caplog.clear()
    tune(model, folder=tmp_path, overwrite=True, **changes)
    assert min(steps_in(caplog.messages)) <= 2


def test_a_run_of_another_model_is_not_continued(tmp_path):
    model = tiny_model()
    with stopped_at(model, 3):
        tune(model, folder=tmp_path)
    with pytest.raises(MismatchError, match="model was [0-9a-f]{16}, now [0-9a-f]{16}"):
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
    (checkpoint,) = (folder / "checkpoints").glob("checkpoint-*")
    assert f"Nothing is lost: {checkpoint} is complete. Make room, and repeat" in error
    assert not FinetuneRun.exists(folder)

    assert main(command) == 0
    found = FinetuneRun.load(folder)
    assert found.curves["step"].max() > int(checkpoint.name.split("-")[1])
    assert main(place.arguments("--epochs", "2", runs="roomy")) == 0
    same_run(found, FinetuneRun.load(place.run("target", runs="roomy")))


def test_a_result_that_cannot_be_written_is_written_later(tmp_path):
    model = tiny_model()
    in_the_way = tmp_path / "subnetwork.safetensors" / "file"
    in_the_way.mkdir(parents=True)
    with pytest.raises(LseError, match=f"Could not write the result into {tmp_path} .* Nothing is"):
        tune(model, folder=tmp_path, tokens=100)
    in_the_way.rmdir()
    in_the_way.parent.rmdir()
    batches = []
    model.hf.register_forward_pre_hook(lambda *_: batches.append(torch.is_grad_enabled()))
    found = tune(model, folder=tmp_path, tokens=100)
    assert not any(batches)  # nothing is trained twice
    same_run(found, tune(tiny_model(), tokens=100))
