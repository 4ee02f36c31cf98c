"""Things that come in several kinds: one file per kind in a folder, more from other packages.

    METHODS: Kinds[Method] = Kinds("lse_interp.training.methods", group="lse_interp.methods",
                                   what="fine-tuning method")

    @METHODS.register("lora")
    ...

A kind registers itself under a name when its file is imported. Names are read from the files
without importing them, so that `--help` stays fast. Another package adds a kind through an entry
point of the group: the name of the kind, and `module` or `module:object`, which registers itself
when it is imported.
"""

import importlib
import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from lse_interp.core.errors import LseError, near_misses

__all__ = ["Kinds"]

_T = TypeVar("_T")

_REGISTERED = re.compile(r"^@?(?:\w+\.)*register\(\s*\"([^\"]+)\"", re.MULTILINE)


class Kinds(Generic[_T]):
    """The kinds of one thing, by name; a kind is imported when it is asked for.

    Args:
        package: The folder with one file per kind, as a module name. Files that start with `_`
            hold no kind.
        group: Entry-point group in which other packages name theirs.
        what: The thing, as errors call it.
    """

    def __init__(self, package: str, *, group: str, what: str) -> None:
        self._package, self._group, self._what = package, group, what
        self._known: dict[str, _T] = {}
        self._found: tuple[tuple[str, ...], dict[str, str]] = ((), {})

    def register(self, name: str) -> Callable[[_T], _T]:
        """Return a decorator, or a function to call, that files a kind under `name`."""

        def file(kind: _T) -> _T:
            self._known[name] = kind
            return kind

        return file

    def names(self) -> tuple[str, ...]:
        """Return all names: those of this package in the order of their files, then others."""
        return tuple(dict.fromkeys((*self._homes(), *self._known)))

    def __getitem__(self, name: str) -> _T:
        """Return a kind.

        Raises:
            LseError: No such kind, or its module cannot be imported.
        """
        if name not in self._known and (home := self._homes().get(name)) is not None:
            try:
                importlib.import_module(home)
            except ImportError as error:
                raise LseError(
                    f"The {self._what} {name!r} is in {home}, which cannot be imported: {error}."
                ) from error
            if name not in self._known:
                raise LseError(f"{home} was named for the {self._what} {name!r} and has none.")
        if name not in self._known:
            raise LseError(f"There is no {self._what} {name!r}. {near_misses(name, self.names())}")
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        return name in self.names()

    def values(self) -> tuple[_T, ...]:
        """Return all kinds, importing each."""
        return tuple(self[name] for name in self)

    @property
    def choice(self) -> Any:
        """The type of a command-line flag that takes one of the names."""
        return Literal[self.names()]

    def _homes(self) -> dict[str, str]:
        """Return name -> the module that registers it; looked for once per search path."""
        path = tuple(sys.path)
        if self._found[0] != path:
            self._found = path, self._find_homes()
        return self._found[1]

    def _find_homes(self) -> dict[str, str]:
        spec = importlib.util.find_spec(self._package)
        homes = {}
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            for path in sorted(Path(folder).glob("[!_]*.py")):
                for name in _REGISTERED.findall(path.read_text(encoding="utf-8")):
                    homes[name] = f"{self._package}.{path.stem}"
        for point in importlib.metadata.entry_points(group=self._group):
            homes[point.name] = point.value.partition(":")[0]
        return homes
