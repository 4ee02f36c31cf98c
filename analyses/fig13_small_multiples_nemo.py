"""Figure 13: one small histogram over the layers per language, of a second model.

python -m analyses.fig13_small_multiples_nemo --masks released_masks/nemo-5
python -m analyses.fig13_small_multiples_nemo --neurons runs/my-model/neurons/lape.safetensors

The picture of `analyses.fig12_small_multiples`. Without neurons named, those of a second run in
runs/.
"""

from collections.abc import Sequence
from pathlib import Path

from analyses import fig12_small_multiples
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
    return fig12_small_multiples.run(second_model(config), script="fig13_small_multiples_nemo")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script from the command line."""
    return main_for(Config, run, argv, description=__doc__)


if __name__ == "__main__":
    raise SystemExit(main())
