"""Neuron sets as lists of index tensors saved with torch, as in the paper's released files."""

import io
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from lse_interp.artifacts.atomic import write_atomic
from lse_interp.core.errors import ArtifactError, LanguageError, MismatchError, near_misses
from lse_interp.core.languages import codes_of
from lse_interp.models.info import ModelInfo
from lse_interp.neurons.indices import check_layers

__all__ = ["RELEASED_MODELS", "read_masks", "released_model", "write_masks"]

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


def released_model(path: str | Path) -> ModelInfo:
    """Say which model a released mask file points into, by its name.

    >>> released_model("masks/nemo-5").n_layers
    40

    Raises:
        MismatchError: not one of the released files.
    """
    name = Path(path).name
    if name not in RELEASED_MODELS:
        raise MismatchError(
            f"The model behind {path} is not known from its file name. "
            f"{near_misses(name, RELEASED_MODELS)} For another model, build a ModelInfo and call "
            "NeuronSets.from_masks(path, languages=..., model=...)."
        )
    return RELEASED_MODELS[name]


def read_masks(
    path: str | Path, *, languages: Sequence[str], model: ModelInfo
) -> dict[str, tuple[Int64[Tensor, " _neuron"], ...]]:
    """Read a list over languages of lists over layers of index tensors; see `from_masks`.

    Indices come out ascending, whatever their order in the file.
    """
    masks = _load(Path(path))
    codes = codes_of(languages)
    if len(codes) < len(languages):
        raise LanguageError(f"Name each language once; got {', '.join(languages)}.")
    if len(masks) != len(codes):
        raise MismatchError(
            f"{path} holds {len(masks)} languages, {len(codes)} were named "
            f"({', '.join(codes)}). Name every language of the file, in its order."
        )
    return {
        code: _sorted_layers(layers, where=f"{path}: the neurons of {code}", model=model)
        for code, layers in zip(codes, masks, strict=True)
    }


def write_masks(path: str | Path, masks: Sequence[Sequence[Int64[Tensor, " _neuron"]]]) -> Path:
    """Write a list over languages of lists over layers of int64 index tensors."""
    # Cloned, because a view would take its whole storage into the file.
    plain = [[neurons.detach().cpu().clone() for neurons in layers] for layers in masks]
    # By way of memory: torch.save reports a full disk as RuntimeError.
    content = io.BytesIO()
    torch.save(plain, content)
    write_atomic(path, lambda temporary: temporary.write_bytes(content.getvalue()))
    return Path(path)


def _load(path: Path) -> list:
    if not path.is_file():
        inside = sorted(p.name for p in path.iterdir()) if path.is_dir() else []
        hint = f"It is a folder; give one of its files: {', '.join(inside)}." if inside else ""
        raise ArtifactError(f"{path} is not a file of neuron masks. {hint}".strip())
    try:
        _check_zip(path)
        with warnings.catch_warnings():
            # The unpickler warns about the content of a damaged file before it fails.
            warnings.simplefilter("ignore")
            masks = torch.load(path, weights_only=True, map_location="cpu")
    # A damaged pickle raises whatever its opcodes run into.
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ArtifactError(
            f"{path} cannot be read as neuron masks; it is truncated or altered, or holds more "
            f"than lists of tensors. Download or write it again. ({reason})"
        ) from error
    if not (isinstance(masks, list) and masks and all(isinstance(m, list) for m in masks)):
        raise ArtifactError(
            f"{path} must hold a list (languages) of lists (layers) of index tensors; "
            f"found {type(masks).__name__}."
        )
    return masks


def _check_zip(path: Path) -> None:
    """Compare what torch packed with its checksums, which torch itself does not."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as packed:
            if (damaged := packed.testzip()) is not None:
                raise zipfile.BadZipFile(f"{damaged} does not have its checksum")


def _sorted_layers(
    layers: Sequence[Any], *, where: str, model: ModelInfo
) -> tuple[Int64[Tensor, " _neuron"], ...]:
    for layer, found in enumerate(layers):
        if not isinstance(found, Tensor) or found.ndim != 1 or found.dtype != torch.int64:
            is_tensor = isinstance(found, Tensor)
            kind = f"{found.dtype} {list(found.shape)}" if is_tensor else type(found)
            raise ArtifactError(
                f"{where} in layer {layer} must be a one-axis int64 tensor; found {kind}."
            )
    indices = tuple(found.sort().values for found in layers)
    check_layers(indices, model, of=where, error=MismatchError)
    return indices
