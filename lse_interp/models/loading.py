"""Loading a model by name: a packaged one, a local folder, an adapter, a GGUF file, or a hub id."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from lse_interp.core.cli import ModelArgs
from lse_interp.core.errors import LseError
from lse_interp.models.adapter_folders import base_of_adapter, merge_adapter
from lse_interp.models.architectures import MLPNames
from lse_interp.models.checkpoint import find_file, read_config, read_weights
from lse_interp.models.defaults import FILE_NAME, ModelDefaults
from lse_interp.models.gguf_files import find_gguf, unpacked_folder
from lse_interp.models.hooked import HookedModel
from lse_interp.models.packaged import packaged_folder
from lse_interp.models.placement.device_map import device_map
from lse_interp.models.tokenization import parse_bos
from lse_interp.models.tokenizer_file import read_tokenizer

__all__ = [
    "check_model",
    "find_base",
    "find_source",
    "load_from_args",
    "load_model",
    "read_defaults",
]


def load_from_args(args: ModelArgs) -> HookedModel:
    """Load the model that a command line asks for; see `load_model`."""
    return load_model(
        args.model,
        backend=args.backend,
        device=args.device,
        dtype=args.dtype,
        revision=args.revision,
        bos=args.bos,
    )


def check_model(args: ModelArgs) -> None:
    """Refuse a model that cannot be loaded, as far as its name and configuration tell.

    Raises:
        LseError: There is no such folder, hub id or device.
        UnsupportedModelError: See `read_config`.
    """
    if args.device is not None and args.device != "auto":
        _check_device(args.device)
    source, revision = find_base(args.model, revision=args.revision)
    read_config(source, revision=revision)


def read_defaults(name: str | Path) -> ModelDefaults:
    """Read the defaults of a model without loading it; see `load_model`.

    Raises:
        LseError: There is no such folder, or its defaults cannot be read.
    """
    source = find_source(str(name))
    adapted = None if (Path(source) / FILE_NAME).is_file() else base_of_adapter(source)
    if adapted is None:
        return ModelDefaults.read(source)
    with _base_of(source, adapted[0]):
        return read_defaults(adapted[0])


def load_model(
    name: str | Path,
    *,
    backend: str = "torch",
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    bos: str | Sequence[int] | None = None,
    mlp: MLPNames | None = None,
) -> HookedModel:
    """Load a causal language model and its tokenizer.

    Args:
        name: `"embedded"` for the model inside this package, `"gemma-3-270m"`, a local folder in
            transformers format, the folder of a peft adapter (which is merged into its base), a
            GGUF file, or a hub id such as `meta-llama/Llama-3.1-8B`.
        backend: `torch`, `lens` or `nnsight`.
        device: Where the model runs; None takes the GPU if there is one. `auto` spreads the model
            over the GPUs of the machine, which processes that were launched together divide, and
            takes the CPU where there is none.
        dtype: Floating-point type, e.g. `"bfloat16"`; None keeps the checkpoint's own.
        revision: Hub branch, tag or commit.
        bos: What the model reads before text: `auto`, `none`, `config` or token ids, see
            `find_prefix`; None takes that of its defaults, usually `auto`.
        mlp: What the parts of its MLPs are called, for a model that is not in the table of known
            MLPs.

    Returns:
        The model, in evaluation mode.

    Raises:
        LseError: The folder or hub id cannot be read, its weights are incomplete, there is no
            such device, or they do not fit on the GPUs that `auto` found.
        UnsupportedModelError: An encoder, encoder-decoder, mixture-of-experts or unknown model.
    """
    if device is not None and device != "auto":
        _check_device(device)
    chosen: dict[str, Any] = {} if bos is None else {"bos": parse_bos(bos)}
    source = find_source(str(name))
    adapted = base_of_adapter(source, revision=revision)
    if adapted is not None:
        options: Any = {"revision": adapted[1], "device": device, "dtype": dtype, "mlp": mlp}
        with _base_of(source, adapted[0]):
            base = load_model(adapted[0], **options)
        own = (Path(source) / FILE_NAME).is_file()
        defaults = ModelDefaults.read(source) if own else base.defaults
        hf, tokenizer = base.hf, base.tokenizer
        if find_file(source, "tokenizer_config.json", revision=revision) is not None:
            tokenizer = read_tokenizer(source, revision=revision)
        hf = merge_adapter(hf, source, revision=revision)
    else:
        defaults = ModelDefaults.read(source)
        config = read_config(source, revision=revision)
        places = (
            device_map(config, dtype=dtype, name=str(name), mlp=mlp) if device == "auto" else {}
        )
        hf = read_weights(source, config, revision=revision, dtype=dtype, device_map=places)
        tokenizer = read_tokenizer(source, revision=revision)
        if not places:
            device = None if device == "auto" else device
            hf.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    _check_size(tokenizer, hf, name=str(name))
    return HookedModel(
        hf.eval(),
        tokenizer,
        name=str(name),
        backend=backend,
        defaults=dataclasses.replace(defaults, **chosen),
        mlp=mlp,
    )


@contextlib.contextmanager
def _base_of(source: str, base: str) -> Iterator[None]:
    try:
        yield
    except LseError as error:
        raise LseError(
            f"{source} is an adapter of {base}, which cannot be loaded: {error} Put the base "
            "there, or name another as base_model_name_or_path in adapter_config.json."
        ) from error


def _check_size(tokenizer: Any, hf: Any, *, name: str) -> None:
    """Refuse tokens that the model has no embedding for: it would fail at the first of them."""
    # A class of transformers may add these, which no text is read as.
    unread = {tokenizer.unk_token_id, tokenizer.pad_token_id, tokenizer.mask_token_id}
    n_ids = 1 + max({*tokenizer.get_vocab().values()} - unread)
    n_rows = hf.get_input_embeddings().weight.shape[0]
    if n_ids > n_rows:
        raise LseError(
            f"The tokenizer of {name} has {n_ids} token ids, and its embedding {n_rows} rows. If "
            "tokens were added, call hf.resize_token_embeddings(len(tokenizer)) before training, "
            "and save both; or save the tokenizer that the model was trained with."
        )


def _check_device(device: str | torch.device) -> None:
    try:
        asked = torch.device(device)
    except RuntimeError as error:
        raise LseError(f"`device` must be cpu, cuda, cuda:1, ... or auto; got {device}.") from error
    n_gpus = torch.cuda.device_count()
    if asked.type == "cuda" and (asked.index or 0) >= n_gpus:
        raise LseError(
            f"There is no device {device}: torch {torch.__version__} sees {n_gpus} GPUs. Check "
            "nvidia-smi, CUDA_VISIBLE_DEVICES and that torch was built for CUDA, or use cpu."
        )


def find_base(name: str, *, revision: str | None = None) -> tuple[str, str | None]:
    """Return the folder or hub id of a model, and its revision; of an adapter, those of its base.

    Raises:
        LseError: There is no such folder, or see `base_of_adapter`.
    """
    source = find_source(name)
    while adapted := base_of_adapter(source, revision=revision):
        with _base_of(source, adapted[0]):
            source, revision = find_source(adapted[0]), adapted[1]
    return source, revision


def find_source(name: str) -> str:
    """Return the folder of a model, or its hub id.

    Raises:
        LseError: There is no such folder.
    """
    if (packaged := packaged_folder(name)) is not None:
        return str(packaged)
    path = Path(name).expanduser()
    if (file := find_gguf(path)) is not None:
        return str(unpacked_folder(file))
    if path.is_dir():
        if not any((path / name).is_file() for name in ("config.json", "adapter_config.json")):
            raise LseError(
                f"{path} holds no config.json. Give a folder from save_pretrained, or a GGUF file."
            )
        return str(path)
    # A hub id is `name` or `organisation/name`; anything else was meant as a path.
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or path.exists():
        raise LseError(f"There is no model folder at {path}. Give a folder from save_pretrained.")
    return name
