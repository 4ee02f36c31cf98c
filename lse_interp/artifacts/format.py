"""Artefacts on disk: one safetensors file each, written atomically, checked on load.

The tensors, a JSON description (kind, version, axes, model, provenance) and a checksum of both
live in one `.safetensors` file, so that a half-written artefact cannot exist. A `.json` twin is
written next to it for people and `jq`; loading never reads the twin.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lse_interp.artifacts.atomic import write_together
from lse_interp.artifacts.provenance import jsonable
from lse_interp.artifacts.registry import WRITERS
from lse_interp.core.errors import ArtifactError, LseError

__all__ = ["load_artifact", "read_checksum", "read_kind", "read_meta", "save_artifact"]


_META_KEY = "lse_interp"
_CHECKSUM_KEY = "sha256"
_META_CHECKSUM_KEY = "sha256_description"


def save_artifact(
    path: str | Path,
    *,
    kind: str,
    version: int,
    tensors: Mapping[str, Tensor],
    meta: Mapping[str, Any],
    beside: Mapping[str | Path, Callable[[Path], Any]] | None = None,
) -> Path:
    """Write an artefact atomically; an existing file survives until the new one is complete.

    Args:
        path: the `.safetensors` file.
        kind: what this is, e.g. `"activation_counts"`.
        version: format version of this kind.
        tensors: arrays by name.
        meta: everything else, JSON-ready (dataclasses, paths and tuples are converted).
        beside: further files that belong to it, as `write_together` takes them.

    Returns:
        The path written.

    Raises:
        WriteError: the disk is full, or the folder cannot be written to; nothing was replaced.
    """
    path = Path(path)
    arrays = _unshared(tensors)
    description = json.dumps(
        {"kind": kind, "version": version, "meta": jsonable(meta)},
        ensure_ascii=False,
        sort_keys=True,
    )
    header = {
        _META_KEY: description,
        _CHECKSUM_KEY: _checksum(arrays, description),
        _META_CHECKSUM_KEY: _checksum({}, description),
    }
    shapes = {name: {"shape": list(t.shape), "dtype": str(t.dtype)} for name, t in arrays.items()}
    twin = json.dumps(json.loads(description) | {"tensors": shapes}, indent=2, ensure_ascii=False)
    # The artefact comes last: if it exists, all files that belong to it exist too.
    write_together(
        {
            path.with_suffix(".json"): lambda out: out.write_text(twin + "\n", encoding="utf-8"),
            **(beside or {}),
            path: lambda out: save_file(arrays, out, metadata=header),
        }
    )
    return path


def load_artifact(
    path: str | Path, *, kind: str, version: int
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read an artefact and check that it is whole and of the right kind.

    Returns:
        The tensors by name, and the metadata given to `save_artifact`.

    Raises:
        ArtifactError: missing, truncated, altered, of another kind or version.
    """
    path = Path(path)
    # From one opening: another process may put a new file in its place.
    with _opened(path, kind=kind) as file:
        header = _header(path, file)
        description = _described(path, header, kind=kind, version=version)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    found = _checksum(tensors, header[_META_KEY])
    if found != header.get(_CHECKSUM_KEY):
        raise ArtifactError(
            f"{path} was altered after it was written: expected checksum "
            f"{header.get(_CHECKSUM_KEY)}, found {found}. Delete it and make it again."
        )
    return tensors, description["meta"]


def read_meta(path: str | Path, *, kind: str, version: int) -> dict[str, Any]:
    """Read only the metadata, without the tensors (and without checking them).

    Raises:
        ArtifactError: missing, truncated, of another kind or version; or the metadata altered.
    """
    path = Path(path)
    with _opened(path, kind=kind) as file:
        header = _header(path, file)
    return _described(path, header, kind=kind, version=version)["meta"]


def read_checksum(path: str | Path, *, kind: str) -> str:
    """Read the checksum of an artefact; any change of the artefact changes it.

    Raises:
        ArtifactError: missing, truncated, or no artefact.
    """
    path = Path(path)
    with _opened(path, kind=kind) as file:
        return _header(path, file).get(_CHECKSUM_KEY, "")


def read_kind(path: str | Path) -> str:
    """Read which kind of artefact a file holds.

    Raises:
        ArtifactError: missing, truncated, or no artefact.
    """
    path = Path(path)
    with _opened(path, kind="") as file:
        header = _header(path, file)
    return _parsed(path, header)["kind"]


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bring tensors to the host; copy those that share memory, which safetensors refuses."""
    arrays: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        array = tensor.detach().cpu().contiguous()
        storage = array.untyped_storage().data_ptr()
        arrays[name] = array.clone() if storage in seen else array
        seen.add(storage)
    return arrays


@contextlib.contextmanager
def _opened(path: Path, *, kind: str) -> Iterator[Any]:
    if not path.exists():
        writer = WRITERS.get(kind)
        how = f" (python -m lse_interp.{writer}, same --model and --root)" if writer else ""
        raise ArtifactError(f"{path} does not exist. Run the command that writes it first{how}.")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error


def _header(path: Path, file: Any) -> dict[str, str]:
    header = file.metadata() or {}
    if _META_KEY not in header:
        raise ArtifactError(
            f"{path} is a safetensors file but not an artefact of lse_interp (no "
            f"`{_META_KEY}` entry in its header). Give the path of a file this package wrote."
        )
    return header


def _described(path: Path, header: Mapping[str, str], *, kind: str, version: int) -> dict:
    description = _parsed(path, header)
    if unknown := set(header) - {_META_KEY, _CHECKSUM_KEY, _META_CHECKSUM_KEY}:
        raise ArtifactError(
            f"{path} was altered after it was written: its header has {', '.join(sorted(unknown))}."
            " Delete it and make it again."
        )
    expected = header.get(_META_CHECKSUM_KEY)
    if expected is not None and expected != (found := _checksum({}, header[_META_KEY])):
        raise ArtifactError(
            f"{path} was altered after it was written: expected checksum {expected} of its "
            f"description, found {found}. Delete it and make it again."
        )
    if description["kind"] != kind:
        raise ArtifactError(
            f"{path} holds `{description['kind']}`; expected `{kind}`. Give the right file."
        )
    if description["version"] != version:
        raise ArtifactError(
            f"{path} has format version {description['version']} of `{kind}`; this package reads "
            f"version {version}. Make it again, or install the version of the package that wrote "
            f"it ({description['meta'].get('provenance', {}).get('package_version', 'unknown')})."
        )
    return description


def _parsed(path: Path, header: Mapping[str, str]) -> dict[str, Any]:
    try:
        description = json.loads(header[_META_KEY])
    except json.JSONDecodeError as error:
        raise _unreadable(path, error) from error
    if not isinstance(description, dict) or not {"kind", "version", "meta"} <= set(description):
        raise _unreadable(path, LseError("its header does not name kind, version and meta"))
    return description


def _unreadable(path: Path, error: Exception) -> ArtifactError:
    content = path.read_bytes() if path.is_file() else b""
    # In safetensors, a header in JSON follows the 8 bytes that say how long it is.
    if len(content) > 8 and content[8:9] != b"{":
        return ArtifactError(
            f"{path} cannot be read as an artefact of lse_interp: another program wrote it, or its "
            "first bytes were altered. Neurons saved with torch are read by `--masks` "
            "(`NeuronSets.from_masks`), counts of another project by `lse lape --counts FOLDER` "
            "(`ActivationCounts.from_counts`)."
        )
    return ArtifactError(
        f"{path} cannot be read as an artefact; it is truncated or not safetensors "
        f"({len(content)} bytes; {error}). Delete it and run the command that writes it again."
    )


def _checksum(tensors: Mapping[str, Tensor], description: str) -> str:
    digest = hashlib.sha256(description.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name}:{tuple(tensor.shape)}:{tensor.dtype}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
