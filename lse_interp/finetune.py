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

import contextlib
import hashlib
import logging
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lse_interp.core.artifacts import RunPaths, provenance, write_folder
from lse_interp.core.cli import CONFIG_FLAT, CorpusArgs, ModelArgs, main_for, seed_everything
from lse_interp.core.errors import CorpusError, LseError, MismatchError
from lse_interp.core.finetune_runs import FinetuneRun
from lse_interp.core.languages import lookup
from lse_interp.core.neurons import NeuronSets
from lse_interp.core.settings import differences
from lse_interp.data import Corpus, load_corpus
from lse_interp.data.blocks import default_bos
from lse_interp.data.parallel import load_parallel
from lse_interp.models import HookedModel, load_from_args
from lse_interp.models.rows import read_rows, write_rows
from lse_interp.training.checkpoints import CheckpointStore
from lse_interp.training.loop import train
from lse_interp.training.methods import (
    Prepared,
    choose_neurons,
    prepared,
    put_back,
    weights_of,
)
from lse_interp.training.options import Hyperparameters
from lse_interp.training.text import (
    Packing,
    TokenBlocks,
    authors_blocks,
    require_disjoint,
    token_blocks,
)

__all__ = ["Config", "FinetuneRun", "Hyperparameters", "finetune", "main", "run"]

logger = logging.getLogger(__name__)

_PAPER_TOKENS = 100_000_000


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
    """A neuron file; by default `root/<model>/neurons.safetensors`."""
    random_match: Literal["size", "layer", "activity"] | None = None
    """What random neurons have in common with the language's: number (the default), number per
    layer, or activation probability too."""
    training: CONFIG_FLAT[Hyperparameters] = Hyperparameters()
    name: str | None = None
    """Folder of the run; by default made of method, match, tokens and seed."""
    root: Path = Path("runs")
    """Folder of all runs; this stage writes `root/<model>/finetune/<lang>/<name>/`."""
    overwrite: bool = False
    """Train again even if the run is there, or unfinished with other settings."""


def finetune(
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
        overwrite: Whether to delete an unfinished run in `folder` first.

    Returns:
        The run, with the weights of the best validation loss.

    Raises:
        MismatchError: Neurons of another model, or a folder with another unfinished run.
        LanguageError: A language that is unknown or not in `neurons`.
        CorpusError: No text, too little, or validation text that is training text too.
        ActivationError: The loss stopped being a number.
        LseError: An argument is out of range, no neurons, or a failed write.

    Source: paper, sections 3.2, 4.1, 4.3.
    """
    language = lookup(language).code
    if neurons is not None:
        model.info.require_same(neurons.model, what="The neuron set")
    options = (options or Hyperparameters()).completed(method, embedded=model.name == "embedded")
    if folder is None and method not in ("target", "random"):
        raise LseError(f"Method {method} changes whole matrices; give a `folder` to keep them in.")
    chosen = choose_neurons(
        neurons, language=language, method=method, match=random_match, seed=options.seed
    )
    label = f"random:{random_match}" if method == "random" else method
    text = _text(model, corpus, validation, language=language, tokens=tokens, options=options)
    info = model.info
    settings = {
        "language": language,
        "method": label,
        "model": info.fingerprint,
        "dtype": str(model.dtype),
        "neurons": None if chosen is None else _digest(chosen),
        "training_text": text[0].digest,
        "validation_text": {code: blocks.digest for code, blocks in text[1].items()},
        **options.describe(method),
    }
    if folder is not None and not overwrite and FinetuneRun.exists(folder):
        return _finished(Path(folder), settings)
    with _work_folder(folder) as work:
        store = CheckpointStore(work / "checkpoints", settings)
        resume_from = store.open(overwrite=overwrite)
        with prepared(model, method=method, neurons=chosen, options=options) as ready:
            changed = _train(
                model,
                ready,
                text,
                method=method,
                chosen=chosen,
                options=options,
                language=language,
                store=store,
                resume_from=resume_from,
                folder=None if folder is None else work,
            )
        result = FinetuneRun(
            language=language,
            method=label,
            model=info,
            neurons=chosen,
            settings=settings | {"n_training_tokens": text[0].n_labels, "tokens": tokens},
            provenance=provenance(corpus=_source(corpus), device=model.device),
            folder=None if folder is None else work,
            **changed,
        )
        if folder is not None and _is_main():
            result.save(work)
            store.clear()
    return result


def run(config: Config) -> list[FinetuneRun]:
    """Train, once per token budget; finished runs are reused.

    Raises:
        LseError: See `finetune`, `load_model`, `load_corpus`; flags that contradict each other; a
            finished run with other settings.
    """
    language = lookup(config.lang).code
    embedded = config.model.model == "embedded"
    _check(config, embedded=embedded)
    paths = RunPaths(config.root, config.model.model)
    uses_neurons = config.method in ("target", "random")
    neurons = NeuronSets.load(config.neurons or paths.neurons) if uses_neurons else None
    corpus = _corpus(config, language)
    also = tuple(lookup(code).code for code in config.also)
    validation = _validation(config, dict.fromkeys((language, *also)))
    if not _is_main():
        logging.disable(logging.WARNING)
    runs = []
    for tokens in config.tokens or (None,):
        seed_everything(config.training.seed)
        folder = paths.finetune(language, config.name or _name(config, tokens))
        # Freshly loaded each time: a run starts from the bits of the checkpoint on disk.
        model = load_from_args(replace(config.model, device=_device(config.model.device)))
        runs.append(
            finetune(
                model,
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


def _train(
    model: HookedModel,
    ready: Prepared,
    text: tuple[TokenBlocks, Mapping[str, TokenBlocks]],
    *,
    method: str,
    chosen: Sequence[Tensor] | None,
    options: Hyperparameters,
    language: str,
    store: CheckpointStore,
    resume_from: Path | None,
    folder: Path | None,
) -> dict[str, Any]:
    """Train, collect what changed, and put the weights of before back."""
    before = _rows(model, chosen)
    dense = weights_of(model, method)
    try:
        trained = train(
            ready.hf,
            ready.engine,
            training=text[0],
            validation=text[1],
            options=options,
            language=language,
            store=store,
            resume_from=resume_from,
            log_folder=None if folder is None or not _is_main() else folder / "tensorboard",
        )
        after = _rows(model, chosen)
        if folder is not None and _is_main():
            _keep(model, ready, method=method, folder=folder)
    finally:
        for layer, rows in enumerate(before or ()):
            write_rows(model, layer, chosen[layer], rows)
        put_back(model, dense)
    results = {
        name: getattr(trained, name)
        for name in (
            "step",
            "tokens",
            "validation_loss",
            "base_validation_loss",
            "decay_factor",
            "tokens_per_second",
            "peak_memory_bytes",
        )
    }
    results["n_trainable"] = ready.n_trainable
    host = {"rows": after, "base": before}
    moved = {k: None if v is None else tuple(x.cpu() for x in v) for k, v in host.items()}
    return {"curves": trained.curves, "results": results, **moved}


def _rows(
    model: HookedModel, chosen: Sequence[Tensor] | None
) -> tuple[Float[Tensor, "projection _neuron d_model"], ...] | None:
    if chosen is None:
        return None
    return tuple(read_rows(model, layer, neurons) for layer, neurons in enumerate(chosen))


def _keep(model: HookedModel, ready: Prepared, *, method: str, folder: Path) -> None:
    """Write what is not rows: an adapter or a whole model."""
    if method == "lora":
        for adapter in ready.hf.peft_config.values():
            adapter.base_model_name_or_path = model.name
        write_folder(folder / "adapter", lambda path: ready.hf.save_pretrained(path))
    elif method in ("ffn", "full"):

        def write(path: Path) -> None:
            model.hf.save_pretrained(path)
            model.tokenizer.save_pretrained(path)

        write_folder(folder / "model", write)


def _text(
    model: HookedModel,
    corpus: Corpus | Iterable[str],
    validation: Mapping[str, Iterable[str]],
    *,
    language: str,
    tokens: int | None,
    options: Hyperparameters,
) -> tuple[TokenBlocks, dict[str, TokenBlocks]]:
    """Pack training and validation text, after checking that they are apart."""
    held_out = {lookup(code).code: list(documents) for code, documents in validation.items()}
    if language not in held_out:
        raise CorpusError(
            f"There is no validation text of {language}, which decides the weights to keep; got "
            f"{', '.join(held_out) or 'none'}."
        )
    held_out = {language: held_out[language]} | held_out
    documents = corpus if isinstance(corpus, Corpus) else list(corpus)
    require_disjoint(_documents(documents), held_out[language], language=language)
    packing = _packing(model, options)
    switches = options.switches
    pack_training = authors_blocks if switches.reencode else token_blocks
    training = pack_training(
        _documents(documents),
        model.tokenizer,
        packing,
        n_tokens=tokens,
        at_most=_PAPER_TOKENS,
    )
    return training, {
        code: token_blocks(texts, model.tokenizer, packing) for code, texts in held_out.items()
    }


def _packing(model: HookedModel, options: Hyperparameters) -> Packing:
    if model.tokenizer is None:
        raise LseError(
            f"{model.name} has no tokenizer, so there is no text to train on. Give "
            "HookedModel(hf, tokenizer) one."
        )
    most = getattr(model.hf.config, "max_position_embeddings", None)
    if most is not None and options.block_size > most:
        raise LseError(
            f"`block_size` must be at most the {most} positions that {model.name} was made for; "
            f"got {options.block_size}."
        )
    bos = "document" if model.name == "embedded" else default_bos(model.tokenizer)
    separator = "none" if model.tokenizer.eos_token_id is None else "eos"
    return Packing(block_size=options.block_size, bos=bos, separator=separator)


def _documents(corpus: Corpus | list[str]) -> Iterable[str]:
    return corpus.documents() if isinstance(corpus, Corpus) else corpus


def _finished(folder: Path, settings: Mapping[str, Any]) -> FinetuneRun:
    found = FinetuneRun.load(folder)
    if changed := differences({name: found.settings.get(name) for name in settings}, settings):
        raise MismatchError(
            f"{folder} holds a finished run with other settings: {changed}. Pass --name to keep "
            "both, or --overwrite to train again."
        )
    logger.info("%s is finished; --overwrite trains again", folder)
    return found


@contextlib.contextmanager
def _work_folder(folder: str | Path | None) -> Iterator[Path]:
    if folder is not None:
        yield Path(folder)
        return
    with tempfile.TemporaryDirectory(prefix="lse_interp-") as temporary:
        yield Path(temporary)


def _check(config: Config, *, embedded: bool) -> None:
    """Refuse flags that contradict each other, all at once, before anything is loaded."""
    faults = []
    if config.random_match is not None and config.method != "random":
        faults.append(f"--random-match needs --method random; got {config.method}.")
    if config.neurons is not None and config.method not in ("target", "random"):
        faults.append(f"--neurons needs --method target or random; got {config.method}.")
    if config.name is not None and len(config.tokens) > 1:
        faults.append("--name fits one run; --tokens asks for several. Leave out --name.")
    if any(tokens < 1 for tokens in config.tokens):
        faults.append(f"--tokens must be at least 1; got {', '.join(map(str, config.tokens))}.")
    if config.model.dtype == "float16":
        faults.append("--dtype float16 overflows in training; use bfloat16 or float32.")
    try:
        config.training.completed(config.method, embedded=embedded)
    except LseError as error:
        faults.append(str(error))
    if faults:
        raise LseError("\n".join(faults))


def _name(config: Config, tokens: int | None) -> str:
    parts = [config.method]
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
    kind = spec.partition(":")[0]
    if kind in ("embedded", "flores", "ntrex"):
        split = None if kind == "ntrex" else "dev"
        parallel = load_parallel(spec, languages=tuple(languages), split=split)
        return dict(parallel.sentences)
    return {code: tuple(load_corpus(spec, language=code).documents()) for code in languages}


def _source(corpus: Corpus | Iterable[str]) -> str:
    return corpus.source if isinstance(corpus, Corpus) else "in memory"


def _digest(neurons: Sequence[Tensor]) -> str:
    found = hashlib.sha256()
    for layer in neurons:
        found.update(f"{len(layer)} ".encode())
        found.update(layer.numpy().tobytes())
    return found.hexdigest()[:16]


def _device(asked: str | None) -> str | None:
    """Give every process that was launched together a GPU of its own."""
    if asked is None and "LOCAL_RANK" in os.environ and torch.cuda.is_available():
        return f"cuda:{os.environ['LOCAL_RANK']}"
    return asked


def _is_main() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


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
