"""One training run from packed text to a `FinetuneRun`: reused, resumed or started.

Its settings identify a run: everything its result depends on. A folder that holds a run with other
settings, finished or not, is refused.
"""

import contextlib
import functools
import hashlib
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jaxtyping import Float, Int64
from torch import Tensor

from lse_interp.artifacts.locks import locked
from lse_interp.artifacts.provenance import provenance
from lse_interp.artifacts.reuse import differences
from lse_interp.core.errors import ArtifactError, LseError, MismatchError
from lse_interp.core.processes import Processes
from lse_interp.models.hooked import HookedModel
from lse_interp.models.info import ModelInfo
from lse_interp.models.mlp_weights import read_rows
from lse_interp.subnetworks.finetune_run import FinetuneRun
from lse_interp.training.checkpoints import Checkpoint, CheckpointStore, State
from lse_interp.training.hyperparameters import Hyperparameters
from lse_interp.training.loop import train
from lse_interp.training.methods import Method
from lse_interp.training.sharded_leaves import is_sharded
from lse_interp.training.token_blocks import Text

__all__ = ["Finished", "TrainingRun", "check_folder", "next_step"]

logger = logging.getLogger(__name__)

_CHECKPOINTS = "checkpoints"
# Settings of a finished run that follow from others.
_RECORDED = ("n_training_tokens", "tokens")


@dataclass(frozen=True)
class Finished:
    """What must be known of a finished run to decide what to do."""

    checksum: str
    settings: Mapping[str, Any]
    """Without those that follow from others."""


def check_folder(folder: str | Path | None, *, method: Method) -> None:
    """Refuse a run without a folder that needs one, before any text is read.

    Raises:
        LseError: The method, or a launch of several processes, needs a folder.
    """
    if folder is not None:
        return
    if method.keep is not None:
        raise LseError(
            f"Method {method.name} changes whole matrices; give a `folder` to keep them in."
        )
    if Processes.find().world > 1:
        raise LseError("Several processes meet in one folder; give them a `folder`.")


def next_step(
    settings: Mapping[str, Any],
    *,
    finished: Finished | None,
    checkpoint: Checkpoint | None,
    overwrite: bool,
    folder: Path,
) -> Literal["reuse", "resume", "begin"]:
    """Decide what to do about a run, from what its folder holds.

    Args:
        settings: Those of the requested run.
        finished: The finished run in the folder.
        checkpoint: The checkpoint in the folder.
        overwrite: Whether to repeat a finished run.
        folder: As errors name it.

    Returns:
        `reuse` the finished run, `resume` from the checkpoint, or `begin`.

    Raises:
        MismatchError: The folder holds a run with other settings, and is not to be overwritten.
    """
    other = finished and differences(finished.settings, settings)
    unlike = checkpoint and differences(checkpoint.settings, settings)
    if overwrite:
        if checkpoint is None or unlike or checkpoint.overwrites is None:
            return "begin"
        if finished is None or finished.checksum == checkpoint.overwrites:
            return "resume"
        # The finished run is not the one that was to be replaced, so this command made it.
        return "begin" if other else "reuse"
    if other:
        raise MismatchError(
            f"{folder} holds a finished run with other settings: {other}. Pass --name to keep "
            "both, or --overwrite to train again."
        )
    if finished is not None:
        return "reuse"
    if unlike:
        raise MismatchError(
            f"{folder} holds an unfinished run with other settings: {unlike}. Repeat the command "
            "that began it, or pass --overwrite to train from the beginning."
        )
    return "begin" if checkpoint is None else "resume"


@dataclass(frozen=True, eq=False)
class TrainingRun:
    """One training: its model, its text and its settings."""

    model: HookedModel
    language: str
    """ISO 639-3."""
    method: Method
    label: str
    """The method as the run names it: `random:size`."""
    neurons: tuple[Int64[Tensor, " _neuron"], ...] | None
    """The neurons that the method chose, per layer; None if it chooses none."""
    text: Text
    n_tokens: int | None
    """The requested token budget."""
    source: str
    """Where the text came from."""
    options: Hyperparameters
    """With all defaults filled in."""
    folder: Path | None
    """Where the run goes; None keeps nothing on disk; see `check_folder`."""
    overwrite: bool

    @functools.cached_property
    def info(self) -> ModelInfo:
        """The model before training, on which `settings` depends."""
        return self.model.info

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """Everything the result depends on."""
        settings = {
            "language": self.language,
            "method": self.label,
            "model": self.info.fingerprint,
            "dtype": str(self.model.dtype),
            "neurons": None if self.neurons is None else _digest(self.neurons),
            "training_text": self.text.training.digest,
            "validation_text": {c: blocks.digest for c, blocks in self.text.validation.items()},
            **self.options.describe(self.method),
        }
        if self._processes.world > 1:
            settings["n_processes"] = self._processes.world
        return settings

    def run(self) -> FinetuneRun:
        """Return the finished run in the folder; otherwise resume or begin it.

        The model is the same afterwards, to the bit.

        Raises:
            MismatchError: The folder holds a run with other settings.
            ArtifactError: The finished run or the checkpoint is damaged.
            ActivationError: The loss stopped being a number.
            LseError: A write failed, or another process is at this run.
        """
        with self._processes.joined(trains_on=self.model.device.type):
            # Several processes look together, below, so that all find the same.
            if self._processes.world == 1 and (found := self._plainly_finished()) is not None:
                return found
            with self._work_folder() as work:
                return self._find_or_train(self._store(work))

    def _find_or_train(self, store: CheckpointStore) -> FinetuneRun:
        step, finished, checkpoint = self._look(store)
        if step == "resume" and self.overwrite and not self._processes.decide(store.is_whole):
            step = "begin"
        # No process may change the folder before the others have looked at it.
        self._processes.wait()
        if step == "reuse":
            assert finished is not None
            if checkpoint is not None and checkpoint.overwrites == self._checksum():
                logger.info(
                    "training %s again ended early; --overwrite resumes from step %d",
                    self.folder,
                    checkpoint.state.step,
                )
            elif self._processes.is_main:
                store.clear()
            return finished
        resume_from = checkpoint if step == "resume" else None
        if resume_from is None and self._processes.is_main:
            store.clear()
        if self.overwrite:
            store.overwrites = resume_from.overwrites if resume_from else self._checksum()
        store.tidy()
        result = self._train(store, resume_from=resume_from.state if resume_from else None)
        if self.folder is not None and self._processes.is_main:
            with store.guarded("the result", folder=self.folder):
                result.save(self.folder)
            store.clear()
        self._processes.wait()
        return result

    @property
    def _processes(self) -> Processes:
        return Processes.find()

    def _store(self, work: Path) -> CheckpointStore:
        return CheckpointStore(work / _CHECKPOINTS, self.settings)

    def _plainly_finished(self) -> FinetuneRun | None:
        """Return the finished run if nothing is left to do or to delete; this takes no lock."""
        folder = self.folder
        if folder is None or self.overwrite or (folder / _CHECKPOINTS).exists():
            return None
        return self._look(self._store(folder))[1]

    def _look(self, store: CheckpointStore) -> tuple[str, FinetuneRun | None, Checkpoint | None]:
        """Return what to do, with the finished run and the checkpoint that were found."""
        run = checkpoint = None
        with self._damage_allowed():
            checkpoint = store.found()
        with self._damage_allowed():
            if self.folder is not None and FinetuneRun.exists(self.folder):
                run = FinetuneRun.load(self.folder)
        finished = None
        if run is not None:
            before = {k: v for k, v in run.settings.items() if k not in _RECORDED}
            finished = Finished(self._checksum(), before)
        step = next_step(
            self.settings,
            finished=finished,
            checkpoint=checkpoint,
            overwrite=self.overwrite,
            folder=store.folder.parent,
        )
        if step == "reuse":
            logger.info("%s is finished; --overwrite trains again", self.folder)
        return step, run, checkpoint

    def _checksum(self) -> str:
        """Return the checksum of the finished run in the folder; empty if there is none."""
        with self._damage_allowed():
            if self.folder is not None:
                return FinetuneRun.checksum(self.folder) or ""
        return ""

    def _damage_allowed(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.suppress(ArtifactError) if self.overwrite else contextlib.nullcontext()

    @contextlib.contextmanager
    def _work_folder(self) -> Iterator[Path]:
        """Keep the folder for this run; the main process does so for all that were launched."""
        if self.folder is None:
            with tempfile.TemporaryDirectory(prefix="lse_interp-") as temporary:
                yield Path(temporary)
            return
        # A launch would lose patience while its main process waits, so it is told at once.
        what = f"the run {self.label} of {self.language}"
        lock = locked(self.folder, what=what, wait=self._processes.world == 1)
        with lock if self._processes.is_main else contextlib.nullcontext():
            self._processes.wait()
            yield self.folder

    def _train(self, store: CheckpointStore, *, resume_from: State | None) -> FinetuneRun:
        method, is_main, folder = self.method, self._processes.is_main, self.folder
        base = self._rows()
        with self._prepared() as ready:
            trained = train(
                ready.hf,
                ready.engine,
                text=self.text,
                options=self.options,
                language=self.language,
                store=store,
                resume_from=resume_from,
                log_folder=folder / "tensorboard" if folder and is_main else None,
            )
            if method.keep is not None and folder is not None:
                with store.guarded("the result", folder=folder):
                    if is_main:
                        # An earlier run would seem to have made the matrices of this one.
                        FinetuneRun.discard(folder)
                    method.keep(self.model, ready, folder, is_main=is_main)
            n_labels = self.text.training.n_labels
            n_trainable = sum(leaf.numel() for leaf in ready.engine.leaves().values())
            return FinetuneRun(
                language=self.language,
                method=self.label,
                model=self.info,
                neurons=self.neurons,
                rows=self._rows(),
                base=base,
                curves=trained.curves,
                settings={**self.settings, "n_training_tokens": n_labels, "tokens": self.n_tokens},
                results={**trained.results, "n_trainable": n_trainable},
                provenance=provenance(
                    corpus=self.source,
                    device=self.model.device,
                    n_processes=self._processes.world,
                    sharded=is_sharded(self.model.hf.parameters()),
                ),
                folder=folder,
            )

    @contextlib.contextmanager
    def _prepared(self) -> Iterator[Any]:
        was_training = self.model.hf.training
        with self.method.prepare(self.model, neurons=self.neurons, options=self.options) as ready:
            try:
                yield ready
            finally:
                self.model.hf.train(was_training)

    def _rows(self) -> tuple[Float[Tensor, "projection _neuron d_model"], ...] | None:
        """Copy the weights that the chosen neurons have now to the host."""
        if self.neurons is None:
            return None
        return tuple(
            read_rows(self.model, layer, chosen).cpu() for layer, chosen in enumerate(self.neurons)
        )


def _digest(neurons: Sequence[Tensor]) -> str:
    found = hashlib.sha256()
    for layer in neurons:
        found.update(f"{len(layer)} ".encode())
        found.update(layer.numpy().tobytes())
    return found.hexdigest()[:16]
