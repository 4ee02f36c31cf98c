"""Figure 6: how far fine-tuning moved each projection of each layer, and each neuron.

python -m analyses.fig06_weight_deltas
python -m analyses.fig06_weight_deltas --deltas runs/my-model/deltas/mlt/target.safetensors

Draws boxes as in Figure 6, densities, norms relative to the weights, and single neurons by LAPE.
"""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

from analyses.sources import require_artifact
from lse_interp.analysis.weights.deltas import UNDETERMINED, WeightDeltas
from lse_interp.artifacts.paths import RunPaths
from lse_interp.core.cli import main_for
from lse_interp.plotting.style import figure_stem, language_label, save_figure
from lse_interp.plotting.weight_deltas import (
    delta_frame,
    density_frame,
    describe_deltas,
    figure_name,
    neuron_delta_frame,
    plot_delta_density,
    plot_delta_norms,
    plot_deltas,
    plot_neuron_deltas,
)

__all__ = ["Config", "main", "run"]

logger = logging.getLogger(__name__)

_EMBEDDED = RunPaths(Path("runs"), "embedded")


@dataclasses.dataclass(frozen=True)
class Config:
    """Draw weight changes."""

    deltas: tuple[Path, ...] = ()
    """Files that `python -m lse_interp.deltas` wrote; by default all of the embedded model."""
    figures: Path = Path("figures")
    """Folder to write to."""


def run(config: Config) -> list[Path]:
    """Draw the figures of each artefact and return the files written.

    Raises:
        ArtifactError: no such artefact.
    """
    written = []
    for path in config.deltas or _finished(_EMBEDDED):
        written += _draw(require_artifact(path, stage="lse_interp.deltas"), config)
    for path in written:
        if path.suffix == ".png":
            logger.info("wrote %s", path)
    return written


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script from the command line."""
    return main_for(Config, run, argv, description=__doc__)


def _finished(paths: RunPaths) -> tuple[Path, ...]:
    """Return what there is, or the first file that could be there."""
    known = sorted((paths.folder / "deltas").glob("*/*.safetensors"))
    return tuple(known) or (paths.deltas("mlt", "target"),)


def _draw(path: Path, config: Config) -> list[Path]:
    deltas = WeightDeltas.load(path)
    frame, densities, neurons = (
        delta_frame(deltas),
        density_frame(deltas),
        neuron_delta_frame(deltas),
    )
    what = _what(deltas)
    views = [
        (
            "",
            plot_deltas(frame),
            frame,
            f"Change of single weights by {what}",
            "Boxes span the quartiles, whiskers the 1 % to 99 % quantiles, of the changes of the "
            "gate rows, up rows and down columns of the selected neurons. Form of Figure 6.",
        ),
        (
            "density",
            plot_delta_density(densities),
            densities,
            f"Distribution of the change by {what}",
            "Smoothed density of the changes; each violin is scaled to one width, and the largest "
            "changes may lie beyond the axis. An addition to Figure 6.",
        ),
        (
            "norms",
            plot_delta_norms(frame),
            frame,
            f"Size of the change by {what}",
            "L2 norm of the change as a share of that of the same weights before; dashed, what "
            "weight decay alone would have done. An addition to Figure 6.",
        ),
    ]
    if len(neurons):
        views.append(
            (
                "neurons",
                plot_neuron_deltas(neurons),
                neurons,
                f"Change of single neurons by {what}, and their LAPE",
                "Each dot is a neuron: its LAPE before, and the L2 norm of the change of its gate "
                "row, up row and down column together. An addition to Figure 6.",
            )
        )
    written = []
    for view, ax, numbers, title, caption in views:
        written += save_figure(
            ax.figure,
            figure_stem(config.figures, figure_name(deltas, view), deltas.base),
            frame=numbers,
            source=describe_deltas(deltas),
            title=title,
            caption=caption,
            command=_command(config, path),
        )
    return written


def _what(deltas: WeightDeltas) -> str:
    if deltas.language == UNDETERMINED:
        return f"training of {deltas.name}"
    return f"{language_label(deltas.language)} fine-tuning ({deltas.name})"


def _command(config: Config, path: Path) -> str:
    words = ["python -m analyses.fig06_weight_deltas"]
    words += [] if path in _finished(_EMBEDDED) else [f"--deltas {path}"]
    words += [f"--figures {config.figures}"] if config.figures != Path("figures") else []
    return " ".join(words)


if __name__ == "__main__":
    raise SystemExit(main())
