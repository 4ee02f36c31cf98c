"""One training run from packed text to a `FinetuneRun`: found finished, continued, or begun.

A run is known by its settings: everything its result depends on. A folder that holds a run with
other settings, finished or not, is refused.
"""

import contextlib
import functools
import hashlib
import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Int64
from torch import Tensor

from lse_interp.artifacts.locks import locked
from lse_interp.artifacts.provenance import provenance
from lse_interp.artifacts.reuse import differences
from lse_interp.core.errors import ArtifactError, LseError, MismatchError
from lse_interp.core.processes import Processes
from lse_interp.models import HookedModel
from lse_interp.models.info import ModelInfo
from lse_interp.subnetworks.finetune_run import FinetuneRun
from lse_interp.training.checkpoints import CheckpointStore
from lse_interp.training.hyperparameters import NEURON_METHODS, Hyperparameters
from lse_interp.training.loop import Trained, train
from lse_interp.training.methods.prepare import Prepared, prepared
from lse_interp.training.sharded_leaves import is_sharded
from lse_interp.training.token_blocks import Text

__all__ = ["Job", "check_folder"]

logger = logging.getLogger(__name__)

_CHECKPOINTS = "checkpoints"
# Settings of a finished run that follow from others.
_RECORDED = ("n_training_tokens", "tokens")


def check_folder(folder: str | Path | None, *, method: str) -> None:
    """Refuse a run without a folder that needs one, before any text is read.

    Raises:
        LseError: A method, or several processes, that cannot do without.
    """
    if folder is not None:
        return
    if method not in NEURON_METHODS:
        raise LseError(f"Method {method} changes whole matrices; give a `folder` to keep them in.")
    if Processes.find().world > 1:
        raise LseError("Several processes meet in one folder; give them a `folder`.")


@dataclass(frozen=True, eq=False)
class Job:
    """What is trained, on what and how."""

    model: HookedModel
    language: str
    method: str
    """One of `options.METHODS`."""
    label: str
    """The method as the run names it: `random:size`."""
    neurons: tuple[Int64[Tensor, " _neuron"], ...] | None
    """What `choose_neurons` returned."""
    text: Text
    tokens: int | None
    """The token budget that was asked for."""
    source: str
    """Where the text came from."""
    options: Hyperparameters
    """Completed; see `Hyperparameters.completed`."""
    folder: Path | None
    """Where the run goes; None keeps nothing on disk; see `check_folder`."""
    overwrite: bool

    @functools.cached_property
    def _processes(self) -> Processes:
        return Processes.find()

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
        """Return the run that the folder holds, or go on with it, or begin it.

        The model is as it was afterwards, to the bit.

        Raises:
            MismatchError: The folder holds a run with other settings.
            ActivationError: The loss stopped being a number.
            LseError: A write failed, or another process is at this run.
        """
        # Several processes look together, below, so that they find the same; and what a process
        # left that was killed when it had finished is removed there.
        is_clean = self.folder is None or not (self.folder / _CHECKPOINTS).exists()
        if self._processes.world == 1 and is_clean and (found := self._finished()) is not None:
            return found
        with self._work_folder() as work:
            store = CheckpointStore(work / _CHECKPOINTS, self.settings)
            overwriting = None if self.folder is None else store.overwriting(self._checksum())
            goes_on = overwriting == "begun" and store.can_go_on()
            found = self._finished(anyway=overwriting == "done")
            # Nobody may change what another has yet to look at.
            self._processes.wait()
            if found is not None:
                self._leave(store, goes_on=goes_on)
                return found
            result = self._train(work, store, afresh=self.overwrite and not goes_on)
            if self.folder is not None and self._processes.is_main:
                with store.guarded("the result", folder=work):
                    result.save(work)
                store.clear()
            self._processes.wait()
        return result

    def _checksum(self) -> str | None:
        assert self.folder is not None
        try:
            return FinetuneRun.checksum(self.folder)
        except ArtifactError:
            if self.overwrite:
                return None
            raise

    def _leave(self, store: CheckpointStore, *, goes_on: bool) -> None:
        """Delete what is left beside a finished run, unless a killed `overwrite` can go on."""
        if goes_on:
            logger.info(
                "%s: training it again ended early; --overwrite goes on from %s",
                self.folder,
                store.last(),
            )
        elif self._processes.is_main:
            store.clear()

    def _finished(self, *, anyway: bool = False) -> FinetuneRun | None:
        """Return the finished run in the folder, unless it is to be overwritten, or `anyway`."""
        if self.folder is None or self.overwrite and not anyway:
            return None
        if not FinetuneRun.exists(self.folder):
            return None
        found = FinetuneRun.load(self.folder)
        before = {name: value for name, value in found.settings.items() if name not in _RECORDED}
        if changed := differences(before, self.settings):
            if self.overwrite:
                return None
            raise MismatchError(
                f"{self.folder} holds a finished run with other settings: {changed}. Pass --name "
                "to keep both, or --overwrite to train again."
            )
        logger.info("%s is finished; --overwrite trains again", self.folder)
        return found

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

    def _train(self, work: Path, store: CheckpointStore, *, afresh: bool) -> FinetuneRun:
        replaces = self._checksum() if afresh and self.folder is not None else None
        resume_from = store.open(
            overwrite=afresh, is_main=self._processes.is_main, finished=replaces
        )
        with prepared(
            self.model, method=self.method, neurons=self.neurons, options=self.options
        ) as ready:
            trained = train(
                ready.hf,
                ready.engine,
                training=self.text.training,
                validation=self.text.validation,
                options=self.options,
                language=self.language,
                store=store,
                resume_from=resume_from,
                log_folder=work / "tensorboard"
                if self.folder and self._processes.is_main
                else None,
            )
            if self.folder is not None:
                with store.guarded("the result", folder=work):
                    if self.method not in NEURON_METHODS and self._processes.is_main:
                        # An earlier run would seem to have made the matrices of this one.
                        FinetuneRun.discard(work)
                    ready.keep(work, is_main=self._processes.is_main)
            return self._result(ready, trained)

    def _result(self, ready: Prepared, trained: Trained) -> FinetuneRun:
        n_tokens = self.text.training.n_labels
        return FinetuneRun(
            language=self.language,
            method=self.label,
            model=self.info,
            neurons=self.neurons,
            rows=ready.rows(),
            base=ready.base,
            curves=trained.curves,
            settings={**self.settings, "n_training_tokens": n_tokens, "tokens": self.tokens},
            results={**trained.results, "n_trainable": ready.n_trainable},
            provenance=provenance(
                corpus=self.source,
                device=self.model.device,
                n_processes=self._processes.world,
                sharded=is_sharded(self.model.hf.parameters()),
            ),
            folder=self.folder,
        )


def _digest(neurons: Sequence[Tensor]) -> str:
    found = hashlib.sha256()
    for layer in neurons:
        found.update(f"{len(layer)} ".encode())
        found.update(layer.numpy().tobytes())
    return found.hexdigest()[:16]
