"""Figures 8 and 9: which languages share neurons; with Jaccard and the ratio to chance beside.

python -m analyses.fig08_overlap
python -m analyses.fig08_overlap --masks released_masks/llama-3.1-5
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from analyses.sources import NeuronArgs, read_neurons, save_neuron_figure
from lse_interp.analysis.overlap import measure_overlap
from lse_interp.core.cli import main_for
from lse_interp.plotting.overlap_heatmap import overlap_frame, plot_overlap_panels

__all__ = ["Config", "main", "run"]

logger = logging.getLogger(__name__)

Config = NeuronArgs


def run(config: Config, *, script: str = "fig08_overlap") -> list[Path]:
    """Draw the figure and return the files written.

    Args:
        config: which neurons.
        script: what the figure and the command that draws it are named after.
    """
    neurons = read_neurons(config)
    frame = overlap_frame(measure_overlap(neurons))
    written = save_neuron_figure(
        plot_overlap_panels(frame)[0].figure,
        script,
        frame=frame,
        neurons=neurons,
        args=config,
        title=f"Languages that share neurons in {neurons.model.name}",
        caption=(
            "Neurons shared by each pair (on the diagonal, each language's own number), Jaccard "
            "index, and the ratio to what random sets with as many neurons per layer share "
            "(blank: nothing shared and less than one neuron expected). Relatives stand together. "
            "Form of Figures 8 and 9; the right column is an addition."
        ),
    )
    logger.info("wrote %s", written[0])
    return written


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script from the command line."""
    return main_for(Config, run, argv, description=__doc__)


if __name__ == "__main__":
    raise SystemExit(main())
