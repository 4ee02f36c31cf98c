"""What made a file: package version, time, command line, configuration."""

import dataclasses
import datetime
import enum
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

__all__ = ["jsonable", "provenance", "readable"]


def provenance(config: Any = None, **extra: Any) -> dict[str, Any]:
    """Say where an artefact came from: package version, time, command line, configuration."""
    from lse_interp import __version__

    return {
        "package_version": __version__,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "config": jsonable(config),
    } | jsonable(extra)


def jsonable(value: Any) -> Any:
    """Convert dataclasses, paths, enums and tuples into what JSON can hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: jsonable(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(item) for item in value]
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, str | Path):
        return readable(str(value))
    if isinstance(value, torch.dtype | torch.device):
        return str(value)
    return value


def readable(text: str) -> str:
    r"""Restore the letters of a path, which Python spells in surrogates under an ASCII locale.

    >>> readable("runs/\udcc4\udca7obz")
    'runs/ħobz'
    """
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
