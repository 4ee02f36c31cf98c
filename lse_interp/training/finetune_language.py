"""`finetune_language`: train the neurons of a language, or a baseline, in a model in memory.

The settings of a run are everything its result depends on. A folder that holds a run with other
settings, finished or not, is refused. With `overwrite`, a finished run stays until the new one
replaces it, and checkpoints have a folder of their own: the same call, repeated after it was
killed, resumes from them.
"""

import contextlib
import dataclasses
import functools
import inspect
import logging
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jaxtyping import Float, Int64
from torch import Tensor

from lse_interp.artifacts.atomic import remove_folder
from lse_interp.artifacts.locks import locked
from lse_interp.artifacts.provenance import provenance
from lse_interp.artifacts.registry import writer_command
from lse_interp.artifacts.reuse import differences
from lse_interp.core.errors import LseError, MismatchError
from lse_interp.core.languages import by_code, lookup
from lse_interp.core.processes import Processes
from lse_interp.data.corpora import Corpus
from lse_interp.data.parallel import ParallelText
from lse_interp.models.hooked import HookedModel
from lse_interp.models.info import ModelInfo
from lse_interp.models.mlp_weights import read_rows
from lse_interp.neurons.indices import hash_indices
from lse_interp.neurons.sets import NeuronSets
from lse_interp.subnetworks.finetune_run import FinetuneRun
from lse_interp.training.checkpoints import CheckpointStore, State
from lse_interp.training.hyperparameters import Hyperparameters
from lse_interp.training.loop import train
from lse_interp.training.methods import METHODS, Method
from lse_interp.training.sharded_leaves import is_sharded
from lse_interp.training.text_sources import reader, require_kinds
from lse_interp.training.token_blocks import Text, pack_text

__all__ = ["choose_neurons", "finetune_language"]

logger = logging.getLogger(__name__)

_CHECKPOINTS = {False: "checkpoints", True: "new-checkpoints"}
"""Folder of the checkpoints, by `overwrite`."""
_RECORDED = ("n_training_tokens", "tokens")
"""Settings of a finished run that follow from others."""


def finetune_language(
    model: HookedModel,
    corpus: Corpus | Iterable[str],
    *,
    language: str,
    validation: Mapping[str, Iterable[str]] | ParallelText,
    method: str = "target",
    neurons: NeuronSets | None = None,
    random_match: str | None = None,
    n_tokens: int | None = None,
    options: Hyperparameters | None = None,
    folder: str | Path | None = None,
    overwrite: bool = False,
    **hyperparameters: Any,
) -> FinetuneRun:
    """Train a language's neurons (or a baseline), and return what changed.

    The model is the same afterwards, to the bit: put the result into it with `apply_subnetwork`.
    While `ffn` and `full` train, the host keeps a copy of the weights they change.

    Args:
        model: The model, with its tokenizer.
        corpus: Text of the language: a corpus, or documents.
        language: ISO 639-3, or any spelling that `lookup` knows.
        validation: Language -> documents, or parallel text; that of `language` decides which
            weights are best. Of each, `options.validation_sentences` are taken evenly, by default
            200.
        method: `target`, `random`, `ffn`, `full`, `lora`, or one that another package adds.
        neurons: Sets found on this model, with `language` among them; for `target` and `random`.
        random_match: What random neurons have in common with the language's: `size` (the default),
            `layer` or `activity`.
        n_tokens: Text tokens to train on; None takes all, up to the paper's 100 million.
        options: Hyper-parameters; None takes the value of the method or of `model.defaults`.
        folder: Where the run, its checkpoints and logs go. If the run was interrupted, the same
            call resumes it. None keeps nothing on disk; only `target` and `random` allow it.
        overwrite: Whether to repeat a finished run, and to delete an unfinished run in `folder`
            first. If interrupted, the same call resumes.
        hyperparameters: Fields of `Hyperparameters` by name, such as `lr=1e-4`; they replace those
            in `options`.

    Returns:
        The run, with the weights of the best validation loss.

    Raises:
        MismatchError: Neurons of another model, or a folder with another unfinished run.
        LanguageError: A language that is unknown or not in `neurons`.
        CorpusError: No text, one text instead of several, too little, or validation text that is
            training text too.
        ActivationError: The loss stopped being a number.
        LseError: An argument is out of range, no neurons, or a failed write.

    Source: paper, sections 3.2, 4.1, 4.3.
    """
    language = lookup(language).code
    if isinstance(validation, ParallelText):
        validation = validation.sentences
    require_kinds(corpus, validation, neurons)
    kind = METHODS[method]
    if neurons is not None:
        model.info.require_same(neurons.model, what="The neuron set")
    options = (options or Hyperparameters()).replace(
        hyperparameters, others=inspect.signature(finetune_language).parameters
    )
    options = options.with_defaults(kind, model.defaults)
    if folder is None and kind.keep is not None:
        raise LseError(f"Method {method} changes whole matrices; give a `folder` to keep them in.")
    if folder is None and Processes.find().world > 1:
        raise LseError("Several processes meet in one folder; give them a `folder`.")
    chosen = choose_neurons(
        neurons, language=language, method=kind, variant=random_match, seed=options.seed
    )
    text = pack_text(
        model,
        reader(corpus),
        by_code(validation),
        language=language,
        n_tokens=n_tokens,
        options=options,
    )
    with contextlib.ExitStack() as stack:
        stack.enter_context(Processes.find().joined(trains_on=model.device.type))
        where = folder or stack.enter_context(tempfile.TemporaryDirectory(prefix="lse_interp-"))
        run = _Run(
            model=model,
            language=language,
            method=kind,
            label=kind.label(random_match),
            neurons=chosen,
            text=text,
            n_tokens=n_tokens,
            source=corpus.source if isinstance(corpus, Corpus) else "in memory",
            options=options,
            folder=Path(where),
            overwrite=overwrite,
        )
        found = run.find_or_train()
    return dataclasses.replace(found, folder=None) if folder is None else found


def choose_neurons(
    neurons: NeuronSets | None,
    *,
    language: str,
    method: Method,
    variant: str | None = None,
    seed: int,
) -> tuple[Int64[Tensor, " _neuron"], ...] | None:
    """Return the neurons that a method trains, per layer; None if it chooses none.

    Args:
        neurons: Sets with the language among them; may be None if the method chooses none.
        language: The language to train, ISO 639-3.
        method: The method.
        variant: What random neurons match; None takes the method's own default.
        seed: Of a random draw.

    Raises:
        LseError: No neuron sets, or none for this language.
        LanguageError: The sets lack the language.

    Source: paper, sections 3.2 and 4.3 (iii).
    """
    if method.choose is None:
        return None
    if neurons is None:
        raise LseError(
            f"Method {method.name} needs neurons; give the sets that "
            f"`{writer_command('neuron_sets')}` writes."
        )
    if not neurons.size(language):
        raise LseError(
            f"The set of {language} is empty, so there is nothing to train. Identify more neurons "
            f"(a larger --k of `{writer_command('neuron_sets')}`), or choose another language: "
            f"{', '.join(code for code in neurons if neurons.size(code))}."
        )
    return method.choose(
        neurons, language=language, variant=variant or method.default_variant, seed=seed
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Run:
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
    folder: Path
    """Where the run goes."""
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
            "prefix": list(self.model.prefix),
            "neurons": None if self.neurons is None else hash_indices(self.neurons),
            "training_text": self.text.training.digest,
            "validation_text": {c: blocks.digest for c, blocks in self.text.validation.items()},
            **self.options.describe(self.method),
        }
        if self._processes.world > 1:
            settings["n_processes"] = self._processes.world
        return settings

    def find_or_train(self) -> FinetuneRun:
        """Return the finished run in the folder; otherwise resume or begin it."""
        left = (self.folder / _CHECKPOINTS[False]).exists()
        # Nothing to delete: no lock. Several processes look together, below.
        if self._processes.world == 1 and not left and (found := self._finished()) is not None:
            return found
        # A launch would lose patience while its main process waits, so it is told at once.
        what = f"the run {self.label} of {self.language}"
        lock = locked(self.folder, what=what, wait=self._processes.world == 1)
        with lock if self._processes.is_main else contextlib.nullcontext():
            self._processes.wait()
            return self._find_or_train()

    def _find_or_train(self) -> FinetuneRun:
        store = CheckpointStore(
            self.folder / _CHECKPOINTS[self.overwrite], self.settings, overwrite=self.overwrite
        )
        finished = self._finished()
        resume_from = None if finished else store.found()
        # No process may change the folder before the others have looked at it.
        self._processes.wait()
        if self._processes.is_main:
            store.tidy(keep=resume_from is not None)
        if finished is not None:
            return finished
        result = self._train(store, resume_from=resume_from)
        if self._processes.is_main:
            result.save(self.folder)
            for name in _CHECKPOINTS.values():
                remove_folder(self.folder / name)
        self._processes.wait()
        return result

    @property
    def _processes(self) -> Processes:
        return Processes.find()

    def _finished(self) -> FinetuneRun | None:
        """Return the finished run in the folder; None if there is none, or it is replaced."""
        if self.overwrite or not FinetuneRun.exists(self.folder):
            return None
        found = FinetuneRun.load(self.folder)
        before = {name: v for name, v in found.settings.items() if name not in _RECORDED}
        if changed := differences(before, self.settings):
            raise MismatchError(
                f"{self.folder} holds a finished run with other settings: {changed}. Pass --name "
                "to keep both, or --overwrite to train again."
            )
        logger.info("%s is finished; --overwrite trains again", self.folder)
        return found

    def _train(self, store: CheckpointStore, *, resume_from: State | None) -> FinetuneRun:
        method, is_main, folder = self.method, self._processes.is_main, self.folder
        base = self._rows()
        prepared = method.prepare(self.model, neurons=self.neurons, options=self.options)
        with prepared as ready:
            trained = train(
                ready.hf,
                ready.engine,
                text=self.text,
                options=self.options,
                language=self.language,
                store=store,
                resume_from=resume_from,
                log_folder=folder / "tensorboard" if is_main else None,
            )
            if method.keep is not None:
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
                    chosen_by=self.text.chosen_by,
                    device=self.model.device,
                    n_processes=self._processes.world,
                    sharded=is_sharded(self.model.hf.parameters()),
                ),
                folder=folder,
            )

    def _rows(self) -> tuple[Float[Tensor, "projection _neuron d_model"], ...] | None:
        """Copy the weights that the chosen neurons have now to the host."""
        if self.neurons is None:
            return None
        return tuple(
            read_rows(self.model, layer, chosen).cpu() for layer, chosen in enumerate(self.neurons)
        )
