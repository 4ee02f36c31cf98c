"""Compare a base model with the model after training: which weights, of which neurons.

Source: paper, section 6.1.
"""

import copy
import dataclasses
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from lse_interp.analysis.weights.deltas import OTHER_COLUMNS, UNDETERMINED, WeightDeltas
from lse_interp.analysis.weights.row_statistics import (
    Difference,
    RowChanges,
    change_histogram,
    difference,
    row_changes,
)
from lse_interp.artifacts.provenance import provenance
from lse_interp.core.cli import ModelArgs
from lse_interp.core.errors import LseError, MismatchError
from lse_interp.core.languages import lookup
from lse_interp.core.progress import progress
from lse_interp.models.hooked import HookedModel
from lse_interp.models.info import projections
from lse_interp.models.mlp_weights import row_slices, weight_views
from lse_interp.models.placement.device_map import is_spread
from lse_interp.neurons.indices import mask_to_indices
from lse_interp.neurons.sets import NeuronSets
from lse_interp.subnetworks.apply import apply_subnetwork, label
from lse_interp.subnetworks.finetune_run import FinetuneRun
from lse_interp.subnetworks.load_tuned import load_tuned
from lse_interp.training.methods import method_of

__all__ = ["Case", "case_of", "check_options", "is_of", "measure", "weight_deltas"]


_Layers = tuple[Tensor, ...]
_LABELS = ("language", "name", "method", "decay_factor", "score_name", "score_unit")
_EVIDENCE = ("neurons", "scores", "probability")


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """The inputs of a comparison, and everything the result depends on."""

    model: HookedModel
    language: str
    name: str
    method: str
    decay_factor: float | None
    neurons: _Layers
    scores: _Layers | None
    probability: _Layers | None
    score_name: str
    score_unit: str


def case_of(
    base: HookedModel,
    tuned: FinetuneRun | HookedModel,
    *,
    neurons: NeuronSets | None,
    args: ModelArgs,
    selected: Bool[Tensor, "layer neuron"] | Literal["trained", "language"] | None = None,
    language: str | None = None,
) -> Case:
    """Gather the inputs of a comparison: the model after, and the neurons with their scores.

    Args:
        base: the model before.
        tuned: a run that started from `base`, or the model after.
        neurons: neuron sets that know the score of each neuron.
        args: how to load the base again, to merge an adapter into it.
        selected: marks the neurons to look at; `language` takes those of the language in
            `neurons`; by default those that the run trained, or all.
        language: in any spelling that `lookup` knows; by default that of the run.

    Raises:
        MismatchError: a run of another base, or models of different shapes.
        ArtifactError: the run's folder lacks its adapter or model.
        LseError: nothing selected.
    """
    run = tuned if isinstance(tuned, FinetuneRun) else None
    model = tuned if isinstance(tuned, HookedModel) else _tuned_model(base, tuned, args)
    _require_same_shapes(base, model)
    if language is None:
        language = UNDETERMINED if run is None else run.language
    elif language != UNDETERMINED:
        language = lookup(language).code
    name = Path(model.name).name if run is None else _run_name(run)
    if isinstance(selected, str) and selected == "language" and neurons is not None:
        selected, name = neurons.mask(language), f"{name}-language"
    elif not isinstance(selected, Tensor):
        everything = torch.ones(base.n_layers, base.d_mlp, dtype=torch.bool)
        selected = run.mask() if run is not None and run.is_subnetwork else everything
    if tuple(selected.shape) != (base.n_layers, base.d_mlp) or not bool(selected.any()):
        raise LseError(
            f"`selected` should mark neurons of {base.n_layers} layers of {base.d_mlp}; got shape "
            f"{tuple(selected.shape)} with {int(selected.sum())} neurons marked."
        )
    scores = probability = None
    if neurons is not None:
        base.info.require_same(neurons.model, what="The file of neuron sets")
        if neurons.scores is not None:
            scores = _rows_of(neurons.scores, selected)
        if neurons.probability is not None and language in neurons:
            position = neurons.languages.index(language)
            probability = _rows_of(neurons.probability[position], selected)
    return Case(
        model=model,
        language=language,
        name=name,
        method="models" if run is None else run.method,
        decay_factor=None if run is None else _decay_factor(run),
        neurons=mask_to_indices(selected),
        scores=scores,
        probability=probability,
        score_name="score" if neurons is None else neurons.score_name,
        score_unit="" if neurons is None else neurons.score_unit,
    )


def _run_name(run: FinetuneRun) -> str:
    return run.folder.name if run.folder is not None else run.method.replace(":", "-")


def _decay_factor(run: FinetuneRun) -> float | None:
    decays = method_of(run.method).decays_weights
    return run.results.get("decay_factor") if decays else None


def _tuned_model(base: HookedModel, run: FinetuneRun, args: ModelArgs) -> HookedModel:
    """Return the model that a run made of its base, and keep the base."""
    if not run.is_subnetwork:
        base.info.require_same(run.model, what=f"The run {label(run)}")
        return load_tuned(run, args)
    wrapping = base.wrapping | {"name": f"{base.name}+{label(run)}"}
    tuned = HookedModel(copy.deepcopy(base.hf), **wrapping)
    apply_subnetwork(tuned, run)
    return tuned


def reload_args(base: HookedModel, tuned: FinetuneRun | HookedModel) -> ModelArgs:
    """Say how a base model in memory is loaded again, to add to it what a run trained."""
    adds = isinstance(tuned, FinetuneRun) and method_of(tuned.method).builds_on_base
    # A model tuned as a whole keeps its own dtype, so that no change is rounded away.
    dtype = str(base.dtype).removeprefix("torch.") if adds else None
    device = "auto" if is_spread(base.hf) else str(base.device)
    return ModelArgs(model=base.name, device=device, dtype=dtype)


def measure(base: HookedModel, case: Case) -> WeightDeltas:
    """Compare the selected neurons projection by projection, and all other weights bit for bit.

    Raises:
        LseError: weights that are not finite.
    """
    names = projections(gated=base.gated)
    layers = range(base.n_layers)
    cells = [
        _compare_projection(
            base, case.model, layer=layer, projection=name, neurons=case.neurons[layer]
        )
        for layer in progress(layers, f"deltas of {case.name}", unit="layer")
        for name in names
    ]
    quantiles = torch.stack([cell.selected.quantiles for cell in cells])
    limit = _limit(quantiles)
    counts = [
        change_histogram(
            *_matrices(base, case.model, layer=layer, projection=name),
            neurons=case.neurons[layer],
            limit=limit,
        )
        for layer in layers
        for name in names
    ]
    norms = [cell.selected.norms for cell in cells]
    shape = (base.n_layers, len(names))

    def grid(part: str, field: str) -> Tensor:
        values = [getattr(getattr(cell, part), field) for cell in cells]
        dtype = torch.int64 if field == "n_changed" else torch.float64
        return torch.tensor(values, dtype=dtype).reshape(shape)

    about: dict[str, Any] = {name: getattr(case, name) for name in (*_LABELS, *_EVIDENCE)}
    selected = ("mean", "std", "base_l2", "dot", "n_changed")
    about |= {name: grid("selected", name) for name in selected}
    about |= {f"rest_{name}": grid("rest", name) for name in ("n_changed", "l2", "max_abs")}
    return WeightDeltas(
        base=base.info,
        tuned=case.model.info,
        neuron_norms=tuple(
            torch.stack(norms[at : at + len(names)]) for at in range(0, len(norms), len(names))
        ),
        quantiles=quantiles.unflatten(0, shape),
        histogram=torch.stack(counts).unflatten(0, shape),
        limit=limit,
        others=_compare_others(base, case.model),
        provenance=provenance(),
        **about,
    )


def is_of(deltas: WeightDeltas, base: HookedModel, case: Case) -> bool:
    """Say whether an artefact is of the same weights, neurons and scores."""
    return (
        deltas.base.fingerprint == base.info.fingerprint
        and deltas.tuned.fingerprint == case.model.info.fingerprint
        and all(getattr(deltas, label) == getattr(case, label) for label in _LABELS)
        and all(_same(getattr(deltas, name), getattr(case, name)) for name in _EVIDENCE)
    )


def check_options(
    *, language: str | None, run: str | None, base: str | None, tuned: str | None, select: str
) -> None:
    """Refuse options of the command that contradict each other or are incomplete.

    Raises:
        LseError: Such options.
    """
    if tuned is not None and run is not None:
        raise LseError("`--run` and `--tuned` both name the model after; give one of them.")
    if base is not None and tuned is None:
        raise LseError(
            "`--base` goes with `--tuned`. For a run, name its base model with `--model`."
        )
    is_folder = run is not None and FinetuneRun.exists(run)
    if language is None and tuned is None and not is_folder:
        raise LseError(
            "Name the language of the run, e.g. --lang mlt; or give the folder of a run, or "
            "two models with --base and --tuned."
        )
    if select == "language" and language is None and not is_folder:
        raise LseError("`--select language` needs `--lang`.")


class _Projection(NamedTuple):
    """One projection of one layer in two models.

    Attributes:
        selected: The change of the rows (of down: columns) of the selected neurons.
        rest: The difference in those of all other neurons.
    """

    selected: RowChanges
    rest: Difference


def _compare_projection(
    base: HookedModel,
    tuned: HookedModel,
    *,
    layer: int,
    projection: str,
    neurons: Int64[Tensor, " _neuron"],
) -> _Projection:
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
    before, after = _matrices(base, tuned, layer=layer, projection=projection)
    unselected = torch.ones(base.d_mlp, dtype=torch.bool)
    unselected[neurons] = False
    try:
        return _Projection(
            selected=row_changes(before, after, neurons=neurons),
            rest=difference(before, after, rows=unselected.nonzero().flatten()),
        )
    except LseError as error:
        error.add_note(f"This is {projection} of layer {layer}, {base.name} to {tuned.name}.")
        raise


def _compare_others(base: HookedModel, tuned: HookedModel) -> pd.DataFrame:
    """Compare every parameter that is no gate, up or down matrix.

    Returns:
        One row per parameter, with the columns `OTHER_COLUMNS`.

    Raises:
        LseError: A difference that is not finite.
    """
    layers = range(base.n_layers)
    projections = {source.name for layer in layers for source in row_slices(base, layer)}
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


def _matrices(
    base: HookedModel, tuned: HookedModel, *, layer: int, projection: str
) -> tuple[Float[Tensor, "neuron d_model"], Float[Tensor, "neuron d_model"]]:
    """View a projection before and after, one row per neuron, without a copy."""
    before, after = (weight_views(model, layer)[projection] for model in (base, tuned))
    return before, after


def _require_same_shapes(base: HookedModel, tuned: HookedModel) -> None:
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


def _rows_of(
    values: Float64[Tensor, "layer neuron"], selected: Bool[Tensor, "layer neuron"]
) -> tuple[Float64[Tensor, " _neuron"], ...]:
    return tuple(row[marked] for row, marked in zip(values, selected, strict=True))


def _limit(quantiles: Float64[Tensor, "cell quantile"]) -> float:
    """Choose the end of the histograms: nearly all entries of every cell lie within."""
    known = quantiles[~quantiles.isnan().any(dim=-1)].abs()
    inner, extreme = float(known[:, [1, -2]].max()), float(known.max())
    return min(1.25 * inner, extreme) or extreme or 1.0


def _same(a: _Layers | None, b: _Layers | None) -> bool:
    if a is None or b is None:
        return a is b
    return all(map(torch.equal, a, b))


def weight_deltas(
    base: HookedModel,
    tuned: FinetuneRun | HookedModel,
    *,
    neurons: NeuronSets | None = None,
    selected: Bool[Tensor, "layer neuron"] | None = None,
    language: str | None = None,
) -> WeightDeltas:
    """Measure how the weights of the selected neurons changed, and whether anything else did.

    Args:
        base: the model before; it is not changed.
        tuned: a run that started from `base`, or the model after. A run without rows is read from
            its folder; a LoRA run also loads the base again, by its name.
        neurons: neuron sets that know the score of each neuron.
        selected: marks the neurons to look at; by default those that the run trained, or all of
            them for a model or a run that chose none.
        language: the language trained, in any spelling that `lookup` knows; by default that of
            the run.

    Raises:
        MismatchError: a run of another base, or models of different shapes.
        ArtifactError: the run's folder lacks its adapter or model.
        LseError: nothing selected, or weights that are not finite.

    Source: paper, section 6.1.
    """
    case = case_of(
        base,
        tuned,
        neurons=neurons,
        selected=selected,
        language=language,
        args=reload_args(base, tuned),
    )
    return measure(base, case)
