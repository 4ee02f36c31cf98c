"""Artefacts on disk: one safetensors file each, written atomically, checked on load.

The tensors, a JSON description (kind, version, axes, model, provenance) and a checksum of both
live in one `.safetensors` file, so that a half-written artefact cannot exist. A `.json` twin is
written beside it for people and `jq`; loading never reads the twin.
"""

import contextlib
import dataclasses
import datetime
import enum
import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lse_interp.core.errors import ArtifactError, LseError, MismatchError
from lse_interp.core.settings import readable
from lse_interp.core.writing import write_atomic, write_folder, write_together

__all__ = [
    "HasInfo",
    "ModelInfo",
    "RunPaths",
    "info_of",
    "load_artifact",
    "projections",
    "provenance",
    "read_checksum",
    "read_meta",
    "save_artifact",
    "write_atomic",
    "write_folder",
]

_META_KEY = "lse_interp"
_CHECKSUM_KEY = "sha256"
_META_CHECKSUM_KEY = "sha256_description"
_WRITERS = {
    "ablation_matrix": "ablation",
    "activation_counts": "activations",
    "alignment_curves": "alignment",
    "evaluation_table": "evaluation",
    "finetune_run": "finetune",
    "loss_comparison": "comparison",
    "neuron_sets": "lape",
    "overlap_matrix": "overlap",
    "weight_deltas": "deltas",
}
"""Kind of artefact -> the stage that makes it."""


def projections(*, gated: bool) -> tuple[str, ...]:
    """Name the projections that a neuron has rows in, in the order of the `projection` axis.

    >>> projections(gated=True)
    ('gate', 'up', 'down')
    """
    return ("gate", "up", "down") if gated else ("up", "down")


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """Which model an artefact belongs to.

    `fingerprint` is a hash over all weights; None where only the shape is known (released masks).
    """

    name: str
    fingerprint: str | None
    architecture: str
    n_layers: int
    d_model: int
    d_mlp: int
    n_parameters: int
    gated: bool = True
    """Whether a neuron has a gate row beside its up row and down column."""

    @property
    def projections(self) -> tuple[str, ...]:
        """What a neuron has rows in, in the order of the axis `projection`."""
        return projections(gated=self.gated)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ModelInfo":
        """Rebuild from `to_dict`."""
        return cls(**values)

    def require_same(self, other: "ModelInfo", *, what: str) -> None:
        """Refuse an artefact of another model.

        Args:
            other: the model found, in or behind `what`.
            what: the thing that carries `other`, as it should read in the message.

        Raises:
            MismatchError: layers, d_model, d_mlp or fingerprint differ.
        """
        for field in ("n_layers", "d_model", "d_mlp"):
            expected, found = getattr(self, field), getattr(other, field)
            if expected != found:
                raise MismatchError(
                    f"{what} belongs to another model: expected {field} {expected} "
                    f"({self.name}), found {field} {found} ({other.name}). "
                    f"Use files made with {self.name}, or load {other.name}."
                )
        both_known = self.fingerprint is not None and other.fingerprint is not None
        if both_known and self.fingerprint != other.fingerprint:
            raise MismatchError(
                f"{what} belongs to other weights: expected fingerprint {self.fingerprint} "
                f"({self.name}), found {other.fingerprint} ({other.name}). The shapes agree but "
                "the weights do not; make it again with this model."
            )


@runtime_checkable
class HasInfo(Protocol):
    """What says which model it is, as `HookedModel` does."""

    @property
    def info(self) -> ModelInfo:
        """Which model this is."""
        ...


def info_of(model: ModelInfo | HasInfo) -> ModelInfo:
    """Return the description of a model, or the description itself."""
    return model if isinstance(model, ModelInfo) else model.info


@dataclasses.dataclass(frozen=True)
class RunPaths:
    """Where the artefacts of one model live: `root/<model>/...`."""

    root: Path
    model: str

    @property
    def folder(self) -> Path:
        """The folder that holds every artefact of this model."""
        return Path(self.root) / re.sub(r"[^\w.-]+", "--", self.model.strip("/"))

    @property
    def model_flag(self) -> str:
        """How a suggested command line names this model: ` --model X`, nothing for the default."""
        return "" if self.model == "embedded" else f" --model {self.model}"

    def counts(self, language: str) -> Path:
        """Activation counts of one language."""
        return self.folder / "counts" / f"{language}.safetensors"

    @property
    def neurons(self) -> Path:
        """The identified neuron sets."""
        return self.folder / "neurons.safetensors"

    @property
    def release(self) -> Path:
        """The folder to publish: neurons as a parquet table, and its dataset card."""
        return self.folder / "release"

    @property
    def overlap(self) -> Path:
        """The overlap matrix."""
        return self.folder / "overlap.safetensors"

    def alignment(self, language: str) -> Path:
        """Alignment curves of one language."""
        return self.folder / "alignment" / f"{language}.safetensors"

    def finetune(self, language: str, name: str) -> Path:
        """Folder of one fine-tuning run."""
        return self.folder / "finetune" / language / name

    def comparison(self, language: str) -> Path:
        """Losses of the models tuned to one language."""
        return self.folder / "comparison" / f"{language}.safetensors"

    def evaluation(self, language: str) -> Path:
        """Task scores of the models tuned to one language."""
        return self.folder / "evaluation" / f"{language}.safetensors"

    def deltas(self, language: str, name: str) -> Path:
        """Weight changes of one fine-tuning run."""
        return self.folder / "deltas" / language / f"{name}.safetensors"


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
        {"kind": kind, "version": version, "meta": _jsonable(meta)},
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
    # The artefact comes last: where it is, there is all that belongs to it.
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
    """Read the metadata alone, without touching the tensors (and without their checksum).

    Raises:
        ArtifactError: missing, truncated, of another kind or version; or the metadata altered.
    """
    path = Path(path)
    with _opened(path, kind=kind) as file:
        header = _header(path, file)
    return _described(path, header, kind=kind, version=version)["meta"]


def read_checksum(path: str | Path, *, kind: str) -> str:
    """Read the checksum that an artefact was written with; it differs whenever anything does.

    Raises:
        ArtifactError: missing, truncated, or no artefact.
    """
    path = Path(path)
    with _opened(path, kind=kind) as file:
        return _header(path, file).get(_CHECKSUM_KEY, "")


def provenance(config: Any = None, **extra: Any) -> dict[str, Any]:
    """Say where an artefact came from: package version, time, command line, configuration."""
    from lse_interp import __version__

    return {
        "package_version": __version__,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "config": _jsonable(config),
    } | _jsonable(extra)


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
        writer = _WRITERS.get(kind)
        how = f" (python -m lse_interp.{writer}, same --model and --root)" if writer else ""
        raise ArtifactError(f"{path} does not exist. Run the stage that writes it first{how}.")
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
    try:
        description = json.loads(header[_META_KEY])
    except json.JSONDecodeError as error:
        raise _unreadable(path, error) from error
    if not isinstance(description, dict) or not {"kind", "version", "meta"} <= set(description):
        raise _unreadable(path, LseError("its header does not name kind, version and meta"))
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


def _unreadable(path: Path, error: Exception) -> ArtifactError:
    size = path.stat().st_size if path.exists() else 0
    return ArtifactError(
        f"{path} cannot be read as an artefact; it is truncated or not safetensors "
        f"({size} bytes; {error}). Delete it and run the stage that writes it again."
    )


def _checksum(tensors: Mapping[str, Tensor], description: str) -> str:
    digest = hashlib.sha256(description.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name}:{tuple(tensor.shape)}:{tensor.dtype}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _jsonable(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _jsonable(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_jsonable(item) for item in value]
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, str | Path):
        return readable(str(value))
    if isinstance(value, torch.dtype | torch.device):
        return str(value)
    return value
