"""Measure how far fine-tuning moved each projection, layer by layer, and that it moved no other.

Of the gate rows, up rows and down columns of the selected neurons (those a run trained, or the
whole MLPs), per layer and projection: quantiles and a histogram of the change of single weights,
its mean, standard deviation and L2 norm, absolute and relative to the weights before, and the
share that weight decay explains. Per neuron: the norm of its change, and its score
(LAPE). Everything else in the model is compared bit for bit.

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
from typing import Any, Literal

from lse_interp.core.cli import CONFIG_FLAT, ModelArgs, NeuronArgs, main_for
from lse_interp.core.languages import lookup

__all__ = ["Config", "main", "run"]

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Config(NeuronArgs):
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
    root: Path = Path("runs")
    """Folder of all runs; this command writes `root/<model>/deltas/`."""
    figures: Path | None = Path("figures")
    """Folder of the figure; none is written for `None`."""
    overwrite: bool = False
    """Measure again."""


def run(config: Config) -> Any:
    """Compare, write the artefact and the figure, report.

    If the artefact is finished, of the same two models and neurons, only the figure is drawn.

    Raises:
        ArtifactError: no such run, or a file that cannot be read.
        LseError: options that exclude each other; see `weight_deltas`.
    """
    from lse_interp.analysis.weights import compare
    from lse_interp.analysis.weights.delta_report import delta_report
    from lse_interp.analysis.weights.deltas import WeightDeltas
    from lse_interp.artifacts.paths import RunPaths
    from lse_interp.artifacts.provenance import provenance
    from lse_interp.artifacts.registry import writer_command
    from lse_interp.artifacts.reuse import reuse_or_make
    from lse_interp.models.loading import load_from_args
    from lse_interp.neurons.on_disk import load_neurons, neuron_file
    from lse_interp.plotting.weight_deltas import write_deltas
    from lse_interp.subnetworks.find import load_run

    language = None if config.lang is None else lookup(config.lang).code
    options = {name: getattr(config, name) for name in ("run", "base", "tuned", "select")}
    compare.check_options(language=language, **options)
    args = dataclasses.replace(config.model, model=config.base or config.model.model)
    paths = RunPaths(config.root, args.model)
    found = None if config.tuned else load_run(paths, language, config.run or "target")
    # A revision belongs to the hub id of the base model.
    after = dataclasses.replace(config.model, model=config.tuned or "", revision=None)
    source = neuron_file(config, paths)
    neurons = None
    if source == paths.neurons and config.select == "trained" and not source.exists():
        logger.info("no scores: %s does not exist (%s)", source, writer_command("neuron_sets"))
    else:
        neurons = load_neurons(config, paths)
    base = load_from_args(args)
    about: dict[str, Any] = {"args": args, "selected": config.select, "language": language}
    case = compare.case_of(base, found or load_from_args(after), neurons=neurons, **about)
    out = paths.deltas(case.language, case.name)

    def make() -> WeightDeltas:
        measured = compare.measure(base, case)
        measured = dataclasses.replace(measured, provenance=provenance(config))
        logger.info("wrote %s", measured.save(out))
        return measured

    deltas = reuse_or_make(
        out,
        what=f"the weight deltas of {case.name}",
        load=WeightDeltas.load,
        matches=lambda earlier: compare.is_of(earlier, base, case),
        make=make,
        overwrite=config.overwrite,
    )
    logger.info("%s", delta_report(deltas))
    if config.figures is not None:
        for path in write_deltas(deltas, config.figures):
            logger.info("wrote %s", path)
    return deltas


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    return main_for(Config, run, argv, description=__doc__)


if __name__ == "__main__":
    raise SystemExit(main())
