"""`finetune_language`: train the neurons of a language, or a baseline, in a model in memory."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from jaxtyping import Int64
from torch import Tensor

from lse_interp.artifacts.registry import writer_command
from lse_interp.core.errors import LseError
from lse_interp.core.languages import lookup
from lse_interp.data.corpora import Corpus
from lse_interp.models.hooked import HookedModel
from lse_interp.neurons.sets import NeuronSets
from lse_interp.subnetworks.finetune_run import FinetuneRun
from lse_interp.training.hyperparameters import Hyperparameters
from lse_interp.training.methods import METHODS, Method
from lse_interp.training.text_sources import reader, require_kinds
from lse_interp.training.token_blocks import pack_text
from lse_interp.training.training_run import TrainingRun, check_folder

__all__ = ["choose_neurons", "finetune_language"]


def finetune_language(
    model: HookedModel,
    corpus: Corpus | Iterable[str],
    *,
    language: str,
    validation: Mapping[str, Iterable[str]],
    method: str = "target",
    neurons: NeuronSets | None = None,
    random_match: str | None = None,
    n_tokens: int | None = None,
    options: Hyperparameters | None = None,
    folder: str | Path | None = None,
    overwrite: bool = False,
) -> FinetuneRun:
    """Train a language's neurons (or a baseline), and return what changed.

    The model is the same afterwards, to the bit: put the result into it with `apply_subnetwork`.
    While `ffn` and `full` train, the host keeps a copy of the weights they change.

    Args:
        model: The model, with its tokenizer.
        corpus: Text of the language: a corpus, or documents.
        language: ISO 639-3, or any spelling that `lookup` knows.
        validation: Language -> documents; that of `language` decides which weights are best.
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
    require_kinds(corpus, validation, neurons)
    kind = METHODS[method]
    if neurons is not None:
        model.info.require_same(neurons.model, what="The neuron set")
    options = (options or Hyperparameters()).with_defaults(kind, model.defaults)
    check_folder(folder, method=kind)
    chosen = choose_neurons(
        neurons, language=language, method=kind, variant=random_match, seed=options.seed
    )
    text = pack_text(
        model,
        reader(corpus),
        {lookup(code).code: texts for code, texts in validation.items()},
        language=language,
        n_tokens=n_tokens,
        options=options,
    )
    return TrainingRun(
        model=model,
        language=language,
        method=kind,
        label=kind.label(random_match),
        neurons=chosen,
        text=text,
        n_tokens=n_tokens,
        source=corpus.source if isinstance(corpus, Corpus) else "in memory",
        options=options,
        folder=None if folder is None else Path(folder),
        overwrite=overwrite,
    ).run()


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
