"""Measure how far fine-tuning moved each projection, layer by layer, and that it moved no other.

Of the gate rows, up rows and down columns of the selected neurons (those a run trained, or the
whole MLPs), per layer and projection: quantiles and a histogram of the change of single weights,
its mean, standard deviation and L2 norm, absolute and relative to the weights before, and the
share that weight decay explains. Per neuron: the norm of its change, beside its LAPE. Everything
else in the model is compared bit for bit.

A run of neurons is written into a copy of the base model, a LoRA adapter is merged into one, and
`ffn` and `full` runs are read from their folder: a comparison holds two models in memory.

Source: paper, section 6.1, Figure 6. Norms, decay, the rest and single neurons are additions.

    python -m lse_interp.deltas --lang mlt
    python -m lse_interp.deltas --lang mlt --run random-layer
    python -m lse_interp.deltas --base some/model --tuned another/model

writes `runs/<model>/deltas/<lang>/<run>.safetensors` and
`figures/fig06_weight_deltas_<lang>.{png,pdf,csv}`, for other runs than `target` with the name of
the run at the end.
"""

import copy
import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from lse_interp.core.cli import CONFIG_FLAT, ModelArgs, answer_at_once, main_for, progress


@dataclasses.dataclass(frozen=True)
class Config:
    """Measure how far fine-tuning moved each projection."""

    lang: str | None = None
    """The language trained, e.g. `mlt`; optional where `--run` is a folder or with `--tuned`."""
    model: CONFIG_FLAT[ModelArgs] = ModelArgs()
    run: str | None = None
    """A run of the language by name (`target`, the default, `random-size`, `full`, ...), or the
    folder of any run."""
    base: str | None = None
    """With `--tuned`: the model before, a folder or hub id; by default `--model`."""
    tuned: str | None = None
    """Instead of a run: the model after, a folder or hub id."""
    select: Literal["trained", "language"] = "trained"
    """Which neurons: those the run trained (all of them where it chose none), or those of the
    language in `--neurons`."""
    neurons: Path | None = None
    """Neuron sets whose LAPE stands beside the changes; by default those of the base model where
    `python -m lse_interp.lape` has written them."""
    root: Path = Path("runs")
    """Folder of all runs; this stage writes `root/<model>/deltas/`."""
    figures: Path = Path("figures")
    """Folder of the figure."""
    overwrite: bool = False
    """Measure again even if the numbers are there."""


if __name__ == "__main__":
    # Before the imports below, which take seconds.
    answer_at_once(Config, description=__doc__)

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from lse_interp.core.artifacts import RunPaths, provenance
from lse_interp.core.changes import change_histogram
from lse_interp.core.delta_report import delta_report
from lse_interp.core.errors import LseError, MismatchError
from lse_interp.core.finetune_runs import FinetuneRun
from lse_interp.core.languages import lookup
from lse_interp.core.locks import find_or_make
from lse_interp.core.neurons import NeuronSets, mask_to_indices
from lse_interp.core.run_folders import find_run
from lse_interp.core.weight_deltas import UNDETERMINED, WeightDeltas
from lse_interp.models import HookedModel, load_from_args
from lse_interp.models.device_map import is_spread
from lse_interp.models.rows import projections
from lse_interp.models.subnetworks import apply_subnetwork, label
from lse_interp.models.tuned import load_tuned
from lse_interp.models.weight_changes import (
    compare_others,
    compare_projection,
    matrices,
    require_same_shapes,
)

__all__ = ["Config", "WeightDeltas", "main", "run", "weight_deltas"]

logger = logging.getLogger(__name__)

_Layers = tuple[Tensor, ...]


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
        base: the model before; it stays as it is.
        tuned: a run that started from `base`, or the model after. A run without rows is read from
            its folder; a LoRA run also loads the base anew, by its name.
        neurons: neuron sets that know the LAPE of each neuron.
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
    case = _case(
        base,
        tuned,
        neurons=neurons,
        selected=selected,
        language=language,
        args=_reload_args(base, tuned),
    )
    return _measure(base, case)


def run(config: Config) -> WeightDeltas:
    """Compare, write the artefact and the figure, report.

    A finished artefact of the same two models and neurons is drawn again, not measured again.

    Raises:
        ArtifactError: no such run, or a file that cannot be read.
        LseError: options that exclude each other; see `weight_deltas`.
    """
    _check_options(config)
    source = config.base or config.model.model
    found = None if config.tuned is not None else _find_run(config, RunPaths(config.root, source))
    base = load_from_args(dataclasses.replace(config.model, model=source))
    tuned = _load_tuned(config) if found is None else found
    language = _language(config, found)
    neurons = _neuron_sets(config, base)
    case = _case(
        base,
        tuned,
        neurons=neurons,
        selected=_selection(config, neurons=neurons, language=language),
        language=language,
        args=dataclasses.replace(config.model, model=source),
    )
    name = case.name if config.select == "trained" else f"{case.name}-{config.select}"
    case = dataclasses.replace(case, name=name)
    out = RunPaths(config.root, source).deltas(case.language, name)

    def find() -> WeightDeltas | None:
        earlier = WeightDeltas.load(out) if out.exists() and not config.overwrite else None
        if earlier is None or not _is_of(earlier, base, case):
            return None
        logger.info("%s is of these weights already; --overwrite measures again", out)
        return earlier

    def make() -> WeightDeltas:
        deltas = dataclasses.replace(_measure(base, case), provenance=provenance(config))
        logger.info("wrote %s", deltas.save(out))
        return deltas

    deltas = find_or_make(out, what=f"the weight deltas of {name}", find=find, make=make)
    logger.info("%s", delta_report(deltas))
    for path in _draw(deltas, config):
        logger.info("wrote %s", path)
    return deltas


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage from the command line."""
    return main_for(Config, run, argv, description=__doc__)


@dataclasses.dataclass(frozen=True, eq=False)
class _Case:
    """What is compared with the base model, and everything the result depends on."""

    model: HookedModel
    language: str
    name: str
    method: str
    decay_factor: float | None
    neurons: _Layers
    lape: _Layers | None
    probability: _Layers | None


def _case(
    base: HookedModel,
    tuned: FinetuneRun | HookedModel,
    *,
    neurons: NeuronSets | None,
    selected: Bool[Tensor, "layer neuron"] | None,
    language: str | None,
    args: ModelArgs,
) -> _Case:
    run = tuned if isinstance(tuned, FinetuneRun) else None
    model = tuned if isinstance(tuned, HookedModel) else _tuned_model(base, tuned, args)
    require_same_shapes(base, model)
    if language is None:
        language = UNDETERMINED if run is None else run.language
    elif language != UNDETERMINED:
        language = lookup(language).code
    if selected is None:
        selected = _trained(base, tuned)
    if tuple(selected.shape) != (base.n_layers, base.d_mlp) or not bool(selected.any()):
        raise LseError(
            f"`selected` should mark neurons of {base.n_layers} layers of {base.d_mlp}; got shape "
            f"{tuple(selected.shape)} with {int(selected.sum())} neurons marked."
        )
    lape, probability = _evidence(base, neurons, selected=selected, language=language)
    return _Case(
        model=model,
        language=language,
        name=Path(model.name).name if run is None else _run_name(run),
        method="models" if run is None else run.method,
        decay_factor=None if run is None else _decay_factor(run),
        neurons=mask_to_indices(selected),
        lape=lape,
        probability=probability,
    )


def _trained(base: HookedModel, tuned: FinetuneRun | HookedModel) -> Bool[Tensor, "layer neuron"]:
    if isinstance(tuned, FinetuneRun) and tuned.is_subnetwork:
        return tuned.mask()
    return torch.ones(base.n_layers, base.d_mlp, dtype=torch.bool)


def _run_name(run: FinetuneRun) -> str:
    return run.folder.name if run.folder is not None else run.method.replace(":", "-")


def _decay_factor(run: FinetuneRun) -> float | None:
    # LoRA decays its two factors, not the weight that they are added to.
    return None if run.method == "lora" else run.results.get("decay_factor")


def _tuned_model(base: HookedModel, run: FinetuneRun, args: ModelArgs) -> HookedModel:
    """Return the model that a run made of its base, beside the base."""
    if not run.is_subnetwork:
        base.info.require_same(run.model, what=f"The run {label(run)}")
        return load_tuned(run, args)
    tuned = HookedModel(copy.deepcopy(base.hf), base.tokenizer, name=f"{base.name}+{label(run)}")
    apply_subnetwork(tuned, run)
    return tuned


def _reload_args(base: HookedModel, tuned: FinetuneRun | HookedModel) -> ModelArgs:
    """Say how a base model in memory is loaded anew, to merge an adapter into it."""
    is_lora = isinstance(tuned, FinetuneRun) and tuned.method == "lora"
    # A model tuned as a whole keeps its own dtype, so that no change is rounded away.
    dtype = str(base.dtype).removeprefix("torch.") if is_lora else None
    device = "auto" if is_spread(base.hf) else str(base.device)
    return ModelArgs(model=base.name, device=device, dtype=dtype)


def _evidence(
    base: HookedModel,
    neurons: NeuronSets | None,
    *,
    selected: Bool[Tensor, "layer neuron"],
    language: str,
) -> tuple[_Layers | None, _Layers | None]:
    """Return LAPE and probability of the selected neurons, each None where it is not known."""
    if neurons is None:
        return None, None
    base.info.require_same(neurons.model, what="The file of neuron sets")
    lape = probability = None
    if neurons.lape is not None:
        lape = _rows_of(neurons.lape, selected)
    if neurons.probability is not None and language in neurons:
        position = neurons.languages.index(language)
        probability = _rows_of(neurons.probability[position], selected)
    return lape, probability


def _rows_of(
    values: Float64[Tensor, "layer neuron"], selected: Bool[Tensor, "layer neuron"]
) -> tuple[Float64[Tensor, " _neuron"], ...]:
    return tuple(row[marked] for row, marked in zip(values, selected, strict=True))


def _measure(base: HookedModel, case: _Case) -> WeightDeltas:
    names = projections(gated=base.gated)
    layers = range(base.n_layers)
    cells = [
        compare_projection(
            base, case.model, layer=layer, projection=name, neurons=case.neurons[layer]
        )
        for layer in progress(layers, desc=case.name, unit="layer")
        for name in names
    ]
    quantiles = torch.stack([cell.selected.quantiles for cell in cells])
    limit = _limit(quantiles)
    counts = [
        change_histogram(
            *matrices(base, case.model, layer=layer, projection=name),
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

    return WeightDeltas(
        language=case.language,
        name=case.name,
        method=case.method,
        base=base.info,
        tuned=case.model.info,
        decay_factor=case.decay_factor,
        neurons=case.neurons,
        neuron_norms=tuple(
            torch.stack(norms[at : at + len(names)]) for at in range(0, len(norms), len(names))
        ),
        quantiles=quantiles.unflatten(0, shape),
        histogram=torch.stack(counts).unflatten(0, shape),
        limit=limit,
        others=compare_others(base, case.model),
        lape=case.lape,
        probability=case.probability,
        provenance=provenance(),
        **{name: grid("selected", name) for name in ("mean", "std", "base_l2", "dot", "n_changed")},
        **{f"rest_{name}": grid("rest", name) for name in ("n_changed", "l2", "max_abs")},
    )


def _limit(quantiles: Float64[Tensor, "cell quantile"]) -> float:
    """Choose the end of the histograms: nearly all entries of every cell lie within."""
    known = quantiles[~quantiles.isnan().any(dim=-1)].abs()
    inner, extreme = float(known[:, [1, -2]].max()), float(known.max())
    return min(1.25 * inner, extreme) or extreme or 1.0


def _check_options(config: Config) -> None:
    if config.tuned is not None and config.run is not None:
        raise LseError("`--run` and `--tuned` both name the model after; give one of them.")
    if config.base is not None and config.tuned is None:
        raise LseError(
            "`--base` goes with `--tuned`. For a run, name its base model with `--model`."
        )
    is_folder = config.run is not None and FinetuneRun.exists(config.run)
    if config.lang is None and config.tuned is None and not is_folder:
        raise LseError(
            "Name the language of the run, e.g. --lang mlt; or give the folder of a run, or "
            "two models with --base and --tuned."
        )
    if config.select == "language" and config.lang is None and not is_folder:
        raise LseError("`--select language` needs `--lang`.")


def _find_run(config: Config, paths: RunPaths) -> FinetuneRun:
    """Read a run of the language by name, or else a run by its folder."""
    if config.lang is None:
        return FinetuneRun.load(config.run or "")
    language = lookup(config.lang).code
    found = FinetuneRun.load(find_run(paths, language, config.run or "target"))
    if found.language != language:
        raise MismatchError(
            f"{config.run} trained {found.language}, not {language}. Leave out --lang."
        )
    return found


def _load_tuned(config: Config) -> HookedModel:
    assert config.tuned is not None
    # A revision belongs to the hub id of the base model.
    return load_from_args(dataclasses.replace(config.model, model=config.tuned, revision=None))


def _language(config: Config, found: FinetuneRun | None) -> str:
    if config.lang is not None:
        return lookup(config.lang).code
    return UNDETERMINED if found is None else found.language


def _neuron_sets(config: Config, base: HookedModel) -> NeuronSets | None:
    path = config.neurons or RunPaths(config.root, config.base or config.model.model).neurons
    if config.neurons is None and config.select == "trained" and not path.exists():
        logger.info("no LAPE scores: %s does not exist (python -m lse_interp.lape)", path)
        return None
    return NeuronSets.load(path, model=base.info)


def _selection(
    config: Config, *, neurons: NeuronSets | None, language: str
) -> Bool[Tensor, "layer neuron"] | None:
    if config.select == "trained" or neurons is None:
        return None
    return neurons.mask(language)


def _is_of(deltas: WeightDeltas, base: HookedModel, case: _Case) -> bool:
    """Say whether an artefact is of the same weights, neurons and scores."""
    labels = ("language", "name", "method", "decay_factor")
    return (
        deltas.base.fingerprint == base.info.fingerprint
        and deltas.tuned.fingerprint == case.model.info.fingerprint
        and all(getattr(deltas, label) == getattr(case, label) for label in labels)
        and all(
            _same(getattr(deltas, name), getattr(case, name))
            for name in ("neurons", "lape", "probability")
        )
    )


def _same(a: _Layers | None, b: _Layers | None) -> bool:
    if a is None or b is None:
        return a is b
    return all(map(torch.equal, a, b))


def _draw(deltas: WeightDeltas, config: Config) -> list[Path]:
    from lse_interp.plotting.deltas import delta_frame, describe_deltas, figure_name, plot_deltas
    from lse_interp.plotting.style import figure_stem, save_figure

    frame = delta_frame(deltas)
    return save_figure(
        plot_deltas(frame).figure,
        figure_stem(config.figures, figure_name(deltas), deltas.base),
        frame=frame,
        source=describe_deltas(deltas),
    )


if __name__ == "__main__":
    raise SystemExit(main())
