"""The checkpoint of an unfinished run: one file of one run, written whole or not at all."""

import contextlib
import dataclasses
import json
import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from lse_interp.artifacts.atomic import remove_folder, remove_leftovers
from lse_interp.artifacts.format import load_artifact, read_meta, save_artifact
from lse_interp.core.errors import ArtifactError, LseError, WriteError

__all__ = ["Checkpoint", "CheckpointStore", "State"]

_KIND, _BEST_KIND, _VERSION = "training_checkpoint", "training_weights", 1
_REMEDY = "Pass --overwrite to train from the beginning."


@dataclasses.dataclass
class State:
    """How far a run has come."""

    step: int = 0
    """Optimizer steps taken."""
    tokens: int = 0
    """Tokens predicted in them."""
    best_step: int = 0
    """The step of the best validation so far; step 0 does not count."""
    best_loss: float = math.inf
    curves: list[tuple[int, int, str, str, float]] = dataclasses.field(default_factory=list)
    """Rows of `CURVE_COLUMNS`."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The description of a checkpoint, without its tensors."""

    settings: Mapping[str, Any]
    """The settings of its run."""
    overwrites: str | None
    """For a run that overwrites: the checksum of the finished run that it will replace, or an empty
    text if there was none. None for a run that does not overwrite."""
    state: State


class CheckpointStore:
    """A folder with the last checkpoint of one run, and the best weights so far.

    Args:
        folder: The folder; it need not exist.
        settings: Everything the run depends on, JSON-ready.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self.settings: dict[str, Any] = json.loads(json.dumps(dict(settings)))
        self.overwrites: str | None = None
        """The value of `Checkpoint.overwrites` in the next checkpoint."""

    @property
    def path(self) -> Path:
        """The file of the checkpoint."""
        return self.folder / "last.safetensors"

    @property
    def _best(self) -> Path:
        return self.folder / "best.safetensors"

    def found(self) -> Checkpoint | None:
        """Read the description of the checkpoint; None if there is none.

        Raises:
            ArtifactError: It is damaged.
        """
        if not self.path.exists():
            return None
        with _remedied():
            meta = read_meta(self.path, kind=_KIND, version=_VERSION)
        rows = [tuple(row) for row in meta["state"].pop("curves")]
        return Checkpoint(meta["settings"], meta["overwrites"], State(**meta["state"], curves=rows))

    def load(self) -> dict[str, Tensor]:
        """Read the tensors of the checkpoint.

        Raises:
            ArtifactError: They are damaged.
        """
        with _remedied():
            return load_artifact(self.path, kind=_KIND, version=_VERSION)[0]

    def is_whole(self) -> bool:
        """Say whether the checkpoint can be read."""
        try:
            self.load()
        except ArtifactError:
            return False
        return True

    def save(self, tensors: Mapping[str, Tensor], *, state: State) -> None:
        """Write a checkpoint and replace the previous one.

        Raises:
            LseError: It could not be written; the previous one is kept.
        """
        meta = Checkpoint(self.settings, self.overwrites, state)
        with self.guarded(f"the checkpoint of step {state.step}"):
            save_artifact(
                self.path,
                kind=_KIND,
                version=_VERSION,
                tensors=tensors,
                meta=dataclasses.asdict(meta),
            )

    def save_best(self, leaves: Mapping[str, Tensor], *, step: int) -> None:
        """Keep the weights of the best validation so far.

        Raises:
            LseError: They could not be written; the previous ones are kept.
        """
        with self.guarded(f"the best weights, of step {step}"):
            save_artifact(
                self._best, kind=_BEST_KIND, version=_VERSION, tensors=leaves, meta={"step": step}
            )

    def load_best(self) -> dict[str, Tensor]:
        """Read the best weights."""
        return load_artifact(self._best, kind=_BEST_KIND, version=_VERSION)[0]

    def tidy(self) -> None:
        """Delete the temporary files that a killed process left."""
        if self.folder.is_dir():
            remove_leftovers(self.folder)

    def clear(self) -> None:
        """Delete the folder."""
        remove_folder(self.folder)

    def what_is_left(self) -> str:
        """Say in a few words which checkpoint a failed run leaves behind."""
        with contextlib.suppress(ArtifactError):
            if found := self.found():
                return f"the checkpoint of step {found.state.step} ({self.path}) is complete"
        return "there is no checkpoint yet"

    @contextlib.contextmanager
    def guarded(self, what: str, *, folder: Path | None = None) -> Iterator[None]:
        """Turn a failed write, by default into this folder, into an error that says what is left.

        Raises:
            LseError: The write failed.
        """
        try:
            yield
        except (OSError, SafetensorError, WriteError) as error:
            folder = folder or self.folder
            reason = error.__cause__ if isinstance(error, WriteError) else error
            parent = next(path for path in (folder, *folder.parents) if path.exists())
            free = shutil.disk_usage(parent).free / 1e6
            raise LseError(
                f"Could not write {what} into {folder} ({reason}); {free:,.0f} MB are free there. "
                f"Nothing is lost: {self.what_is_left()}. Make room, and repeat the command to "
                "resume."
            ) from error


@contextlib.contextmanager
def _remedied() -> Iterator[None]:
    try:
        yield
    except ArtifactError as error:
        raise ArtifactError(f"{error} {_REMEDY}") from error
