"""Two versions of one model, compared weight by weight."""

from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from lse_interp.core.changes import Difference, RowChanges, difference, row_changes
from lse_interp.core.errors import LseError, MismatchError
from lse_interp.core.weight_deltas import OTHER_COLUMNS
from lse_interp.models.ffn import ffn
from lse_interp.models.hooked import HookedModel
from lse_interp.models.rows import row_sources

__all__ = ["Projection", "compare_others", "compare_projection", "matrices", "require_same_shapes"]


class Projection(NamedTuple):
    """One projection of one layer in two models.

    Attributes:
        selected: The change of the rows (of down: columns) of the selected neurons.
        rest: The difference in those of all other neurons.
    """

    selected: RowChanges
    rest: Difference


def require_same_shapes(base: HookedModel, tuned: HookedModel) -> None:
    """Refuse two models whose parameters differ in name or shape.

    Raises:
        MismatchError: names the first such parameter, and both shapes.
    """
    before, after = (
        {name: tuple(weight.shape) for name, weight in model.hf.named_parameters()}
        for model in (base, tuned)
    )
    for name in before | after:
        if before.get(name) != after.get(name):
            raise MismatchError(
                f"{base.name} and {tuned.name} are not two versions of one model: {name} has "
                f"shape {before.get(name, 'none')} in the first and {after.get(name, 'none')} in "
                "the second. Give a base model and its fine-tuned version."
            )


def matrices(
    base: HookedModel, tuned: HookedModel, *, layer: int, projection: str
) -> tuple[Float[Tensor, "neuron d_model"], Float[Tensor, "neuron d_model"]]:
    """View a projection before and after, one row per neuron, without a copy."""
    before, after = (getattr(ffn(model, layer), projection) for model in (base, tuned))
    return before, after


def compare_projection(
    base: HookedModel,
    tuned: HookedModel,
    *,
    layer: int,
    projection: str,
    neurons: Int64[Tensor, " _neuron"],
) -> Projection:
    """Compare one projection of one layer, selected neurons apart from the rest.

    Args:
        base: The model before.
        tuned: The model after.
        layer: Block index.
        projection: `gate`, `up` or `down`.
        neurons: The selected neurons, ascending.

    Raises:
        LseError: A change that is not finite.
    """
    before, after = matrices(base, tuned, layer=layer, projection=projection)
    unselected = torch.ones(base.d_mlp, dtype=torch.bool)
    unselected[neurons] = False
    try:
        return Projection(
            selected=row_changes(before, after, neurons=neurons),
            rest=difference(before, after, rows=unselected.nonzero().flatten()),
        )
    except LseError as error:
        error.add_note(f"This is {projection} of layer {layer}, {base.name} to {tuned.name}.")
        raise


def compare_others(base: HookedModel, tuned: HookedModel) -> pd.DataFrame:
    """Compare every parameter that is no gate, up or down matrix.

    Returns:
        One row per parameter, with the columns `OTHER_COLUMNS`.

    Raises:
        LseError: A difference that is not finite.
    """
    layers = range(base.n_layers)
    projections = {source.name for layer in layers for source in row_sources(base, layer)}
    after = dict(tuned.hf.named_parameters())
    rows = []
    for name, weight in base.hf.named_parameters():
        if name not in projections:
            try:
                found = difference(weight.detach(), after[name].detach())
            except LseError as error:
                error.add_note(f"This is {name}, {base.name} to {tuned.name}.")
                raise
            rows.append((name, *found))
    return pd.DataFrame(rows, columns=list(OTHER_COLUMNS))
