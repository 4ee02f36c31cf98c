r"""Train the neurons of a language, and nothing else; or a baseline, the same way.

For the neurons S of a language, the rows S of gate and up and the columns S of down are trained,

    min over theta_S of  E over text x  [ - sum over t  log p(x_t | x_<t; theta) ],

and every other weight stays as it is, to the bit. AdamW, one pass over the text, validation every
so many steps, and the weights of the best validation loss are kept. Source: paper, sections 3.2,
4.1; baselines: section 4.3.

    python -m lse_interp.finetune --lang mlt --method target
    python -m lse_interp.finetune --lang mlt --method random --random-match layer
    python -m lse_interp.finetune --lang mlt --tokens 10000 20000 40000
    accelerate launch --multi_gpu --num_processes 4 -m lse_interp.finetune --lang mlt \
        --model meta-llama/Llama-3.1-8B --dtype bfloat16 --corpus glotcc

writes `runs/<model>/finetune/<lang>/<method>/`: `subnetwork.safetensors` (the trained rows, before
and after), `curves.csv`, TensorBoard logs; `adapter/` for LoRA and `model/` for whole matrices. A
run that was killed goes on from its last checkpoint when the command is repeated.
"""

import gc
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lse_interp.core.cli import (
    CONFIG_FLAT,
    CorpusArgs,
    ModelArgs,
    answer_at_once,
    main_for,
    seed_everything,
)
from lse_interp.training.hyperparameters import NEURON_METHODS, Hyperparameters


@dataclass(frozen=True)
class Config:
    """Train one language's neurons, or a baseline, and keep what changed."""

    lang: str
    """The language to train, e.g. `mlt`."""
    method: Literal["target", "random", "ffn", "full", "lora"] = "target"
    """The language's neurons; as many random ones; gate, up and down whole; every weight; LoRA."""
    model: CONFIG_FLAT[ModelArgs] = ModelArgs()
    text: CONFIG_FLAT[CorpusArgs] = CorpusArgs()
    tokens: tuple[int, ...] = ()
    """Text tokens to train on; several make one run each, as in Figure 5. By default all of the
    embedded corpus (its split `adapt`), and up to 100 million of any other."""
    validation: str | None = None
    """Validation text: `embedded`, `flores`, `ntrex:<folder>`, or anything `--corpus` takes; by
    default the embedded split `dev` with the embedded corpus, else FLORES+ dev."""
    also: tuple[str, ...] = ("eng",)
    """Languages whose validation loss is measured too, to see what is forgotten."""
    neurons: Path | None = None
    """A neuron file; by default `root/<model>/neurons/lape.safetensors`."""
    random_match: Literal["size", "layer", "activity"] | None = None
    """What random neurons have in common with the language's: number (the default), number per
    layer, or activation probability too."""
    training: CONFIG_FLAT[Hyperparameters] = Hyperparameters()
    name: str | None = None
    """Folder of the run; by default made of method, match, tokens and seed."""
    root: Path = Path("runs")
    """Folder of all runs; this stage writes `root/<model>/finetune/<lang>/<name>/`."""
    overwrite: bool = False
    """Train again even if the run is there, or unfinished with other settings; killed, the same
    command goes on."""


if __name__ == "__main__":
    # Before the imports below, which take seconds.
    answer_at_once(Config, description=__doc__)

import torch

from lse_interp.artifacts.paths import RunPaths
from lse_interp.core.errors import CorpusError, LseError
from lse_interp.core.languages import lookup
from lse_interp.core.processes import Processes
from lse_interp.data import Corpus, load_corpus
from lse_interp.data.packing import require_documents
from lse_interp.data.parallel import load_parallel
from lse_interp.models import HookedModel, load_from_args
from lse_interp.models.placement.fsdp import load_sharded
from lse_interp.neurons.sets import NeuronSets
from lse_interp.subnetworks.finetune_run import FinetuneRun
from lse_interp.training.launch_options import Launch
from lse_interp.training.methods.prepare import choose_neurons
from lse_interp.training.token_blocks import pack_text
from lse_interp.training.training_run import Job, check_folder

__all__ = ["Config", "FinetuneRun", "Hyperparameters", "finetune_language", "main", "run"]

logger = logging.getLogger(__name__)


def finetune_language(
    model: HookedModel,
    corpus: Corpus | Iterable[str],
    *,
    language: str,
    validation: Mapping[str, Iterable[str]],
    method: str = "target",
    neurons: NeuronSets | None = None,
    random_match: Literal["size", "layer", "activity"] = "size",
    tokens: int | None = None,
    options: Hyperparameters | None = None,
    folder: str | Path | None = None,
    overwrite: bool = False,
) -> FinetuneRun:
    """Train a language's neurons (or a baseline), and return what changed.

    The model is the same afterwards as before, to the bit: put the result into it with
    `apply_subnetwork`. While `ffn` and `full` train, a copy of what they change waits on the host.

    Args:
        model: The model, with its tokenizer.
        corpus: Text of the language: a corpus, or documents.
        language: ISO 639-3, or any spelling that `lookup` knows.
        validation: Language -> documents; that of `language` decides which weights are best.
        method: `target`, `random`, `ffn`, `full` or `lora`.
        neurons: Sets found on this model, with `language` among them; for `target` and `random`.
        random_match: What random neurons have in common with the language's.
        tokens: Text tokens to train on; None takes all, up to the paper's 100 million.
        options: Hyper-parameters; None takes the paper's.
        folder: Where the run, its checkpoints and logs go. Called again with the same arguments,
            the function goes on from the last checkpoint. None keeps nothing on disk, which is
            for `target` and `random` alone.
        overwrite: Whether to train again what is finished, and to delete an unfinished run in
            `folder` first; one that began with `overwrite` goes on.

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
    _require_kinds(corpus, validation, neurons)
    if neurons is not None:
        model.info.require_same(neurons.model, what="The neuron set")
    options = (options or Hyperparameters()).completed(method, embedded=model.name == "embedded")
    check_folder(folder, method=method)
    chosen = choose_neurons(
        neurons, language=language, method=method, match=random_match, seed=options.seed
    )
    text = pack_text(
        model,
        _reader(corpus),
        {lookup(code).code: texts for code, texts in validation.items()},
        language=language,
        tokens=tokens,
        options=options,
    )
    job = Job(
        model=model,
        language=language,
        method=method,
        label=f"random:{random_match}" if method == "random" else method,
        neurons=chosen,
        text=text,
        tokens=tokens,
        source=corpus.source if isinstance(corpus, Corpus) else "in memory",
        options=options,
        folder=None if folder is None else Path(folder),
        overwrite=overwrite,
    )
    return job.run()


def run(config: Config) -> list[FinetuneRun]:
    """Train, once per token budget; finished runs are reused.

    Raises:
        LseError: See `finetune_language`, `load_model`, `load_corpus`; flags that contradict each
            other; a finished run with other settings.
    """
    launch = Launch.find()
    _check(config, launch, embedded=config.model.model == "embedded")
    device = Processes.find().device(config.model.device)
    with (
        launch.hidden(),
        Processes.find().joined(trains_on=device) as processes,
        processes.together(),
    ):
        return _run(config, launch, processes, device=torch.device(device))


def _run(
    config: Config, launch: Launch, processes: Processes, *, device: torch.device
) -> list[FinetuneRun]:
    language = lookup(config.lang).code
    paths = RunPaths(config.root, config.model.model)
    uses_neurons = config.method in NEURON_METHODS
    neurons = NeuronSets.load(config.neurons or paths.neurons) if uses_neurons else None
    corpus = _corpus(config, language)
    also = tuple(lookup(code).code for code in config.also)
    validation = _validation(config, dict.fromkeys((language, *also)))
    if not processes.is_main:
        logging.disable(logging.WARNING)
    runs = []
    for tokens in config.tokens or (None,):
        seed_everything(config.training.seed)
        folder = paths.finetune(language, config.name or _name(config, tokens))
        processes.require_one_folder(folder)
        # A cycle may hold the model of the run before, which leaves no room for another.
        gc.collect()
        runs.append(
            finetune_language(
                # Freshly loaded each time: a run starts from the bits of the checkpoint on disk.
                _load(config.model, launch, device=device),
                corpus,
                language=language,
                validation=validation,
                method=config.method,
                neurons=neurons,
                random_match=config.random_match or "size",
                tokens=tokens,
                options=config.training,
                folder=folder,
                overwrite=config.overwrite,
            )
        )
        _report(runs[-1], folder)
    return runs


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage from the command line."""
    return main_for(Config, run, argv, description=__doc__)


def _load(args: ModelArgs, launch: Launch, *, device: torch.device) -> HookedModel:
    if not launch.sharded:
        return load_from_args(replace(args, device=str(device)))
    return load_sharded(
        lambda: load_from_args(replace(args, device="cpu")),
        device=device,
        replicas=launch.replicas,
        reshard_after_forward=launch.reshard_after_forward,
    )


def _check(config: Config, launch: Launch, *, embedded: bool) -> None:
    """Refuse flags that contradict each other, all at once, before anything is loaded."""
    faults = launch.faults(device=config.model.device)
    if launch.sharded and config.model.backend != "torch":
        faults.append(f"--backend {config.model.backend} does not run sharded models; use torch.")
    if config.random_match is not None and config.method != "random":
        faults.append(f"--random-match needs --method random; got {config.method}.")
    if config.neurons is not None and config.method not in NEURON_METHODS:
        faults.append(f"--neurons needs --method target or random; got {config.method}.")
    if config.name is not None and Path(config.name).name != config.name:
        faults.append(f"--name is the name of one folder, without a path; got {config.name}.")
    if config.name is not None and len(config.tokens) > 1:
        faults.append("--name fits one run; --tokens asks for several. Leave out --name.")
    if any(tokens < 1 for tokens in config.tokens):
        faults.append(f"--tokens must be at least 1; got {', '.join(map(str, config.tokens))}.")
    if config.model.dtype == "float16":
        faults.append("--dtype float16 overflows in training; use bfloat16 or float32.")
    if config.model.device == "auto":
        faults.append(
            "--device auto is for reading activations; to train a model larger than one GPU, "
            "shard it: accelerate launch --use_fsdp --fsdp_version 2."
        )
    try:
        config.training.completed(config.method, embedded=embedded)
    except LseError as error:
        faults.append(str(error))
    if faults:
        raise LseError("\n".join(faults))


def _name(config: Config, tokens: int | None) -> str:
    parts: list[str] = [config.method]
    if config.method == "random":
        parts.append(config.random_match or "size")
    if config.training.profile != "fixed":
        parts.append(config.training.profile)
    if tokens is not None:
        parts.append(str(tokens))
    if config.training.seed:
        parts.append(f"seed{config.training.seed}")
    return "-".join(parts)


def _corpus(config: Config, language: str) -> Corpus:
    split = config.text.split
    if config.text.corpus == "embedded" and split is None:
        split = "adapt"
    return load_corpus(config.text.corpus, language=language, split=split)


def _validation(config: Config, languages: Iterable[str]) -> dict[str, tuple[str, ...]]:
    spec = config.validation
    if spec is None:
        spec = "embedded" if config.text.corpus == "embedded" else "flores"
    try:
        return _read_validation(spec, tuple(languages))
    except CorpusError as error:
        error.add_note("This is the validation text, which --validation names.")
        raise


def _read_validation(spec: str, languages: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    kind = spec.partition(":")[0]
    if kind in ("embedded", "flores", "ntrex"):
        split = None if kind == "ntrex" else "dev"
        parallel = load_parallel(spec, languages=languages, split=split)
        return dict(parallel.sentences)
    return {code: tuple(load_corpus(spec, language=code).documents()) for code in languages}


def _require_kinds(corpus: Any, validation: Any, neurons: Any) -> None:
    """Refuse what would fail later, in words that do not help."""
    if not isinstance(validation, Mapping):
        raise LseError(
            '`validation` must map languages to their documents, {"mlt": [text, ...]}; got '
            f"{type(validation).__name__}."
        )
    for name, texts in {"corpus": corpus, **validation}.items():
        require_documents(texts, what=name)
    if neurons is not None and not isinstance(neurons, NeuronSets):
        raise LseError(
            "`neurons` must be NeuronSets, of which the language's are taken; got "
            f"{type(neurons).__name__}. Pass the sets themselves, not those of one language."
        )


def _reader(corpus: Corpus | Iterable[str]) -> Callable[[], Iterable[str]]:
    if isinstance(corpus, Corpus):
        return corpus.documents
    documents = list(corpus)
    return lambda: documents


def _report(result: FinetuneRun, folder: Path) -> None:
    before, after = (result.results[k] for k in ("base_validation_loss", "validation_loss"))
    lines = [
        f"{lookup(code).name}: {before[code]:.4f} -> {loss:.4f} ({loss - before[code]:+.4f})"
        for code, loss in after.items()
    ]
    logger.info(
        "%s, %s: %s of %s weights trained (%.2f %%); best at step %d, %s tokens\n"
        "validation loss, nats per token: %s\n%s tokens/s, peak memory %.2f GB\nwrote %s",
        lookup(result.language).name,
        result.method,
        f"{result.results['n_trainable']:,}",
        f"{result.model.n_parameters:,}",
        100 * result.results["n_trainable"] / result.model.n_parameters,
        result.results["step"],
        f"{result.results['tokens']:,}",
        "; ".join(lines),
        f"{result.results['tokens_per_second']:,.0f}",
        result.results["peak_memory_bytes"] / 1e9,
        folder,
    )
    if after[result.language] >= before[result.language]:
        logger.warning("no validation was better than the base model; training did not help here")


if __name__ == "__main__":
    raise SystemExit(main())
