"""Neuron sets saved with torch by other projects, as in the paper's released files."""

import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from lse_interp.artifacts.atomic import write_atomic
from lse_interp.artifacts.foreign import read_foreign
from lse_interp.core.errors import ArtifactError, LanguageError, MismatchError, near_misses
from lse_interp.core.languages import RELEASED_LANGUAGES, codes_of
from lse_interp.models.info import ModelInfo
from lse_interp.neurons.indices import layers_by_language

__all__ = ["RELEASED_MODELS", "model_of_masks", "read_masks", "write_masks"]

logger = logging.getLogger(__name__)

RELEASED_MODELS: Mapping[str, ModelInfo] = {
    "llama-3.1-5": ModelInfo(
        name="meta-llama/Llama-3.1-8B",
        fingerprint=None,
        architecture="LlamaForCausalLM",
        n_layers=32,
        d_model=4096,
        d_mlp=14336,
        n_parameters=8_030_261_248,
    ),
    "nemo-5": ModelInfo(
        name="mistralai/Mistral-Nemo-Base-2407",
        fingerprint=None,
        architecture="MistralForCausalLM",
        n_layers=40,
        d_model=5120,
        d_mlp=14336,
        n_parameters=12_247_782_400,
    ),
}
"""The models of the paper's released masks, by file name."""


def model_of_masks(
    path: str | Path, name: str | None = None, *, default: str | None = None
) -> ModelInfo:
    """Describe the model that a file of masks points into, without loading it.

    Args:
        path: The file.
        name: The model, as in `load_model`. None means that of a released file, known by its name.
        default: The model of any other file.

    Raises:
        MismatchError: Nothing says which model.
        LseError: The configuration of the model cannot be read.

    >>> model_of_masks("masks/nemo-5").n_layers
    40
    """
    released = RELEASED_MODELS.get(Path(path).name)
    if name is None and released is not None:
        return released
    name = name or default
    if name is None:
        raise MismatchError(
            f"Nothing says which model {path} points into. Add --mask-model, a folder or hub id."
        )
    known = {info.name: info for info in RELEASED_MODELS.values()}
    return known.get(name) or ModelInfo.from_config(name)


def read_masks(
    path: str | Path, *, languages: Sequence[str] | None, model: ModelInfo
) -> dict[str, tuple[Int64[Tensor, " _neuron"], ...]]:
    """Read neurons saved with torch; see `NeuronSets.from_masks`.

    Indices come out ascending, whatever their order in the file.
    """
    found = read_foreign(path, what="neuron masks")
    if isinstance(found, Mapping) and {"languages", "results"} <= found.keys():
        # kinit-sk/language-neuron-detection: masks of the MLPs, and of attention.
        try:
            masks = [of for name, of in found["results"].items() if name.startswith("mlp")]
            found = dict(zip(found["languages"], masks[0]["selected_mask"], strict=True))
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise ArtifactError(
                f"{path} should hold, for a component `mlp` of its `results`, a `selected_mask` "
                f"of each of its `languages` ({type(error).__name__}: {error})."
            ) from error
    named: Mapping[str, Any]
    if isinstance(found, Mapping) and found:
        named = {str(name): neurons for name, neurons in found.items()}
    elif found if isinstance(found, list) else getattr(found, "ndim", 0) == 3:
        named = _named(found, languages, path)
    else:
        raise ArtifactError(
            f"{path} must hold a list (languages) of lists (layers) of index tensors, masks "
            f"[lang layer neuron], or a dict of either by language; found {type(found).__name__}."
        )
    sets = layers_by_language(named, model, where=f"{path}: the", error=MismatchError)
    if not isinstance(found, Mapping) or languages is None:
        return sets
    codes = codes_of(languages)
    if missing := [code for code in codes if code not in sets]:
        raise LanguageError(f"{path} holds no neurons of {missing[0]}. {near_misses('', sets)}")
    return {code: sets[code] for code in codes}


def write_masks(path: str | Path, masks: Sequence[Sequence[Int64[Tensor, " _neuron"]]]) -> Path:
    """Write a list over languages of lists over layers of int64 index tensors."""
    # Cloned, because a view would take its whole storage into the file.
    plain = [[neurons.detach().cpu().clone() for neurons in layers] for layers in masks]
    # By way of memory: torch.save reports a full disk as RuntimeError.
    content = io.BytesIO()
    torch.save(plain, content)
    write_atomic(path, lambda temporary: temporary.write_bytes(content.getvalue()))
    return Path(path)


def _named(
    masks: Sequence[Any] | Tensor | np.ndarray, languages: Sequence[str] | None, path: str | Path
) -> Mapping[str, Any]:
    """Name the entries of a file that does not name its languages."""
    if languages is None and len(masks) == len(RELEASED_LANGUAGES):
        languages = RELEASED_LANGUAGES
        logger.info(
            "%s names no languages; its 12 entries are taken to be those of the paper's released "
            "files: %s (--mask-languages names others)",
            path,
            " ".join(languages),
        )
    if languages is None or len(masks) != len(languages):
        given = "none" if languages is None else " ".join(languages)
        raise MismatchError(
            f"{path} holds {len(masks)} languages without their names; named were {given}. Name "
            "every language of the file, in its order, with --mask-languages."
        )
    if len(codes_of(languages)) < len(languages):
        raise LanguageError(f"Name each language once; got {', '.join(languages)}.")
    return dict(zip(languages, masks, strict=True))
