"""Figure 9: which languages share neurons, of a second model.

python -m analyses.fig09_overlap_nemo --masks released_masks/nemo-5
python -m analyses.fig09_overlap_nemo --neurons runs/my-model/neurons/lape.safetensors

The picture of `analyses.fig08_overlap`. Without neurons named, those of a second run in
runs/.
"""

from collections.abc import Sequence
from pathlib import Path

from analyses import fig08_overlap
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
    return fig08_overlap.run(second_model(config), script="fig09_overlap_nemo")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script from the command line."""
    return main_for(Config, run, argv, description=__doc__)


if __name__ == "__main__":
    raise SystemExit(main())
