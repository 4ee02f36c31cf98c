"""Reading a checkpoint in transformers format: configuration and weights."""

import copy
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lse_interp.core.errors import LseError, UnsupportedModelError
from lse_interp.models.architectures import SUPPORTED, HFModel, check_supported

__all__ = [
    "find_file",
    "from_pretrained",
    "options",
    "read_config",
    "read_weights",
    "without_weights",
]


def read_config(source: str, *, revision: str | None = None) -> Any:
    """Read the configuration of a causal language model.

    Raises:
        LseError: It cannot be read.
        UnsupportedModelError: An encoder, encoder-decoder, mixture of experts or unknown model.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

    config = from_pretrained(AutoConfig, source, "configuration", **options(revision))
    architecture = (config.architectures or [type(config).__name__])[0]
    # From the configuration alone, so that a model to be refused is never downloaded.
    check_supported(config, architecture)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING and not hasattr(config, "auto_map"):
        raise UnsupportedModelError(f"{architecture} is not a causal language model. {SUPPORTED}")
    return config


def without_weights(config: Any, *, dtype: str | torch.dtype | None = None) -> HFModel:
    """Build a model from its configuration on the device `meta`, which holds shapes alone."""
    from transformers import AutoModelForCausalLM

    dtype = dtype or getattr(config, "dtype", None) or torch.float32
    with torch.device("meta"):
        hf = AutoModelForCausalLM.from_config(config, dtype=dtype)
    hf.tie_weights()
    return hf


def read_weights(
    source: str,
    config: Any,
    *,
    revision: str | None = None,
    dtype: str | torch.dtype | None = None,
    device_map: Mapping[str, int] | None = None,
) -> HFModel:
    """Read the model itself.

    A quantised checkpoint needs the package that made it, which is checked first.

    Args:
        source: A local folder or a hub id.
        config: Its configuration.
        revision: Hub branch, tag or commit.
        dtype: Floating-point type; None keeps that of the checkpoint.
        device_map: Module path -> GPU; None or empty loads to the CPU.

    Raises:
        LseError: The weights cannot be read, some are missing, or a package for them is.
    """
    from transformers import AutoModelForCausalLM

    _check_quantization(source, config)
    hf, report = from_pretrained(
        AutoModelForCausalLM,
        source,
        "weights",
        config=config,
        dtype="auto" if dtype is None else dtype,
        output_loading_info=True,
        **options(revision),
        **({"device_map": device_map} if device_map else {}),
    )
    # transformers fills what a checkpoint lacks with random values and a warning.
    if missing := sorted(report["missing_keys"]):
        raise LseError(
            f"The weights of {source} lack {len(missing)} of the tensors that "
            f"{type(hf).__name__} needs, e.g. {missing[0]}. Give a complete checkpoint."
        )
    return hf


def find_file(source: str, name: str, *, revision: str | None = None) -> Path | None:
    """Find a file of a local folder or a hub id; None if there is none, or no network."""
    from transformers.utils import cached_file

    found = cached_file(
        source,
        name,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_connection_errors=False,
        **options(revision),
    )
    return None if found is None else Path(found)


def options(revision: str | None) -> dict[str, str]:
    """Return the argument that names a revision; none for None."""
    return {} if revision is None else {"revision": revision}


def from_pretrained(auto: Any, source: str, what: str, **options: Any) -> Any:
    """Call `from_pretrained` of a class of transformers.

    Args:
        auto: The class.
        source: A local folder or a hub id.
        what: What is read, for the message.
        **options: Its other arguments.

    Raises:
        LseError: It cannot be read.
    """
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


def _check_quantization(source: str, config: Any) -> None:
    from transformers.quantizers.auto import AutoHfQuantizer

    about = getattr(config.get_text_config(), "quantization_config", None) or getattr(
        config, "quantization_config", None
    )
    if about is None:
        return
    try:
        quantizer = AutoHfQuantizer.from_config(copy.deepcopy(about), pre_quantized=True)
        quantizer.validate_environment(device_map=None, weights_only=True)
    except (ImportError, NotImplementedError, RuntimeError, ValueError) as error:
        method = about.get("quant_method") if isinstance(about, dict) else about.quant_method
        raise LseError(
            f"The weights of {source} are quantised ({method}), and cannot be read here: {error}. "
            "Install what is missing, or give a checkpoint that is not quantised."
        ) from error
