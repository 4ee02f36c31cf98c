"""Finished shards of an unfinished count, one file each, so that a killed run can resume."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float64, Int64
from torch import Tensor, tensor

from lse_interp.artifacts.format import load_artifact, read_meta, save_artifact
from lse_interp.artifacts.reuse import differences
from lse_interp.core.errors import ArtifactError, MismatchError

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
    overwrite: bool = False
    """Count shards of other settings again, instead of refusing them."""

    def indices(self) -> set[int]:
        """Say which shards are finished.

        Raises:
            MismatchError: A shard was counted with other settings.
            ArtifactError: A shard cannot be read.
        """
        found = set()
        # Digits only: a process that was killed may have left a temporary file.
        for path in sorted(self.folder.glob("[0-9]*.safetensors")):
            try:
                self._check(read_meta(path, kind=_KIND, version=_VERSION), path)
            except (ArtifactError, MismatchError):
                if not self.overwrite:
                    raise
                continue
            found.add(int(path.stem))
        return found

    def load(self, index: int) -> Shard:
        """Read one shard.

        Raises:
            MismatchError: It was counted with other settings.
            ArtifactError: It does not exist, or was altered after it was written.
        """
        path = self._path(index)
        tensors, meta = load_artifact(path, kind=_KIND, version=_VERSION)
        self._check(meta, path)
        return Shard(
            n_positive=tensors["n_positive"],
            activation_sum=tensors["activation_sum"],
            n_tokens=int(tensors["n_tokens"]),
        )

    def save(self, index: int, shard: Shard) -> None:
        """Keep one shard."""
        save_artifact(
            self._path(index),
            kind=_KIND,
            version=_VERSION,
            tensors=vars(shard) | {"n_tokens": tensor(shard.n_tokens)},
            meta={"settings": dict(self.settings), "index": index},
        )

    def _path(self, index: int) -> Path:
        return self.folder / f"{index:05d}.safetensors"

    def _check(self, meta: Mapping[str, Any], path: Path) -> None:
        if meta["index"] != int(path.stem):
            raise ArtifactError(
                f"{path} holds shard {meta['index']}; it was renamed. Delete it and count it again."
            )
        if changed := differences(meta["settings"], self.settings):
            raise MismatchError(
                f"{path.parent} holds shards of an unfinished run with other settings: {changed}. "
                "Repeat the command that began it, or pass --overwrite to start from the beginning."
            )
