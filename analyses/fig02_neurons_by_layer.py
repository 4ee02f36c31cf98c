"""Figures 2 and 10: the neurons of every language over the layers.

python -m analyses.fig02_neurons_by_layer
python -m analyses.fig02_neurons_by_layer --masks released_masks/llama-3.1-5
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from analyses.sources import NeuronArgs, read_neurons, save_neuron_figure
from lse_interp.core.cli import main_for
from lse_interp.plotting.neuron_layers import describe_layers, layer_frame, plot_layers

__all__ = ["Config", "main", "run"]

logger = logging.getLogger(__name__)

Config = NeuronArgs


def run(config: Config, *, script: str = "fig02_neurons_by_layer") -> list[Path]:
    """Draw the figure and return the files written.

    Args:
        config: which neurons.
        script: what the figure and the command that draws it are named after.
    """
    neurons = read_neurons(config)
    frame = layer_frame(neurons)
    written = save_neuron_figure(
        plot_layers(frame).figure,
        script,
        frame=frame,
        neurons=neurons,
        args=config,
        title=f"Language neurons over the layers of {neurons.model.name}",
        caption=f"{describe_layers(frame)} Form of Figures 2 and 10.",
    )
    logger.info("wrote %s", written[0])
    return written


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script from the command line."""
    return main_for(Config, run, argv, description=__doc__)


if __name__ == "__main__":
    raise SystemExit(main())
