"""Measure which languages share neurons, against chance and by family.

For languages A and B with n_A and n_B neurons in a model of L layers x I neurons:
intersection |A and B|; Jaccard |A and B| / |A or B|; and what two random sets would share,
n_A n_B / (L I), or with the sets' own distribution over layers, sum over layers of
a_l b_l / I. The ratio of found to expected is 1 for unrelated sets.

Source: paper, appendix A, Figures 8 and 9 (intersections); Jaccard, expectation and the test of
relatedness are additions.

    python -m lse_interp.overlap --model embedded
    python -m lse_interp.overlap --masks released_masks/llama-3.1-5

reads `runs/<model>/neurons.safetensors`, a file given by `--neurons`, or a released file of index
lists, and writes `runs/<model>/overlap.safetensors`.
"""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

from lse_interp.core.cli import answer_at_once, main_for
from lse_interp.core.languages import RELEASED_LANGUAGES


@dataclasses.dataclass(frozen=True)
class Config:
    """Measure which languages share neurons."""

    model: str = "embedded"
    """The model whose run is read: `embedded`, a local folder, or a hub id."""
    root: Path = Path("runs")
    """Folder of all runs; this stage reads and writes `root/<model>/`."""
    neurons: Path | None = None
    """A neuron file; by default `root/<model>/neurons.safetensors`."""
    masks: Path | None = None
    """Instead: one of the paper's released files, `llama-3.1-5` or `nemo-5`."""
    languages: tuple[str, ...] = RELEASED_LANGUAGES
    """The languages of `--masks` in their order, which the file does not hold."""
    out: Path | None = None
    """Where to write; by default `root/<model>/overlap.safetensors`."""


if __name__ == "__main__":
    # Before the imports below, which take seconds.
    answer_at_once(Config, description=__doc__)

import pandas as pd

from lse_interp.analysis.overlap import OverlapMatrix, measure_overlap, related_summary
from lse_interp.artifacts.paths import RunPaths
from lse_interp.artifacts.provenance import provenance
from lse_interp.core.errors import LseError
from lse_interp.neurons.formats.masks_pth import released_model
from lse_interp.neurons.sets import NeuronSets

__all__ = ["Config", "main", "run"]

logger = logging.getLogger(__name__)
_MOST_PRINTED = 30


def run(config: Config) -> OverlapMatrix:
    """Read the neurons, measure, write and report. Takes milliseconds, so it is always redone.

    Raises:
        LseError: both `neurons` and `masks` given.
        ArtifactError: a neuron file that is missing or cannot be read.
    """
    neurons = _read(config)
    overlap = measure_overlap(neurons)
    about = provenance(config, thresholds=dict(neurons.thresholds))
    overlap = dataclasses.replace(overlap, provenance=about)
    out = config.out or RunPaths(config.root, _run_name(config, neurons)).overlap
    overlap.save(out)
    _report(overlap)
    logger.info("wrote %s", out)
    return overlap


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage from the command line."""
    return main_for(Config, run, argv, description=__doc__)


def _read(config: Config) -> NeuronSets:
    if config.masks is None:
        path = config.neurons or RunPaths(config.root, config.model).neurons
        return NeuronSets.load(path)
    if config.neurons is not None:
        raise LseError("`--neurons` and `--masks` both name the neurons; give one of them.")
    model = released_model(config.masks)
    return NeuronSets.from_masks(config.masks, languages=config.languages, model=model)


def _run_name(config: Config, neurons: NeuronSets) -> str:
    from_run = config.neurons is None and config.masks is None
    return config.model if from_run else neurons.model.name


def _report(overlap: OverlapMatrix) -> None:
    names = list(overlap.languages)
    if len(names) <= _MOST_PRINTED:
        jaccard = pd.DataFrame(overlap.jaccard.numpy(), index=names, columns=names)
        logger.info("Jaccard:\n%s", jaccard.to_string(float_format="{:.2f}".format, na_rep="-"))
    highest = overlap.to_frame().nlargest(5, "jaccard")
    shown = ["language", "other", "relation", "intersection", "jaccard", "ratio", "ratio_by_layer"]
    logger.info("Closest pairs:\n%s", highest[shown].round(3).to_string(index=False))
    try:
        summary = related_summary(overlap)
    except LseError as error:
        logger.info("%s", error)
        return
    logger.info(
        "Mean Jaccard %.3f within a branch (%d pairs), %.3f elsewhere (%d pairs); p = %.4f",
        summary.mean_related,
        summary.n_related,
        summary.mean_other,
        summary.n_other,
        summary.p_value,
    )


if __name__ == "__main__":
    raise SystemExit(main())
