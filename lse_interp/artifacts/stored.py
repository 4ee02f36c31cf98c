"""Stored: what an artefact's class says about its file, from which `save` and `load` follow."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from torch import Tensor

from lse_interp.artifacts.format import load_artifact, save_artifact

__all__ = ["Stored"]

_T = TypeVar("_T", bound="Stored")


class Stored:
    """Mixin for a frozen dataclass that is kept in one `.safetensors` file.

    A class whose fields are not the tensors and values of its file overrides `_tensors`, `_meta`
    or `_fields`.
    """

    KIND: ClassVar[str]
    """The kind of artefact; see `artifacts.registry`."""
    VERSION: ClassVar[int] = 1
    """Format version of the kind."""
    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Tensor -> the names of its axes, which the file lists too."""
    TENSORS: ClassVar[tuple[str, ...]] = ()
    """Fields that are tensors, without those in `AXES`. None is not saved."""
    META: ClassVar[tuple[str, ...]]
    """Fields that are everything else. A list in the file is read as a tuple."""
    READ: ClassVar[Mapping[str, Callable[[Any], Any]]] = {}
    """Field in `META` -> what makes it from its value in the file; of a tuple, each entry."""

    def save(self, path: str | Path) -> Path:
        """Write the artefact; see `artifacts.format.save_artifact`."""
        tensors = self._tensors()
        axes = {name: axes for name, axes in self.AXES.items() if name in tensors}
        meta = self._meta() | ({"axes": axes} if axes else {})
        return save_artifact(path, kind=self.KIND, version=self.VERSION, tensors=tensors, meta=meta)

    @classmethod
    def load(cls: type[_T], path: str | Path) -> _T:
        """Read what `save` wrote.

        Raises:
            ArtifactError: Missing, truncated, altered or of another kind.
        """
        return cls(**cls._fields(*load_artifact(path, kind=cls.KIND, version=cls.VERSION)))

    def _tensors(self) -> dict[str, Tensor]:
        """Return the tensors of the file."""
        found = {name: getattr(self, name) for name in (*self.AXES, *self.TENSORS)}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    def _meta(self) -> dict[str, Any]:
        """Return everything else in the file."""
        return {name: getattr(self, name) for name in self.META}

    @classmethod
    def _fields(cls, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of the class from what is in the file."""
        arrays = {name: tensors.get(name) for name in (*cls.AXES, *cls.TENSORS)}
        return arrays | {name: _read(meta[name], cls.READ.get(name)) for name in cls.META}


def _read(value: Any, convert: Callable[[Any], Any] | None) -> Any:
    if isinstance(value, list):
        return tuple(value if convert is None else map(convert, value))
    return value if convert is None else convert(value)
