"""The checkpoint of an unfinished run: one file of one run, written whole or not at all."""

import contextlib
import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lse_interp.artifacts.atomic import remove_folder, remove_leftovers
from lse_interp.artifacts.format import load_artifact, read_meta, save_artifact
from lse_interp.artifacts.reuse import differences
from lse_interp.core.errors import ArtifactError, MismatchError

__all__ = ["CheckpointStore", "State"]

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


class CheckpointStore:
    """A folder with the last checkpoint of one run, and the best weights so far.

    Args:
        folder: The folder; it need not exist.
        settings: Everything the run depends on, JSON-ready.
        overwrite: Whether to ignore a checkpoint that is damaged or of a run with other settings,
            instead of refusing it.
    """

    def __init__(
        self, folder: Path, settings: Mapping[str, Any], *, overwrite: bool = False
    ) -> None:
        self.folder = folder
        self.settings: dict[str, Any] = json.loads(json.dumps(dict(settings)))
        self.overwrite = overwrite

    @property
    def path(self) -> Path:
        """The file of the checkpoint."""
        return self.folder / "last.safetensors"

    @property
    def _best(self) -> Path:
        return self.folder / "best.safetensors"

    def found(self) -> State | None:
        """Return how far the checkpoint has come; None if there is none to resume from.

        Raises:
            ArtifactError: It is damaged.
            MismatchError: It belongs to a run with other settings.
        """
        if not self.path.exists():
            return None
        try:
            with _remedied():
                meta = read_meta(self.path, kind=_KIND, version=_VERSION)
            if changed := differences(meta["settings"], self.settings):
                raise MismatchError(
                    f"{self.folder.parent} holds an unfinished run with other settings: {changed}. "
                    "Repeat the command that began it, or pass --overwrite to train from the "
                    "beginning."
                )
            if self.overwrite:
                self.load()
        except (ArtifactError, MismatchError):
            if self.overwrite:
                return None
            raise
        rows = [tuple(row) for row in meta["state"].pop("curves")]
        return State(**meta["state"], curves=rows)

    def load(self) -> dict[str, Tensor]:
        """Read the tensors of the checkpoint.

        Raises:
            ArtifactError: They are damaged.
        """
        with _remedied():
            return load_artifact(self.path, kind=_KIND, version=_VERSION)[0]

    def save(self, tensors: Mapping[str, Tensor], *, state: State) -> None:
        """Write a checkpoint and replace the previous one.

        Raises:
            WriteError: It could not be written; the previous one is kept.
        """
        meta = {"settings": self.settings, "state": dataclasses.asdict(state)}
        save_artifact(self.path, kind=_KIND, version=_VERSION, tensors=tensors, meta=meta)

    def save_best(self, leaves: Mapping[str, Tensor], *, step: int) -> None:
        """Keep the weights of the best validation so far.

        Raises:
            WriteError: They could not be written; the previous ones are kept.
        """
        meta = {"step": step}
        save_artifact(self._best, kind=_BEST_KIND, version=_VERSION, tensors=leaves, meta=meta)

    def load_best(self) -> dict[str, Tensor]:
        """Read the best weights."""
        return load_artifact(self._best, kind=_BEST_KIND, version=_VERSION)[0]

    def tidy(self, *, keep: bool) -> None:
        """Delete what a killed process left half written; unless `keep`, the folder as a whole."""
        if not keep:
            remove_folder(self.folder)
        elif self.folder.is_dir():
            remove_leftovers(self.folder)


@contextlib.contextmanager
def _remedied() -> Iterator[None]:
    try:
        yield
    except ArtifactError as error:
        raise ArtifactError(f"{error} {_REMEDY}") from error
