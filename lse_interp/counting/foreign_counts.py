"""Activation counts that other projects saved: how they are laid out, and which files hold them.

| keys | project |
|---|---|
| `n`, `over_zero` [layer neuron] | RUCAIBox/Language-Specific-Neurons and its descendants |
| `total_tokens`, `over_zero` | NJUNLP/Language-Neurons-Alignment; a second file, `prefix.<name>`, counts the prompts alone, and is taken off |
| `n` (sequences), `mlp_over_threshold_rate` | kinit-sk/language-neuron-detection |
"""  # noqa: E501

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from lse_interp.artifacts.foreign import numbers, read_foreign
from lse_interp.core.errors import MismatchError
from lse_interp.core.languages import UNKNOWN, find_language
from lse_interp.models.info import ModelInfo

__all__ = ["count_files", "read_counts"]

logger = logging.getLogger(__name__)

_RATES = "mlp_over_threshold_rate"
_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".npz")
_MAX_SEQUENCE = 1 << 16
_N_RATES = 256
_WITH_SCRIPT = re.compile(r"(?<![A-Za-z])[a-z]{2,3}[_-][A-Z][a-z]{3}(?![a-z])")

Source = str | Path | Mapping[str, Any]


def count_files(folder: Path) -> dict[str, Path]:
    """Find the files of counts in a folder by their names: `mlt.pt`, `activation.mt.train.llama`.

    Returns:
        Language -> file. Files whose names hold no language are left out.

    Raises:
        MismatchError: Two files of one language.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        language = _language_of(path.name) if path.is_file() else None
        if language is None:
            continue
        if language in found:
            raise MismatchError(
                f"{found[language].name} and {path.name} in {folder} are both counts of "
                f"{language}. Keep one of them there."
            )
        found[language] = path
    return found


def read_counts(
    source: Source, *, model: ModelInfo, prefix: Source | None = None
) -> tuple[int, Int64[Tensor, "layer neuron"]]:
    """Read the number of tokens and how often each neuron was active.

    Args:
        source: A file, or what is in it.
        model: The model that was counted.
        prefix: Counts of the prompts alone, which are taken off.

    Raises:
        ArtifactError: A file that cannot be read.
        MismatchError: Other keys or shapes, or values that are no counts.
    """
    where = "the counts" if isinstance(source, Mapping) else str(source)
    found = (
        source if isinstance(source, Mapping) else read_foreign(source, what="activation counts")
    )
    keys = set(found) if isinstance(found, Mapping) else set()
    tokens = next((name for name in ("n", "total_tokens") if name in keys), None)
    if tokens is None or not keys & {"over_zero", _RATES}:
        inside = ", ".join(map(str, found)) if keys else type(found).__name__
        raise MismatchError(
            f"{where} holds no activation counts that are known here: expected the keys `n` or "
            f"`total_tokens`, and `over_zero` or `{_RATES}`; found {inside}. Pass a dict with "
            "`n`, the number of tokens, and `over_zero`, the counts [layer neuron]."
        )
    total = _whole(numbers(found[tokens], what=f"`{tokens}` of {where}"), f"`{tokens}` of {where}")
    if total.numel() != 1:
        raise MismatchError(f"`{tokens}` of {where} must be one number; found {total.numel()}.")
    n_tokens = int(total)
    if "over_zero" in found:
        grid = _whole(_grid(found["over_zero"], model, f"`over_zero` of {where}"), where)
    else:
        n_tokens, grid = _from_rates(found, n_tokens, model, where)
    if prefix is None and not isinstance(source, Mapping) and tokens == "total_tokens":
        path = Path(source)
        prefix = path.with_name(f"prefix.{path.name}")
        prefix = prefix if prefix.is_file() else None
    return (n_tokens, grid) if prefix is None else _without(n_tokens, grid, prefix, model)


def _without(
    n_tokens: int, grid: Tensor, prefix: Source, model: ModelInfo
) -> tuple[int, Int64[Tensor, "layer neuron"]]:
    n_prefix, of_prefix = read_counts(prefix, model=model)
    left = grid - of_prefix
    if n_negative := int((left < 0).sum()):
        logger.warning(
            "%d neurons were active more often on the prompts alone than on the whole text, by up "
            "to %d tokens; their counts are set to 0, as NJUNLP's code does",
            n_negative,
            -int(left.min()),
        )
    logger.info("took off the counts of %s prompt tokens", f"{n_prefix:,}")
    return n_tokens - n_prefix, left.clamp(min=0)


def _from_rates(
    found: Mapping[str, Any], n_sequences: int, model: ModelInfo, where: str
) -> tuple[int, Int64[Tensor, "layer neuron"]]:
    """Turn rates back into counts.

    The file says how many sequences of equal length were read, not how long they were. Each rate
    is count / (sequences * length), so the length is the shortest that makes all counts whole.
    """
    if (strategy := found.get("recording_strategy", "act")) != "act":
        raise MismatchError(
            f"{where} holds rates of {strategy!r}, not of activations above 0. Record it with "
            "`recording_strategy: act`."
        )
    rates = _grid(found[_RATES], model, f"`{_RATES}` of {where}").double()
    if n_odd := int((~((rates >= 0) & (rates <= 1))).sum()):
        raise MismatchError(f"`{_RATES}` of {where} must be in [0, 1]; {n_odd} are not.")
    smallest = np.unique(rates[rates > 0].numpy())[:_N_RATES] * n_sequences
    for length in range(1, _MAX_SEQUENCE):
        counts = smallest * length
        # Rates are float32: off by 2^-24 of their value, and once more for rounded totals.
        if (np.abs(counts - counts.round()) <= counts * 2.0**-22 + 1e-9).all():
            n_tokens = n_sequences * length
            return n_tokens, (rates * n_tokens).round().long()
    raise MismatchError(
        f"The rates of {where} come from no whole number of tokens in {n_sequences} sequences. "
        "Pass a dict with `n`, the number of tokens, and `over_zero`, the counts [layer neuron]."
    )


def _grid(values: Any, model: ModelInfo, what: str) -> Tensor:
    grid = numbers(values, what=what)
    expected = (model.n_layers, model.d_mlp)
    if tuple(grid.shape) == expected[::-1] != expected:
        grid = grid.T
    if tuple(grid.shape) != expected:
        raise MismatchError(
            f"{what} should be [layer neuron] = {list(expected)} for {model.name}; found "
            f"{list(grid.shape)}. Name the model that was counted."
        )
    return grid


def _whole(values: Tensor, what: str) -> Tensor:
    """Return whole numbers as int64, whatever type they were saved in."""
    if values.dtype == torch.bool or values.is_complex():
        raise MismatchError(f"{what} must be whole numbers; found {values.dtype}.")
    counts = values.long()
    if not torch.equal(counts.to(values.dtype), values):
        odd = values[counts.to(values.dtype) != values].flatten()
        raise MismatchError(
            f"{what} must be whole numbers; {len(odd)} are not, e.g. {odd[0].item()}. Multiply "
            "rates by the number of tokens."
        )
    return counts


def _language_of(name: str) -> str | None:
    """Find the language in a file's name."""
    stem, dot, suffix = name.rpartition(".")
    readable = dot + suffix in _SUFFIXES and not name.startswith((".", "prefix."))
    if name.startswith(("activation.", "activations.")):
        candidates = (stem if readable else name).split(".")[1:2]
    elif readable:
        candidates = [stem, *stem.split("."), *_WITH_SCRIPT.findall(stem)]
        candidates += [*re.split(r"[._]", stem), *re.split(r"[._-]", stem)]
    else:
        return None
    found = dict.fromkeys(filter(None, map(find_language, candidates)))
    # `act`, `opt`, `mlp`, `dev` and `all` are languages too, but hardly next to a well-known one.
    known = [language.code for language in found if language.family != UNKNOWN]
    return known[0] if known else next(iter(found)).code if len(found) == 1 else None
