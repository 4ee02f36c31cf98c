"""What the environment says of processes, and the rules that need no second process."""

import pytest
import torch
from torch.distributed import HashStore

from lse_interp.core.errors import ActivationError, LseError
from lse_interp.core.processes import Processes


@pytest.fixture
def launched_by(monkeypatch):
    """Return a function that sets what a launcher sets in the environment."""

    def setting(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))
        return Processes.find()

    return setting


def test_find_reads_the_launcher(launched_by):
    alone = Processes.find()
    assert (alone.rank, alone.world, alone.is_main) == (0, 1, True)
    found = launched_by(RANK=5, WORLD_SIZE=8, LOCAL_RANK=1, LOCAL_WORLD_SIZE=4, GROUP_RANK=1)
    assert found == Processes(rank=5, world=8, local_rank=1, local_world=4, machine=1)
    assert not found.is_main


def test_one_process_needs_nobody(tmp_path):
    with Processes().joined() as alone:
        alone.wait()
        alone.require_all()
        assert alone.decide(lambda: "this") == "this"
        assert alone.gather(3) == [3]
        alone.require_one_folder(tmp_path / "not made")
    assert not (tmp_path / "not made").exists()


def test_device_is_a_gpu_of_its_own(launched_by, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert Processes.find().device(None) == "cuda"
    assert Processes.find().device("cuda:1") == "cuda:1"
    third = launched_by(WORLD_SIZE=4, RANK=3, LOCAL_RANK=1)
    assert third.device(None) == third.device("cuda") == "cuda:1"
    assert [third.device(asked) for asked in ("cpu", "auto")] == ["cpu", "auto"]
    # As where the launcher shows each process one GPU.
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert third.device(None) == "cuda:0"
    assert launched_by(ACCELERATE_USE_CPU="True").device(None) == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert third.device(None) == "cpu"


@pytest.mark.parametrize("rank", [0, 1])
def test_a_folder_that_cannot_be_made_is_one_error(tmp_path, rank):
    (tmp_path / "file").write_text("")
    with pytest.raises(LseError, match=r"Could not write into .*file/counts .*\(--root\)"):
        Processes(rank, 2).require_one_folder(tmp_path / "file" / "counts")


@pytest.mark.parametrize(("rank", "outcome"), [(0, ActivationError), (1, SystemExit)])
def test_together_reports_the_first_failure_of_a_machine(rank, outcome):
    counters = HashStore()
    caught = []
    for part in range(2):
        with (
            pytest.raises((ActivationError, SystemExit)) as error,
            Processes(part, 2, counters=counters).together(),
        ):
            raise ActivationError("not finite")
        caught.append(error.type)
    assert caught[rank] is outcome


def test_together_reports_on_every_machine():
    counters = HashStore()
    for machine in range(2):
        with (
            pytest.raises(ActivationError, match="not finite"),
            Processes(machine, 2, machine=machine, counters=counters).together(),
        ):
            raise ActivationError("not finite")


def test_together_reports_each_failure_of_one_process():
    for _ in range(2):
        with pytest.raises(ActivationError, match="not finite"), Processes().together():
            raise ActivationError("not finite")


def test_require_all_stops_the_others_after_a_failure():
    counters = HashStore()
    failing, other = (Processes(rank, 2, counters=counters) for rank in range(2))
    other.require_all()
    with pytest.raises(ActivationError), failing.together():
        raise ActivationError("not finite")
    with pytest.raises(LseError, match="Another process of this run has ended"):
        other.require_all()


def test_counters_that_are_gone_are_one_error():
    class Gone:
        def add(self, counter, n):
            raise RuntimeError("Connection reset by peer")

    with pytest.raises(LseError, match=r"has ended.*\(Connection reset by peer\)"):
        Processes(1, 2, counters=Gone()).add("anything", 1)
