"""Which of several processes this is, as `accelerate launch` or `torchrun` started them."""

import datetime
import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import distributed

__all__ = ["Ranks"]

# Processes meet only behind all their shards; on slow machines these take hours.
_PATIENCE = datetime.timedelta(days=7)


@dataclass(frozen=True)
class Ranks:
    """One process among `world` that share the shards of a corpus."""

    rank: int = 0
    world: int = 1
    joined: bool = False
    """Whether `find` made the process group, so that `leave` may end it."""

    @classmethod
    def find(cls) -> "Ranks":
        """Join the process group that the launcher's environment announces, if it does.

        The processes exchange nothing but "I am done", so they meet through gloo on any machine.
        """
        joined = False
        if not distributed.is_initialized():
            if int(os.environ.get("WORLD_SIZE", "1")) == 1:
                return cls()
            distributed.init_process_group("gloo", timeout=_PATIENCE)
            joined = True
        return cls(distributed.get_rank(), distributed.get_world_size(), joined)

    @property
    def is_main(self) -> bool:
        """Whether this process logs and merges."""
        return self.rank == 0

    def owns(self, shard: int) -> bool:
        """Whether this process counts a shard."""
        return shard % self.world == self.rank

    def device(self, asked: str | None) -> str | None:
        """Choose the device of this process: a GPU of its own unless told otherwise."""
        if self.world == 1 or asked not in (None, "cuda") or not torch.cuda.is_available():
            return asked
        return f"cuda:{int(os.environ.get('LOCAL_RANK', self.rank)) % torch.cuda.device_count()}"

    def once(self, do: Callable[[], object]) -> None:
        """Do something in the main process while the others wait for it."""
        if self.is_main:
            do()
        self.wait()

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.world > 1:
            distributed.barrier()

    def leave(self) -> None:
        """End the process group that `find` made."""
        if self.joined:
            distributed.destroy_process_group()
