"""Loading a model by name: the embedded one, a local folder, or a hub id."""

import pickle
from pathlib import Path
from typing import Any

import torch

from lse_interp.core.cli import ModelArgs
from lse_interp.core.errors import LseError, UnsupportedModelError
from lse_interp.models.architectures import SUPPORTED, MLPNames, check_supported
from lse_interp.models.defaults import ModelDefaults
from lse_interp.models.hooked import HookedModel
from lse_interp.models.placement.device_map import device_map

__all__ = ["EMBEDDED", "load_from_args", "load_model"]

EMBEDDED = Path(__file__).parent / "packaged" / "embedded"

_EMBEDDED_FILES = ("config.json", "model.safetensors", "tokenizer.json")


def load_from_args(args: ModelArgs) -> HookedModel:
    """Load the model that a command line asks for; see `load_model`."""
    return load_model(
        args.model,
        backend=args.backend,
        device=args.device,
        dtype=args.dtype,
        revision=args.revision,
    )


def load_model(
    name: str | Path,
    *,
    backend: str = "torch",
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    mlp: MLPNames | None = None,
) -> HookedModel:
    """Load a causal language model and its tokenizer.

    Args:
        name: `"embedded"` for the model inside this package, a local folder in transformers
            format, or a hub id such as `meta-llama/Llama-3.1-8B`.
        backend: `torch`, `lens` or `nnsight`.
        device: Where the model runs; None takes the GPU if there is one. `auto` spreads the model
            over the GPUs of the machine, which processes that were launched together divide, and
            takes the CPU where there is none.
        dtype: Floating-point type, e.g. `"bfloat16"`; None keeps the checkpoint's own.
        revision: Hub branch, tag or commit.
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
    source = _resolve(str(name))
    options = {} if revision is None else {"revision": revision}
    config = _config(source, options)
    places = device_map(config, dtype=dtype, name=str(name), mlp=mlp) if device == "auto" else {}
    hf = _weights(source, config, dtype, {**options, "device_map": places} if places else options)
    tokenizer = _tokenizer(source, options)
    if not places:
        device = None if device == "auto" else device
        hf.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return HookedModel(
        hf.eval(),
        tokenizer,
        name=str(name),
        backend=backend,
        defaults=ModelDefaults.read(source),
        mlp=mlp,
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


def _resolve(name: str) -> str:
    if name == "embedded":
        missing = [file for file in _EMBEDDED_FILES if not (EMBEDDED / file).is_file()]
        if missing:
            raise LseError(
                f"The embedded model is incomplete: {', '.join(missing)} missing from {EMBEDDED}. "
                "Reinstall the package, or train the model with the script in its folder."
            )
        return str(EMBEDDED)
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise LseError(f"{path} holds no config.json. Give a folder from save_pretrained.")
        return str(path)
    # A hub id is `name` or `organisation/name`; anything else was meant as a path.
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or path.exists():
        raise LseError(f"There is no model folder at {path}. Give a folder from save_pretrained.")
    return name


def _config(source: str, options: dict[str, Any]) -> Any:
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

    config = _read(AutoConfig, source, "configuration", **options)
    architecture = (config.architectures or [type(config).__name__])[0]
    # From the configuration alone, so that a model to be refused is never downloaded.
    check_supported(config, architecture)
    if config.model_type not in CAUSAL and not hasattr(config, "auto_map"):
        raise UnsupportedModelError(f"{architecture} is not a causal language model. {SUPPORTED}")
    return config


def _weights(
    source: str, config: Any, dtype: str | torch.dtype | None, options: dict[str, Any]
) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    hf, report = _read(
        AutoModelForCausalLM,
        source,
        "weights",
        config=config,
        dtype="auto" if dtype is None else dtype,
        output_loading_info=True,
        **options,
    )
    # transformers fills what a checkpoint lacks with random values and a warning.
    if missing := sorted(report["missing_keys"]):
        raise LseError(
            f"The weights of {source} lack {len(missing)} of the tensors that "
            f"{type(hf).__name__} needs, e.g. {missing[0]}. Give a complete checkpoint."
        )
    return hf


def _tokenizer(source: str, options: dict[str, Any]) -> Any:
    from transformers import AutoTokenizer

    tokenizer = _read(AutoTokenizer, source, "tokenizer", **options)
    # Where the files are absent, transformers makes a tokenizer of special tokens alone.
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        raise LseError(
            f"{source} holds no tokenizer: expected tokenizer.json, found a vocabulary of special "
            "tokens alone. Save the tokenizer beside the model with tokenizer.save_pretrained."
        )
    return tokenizer


def _read(auto: Any, source: str, what: str, **options: Any) -> Any:
    from safetensors import SafetensorError

    try:
        return auto.from_pretrained(source, **options)
    except pickle.UnpicklingError as error:
        raise LseError(
            f"The {what} of {source} are a pickle that holds more than tensors, which may be code; "
            "it was not run. Give a checkpoint in safetensors."
        ) from error
    except (OSError, ValueError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        if Path(source).is_dir():
            raise LseError(f"Cannot read the {what} in {source}: {reason}") from error
        raise LseError(
            f"Cannot read the {what} of {source!r} from the Hugging Face hub, and there is no "
            f"local folder of that name. Check the name, the network and, for gated models, "
            f"`hf auth login`. The cause: {reason}"
        ) from error
