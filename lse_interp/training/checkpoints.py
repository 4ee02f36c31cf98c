"""Checkpoints of an unfinished run: written whole or not at all, and of one run alone."""

import contextlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError
from torch import Tensor

from lse_interp.artifacts.atomic import remove_folder, write_atomic
from lse_interp.artifacts.folder_checksums import check_sums, write_sums
from lse_interp.artifacts.format import load_artifact, read_meta, save_artifact
from lse_interp.artifacts.reuse import differences
from lse_interp.core.errors import ArtifactError, LseError, MismatchError, WriteError

__all__ = ["CheckpointStore"]

logger = logging.getLogger(__name__)

_SETTINGS = "settings.json"
_OVERWRITES = "overwrites.json"
_KIND, _VERSION = "training_weights", 1


class CheckpointStore:
    """A folder with the checkpoints of one run, and the best weights so far.

    Args:
        folder: Where; need not exist.
        settings: Everything the run depends on, JSON-ready.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self._settings = json.loads(json.dumps(dict(settings)))

    def overwriting(self, finished: str | None) -> Literal["begun", "done"] | None:
        """Say how far a run got that began with `overwrite`; None if no such run is here.

        Args:
            finished: The checksum of the finished run, which `open` took when it began.
        """
        try:
            found = json.loads((self.folder / _OVERWRITES).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return "begun" if finished in (None, found["finished"]) else "done"

    def can_go_on(self) -> bool:
        """Say whether there is a checkpoint of this very run that is whole."""
        record, last = self.folder / _SETTINGS, self.last()
        try:
            if last is None or differences(_read_settings(record), self._settings):
                return False
            check_sums(last, remedy="")
        except ArtifactError:
            return False
        return True

    def open(
        self, *, overwrite: bool, is_main: bool = True, finished: str | None = None
    ) -> Path | None:
        """Claim the folder for this run, and return the checkpoint to go on from, if any.

        Args:
            overwrite: Whether to start afresh, whatever is there.
            is_main: Whether this process is the one, of several, that writes.
            finished: With `overwrite`, the checksum of a finished run that this one replaces.

        Raises:
            MismatchError: The folder belongs to a run with other settings.
            ArtifactError: The settings or the checkpoint are damaged.
            LseError: It cannot be written to.
        """
        if overwrite and is_main:
            self.clear()
        record = self.folder / _SETTINGS
        if not overwrite and not record.exists() and self.last() is not None:
            raise ArtifactError(
                f"{self.folder} holds checkpoints, but {_SETTINGS}, which says of what, is "
                "missing. Pass --overwrite to start afresh."
            )
        if record.exists() and not overwrite:
            found = _read_settings(record)
            if changed := differences(found, self._settings):
                raise MismatchError(
                    f"{self.folder} holds an unfinished run with other settings: {changed}. Repeat "
                    "the command that began it, or pass --overwrite to start afresh."
                )
        if is_main:
            text = json.dumps(self._settings, indent=2, ensure_ascii=False) + "\n"
            with self.guarded("the settings of the run"):
                if overwrite:
                    about = json.dumps({"finished": finished})
                    write_atomic(self.folder / _OVERWRITES, lambda path: path.write_text(about))
                write_atomic(record, lambda path: path.write_text(text, encoding="utf-8"))
        last = None if overwrite else self.last()
        if last is not None:
            check_sums(last, remedy="Start the run afresh with --overwrite.")
        return last

    def last(self) -> Path | None:
        """Return the newest complete checkpoint."""
        complete = self._complete()
        return complete[-1] if complete else None

    @property
    def staging(self) -> Path:
        """Where a checkpoint is written before it is complete."""
        return self.folder / ".writing"

    @contextlib.contextmanager
    def staged(self, step: int) -> Iterator[Path]:
        """Write the checkpoint of a step: yields its parent folder, and keeps it if all goes well.

        The checkpoint before it is deleted once this one is complete.

        Raises:
            LseError: It could not be written; the one before is still there.
        """
        staging = self.staging
        shutil.rmtree(staging, ignore_errors=True)
        name = f"checkpoint-{step}"
        try:
            with self.guarded(f"the checkpoint of step {step}"):
                staging.mkdir(parents=True)
                yield staging
                write_sums(staging / name)
                shutil.rmtree(self.folder / name, ignore_errors=True)
                (staging / name).rename(self.folder / name)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        for older in self._complete()[:-1]:
            shutil.rmtree(older, ignore_errors=True)

    def save_best(self, leaves: Mapping[str, Tensor], *, step: int) -> None:
        """Keep the weights of the best validation so far.

        Raises:
            LseError: They could not be written; those before are still there.
        """
        with self.guarded(f"the best weights, of step {step}"):
            save_artifact(
                self._best,
                kind=_KIND,
                version=_VERSION,
                tensors=leaves,
                meta={"step": step},
            )

    def load_best(self) -> dict[str, Tensor]:
        """Read the weights kept."""
        return load_artifact(self._best, kind=_KIND, version=_VERSION)[0]

    def best_step(self) -> int:
        """Return the step of the weights kept."""
        return read_meta(self._best, kind=_KIND, version=_VERSION)["step"]

    @contextlib.contextmanager
    def guarded(self, what: str, *, folder: Path | None = None) -> Iterator[None]:
        """Turn a failed write, by default into this folder, into an error that says what is left.

        Raises:
            LseError: The write failed.
        """
        try:
            yield
        except (OSError, RuntimeError, SafetensorError, WriteError) as error:
            if not _is_of_writing(error):
                raise
            last = self.last()
            left = f"{last} is complete" if last else "there is no earlier checkpoint"
            folder = folder or self.folder
            reason = error.__cause__ if isinstance(error, WriteError) else error
            there = next(path for path in (folder, *folder.parents) if path.exists())
            free = shutil.disk_usage(there).free / 1e6
            raise LseError(
                f"Could not write {what} into {folder} ({reason}); {free:,.0f} MB are free there. "
                f"Nothing is lost: {left}. Make room, and repeat the command to go on."
            ) from error

    def clear(self) -> None:
        """Delete the folder."""
        remove_folder(self.folder)

    @property
    def _best(self) -> Path:
        return self.folder / "best.safetensors"

    def _complete(self) -> list[Path]:
        found = self.folder.glob("checkpoint-[0-9]*")
        return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))


def _is_of_writing(error: Exception) -> bool:
    # torch.save reports a full disk as RuntimeError, as others do a full GPU or a lost process.
    return not isinstance(error, RuntimeError) or any(
        name in str(error) for name in ("PytorchStreamWriter", "inline_container", "iostream")
    )


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{path}, which says what the unfinished run beside it depends on, cannot be read "
            f"({error}). Pass --overwrite to start afresh."
        ) from error
    return found if isinstance(found, dict) else {}
