"""The parquet release table of neuron sets: a row per (language, layer, neuron).

What the rows are of (model, site, thresholds, languages with their number of neurons) is a JSON
text in the schema metadata, under `lse_interp`; a checksum over that text and all columns is under
`lse_interp_sha256`: a table that was cut or changed is refused.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from lse_interp.artifacts.atomic import write_atomic
from lse_interp.artifacts.provenance import jsonable
from lse_interp.artifacts.registry import writer_command
from lse_interp.core.errors import ArtifactError, LseError
from lse_interp.models.info import ModelInfo

__all__ = [
    "REQUIRED",
    "read_release_table",
    "rows_by_layer",
    "rows_to_grids",
    "sets_to_rows",
    "write_table",
]

_VERSION = 2
REQUIRED = ("language", "layer", "neuron", "probability")
"""The columns of a release table; the score is one more, under its own name."""
_KEY, _CHECKSUM_KEY = b"lse_interp", b"lse_interp_sha256"


def write_table(path: str | Path, frame: pd.DataFrame, *, about: Mapping[str, Any]) -> Path:
    """Write a release table, atomically.

    Args:
        path: the `.parquet` file.
        frame: columns language, layer, neuron, the score, probability.
        about: what the table is of; dataclasses, paths and tuples are converted to JSON.
    """
    table = pa.Table.from_pandas(frame, preserve_index=False)
    text = json.dumps(jsonable({"version": _VERSION} | dict(about))).encode()
    described = {_KEY: text, _CHECKSUM_KEY: _checksum(table, text)}
    table = table.replace_schema_metadata((table.schema.metadata or {}) | described)

    def write(temporary: Path) -> None:
        # Opened here, as pyarrow takes no path that is not UTF-8.
        with temporary.open("wb") as file:
            pq.write_table(table, file)

    write_atomic(path, write)
    return Path(path)


def read_release_table(path: str | Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read a release table and check that it is whole.

    Returns:
        The rows, and what they are of.

    Raises:
        ArtifactError: missing, truncated, altered or not a release table.
    """
    path = Path(path)
    if not path.is_file():
        raise ArtifactError(
            f"{path} is not a file. Give the neurons.parquet that "
            f"`{writer_command('neuron_sets')} --parquet` wrote, or that was downloaded."
        )
    try:
        with path.open("rb") as file:
            table = pq.read_table(file)
        metadata = table.schema.metadata or {}
        missing = [name for name in REQUIRED if name not in table.column_names]
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error
    if missing or not {_KEY, _CHECKSUM_KEY} <= set(metadata):
        what = f"no column {', '.join(missing)}" if missing else "no metadata under `lse_interp`"
        raise ArtifactError(
            f"{path} is a parquet file but not a release table of lse_interp ({what}). Copies that "
            "other tools wrote lose the metadata; take the original file."
        )
    table = table.replace_schema_metadata(None)
    try:
        found = _checksum(table, metadata[_KEY])
    # TypeError: a column that an altered schema makes into one of bytes.
    except (TypeError, ValueError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error
    if found != metadata[_CHECKSUM_KEY]:
        raise ArtifactError(
            f"{path} was altered after it was written: its rows or its description do not have "
            "the checksum they were written with. Take the original file."
        )
    about = json.loads(metadata[_KEY])
    if about.get("version") != _VERSION:
        raise ArtifactError(
            f"{path} has format version {about.get('version', 1)} of the release table; this "
            f"package reads version {_VERSION}. Write it again, or install the version of the "
            f"package that wrote it ({about['provenance'].get('package_version', 'unknown')})."
        )
    return table.to_pandas(), about


def sets_to_rows(
    indices: Mapping[str, Sequence[Int64[Tensor, " _neuron"]]],
    *,
    scores: Float64[Tensor, "layer neuron"] | None,
    probability: Float64[Tensor, "lang layer neuron"] | None,
    score_name: str,
) -> pd.DataFrame:
    """List every (language, layer, neuron) with its score and its probability there."""
    frames = []
    for position, (language, layers) in enumerate(indices.items()):
        neuron = torch.cat(tuple(layers))
        layer = torch.repeat_interleave(torch.tensor([len(neurons) for neurons in layers]))
        grids = {score_name: scores}
        grids["probability"] = None if probability is None else probability[position]
        columns = {
            "language": pd.Series([language] * len(neuron), dtype="str"),
            "layer": layer.numpy(),
            "neuron": neuron.numpy(),
        }
        for name, grid in grids.items():
            unknown = np.full(len(neuron), np.nan)
            columns[name] = unknown if grid is None else grid[layer, neuron].numpy()
        frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True)


def rows_by_layer(
    frame: pd.DataFrame, languages: Iterable[str] | None = None
) -> dict[str, dict[int, pd.Series]]:
    """Sort the neurons of a table by language and layer.

    Args:
        frame: Columns language, layer, neuron; others are left out.
        languages: The languages in their order, also those without rows; None for those found.

    Raises:
        LseError: A column is missing.
    """
    columns = REQUIRED[:3]
    if missing := [name for name in columns if name not in frame.columns]:
        raise LseError(
            f"The table needs the columns {', '.join(columns)}; {', '.join(missing)} missing. "
            "Rename yours with `frame.rename(columns={...})`."
        )
    languages = frame["language"].unique() if languages is None else languages
    rows = {language: frame[frame["language"] == language] for language in languages}
    return {code: dict(iter(of.groupby("layer")["neuron"])) for code, of in rows.items()}


def rows_to_grids(
    frame: pd.DataFrame, *, score_name: str, languages: Mapping[str, int], model: ModelInfo
) -> tuple[Float64[Tensor, "layer neuron"] | None, Float64[Tensor, "lang layer neuron"] | None]:
    """Put scores and probabilities into their places; NaN where the table does not list a neuron.

    Returns:
        Scores and probabilities; None for a column without any number.
    """
    layer, neuron = (_tensor(frame[column], np.int64) for column in ("layer", "neuron"))
    order = {language: position for position, language in enumerate(languages)}
    language = _tensor(frame["language"].map(order), np.int64)

    def grid(column: str, *place: Tensor, shape: tuple[int, ...]) -> Tensor | None:
        if not frame[column].notna().any():
            return None
        values = torch.full(shape, torch.nan, dtype=torch.float64)
        values[place] = _tensor(frame[column], np.float64)
        return values

    each = (model.n_layers, model.d_mlp)
    return (
        grid(score_name, layer, neuron, shape=each),
        grid("probability", language, layer, neuron, shape=(len(languages), *each)),
    )


def _checksum(table: pa.Table, text: bytes) -> bytes:
    digest = hashlib.sha256(text)
    for name in table.column_names:
        column = table.column(name)
        digest.update(f"\n{name}:{column.type}:".encode())
        if name == "language":
            digest.update(json.dumps(column.to_pylist()).encode())
        else:
            digest.update(column.to_numpy().tobytes())
    return digest.hexdigest().encode()


def _unreadable(path: Path, error: Exception) -> ArtifactError:
    return ArtifactError(
        f"{path} cannot be read as a release table; it is truncated, altered or of another format "
        f"({path.stat().st_size} bytes; {str(error).splitlines()[0]}). Download or write it again."
    )


def _tensor(column: pd.Series, kind: type[np.generic]) -> Tensor:
    # Copied, because a column read from a file may not be written to.
    return torch.from_numpy(column.to_numpy(kind, copy=True))
