"""Reading an adapter of peft: its base model, with the adapter merged into the weights.

A merged model is an ordinary one, so that every site is that of the adapted model.
"""

import json
import warnings
from pathlib import Path
from typing import Any

from safetensors import safe_open

from lse_interp.core.errors import LseError
from lse_interp.models.checkpoint import find_file

__all__ = ["base_of_adapter", "merge_adapter"]

_FILE = "adapter_config.json"


def base_of_adapter(source: str, *, revision: str | None = None) -> tuple[str, str | None] | None:
    """Return the base model of an adapter and its revision; None if the source is no adapter.

    A relative path is looked up from the working directory, then from the adapter's folder.

    Args:
        source: A local folder or a hub id.
        revision: Hub branch, tag or commit of the adapter.

    Raises:
        LseError: The adapter names no base or itself, or is of a type that changes no weights.
    """
    path = find_file(source, _FILE, revision=revision)
    if path is None or (Path(source) / "config.json").is_file():
        return None
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        kind, base = about["peft_type"], about["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError) as error:
        raise LseError(f"{path} is no configuration of a peft adapter: {error}.") from error
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

    if not hasattr(PEFT_TYPE_TO_TUNER_MAPPING.get(kind), "merge_and_unload"):
        raise LseError(
            f"{source} is an adapter of type {kind}, which cannot be merged into the weights of a "
            "model. Give one that can, such as LoRA or IA3."
        )
    if not base:
        raise LseError(f"{path} names no base model. Write it there, as base_model_name_or_path.")
    places = (Path(base).expanduser(), Path(source) / base)
    found = next((str(p) for p in places if p.is_dir()), base)
    if Path(found).resolve() == Path(source).resolve():
        raise LseError(
            f"{path} names itself as its base model. Write the folder of the base there."
        )
    return found, about.get("revision")


def merge_adapter(hf: Any, source: str | Path, *, revision: str | None = None) -> Any:
    """Merge an adapter into its base model, in place.

    Where the adapter brings embeddings of more tokens, the model gets them too.

    Raises:
        LseError: It does not belong to this model, or cannot be merged.
    """
    from peft import PeftModel

    n_rows = _n_embeddings(hf, str(source), revision=revision)
    if n_rows not in (None, hf.get_input_embeddings().weight.shape[0]):
        hf.resize_token_embeddings(n_rows, mean_resizing=False)
    flags = [(weight, weight.requires_grad) for weight in hf.parameters()]
    with warnings.catch_warnings():
        # peft asks transformers about checkpointing by a deprecated name.
        warnings.simplefilter("ignore", FutureWarning)
        # It says no more when it finds no weights for what it added.
        warnings.filterwarnings("error", message="(?s).*missing adapter keys")
        try:
            merged: Any = PeftModel.from_pretrained(hf, str(source), revision=revision)
            merged = merged.merge_and_unload()
        except (RuntimeError, ValueError, OSError, UserWarning, NotImplementedError) as error:
            reason = " ".join(str(error).split())
            raise LseError(
                f"The adapter {source} cannot be merged into {type(hf).__name__} "
                f"({hf.config.name_or_path}): {reason[:400]}"
            ) from error
    for weight, flag in flags:
        weight.requires_grad_(flag)
    return merged


def _n_embeddings(hf: Any, source: str, *, revision: str | None) -> int | None:
    """Count the rows of the embedding that an adapter brings; None if it brings none."""
    path = find_file(source, "adapter_model.safetensors", revision=revision)
    weight = hf.get_input_embeddings().weight
    name = next((name for name, found in hf.named_parameters() if found is weight), None)
    if path is None or name is None:
        return None
    with safe_open(path, framework="pt") as file:
        found = [key for key in file.keys() if key.endswith(name)]  # noqa: SIM118
        return file.get_slice(found[0]).get_shape()[0] if found else None
