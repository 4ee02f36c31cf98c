"""Several processes that share one piece of work, as `accelerate launch` or `torchrun` start them.

They divide the work through a few shared counters, first come, first served, so that a fast
process does more of it; and they meet where all must agree. A process that meets nobody because
another has ended is told so.
"""

import contextlib
import datetime
import itertools
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import distributed

from lse_interp.core.errors import ArtifactError, LseError

__all__ = ["Ranks", "require_one_folder"]

_T = TypeVar("_T")

# Nobody waits for longer than another takes for one shard, which on slow machines is hours. Who
# waits for a process that ended is told at once; only where a machine vanishes without closing
# its connections does the wait last this long.
_PATIENCE = datetime.timedelta(days=1)
_STATUS = 2
_FAILURES = "failures"
_ENDED = (
    "Another process of this run has ended; its own message, or that of the launcher (killed, out "
    "of memory), says why. What is finished is kept: repeat the command to go on."
)

# Processes that were launched together call `Ranks.find` equally often, so that they agree on the
# number of each call, under which its counters are kept.
_calls = itertools.count()


@dataclass(frozen=True)
class Ranks:
    """One process among `world` that share a piece of work."""

    rank: int = 0
    world: int = 1
    joined: bool = False
    """Whether `find` made the process group, so that `leave` may end it."""
    counters: Any = field(default_factory=distributed.HashStore)
    """Whole numbers that all processes see."""

    @classmethod
    def find(cls) -> "Ranks":
        """Join the process group that the launcher's environment announces, if it does.

        The processes exchange nothing but small numbers, so they meet through gloo on any machine.
        """
        joined = False
        if not distributed.is_initialized():
            if int(os.environ.get("WORLD_SIZE", "1")) == 1:
                return cls()
            distributed.init_process_group("gloo", timeout=_PATIENCE)
            joined = True
        shared = distributed.distributed_c10d._get_default_store()
        return cls(
            distributed.get_rank(),
            distributed.get_world_size(),
            joined,
            distributed.PrefixStore(f"lse_interp/{_attempt()}/{next(_calls)}", shared),
        )

    @property
    def is_main(self) -> bool:
        """Whether this process logs and merges."""
        return self.rank == 0

    def device(self, asked: str | None) -> str | None:
        """Choose the device of this process: a GPU of its own unless told otherwise."""
        if self.world == 1 or asked not in (None, "cuda") or not torch.cuda.is_available():
            return asked
        return f"cuda:{int(os.environ.get('LOCAL_RANK', self.rank)) % torch.cuda.device_count()}"

    def add(self, counter: str, n: int) -> int:
        """Add to a counter that starts at zero; return what all processes have added to it.

        Raises:
            LseError: The counters went with the process or machine that kept them.
        """
        with _told():
            return self.counters.add(counter, n)

    def claim(self, counter: str) -> int:
        """Take the next number of a counter, from 0; no other process gets the same.

        Raises:
            LseError: Another process has failed, so that there is no more work.
        """
        self.require_all()
        return self.add(counter, 1) - 1

    def require_all(self) -> None:
        """Go on only while no process has failed.

        Raises:
            LseError: One has.
        """
        if self.add(_FAILURES, 0):
            raise LseError(_ENDED)

    def decide(self, choose: Callable[[], _T]) -> _T:
        """Let the main process choose something, which all of them return.

        Raises:
            LseError: The main process ended instead; in that process, why.
        """
        if self.world == 1:
            return choose()
        chosen: list[Any] = [choose() if self.is_main else None]
        with _told():
            distributed.broadcast_object_list(chosen)
        return chosen[0]

    def gather(self, value: _T) -> list[_T]:
        """Return the values of all processes, in the order of their ranks."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        with _told():
            distributed.all_gather_object(values, value)
        return values

    def once(self, do: Callable[[], object]) -> None:
        """Do something in the main process while the others wait for it."""
        if self.is_main:
            do()
        self.wait()

    def wait(self) -> None:
        """Wait until every process is here.

        Raises:
            LseError: One of them has ended.
        """
        if self.world > 1:
            with _told():
                distributed.barrier()

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Fail together, with one message per machine; leave the process group at the end.

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
        self.leave()

    def leave(self) -> None:
        """End the process group that `find` made."""
        if self.joined:
            distributed.destroy_process_group()

    def _is_first_to_fail(self) -> bool:
        # Every machine has a log of its own.
        machine = os.environ.get("GROUP_RANK", "0")
        with contextlib.suppress(LseError):
            self.add(_FAILURES, 1)
            return self.add(f"{_FAILURES} on {machine}", 1) == 1
        return True


def _attempt() -> str:
    """Number the tries of a launcher that starts again what failed (`--max_restarts`)."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")


def require_one_folder(folder: str | Path, ranks: Ranks) -> None:
    """Refuse a folder that is not the same one for all processes, before they work for hours.

    Args:
        folder: Made if it is not there.
        ranks: The processes.

    Raises:
        ArtifactError: Some process does not see what the main process writes; in all of them.
        LseError: The folder cannot be written to.
    """
    folder = Path(folder)
    if ranks.world == 1:
        return
    with _writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
    mark = folder / ranks.decide(lambda: f".meeting-{os.getpid()}-{os.urandom(4).hex()}")
    try:
        with _writable(folder):
            ranks.once(mark.touch)
        views = ranks.gather((mark.exists(), f"{folder.absolute()} on {socket.gethostname()}"))
    finally:
        if ranks.is_main:
            with contextlib.suppress(OSError):
                mark.unlink()
    if blind := [rank for rank, (sees, _) in enumerate(views) if not sees]:
        raise ArtifactError(
            f"All processes must see one folder. Process 0 writes to {views[0][1]}; process "
            f"{blind[0]} looks into {views[blind[0]][1]} and does not find it there. Give them "
            "one --root on a shared file system."
        )


@contextlib.contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LseError(
            f"Could not write into {folder} ({error}). Give a folder that can be written to "
            "(--root), or make room."
        ) from error


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Say what an error of gloo or of the store means."""
    try:
        yield
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise LseError(f"{_ENDED} ({reason[:200]})") from error
