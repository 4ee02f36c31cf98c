"""Which of several processes this is, as `accelerate launch` or `torchrun` started them."""

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch

__all__ = ["Ranks"]


@dataclass(frozen=True)
class Ranks:
    """One process among `world` that share the shards of a corpus."""

    rank: int = 0
    world: int = 1
    device: torch.device | None = None
    """The device of this process; None where it is alone and may choose."""

    @classmethod
    def find(cls) -> "Ranks":
        """Join the process group that the launcher's environment announces, if it does."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        from accelerate import PartialState

        state = PartialState()
        return cls(rank=state.process_index, world=state.num_processes, device=state.device)

    @property
    def is_main(self) -> bool:
        """Whether this process logs and merges."""
        return self.rank == 0

    def owns(self, shard: int) -> bool:
        """Whether this process counts a shard."""
        return shard % self.world == self.rank

    def once(self, do: Callable[[], object]) -> None:
        """Do something in the main process while the others wait for it."""
        if self.is_main:
            do()
        self.wait()

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.world > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()

    def leave(self) -> None:
        """Leave the process group."""
        if self.world > 1:
            from accelerate import PartialState

            PartialState().destroy_process_group()
