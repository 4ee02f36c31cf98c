"""ModelInfo: which model an artefact belongs to."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from lse_interp.core.errors import MismatchError
from lse_interp.models.layout import Layout

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

    `fingerprint` is a hash over all weights, in five parts (see `models.fingerprint`); None where
    only the shape is known (released masks).
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

    @classmethod
    def from_config(cls, name: str | Path, *, revision: str | None = None) -> "ModelInfo":
        """Describe a model from its configuration alone: no weights are read, so no fingerprint.

        Args:
            name: As in `load_model`: a local folder, a hub id, ...
            revision: Hub branch, tag or commit.

        Raises:
            LseError: The configuration cannot be read.
            UnsupportedModelError: An encoder, encoder-decoder, mixture-of-experts or unknown model.
        """
        from lse_interp.models.architectures import find_layout
        from lse_interp.models.checkpoint import read_config, without_weights
        from lse_interp.models.loading import find_base

        source, revision = find_base(str(name), revision=revision)
        hf = without_weights(read_config(source, revision=revision))
        return cls.of(hf, find_layout(hf), name=str(name))

    @classmethod
    def of(cls, hf: Any, layout: Layout, *, name: str) -> "ModelInfo":
        """Describe a transformers model by its layout; no weights are read, so no fingerprint."""
        from lse_interp.models.fingerprint import n_parameters

        return cls(
            name=name,
            fingerprint=None,
            architecture=layout.architecture,
            n_layers=layout.n_layers,
            d_model=layout.d_model,
            d_mlp=layout.d_mlp,
            n_parameters=n_parameters(hf),
            gated=layout.gated,
        )

    def require_same(self, other: "ModelInfo", *, what: str, exact: bool = False) -> None:
        """Refuse an artefact of another model.

        A checkpoint is one model, whatever dtype it is held in.

        Args:
            other: the model that `what` belongs to.
            what: the thing that carries `other`, as it should read in the message.
            exact: whether to refuse another dtype too.

        Raises:
            MismatchError: layers, d_model, d_mlp or weights differ.
        """
        for field in ("n_layers", "d_model", "d_mlp"):
            expected, found = getattr(self, field), getattr(other, field)
            if expected != found:
                raise MismatchError(
                    f"{what} belongs to another model: expected {field} {expected} "
                    f"({self.name}), found {field} {found} ({other.name}). "
                    f"Use files made with {self.name}, or load {other.name}."
                )
        if self.fingerprint is None or other.fingerprint is None:
            return
        held, needed = ((of.split("-") + [""])[1] for of in (self.fingerprint, other.fingerprint))
        if not _same_weights(self.fingerprint, other.fingerprint):
            cure = "make it again with this model."
            if held != needed:
                cure += (
                    f" It was made in {needed}, and {self.name} is held in {held} now: if it is "
                    f"of one checkpoint after all, pass `--dtype {needed}`."
                )
            raise MismatchError(
                f"{what} belongs to other weights: expected fingerprint {self.fingerprint} "
                f"({self.name}), found {other.fingerprint} ({other.name}). The shapes agree but "
                f"the weights do not; {cure}"
            )
        if exact and self.fingerprint != other.fingerprint:
            raise MismatchError(
                f"{what} was made with {other.name} held in {needed}; it is held in {held} now. "
                f"Load it with `--dtype {needed}`, or `load_model(..., dtype={needed!r})`."
            )


def _same_weights(one: str, other: str) -> bool:
    """Say whether two hashes are of one checkpoint, perhaps held in two dtypes.

    In one dtype, the weights must be equal to the bit. In two, they must be equal when rounded to
    bfloat16 or to float16. Where float32 weights were rounded to bfloat16 in one model and to
    float16 in the other, no rounding makes them equal again, and only their signs are compared.
    """
    held, *rounded = one.split("-")[1:] or [""]
    other_held, *other_rounded = other.split("-")[1:] or [""]
    if held == other_held:
        return one == other
    alike = [a == b for a, b in zip(rounded, other_rounded, strict=False)]
    # Either may keep some weights in float32 as well.
    signs_alone = {"bfloat16", "float16"} <= {*held.split("+"), *other_held.split("+")}
    return any(alike if signs_alone else alike[:2])


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
