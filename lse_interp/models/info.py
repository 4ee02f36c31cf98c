"""ModelInfo: which model an artefact belongs to."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from lse_interp.core.errors import MismatchError

__all__ = ["HasInfo", "ModelInfo", "info_of", "projections"]


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
    """Whether a neuron has a gate row, besides its up row and down column."""

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
            other: the model that `what` belongs to.
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
