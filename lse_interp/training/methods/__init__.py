"""Fine-tuning methods: one file per family.

A method says what it trains, how a figure shows it, and how its result is kept and loaded. To add
one, write a file here, or a module of another package with an entry point in the group
`lse_interp.methods`:

    METHODS.register("target")(Method(name="target", ...))
"""

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from lse_interp.core.kinds import Kinds

__all__ = ["METHODS", "Look", "Method", "method_looks", "method_of"]


@dataclasses.dataclass(frozen=True)
class Look:
    """How figures and tables show a method."""

    label: str
    color: str
    """Hex. Any two methods differ by at least 25 in CIELAB under normal, protanopic and
    deuteranopic vision."""
    dash: int = 0
    """Position among the dashes of `plotting.style`."""
    compared: bool = True
    """Whether the demo and the table of all methods train it unless told otherwise."""


@dataclasses.dataclass(frozen=True)
class Method:
    """One way to fine-tune a model. Source: paper, sections 3.2 and 4.3."""

    name: str
    """As `--method` takes it."""
    rank: int
    """Place in figures and lists, where methods ascend by it."""
    looks: Mapping[str, Look]
    """Label of a run -> how it is shown: `target`, or `random:layer` for a variant."""
    prepare: Callable[..., AbstractContextManager[Any]]
    """`prepare(model, neurons=..., options=...)` yields a `Trainable`. Afterwards the model is as
    before, to the bit."""
    load: Callable[..., Any]
    """`load(run, args)` loads the tuned model of a run as a `HookedModel`."""
    choose: Callable[..., Any] | None = None
    """`choose(sets, language=..., variant=..., seed=...)` returns the neurons to train, per layer.
    None: the method chooses none, and `keep` writes what it trained."""
    keep: Callable[..., None] | None = None
    """`keep(model, trainable, folder, is_main=...)` writes weights that are not rows of neurons."""
    default_variant: str | None = None
    """The default variant; None for a method without variants."""
    lr: float = 1e-4
    """The default learning rate, before the factor of the model."""
    flags: tuple[str, ...] = ()
    """Hyper-parameters of this method that some other methods lack."""
    builds_on_base: bool = True
    """Whether `load` adds to the base model, in its dtype, or reads a whole other model."""
    decays_weights: bool = True
    """Whether weight decay shrinks the model's own weights."""

    @property
    def needs_neurons(self) -> bool:
        """Whether the method needs the sets of language neurons."""
        return self.choose is not None

    @property
    def variants(self) -> tuple[str, ...]:
        """The parts after the colon in the labels of the runs."""
        return tuple(label.partition(":")[2] for label in self.looks if ":" in label)

    def label(self, variant: str | None = None) -> str:
        """Return the method as a run names it, e.g. `random:size`."""
        return f"{self.name}:{variant or self.default_variant}" if self.variants else self.name


METHODS: Kinds[Method] = Kinds(
    "lse_interp.training.methods", group="lse_interp.methods", what="fine-tuning method"
)
"""All methods by name."""


def method_looks() -> dict[str, Look]:
    """Return the label of every kind of run, in the order of figures and lists, and its look."""
    methods = sorted(METHODS.values(), key=lambda method: method.rank)
    return {label: look for method in methods for label, look in method.looks.items()}


def method_of(label: str) -> Method:
    """Return the method of a run's label: `random` of `random:layer`.

    Raises:
        LseError: There is no such method.
    """
    return METHODS[label.partition(":")[0]]
