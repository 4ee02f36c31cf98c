"""One process at a time; the others wait or are refused, and a killed holder leaves no lock."""

import errno
import fcntl
import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time

import pytest

from lse_interp.artifacts.locks import locked
from lse_interp.core.errors import LseError

SPAWN = multiprocessing.get_context("spawn")
HOLD = """
import sys
from lse_interp.artifacts.locks import locked
with locked(sys.argv[1], what="the thing"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of `thing.safetensors`, until its stdin is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / "thing.safetensors"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout.readline() == "held\n"
        yield process


def test_locked_waits_for_another_process_and_says_for_whom(holder, tmp_path, caplog):
    path = tmp_path / "thing.safetensors"
    timer = threading.Timer(0.3, holder.stdin.close)
    timer.start()
    began = time.monotonic()
    with locked(path, what="the thing"):
        assert time.monotonic() - began > 0.2
    timer.join()
    first, last = (record.getMessage() for record in caplog.records)
    assert first.startswith(f"waiting for process {holder.pid} on {os.uname().nodename} (since 20")
    assert first.endswith(f"), which is making the thing ({path})")
    assert last.startswith("waited ") and last.endswith(" s for the thing")


def test_locked_refuses_where_it_shall_not_wait(holder, tmp_path):
    path = tmp_path / "thing.safetensors"
    with (
        pytest.raises(LseError, match=f"process {holder.pid} on .* is making the thing .* Repeat"),
        locked(path, what="the thing", wait=False),
    ):
        pass


def test_a_killed_holder_leaves_no_lock(holder, tmp_path, caplog):
    holder.kill()
    holder.wait()
    with locked(tmp_path / "thing.safetensors", what="the thing", wait=False):
        pass
    assert not caplog.records
    assert list(tmp_path.iterdir()) == []


def test_locks_of_two_artefacts_do_not_meet(holder, tmp_path):
    with locked(tmp_path / "other.safetensors", what="another thing", wait=False):
        assert holder.poll() is None


def test_locked_leaves_nothing_behind_and_hides_what_it_needs(tmp_path):
    path = tmp_path / "new" / "thing.safetensors"
    with locked(path, what="the thing"):
        names = {file.name for file in path.parent.iterdir()}
        assert names == {".thing.safetensors.lock", ".thing.safetensors.holder"}
        note = json.loads((path.parent / ".thing.safetensors.holder").read_text(encoding="utf-8"))
        assert note["process"] == os.getpid()
    assert list(path.parent.iterdir()) == []


def test_locked_nests_and_lets_go_at_the_outermost(tmp_path, monkeypatch):
    path = tmp_path / "thing"
    monkeypatch.chdir(tmp_path)
    with locked(path, what="the thing"):
        with locked("thing", what="the thing, spelled otherwise", wait=False):
            pass
        assert (tmp_path / ".thing.lock").exists()
    assert not (tmp_path / ".thing.lock").exists()


def test_locked_lets_go_after_an_error(tmp_path):
    path = tmp_path / "thing"
    with pytest.raises(ZeroDivisionError), locked(path, what="the thing"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    with locked(path, what="the thing", wait=False):
        pass


def count_up(path, n):
    for _ in range(n):
        with locked(path, what="a number"):
            path.write_text(str(int(path.read_text()) + 1))


def test_locked_loses_no_update_of_many(tmp_path):
    path = tmp_path / "number.txt"
    path.write_text("0")
    processes = [SPAWN.Process(target=count_up, args=(path, 40)) for _ in range(3)]
    for process in processes:
        process.start()
    count_up(path, 40)
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert path.read_text() == "160"
    assert [file.name for file in tmp_path.iterdir()] == ["number.txt"]


def test_locked_removes_what_killed_processes_left_of_the_artefact_alone(tmp_path):
    run = tmp_path / "target"
    left = [
        tmp_path / ".target.abc_1234",
        run / ".subnetwork.safetensors.x1y2z3a_.safetensors",
        run / ".subnetwork.json.x1y2z3a4.json",
        run / ".model.12345678",
    ]
    kept = [
        tmp_path / ".other.abcd1234",
        tmp_path / "target.safetensors",
        run / "curves.csv",
        run / ".hidden",
        run / "checkpoints",
    ]
    for path in (*left, *kept):
        path.mkdir(parents=True)
    with locked(run, what="a run"):
        assert not any(path.exists() for path in left)
    assert all(path.exists() for path in kept)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
@pytest.mark.filterwarnings("ignore:flock not supported")
def test_locked_says_that_a_file_system_has_no_locks(tmp_path, monkeypatch, number):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    message = "has no locks .* keep two processes from making the thing .* Set LSE_LOCKS=off"
    with (
        pytest.raises(LseError, match=message),
        locked(tmp_path / "thing", what="the thing"),
    ):
        pass
    monkeypatch.setenv("LSE_LOCKS", "off")
    with locked(tmp_path / "thing", what="the thing"):
        assert list(tmp_path.iterdir()) == []


def test_locked_says_that_the_folder_cannot_be_written_to(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(LseError, match="Could not write the thing into .*file/folder .* Give a fol"),
        locked(tmp_path / "file" / "folder" / "thing", what="the thing"),
    ):
        pass
