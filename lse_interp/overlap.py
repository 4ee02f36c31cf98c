"""Measure which languages share neurons, against chance and by family.

For languages A and B with n_A and n_B neurons in a model of L layers x I neurons:
intersection |A and B|; Jaccard |A and B| / |A or B|; and what two random sets would share,
n_A n_B / (L I), or with the sets' own distribution over layers, sum over layers of
a_l b_l / I. The ratio of found to expected is 1 for unrelated sets.

Source: paper, appendix A, Figures 8 and 9 (intersections); Jaccard, expectation and the test of
relatedness are additions.

    python -m lse_interp.overlap --model embedded
    python -m lse_interp.overlap --masks released_masks/llama-3.1-5

reads `runs/<model>/neurons/lape.safetensors`, a file given by `--neurons`, or a released file of
index lists, and writes `runs/<model>/overlap.safetensors`.
"""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lse_interp.artifacts.paths import RunPaths
from lse_interp.core.cli import CONFIG_FLAT, ModelArgs, NeuronArgs, main_for

__all__ = ["Config", "main", "run"]

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Config(NeuronArgs):
    """Measure which languages share neurons."""

    model: CONFIG_FLAT[ModelArgs] = ModelArgs()
    """The model whose run is read; no model is loaded, so that only `--model` matters here."""
    root: Path = Path("runs")
    """Folder of all runs; this command reads and writes `root/<model>/`."""
    out: Path | None = None
    """Where to write; by default `root/<model>/overlap.safetensors`."""


def run(config: Config) -> Any:
    """Read the neurons, measure, write and report. Takes milliseconds, so nothing is reused.

    Returns:
        The `OverlapMatrix`.

    Raises:
        LseError: see `load_neurons`.
    """
    from lse_interp.analysis.overlap import measure_overlap, overlap_report
    from lse_interp.artifacts.provenance import provenance
    from lse_interp.neurons.on_disk import load_neurons

    paths = RunPaths(config.root, config.model.model)
    neurons = load_neurons(config, paths)
    if config.neurons or config.masks:
        paths = RunPaths(config.root, neurons.model.name)
    overlap = measure_overlap(neurons)
    about = provenance(config, thresholds=dict(neurons.thresholds))
    overlap = dataclasses.replace(overlap, provenance=about)
    out = overlap.save(config.out or paths.overlap)
    logger.info("%s", overlap_report(overlap))
    logger.info("wrote %s", out)
    return overlap


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    return main_for(Config, run, argv, description=__doc__)


if __name__ == "__main__":
    raise SystemExit(main())
