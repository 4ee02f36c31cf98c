"""Figure 11: neurons, trainable parameters and their share by language, of a second model.

python -m analyses.fig11_subnetworks_nemo
python -m analyses.fig11_subnetworks_nemo --masks released_masks/nemo-5

Without neurons named, the published table (which the paper prints as a figure); with them, the
table of `analyses.table01_subnetworks`.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from analyses import table01_subnetworks
from analyses.published import MODELS, subnetworks
from analyses.second_model import is_given
from analyses.sources import NeuronArgs
from lse_interp.artifacts.atomic import write_atomic
from lse_interp.core.cli import main_for
from lse_interp.plotting.style import language_label

__all__ = ["Config", "main", "run"]

logger = logging.getLogger(__name__)

Config = NeuronArgs

_SCRIPT = "fig11_subnetworks_nemo"


def run(config: Config) -> list[Path]:
    """Write csv and markdown and return both.

    Raises:
        ArtifactError: neurons that are missing or cannot be read.
    """
    if is_given(config):
        return table01_subnetworks.run(table01_subnetworks.Config(source=config), script=_SCRIPT)
    written = _write_published(config.figures)
    logger.info("wrote %s", written[1])
    return written


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script from the command line."""
    return main_for(Config, run, argv, description=__doc__)


def _write_published(folder: Path) -> list[Path]:
    frame = subnetworks("nemo")
    lines = ["| Language | Neurons | Trainable | % |", "| --- | ---: | ---: | ---: |"]
    lines += [
        f"| {language_label(row.language)} | {row.n_neurons:,} | {row.trainable_millions:.1f}M | "
        f"{row.percent:.2f} |"
        for row in frame.itertuples()
    ]
    about = (
        f"Source: published numbers: paper, Figure 11 ({MODELS['nemo']}). "
        f"`python -m analyses.{_SCRIPT}`"
    )
    text = "\n".join([*lines, "", about, ""])
    csv, markdown = (folder / f"fig11_subnetworks_published.{end}" for end in ("csv", "md"))
    write_atomic(csv, lambda path: frame.to_csv(path, index=False))
    write_atomic(markdown, lambda path: path.write_text(text, encoding="utf-8"))
    return [csv, markdown]


if __name__ == "__main__":
    raise SystemExit(main())
