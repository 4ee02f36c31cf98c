"""Finished shards of an unfinished run, one file each, so that a killed run can go on."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float64, Int64
from torch import Tensor, tensor

from lse_interp.core.artifacts import load_artifact, read_meta, save_artifact
from lse_interp.core.errors import MismatchError
from lse_interp.core.settings import differences

__all__ = ["Shard", "ShardStore"]

_KIND, _VERSION = "activation_counts_shard", 1


@dataclass(frozen=True)
class Shard:
    """Counts over consecutive blocks of a corpus."""

    n_positive: Int64[Tensor, "layer neuron"]
    activation_sum: Float64[Tensor, "layer neuron"]
    n_tokens: int


@dataclass(frozen=True)
class ShardStore:
    """A folder of finished shards that all belong to one set of settings.

    A shard file is written whole or not at all, and carries everything its numbers depend on, so
    that shards of a run with other settings are refused instead of mixed in.
    """

    folder: Path
    settings: Mapping[str, Any]

    def load_all(self) -> dict[int, Shard]:
        """Read the shards that are there, by index.

        Raises:
            MismatchError: A shard was counted with other settings.
            ArtifactError: A shard was altered after it was written.
        """
        return {int(path.stem): self._load(path) for path in self._files()}

    def save(self, index: int, shard: Shard) -> None:
        """Write one shard."""
        save_artifact(
            self.folder / f"{index:05d}.safetensors",
            kind=_KIND,
            version=_VERSION,
            tensors={
                "n_positive": shard.n_positive,
                "activation_sum": shard.activation_sum,
                "n_tokens": tensor(shard.n_tokens),
            },
            meta={"settings": dict(self.settings), "index": index},
        )

    def clear(self) -> None:
        """Delete the folder."""
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def _files(self) -> list[Path]:
        # Digits only: a process that was killed may have left a temporary file.
        return sorted(self.folder.glob("[0-9]*.safetensors"))

    def _load(self, path: Path) -> Shard:
        found = read_meta(path, kind=_KIND, version=_VERSION)["settings"]
        if changed := differences(found, self.settings):
            raise MismatchError(
                f"{self.folder} holds shards of an unfinished run with other settings: {changed}. "
                "Repeat the command that began it, or pass --overwrite to start afresh."
            )
        tensors, _ = load_artifact(path, kind=_KIND, version=_VERSION)
        return Shard(
            n_positive=tensors["n_positive"],
            activation_sum=tensors["activation_sum"],
            n_tokens=int(tensors["n_tokens"]),
        )
