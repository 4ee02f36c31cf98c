"""Ways to choose the neurons of languages: one file each, and more from other packages.

A file registers a `Selector` under the name that `--selector` takes:

    SELECTORS.register("lape")(Selector(name="lape", Parameters=Parameters, choose=choose, ...))

Another package names its selectors as entry points of the group `lse_interp.selectors`.
"""

import dataclasses
import shlex
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lse_interp.core.errors import LseError, near_misses
from lse_interp.core.kinds import Kinds

__all__ = ["FLAGS", "SELECTORS", "Selector", "command_flags"]

FLAGS = ("k", "activity_quantile", "selectivity_quantile")
"""Parameters for which the command has a flag; all others go through `--parameters`."""


@dataclasses.dataclass(frozen=True)
class Selector:
    """One way to choose the neurons of languages."""

    name: str
    """What `--selector` takes, and the name of the neuron file in a run folder."""
    title: str
    """The name in words."""
    score_name: str
    """What a neuron is scored by: the column of every table."""
    score_unit: str
    """The unit of the score, e.g. `nats`; empty for a plain number."""
    about: str
    """How neurons are scored and chosen, in a few sentences for a dataset card."""
    Parameters: type
    """A frozen dataclass of numbers, text and booleans, each with a default. It refuses values
    out of range with an `LseError`."""
    choose: Callable[..., Any]
    """(`CheckedCounts`, parameters) -> `Selection`, both of `neurons.selection`."""
    thresholds: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """What the parameters and the thresholds of a `Selection` mean, for a dataset card."""
    citation: str = ""
    """BibTeX."""

    @property
    def defaults(self) -> dict[str, Any]:
        """The parameters and their defaults."""
        return dataclasses.asdict(self.Parameters())

    def parameters(self, values: Mapping[str, Any]) -> Any:
        """Make the parameters from those that are not left to their defaults.

        Raises:
            LseError: A parameter that this selector does not have, or a value out of range.
        """
        for name in values:
            if name not in self.defaults:
                known = ", ".join(f"{key} ({value})" for key, value in self.defaults.items())
                raise LseError(
                    f"The selector {self.name!r} has no parameter {name!r}. "
                    f"{near_misses(name, self.defaults)} Its parameters: {known or 'none'}."
                )
        return self.Parameters(**values)

    def read(self, words: Iterable[str]) -> dict[str, Any]:
        """Read parameters that are written as `name=value`.

        Raises:
            LseError: Not `name=value`, or a value of another type.
        """
        types = typing.get_type_hints(self.Parameters)
        found = {}
        for word in words:
            name, equals, text = word.partition("=")
            if not equals:
                raise LseError(f"A parameter is written name=value; got {word!r}.")
            kind = types.get(name.replace("-", "_"), str)
            try:
                value = _BOOLEANS[text.lower()] if kind is bool else kind(text)
            except (KeyError, ValueError) as error:
                raise LseError(
                    f"`{name}` must be of type {kind.__name__}; got {text!r}."
                ) from error
            found[name.replace("-", "_")] = value
        return found


_BOOLEANS = {"true": True, "false": False}

SELECTORS: Kinds[Selector] = Kinds(
    "lse_interp.neurons.selectors", group="lse_interp.selectors", what="selector"
)


def command_flags(parameters: Mapping[str, Any]) -> str:
    """Spell parameters as flags of the command that chooses neurons.

    >>> command_flags({"k": 0.05, "margin": 2})
    '--k 0.05 --parameters margin=2'
    """
    flags = [
        f"--{name.replace('_', '-')} {shlex.quote(f'{value}')}"
        for name, value in parameters.items()
        if name in FLAGS
    ]
    others = [
        shlex.quote(f"{key}={value}") for key, value in parameters.items() if key not in FLAGS
    ]
    return " ".join([*flags, *(["--parameters", *others] if others else [])])
