"""Figures 12 and 13: one small histogram over the layers per language, on shared axes.

python -m analyses.fig12_small_multiples
python -m analyses.fig12_small_multiples --masks released_masks/llama-3.1-5
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from analyses.sources import NeuronArgs, read_neurons, save_neuron_figure
from lse_interp.core.cli import main_for
from lse_interp.plotting.neuron_layers import layer_frame, plot_small_multiples

__all__ = ["Config", "main", "run"]

logger = logging.getLogger(__name__)

Config = NeuronArgs


def run(config: Config, *, script: str = "fig12_small_multiples") -> list[Path]:
    """Draw the figure and return the files written.

    Args:
        config: which neurons.
        script: what the figure and the command that draws it are named after.
    """
    neurons = read_neurons(config)
    frame = layer_frame(neurons)
    written = save_neuron_figure(
        plot_small_multiples(frame)[0].figure,
        script,
        frame=frame,
        neurons=neurons,
        args=config,
        title=f"Language neurons over the layers of {neurons.model.name}, language by language",
        caption="The number in a panel is the language's total. Form of Figures 12 and 13.",
    )
    logger.info("wrote %s", written[0])
    return written


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script from the command line."""
    return main_for(Config, run, argv, description=__doc__)


if __name__ == "__main__":
    raise SystemExit(main())
