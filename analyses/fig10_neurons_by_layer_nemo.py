"""Figure 10: the neurons of every language over the layers, of a second model.

python -m analyses.fig10_neurons_by_layer_nemo --masks released_masks/nemo-5
python -m analyses.fig10_neurons_by_layer_nemo --neurons runs/my-model/neurons/lape.safetensors

The picture of `analyses.fig02_neurons_by_layer`. Without neurons named, those of a second run in
runs/.
"""

from collections.abc import Sequence
from pathlib import Path

from analyses import fig02_neurons_by_layer
from analyses.second_model import second_model
from analyses.sources import NeuronArgs
from lse_interp.core.cli import main_for

__all__ = ["Config", "main", "run"]

Config = NeuronArgs


def run(config: Config) -> list[Path]:
    """Draw the figure and return the files written.

    Raises:
        ArtifactError: no second model.
    """
    return fig02_neurons_by_layer.run(second_model(config), script="fig10_neurons_by_layer_nemo")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script from the command line."""
    return main_for(Config, run, argv, description=__doc__)


if __name__ == "__main__":
    raise SystemExit(main())
