"""From a frozen `Config` dataclass to a command: parsing, logging, errors, seeds."""

import contextlib
import dataclasses
import difflib
import logging
import os
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from lse_interp.core.errors import LseError

__all__ = [
    "CONFIG_FLAT",
    "DEFAULT_MODEL",
    "CorpusArgs",
    "ModelArgs",
    "NeuronArgs",
    "SentenceArgs",
    "main_for",
    "quiet",
    "seed_everything",
]


_T = TypeVar("_T")

CONFIG_FLAT = Annotated[_T, tyro.conf.OmitArgPrefixes]
"""Annotation for a group of shared flags: `model: CONFIG_FLAT[ModelArgs]`."""
_ConfigT = TypeVar("_ConfigT")

_ELSEWHERE: dict[str, tuple[str, ...]] = {
    "data": ("corpus",),
    "dataset": ("corpus",),
    "eval-steps": ("validate-every",),
    "force": ("overwrite",),
    "gradient-accumulation-steps": ("accumulation",),
    "gradient-checkpointing": ("checkpointing",),
    "language": ("lang", "langs"),
    "languages": ("langs", "lang"),
    "learning-rate": ("lr",),
    "lr-scheduler-type": ("schedule",),
    "max-length": ("block-size",),
    "max-seq-length": ("block-size",),
    "max-tokens": ("n-tokens",),
    "model-name": ("model",),
    "model-name-or-path": ("model",),
    "num-train-epochs": ("epochs",),
    "output": ("out", "root"),
    "output-dir": ("out", "root"),
    "per-device-train-batch-size": ("batch-size",),
    "pretrained": ("model",),
    "torch-dtype": ("dtype",),
    "train-file": ("corpus",),
    "validation-file": ("validation",),
}
"""What other tools call our flags."""

DEFAULT_MODEL = "embedded"
"""What `--model` is where nobody says otherwise."""


@dataclasses.dataclass(frozen=True)
class ModelArgs:
    """Which model, and how it is held."""

    model: str = DEFAULT_MODEL
    """`embedded`, `gemma-3-270m`, a local folder (of a model or a peft adapter), a GGUF file, or a
    model id on the Hugging Face hub."""
    backend: str = "torch"
    """Hooking library: `torch`, `lens` (TransformerLens) or `nnsight`."""
    device: str | None = None
    """`cpu`, `cuda`, `cuda:1`, ...; by default the GPU where there is one. `auto` spreads a model
    that is larger than one GPU over those of the machine; not for fine-tuning."""
    dtype: str | None = None
    """`float32`, `bfloat16`, `float16`; by default that of the checkpoint."""
    revision: str | None = None
    """Hub revision (branch, tag or commit)."""
    bos: str | None = None
    """What the model reads before text. `auto`: what its tokenizer puts there, or else the BOS that
    both its configuration and its tokenizer name. `config`: the BOS of its configuration. `none`.
    Or token ids: `1`, `64790,64792`. By default what the model's defaults say, usually `auto`."""


@dataclasses.dataclass(frozen=True)
class CorpusArgs:
    """Which text."""

    corpus: str = "embedded"
    """`embedded`, `glotcc`, a file or folder (txt, jsonl, json, csv, tsv, parquet, arrow, packed
    or not; `{lang}` in the path is the language in any spelling: cym, cy, cym_Latn, welsh), or
    `hf:<dataset>?config=...&split=...&field=...`."""
    split: Annotated[str | None, tyro.conf.arg(name="split")] = None
    """Split of the corpus; each corpus has its own default."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SentenceArgs:
    """Which sentences: the base of a `Config` whose command reads parallel ones."""

    parallel: str = "embedded"
    """`embedded`, `flores`, `ntrex:<folder>`, or a folder with one file per language."""
    split: str | None = None
    """Split of the sentences; each source has its own default (`devtest`)."""
    n_sentences: int | None = None
    """Take the first so many sentences; by default all."""
    batch_size: int = 32
    """Sentences per forward pass; changes results by rounding alone."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NeuronArgs:
    """Which neurons: a base of each `Config` whose command reads some."""

    neurons: Path | None = None
    """A neuron file; by default `root/<model>/neurons/lape.safetensors`."""
    masks: Path | None = None
    """Instead: a file of neurons that another project saved with torch, such as the paper's
    `llama-3.1-5` and `nemo-5`."""
    mask_model: str | None = None
    """The model that `--masks` points into, a folder or hub id; by default `--model`, or that of a
    released file."""
    mask_languages: tuple[str, ...] = ()
    """The languages of `--masks` in their order, where the file does not name them."""


def main_for(
    config_type: type[_ConfigT],
    run: Callable[[_ConfigT], object],
    argv: Sequence[str] | None = None,
    *,
    description: str | None = None,
) -> int:
    """Parse a command line into `config_type`, call `run`, return the exit status.

    The command line is parsed once, before `run` imports what takes seconds: a module that is run
    as a command imports such modules inside `run`.

    An `LseError` ends as one readable message on stderr and status 2, Ctrl-C as another and status
    130; anything else is a bug and keeps its traceback.
    """
    _check_flags(sys.argv[1:] if argv is None else argv, config_type)
    config = tyro.cli(config_type, prog=_program(config_type), args=argv, description=description)
    _configure_logging()
    try:
        run(config)
    except LseError as error:
        notes = "".join(f"\n{note}" for note in getattr(error, "__notes__", []))
        sys.stderr.write(f"error: {error}{notes}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write(
            "\ninterrupted. Finished work is kept; rerun the same command to resume.\n"
        )
        return 130
    return 0


def _program(config_type: type[Any]) -> str | None:
    """Name the command as the user called it; None leaves it to the parser."""
    module = config_type.__module__
    if module == "__main__" and (spec := sys.modules["__main__"].__spec__) is not None:
        return f"python -m {spec.name.removesuffix('.__main__')}"
    if module.startswith("lse_interp.") and Path(sys.argv[0]).stem == "lse":
        return f"lse {module.rpartition('.')[2]}"
    return None


def _check_flags(words: Sequence[str], config_type: type[Any]) -> None:
    """Refuse a flag that is unknown, or given twice, of which only the last would count."""
    flags = [word.partition("=")[0].replace("_", "-") for word in words if word.startswith("--")]
    known, faults = _flags_of(config_type), []
    for flag in dict.fromkeys(flags):
        if flag in {f"--{name}" for name in (*known, "help")} or flag.startswith("--tyro"):
            continue
        ours = [name for name in _ELSEWHERE.get(flag[2:], ()) if name in known][:1]
        close = ours or difflib.get_close_matches(flag[2:], known)
        hint = f"Did you mean {', '.join(f'--{name}' for name in close)}? " if close else ""
        faults.append(f"there is no flag {flag}. {hint}--help explains every flag.")
    if twice := [flag for flag in dict.fromkeys(flags) if flags.count(flag) > 1]:
        faults.append(
            f"{', '.join(twice)} given more than once. Give it once; a flag that takes several "
            "values takes them one after the other."
        )
    if faults:
        sys.stderr.write("".join(f"error: {fault}\n" for fault in faults))
        raise SystemExit(2)


def _flags_of(config_type: type[Any]) -> set[str]:
    """Name the flags of a configuration and of the groups in it, without hyphens before them."""
    found = set()
    for field in dataclasses.fields(config_type):
        if dataclasses.is_dataclass(group := field.default) and not isinstance(group, type):
            found |= _flags_of(type(group))
        else:
            name = field.name.replace("_", "-")
            found |= {name, f"no-{name}"} if field.type is bool else {name}
    return found


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch."""
    import numpy
    import torch

    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _configure_logging() -> None:
    if not sys.stderr.isatty():
        # huggingface_hub and transformers read this when imported. A bar would fill a log file.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging.basicConfig(
        level=os.environ.get("LSE_LOG", "INFO").upper(),
        format="%(message)s",
        stream=sys.stderr,
    )
    for noisy in ("httpx", "urllib3", "filelock", "fsspec", "datasets", "matplotlib", "fontTools"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


logger = logging.getLogger(__name__)


@contextlib.contextmanager
def quiet(name: str, *, level: int = logging.WARNING) -> Iterator[None]:
    """Hide what a library logs below a level; its logger is afterwards as before.

    Args:
        name: of the logger, e.g. `fontTools`.
        level: the lowest level that is shown.
    """
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)
