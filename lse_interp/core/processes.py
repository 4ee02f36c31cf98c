"""The processes of one launch, as `accelerate launch` or `torchrun` start them.

This module alone reads which process this is, of how many, and on which machine. Processes meet
where all must agree, and add to whole numbers that all of them see. If one ends early, the others
are told when they next meet or count.
"""

import atexit
import contextlib
import datetime
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import distributed

from lse_interp.core.errors import ArtifactError, LseError

__all__ = ["Processes"]

_T = TypeVar("_T")

# A process waits for others that count a shard or read a model, which can take hours. A process
# that ends closes its connections, so this is the limit only where a machine vanishes.
_PATIENCE = datetime.timedelta(days=1)
_PATIENCE_IN_TRAINING = datetime.timedelta(hours=2)
_STATUS = 2
_FAILURES = "failures"
_ENDED = (
    "Another process of this run has ended. Its own message, or that of the launcher (killed, out "
    "of memory), says why. Finished work is kept: repeat the command to resume."
)


@dataclass(frozen=True)
class Processes:
    """This process among the `world` that were launched together."""

    rank: int = 0
    """Which of them; 0 is the main process, which writes and logs."""
    world: int = 1
    local_rank: int = 0
    """Which of the processes on this machine."""
    local_world: int = 1
    """How many are on this machine."""
    machine: int = 0
    counters: Any = field(default_factory=distributed.HashStore, repr=False, compare=False)
    """Whole numbers that all processes see, once they have joined."""

    @classmethod
    def find(cls) -> "Processes":
        """Read the launcher's environment, or the process group if there is one."""
        found = {
            "rank": _number("RANK", 0),
            "world": _number("WORLD_SIZE", 1),
            "local_rank": _number("LOCAL_RANK", _number("RANK", 0)),
            "local_world": _number("LOCAL_WORLD_SIZE", 1),
            "machine": _number("GROUP_RANK", 0),
        }
        if not _has_joined():
            return cls(**found)
        # A launcher that starts failed processes again (`--max_restarts`) numbers its attempts.
        prefix = f"lse_interp/{_number('TORCHELASTIC_RESTART_COUNT', 0)}"
        store = distributed.distributed_c10d._get_default_store()
        met = {"rank": distributed.get_rank(), "world": distributed.get_world_size()}
        return cls(**found | met, counters=distributed.PrefixStore(prefix, store))

    @property
    def is_main(self) -> bool:
        """Whether this process writes and logs."""
        return self.rank == 0

    def device(self, asked: str | None) -> str:
        """Choose the device of this process: a GPU of its own where there are GPUs."""
        if asked is None:
            uses_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
            asked = "cuda" if torch.cuda.is_available() and not uses_cpu else "cpu"
        if asked != "cuda" or self.world == 1:
            return asked
        return f"cuda:{self.local_rank % max(1, torch.cuda.device_count())}"

    @contextlib.contextmanager
    def joined(self, *, trains_on: str | None = None) -> Iterator["Processes"]:
        """Meet the other processes; all stay together as long as they live.

        Args:
            trains_on: The device, if processes exchange gradients. Otherwise they exchange small
                numbers, through gloo on any machine.
        """
        if self.world > 1 and not _has_joined():
            if trains_on is None:
                distributed.init_process_group("gloo", timeout=_PATIENCE)
            else:
                from accelerate import PartialState

                PartialState(cpu=trains_on == "cpu", timeout=_PATIENCE_IN_TRAINING)
        yield Processes.find() if _has_joined() else self
        if self.world > 1:
            # Not before: processes that have parted cannot meet again in the same launch.
            atexit.register(_part)

    def add(self, counter: str, n: int) -> int:
        """Add to a counter that starts at zero; return what all processes have added to it.

        Raises:
            LseError: The process or machine that keeps the counters has ended.
        """
        with _told():
            return self.counters.add(counter, n)

    def require_all(self) -> None:
        """Stop this process if another one has failed.

        Raises:
            LseError: One has.
        """
        if self.world > 1 and self.add(_FAILURES, 0):
            raise LseError(_ENDED)

    def wait(self) -> None:
        """Wait until every process is here. Processes that have not joined do not wait.

        Raises:
            LseError: One of them has ended.
        """
        if self.world > 1 and _has_joined():
            with _told():
                distributed.barrier()

    def decide(self, choose: Callable[[], _T]) -> _T:
        """Let the main process choose something, and return it in all of them.

        Raises:
            LseError: The main process has ended. That process raises the reason.
        """
        chosen: list[Any] = self.gather(choose() if self.is_main else None)
        return chosen[0]

    def gather(self, value: _T) -> list[_T]:
        """Return the values of all processes, in the order of their ranks.

        Raises:
            LseError: One of them has ended.
        """
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        with _told():
            distributed.all_gather_object(values, value)
        return values

    def require_one_folder(self, folder: str | Path) -> None:
        """Refuse a folder that is not the same one for all processes, before they work for hours.

        Args:
            folder: Made if it does not exist.

        Raises:
            ArtifactError: Some process does not see what the main process writes; in all of them.
            LseError: The folder cannot be written to.
        """
        folder = Path(folder)
        if self.world == 1:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            name = f".meeting-{os.getpid()}-{os.urandom(4).hex()}"
            if self.is_main:
                (folder / name).touch()
        except OSError as error:
            raise LseError(
                f"Could not write into {folder} ({error}). Give a folder that can be written to "
                "(--root), or make room."
            ) from error
        mark = folder / self.decide(lambda: name)
        try:
            views = self.gather((mark.exists(), f"{folder.absolute()} on {socket.gethostname()}"))
        finally:
            if self.is_main:
                mark.unlink(missing_ok=True)
        if blind := [rank for rank, (sees, _) in enumerate(views) if not sees]:
            raise ArtifactError(
                f"All processes must see one folder. Process 0 writes to {views[0][1]}; process "
                f"{blind[0]} looks into {views[blind[0]][1]} and does not find it there. Give them "
                "one --root on a shared file system."
            )

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Fail together, with one message per machine.

        Raises:
            SystemExit: This process failed, and so did another one before, which says why.
            LseError: This process failed first.
        """
        try:
            yield
        except LseError:
            if self.world > 1 and not self._is_first_to_fail():
                raise SystemExit(_STATUS) from None
            raise

    def _is_first_to_fail(self) -> bool:
        # Every machine has a log of its own.
        with contextlib.suppress(LseError):
            self.add(_FAILURES, 1)
            return self.add(f"{_FAILURES} on {self.machine}", 1) == 1
        return True


def _has_joined() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def _part() -> None:
    if _has_joined():
        distributed.destroy_process_group()


def _number(variable: str, default: int) -> int:
    return int(os.environ.get(variable, default))


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Say what an error of gloo or of the store means."""
    try:
        yield
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise LseError(f"{_ENDED} ({reason[:200]})") from error
