"""AblationMatrix: losses in every language, intact and without the neurons of another language."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import pandas as pd
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from lse_interp.artifacts.stored import Stored
from lse_interp.core.errors import LanguageError, LseError, MismatchError, near_misses
from lse_interp.core.statistics import resampled_means
from lse_interp.models.info import ModelInfo

__all__ = ["INCREASES", "AblationMatrix", "ablation_report"]

INCREASES: tuple[str, ...] = ("loss_increase", "relative_increase")
"""The two scales of a rise in loss: nats per sentence, and share of the intact loss."""

_SETUP = ("ablated", "measured", "neurons", "text", "site", "control", "n_controls", "seed")


@dataclasses.dataclass(frozen=True, eq=False)
class AblationMatrix(Stored):
    """Loss in every language: intact, and without the neurons of each language in turn.

    Per-sentence losses are kept, all in nats, and everything else follows from them. Sentences
    are parallel: index s carries the same content in every language, so nats per sentence compare
    languages whatever their tokens.

    Raises:
        MismatchError: shapes that disagree, languages not distinct or too few, losses that are
            not finite, or a row without neurons that differs from the intact model.
    """

    KIND = "ablation_matrix"
    AXES: ClassVar = {
        "intact": ("measured", "sentence"),
        "without": ("ablated", "measured", "sentence"),
        "n_neurons": ("ablated",),
        "without_random": ("ablated", "measured", "sentence"),
    }
    META = (*_SETUP, "model", "method", "provenance")
    READ: ClassVar = {"model": ModelInfo.from_dict}

    ablated: tuple[str, ...]
    """Languages whose neurons are switched off: rows, ISO 639-3."""
    measured: tuple[str, ...]
    """Languages whose loss is measured: columns; they include every row."""
    intact: Float64[Tensor, "measured sentence"]
    """Loss of the whole model."""
    without: Float64[Tensor, "ablated measured sentence"]
    """Loss without the neurons of the row's language."""
    without_random: Float64[Tensor, "ablated measured sentence"] | None
    """Loss without as many random neurons, averaged over `n_controls` draws; None for none."""
    n_neurons: Int64[Tensor, " ablated"]
    """Neurons switched off; a row of 0 neurons repeats the intact loss."""
    model: ModelInfo
    method: str
    """How the neurons were chosen."""
    site: str
    """Where activations were set to zero."""
    neurons: str
    """Hash of the ablated neurons."""
    text: str
    """Hash of the sentences in all measured languages."""
    control: str | None
    """What the random neurons match: `layer`, `size` or `activity`."""
    n_controls: int
    seed: int
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_languages(self.ablated, self.measured)
        _check_losses(self)

    @property
    def setup(self) -> dict[str, Any]:
        """Everything besides the model that the numbers depend on."""
        return {name: getattr(self, name) for name in _SETUP}

    @property
    def base_loss(self) -> Float64[Tensor, " measured"]:
        """Loss of the whole model, in nats per sentence."""
        return self.intact.mean(dim=-1)

    @property
    def loss_increase(self) -> Float64[Tensor, "ablated measured"]:
        """How much the loss rises, in nats per sentence; negative where ablation helps."""
        return self.without.mean(dim=-1) - self.base_loss

    @property
    def relative_increase(self) -> Float64[Tensor, "ablated measured"]:
        """`loss_increase` as a share of `base_loss`."""
        return self.loss_increase / self.base_loss

    @property
    def control_increase(self) -> Float64[Tensor, "ablated measured"] | None:
        """As `loss_increase`, for random neurons."""
        if self.without_random is None:
            return None
        return self.without_random.mean(dim=-1) - self.base_loss

    def contrast_error(
        self, value: str = "loss_increase", *, n_bootstrap: int = 1000, seed: int = 0
    ) -> Float64[Tensor, " ablated"]:
        """Bootstrap the standard error of own increase minus mean increase of the others.

        Sentences are drawn with replacement, the same in every language, so that what a sentence
        has in common over languages cancels. They are taken to be independent; if they share
        clauses, the error is too small.

        Args:
            value: `loss_increase` or `relative_increase`.
            n_bootstrap: resamples, at least 2.
            seed: seed of the resamples.

        Raises:
            LseError: another `value`, or too few resamples.
        """
        _check_value(value)
        if n_bootstrap < 2:
            raise LseError(f"`n_bootstrap` must be at least 2; got {n_bootstrap}.")
        resampling = {"n_bootstrap": n_bootstrap, "seed": seed}
        rise = resampled_means(self.without - self.intact, **resampling)
        if value == "relative_increase":
            rise = rise / resampled_means(self.intact, **resampling)
        return self._contrast(rise.movedim(-1, 0)).std(dim=0)

    def selectivity(self, value: str = "loss_increase") -> pd.DataFrame:
        """Say for each ablated language how much of the damage is its own.

        Columns: language, n_neurons; own (rise in the language itself), others (mean over the
        other measured languages), contrast (own - others) and its standard_error, ratio (own /
        others; NaN if others do not rise), rank (1: no language is hurt more), most_hurt;
        control_own (rise of own under random neurons; NaN without a control). A language without
        neurons has n_neurons 0, and no ratio, rank or most_hurt.

        Args:
            value: `loss_increase` (nats per sentence) or `relative_increase`.

        Raises:
            LseError: another `value`.
        """
        _check_value(value)
        rise = getattr(self, value)
        own, others = self._own(rise), self._others(rise)
        control = self.control_increase
        if control is not None and value == "relative_increase":
            control = control / self.base_loss
        rank = 1 + (rise > own[:, None]).sum(dim=-1)
        empty = (self.n_neurons == 0).numpy()
        most_hurt = [self.measured[at] for at in rise.argmax(dim=-1).tolist()]
        unknown = torch.full_like(own, torch.nan)
        return pd.DataFrame(
            {
                "language": list(self.ablated),
                "n_neurons": self.n_neurons.numpy(),
                "own": own.numpy(),
                "others": others.numpy(),
                "contrast": (own - others).numpy(),
                "standard_error": self.contrast_error(value).numpy(),
                "ratio": torch.where(others > 0, own / others, torch.nan).numpy(),
                "rank": pd.Series(rank.numpy()).astype("Int64").mask(empty),
                "most_hurt": pd.Series(most_hurt, dtype="str").mask(empty),
                "control_own": (unknown if control is None else self._own(control)).numpy(),
            }
        )

    def to_frame(self) -> pd.DataFrame:
        """List every cell: one row per ablated and measured language.

        Columns: ablated, measured, n_neurons, base_loss, loss_increase, relative_increase,
        control_increase (NaN without a control).
        """
        index = pd.MultiIndex.from_product(
            [self.ablated, self.measured], names=["ablated", "measured"]
        )
        rise, control = self.loss_increase, self.control_increase
        columns = {
            "n_neurons": self.n_neurons[:, None].expand(rise.shape),
            "base_loss": self.base_loss.expand(rise.shape),
            "loss_increase": rise,
            "relative_increase": self.relative_increase,
            "control_increase": torch.full_like(rise, torch.nan) if control is None else control,
        }
        values = {name: tensor.flatten().numpy() for name, tensor in columns.items()}
        return pd.DataFrame(values, index=index).reset_index()

    def _meta(self) -> dict[str, Any]:
        return super()._meta() | {"unit": "nats per sentence"}

    def _own(self, rise: Float64[Tensor, "*batch ablated measured"]) -> Float64[Tensor, "..."]:
        at = [self.measured.index(code) for code in self.ablated]
        return rise[..., range(len(at)), at]

    def _others(self, rise: Float64[Tensor, "*batch ablated measured"]) -> Float64[Tensor, "..."]:
        return (rise.sum(dim=-1) - self._own(rise)) / (len(self.measured) - 1)

    def _contrast(self, rise: Float64[Tensor, "*batch ablated measured"]) -> Float64[Tensor, "..."]:
        return self._own(rise) - self._others(rise)


def ablation_report(matrix: AblationMatrix) -> str:
    """Write who is hurt without the neurons of a language: the table, then counts and means."""
    table = matrix.selectivity()
    found = table[table["n_neurons"] > 0]
    first = int((found["rank"] == 1).sum())
    lines = [
        "Rise in loss without the neurons of a language, in nats per sentence "
        f"({matrix.intact.shape[-1]} sentences, {len(matrix.measured)} languages measured; own "
        "against the mean of the others):",
        table.to_string(index=False, float_format="{:.3f}".format, na_rep="-"),
        f"Own language hurt most in {first} of {len(found)}; mean rise "
        f"{found['own'].mean():.3f} in itself, {found['others'].mean():.3f} in the others",
    ]
    if matrix.control is not None:
        more = int((found["own"] > found["control_own"]).sum())
        lines.append(
            f"Own language hurt more than by random neurons in {more} of {len(found)}; these: "
            f"mean rise {found['control_own'].mean():.3f}"
        )
    return "\n".join(lines)


def _check_value(value: str) -> None:
    if value not in INCREASES:
        raise LseError(
            f"`value` must be {' or '.join(INCREASES)}; got {value!r}. "
            f"{near_misses(value, INCREASES)}"
        )


def _check_languages(ablated: tuple[str, ...], measured: tuple[str, ...]) -> None:
    for name, codes in (("ablated", ablated), ("measured", measured)):
        if not codes or len(set(codes)) < len(codes):
            raise LanguageError(
                f"The {name} languages must be one or more, each named once; got "
                f"{', '.join(codes) or 'none'}."
            )
    if len(measured) < 2:
        raise LanguageError(
            "Ablation compares a language with others; measure at least 2 languages, got "
            f"{measured[0]} alone."
        )
    for code in ablated:
        if code not in measured:
            raise LanguageError(
                f"The neurons of {code} are ablated, but its own loss is not measured. Add "
                f"sentences in {code}. {near_misses(code, measured)}"
            )


def _check_losses(matrix: AblationMatrix) -> None:
    rows, columns, n_sentences = len(matrix.ablated), len(matrix.measured), matrix.intact.shape[-1]
    shapes = {
        "intact": (columns, n_sentences),
        "without": (rows, columns, n_sentences),
        "without_random": (rows, columns, n_sentences),
        "n_neurons": (rows,),
    }
    if (matrix.control is None) != (matrix.without_random is None):
        raise MismatchError("`without_random` and `control` must be given together, or neither.")
    for name, shape in shapes.items():
        found = getattr(matrix, name)
        if found is None:
            continue
        if tuple(found.shape) != shape or 0 in shape:
            raise MismatchError(
                f"`{name}` should have shape {shape}, none of it 0; got {tuple(found.shape)}."
            )
        if not bool(torch.isfinite(found).all() and (found >= 0).all()):
            raise MismatchError(f"`{name}` must hold finite numbers of at least 0.")
    for row in (matrix.n_neurons == 0).nonzero().flatten().tolist():
        if not torch.equal(matrix.without[row], matrix.intact):
            raise MismatchError(
                f"{matrix.ablated[row]} has no neurons, so its row must repeat the intact loss."
            )
