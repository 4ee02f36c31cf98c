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

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from lse_interp.core.cli import CONFIG_FLAT, ModelArgs, answer_at_once, main_for


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

from jaxtyping import Bool
from torch import Tensor

from lse_interp.analysis.weights.compare import case_of, is_of, measure
from lse_interp.analysis.weights.deltas import UNDETERMINED, WeightDeltas, delta_report
from lse_interp.artifacts.paths import RunPaths
from lse_interp.artifacts.provenance import provenance
from lse_interp.artifacts.registry import writer_command
from lse_interp.artifacts.reuse import reuse_or_make
from lse_interp.core.errors import LseError, MismatchError
from lse_interp.core.languages import lookup
from lse_interp.models import HookedModel, load_from_args
from lse_interp.neurons.sets import NeuronSets
from lse_interp.subnetworks.find import find_run
from lse_interp.subnetworks.finetune_run import FinetuneRun

__all__ = ["Config", "main", "run"]

logger = logging.getLogger(__name__)


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
    case = case_of(
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

    def matches(earlier: WeightDeltas) -> bool:
        if is_same := is_of(earlier, base, case):
            logger.info("%s is of these weights already; --overwrite measures again", out)
        return is_same

    def make() -> WeightDeltas:
        deltas = dataclasses.replace(measure(base, case), provenance=provenance(config))
        logger.info("wrote %s", deltas.save(out))
        return deltas

    deltas = reuse_or_make(
        out,
        what=f"the weight deltas of {name}",
        load=WeightDeltas.load,
        matches=matches,
        make=make,
        overwrite=config.overwrite,
    )
    logger.info("%s", delta_report(deltas))
    for path in _draw(deltas, config):
        logger.info("wrote %s", path)
    return deltas


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage from the command line."""
    return main_for(Config, run, argv, description=__doc__)


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
        logger.info("no scores: %s does not exist (%s)", path, writer_command("neuron_sets"))
        return None
    return NeuronSets.load(path, model=base.info)


def _selection(
    config: Config, *, neurons: NeuronSets | None, language: str
) -> Bool[Tensor, "layer neuron"] | None:
    if config.select == "trained" or neurons is None:
        return None
    return neurons.mask(language)


def _draw(deltas: WeightDeltas, config: Config) -> list[Path]:
    from lse_interp.plotting.style import figure_stem, save_figure
    from lse_interp.plotting.weight_deltas import (
        delta_frame,
        describe_deltas,
        figure_name,
        plot_deltas,
    )

    frame = delta_frame(deltas)
    return save_figure(
        plot_deltas(frame).figure,
        figure_stem(config.figures, figure_name(deltas), deltas.base),
        frame=frame,
        source=describe_deltas(deltas),
    )


if __name__ == "__main__":
    raise SystemExit(main())
