"""What breaks without a language's neurons: the rise in loss of every language; and by chance.

python -m analyses.fig_ablation
python -m analyses.fig_ablation --ablation runs/my-model/ablation.safetensors
"""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

from analyses.sources import require_artifact
from lse_interp.analysis.ablation import AblationMatrix
from lse_interp.core.cli import main_for
from lse_interp.plotting.ablation_heatmap import ablation_frame, plot_ablation_panels
from lse_interp.plotting.style import figure_stem, save_figure

__all__ = ["Config", "main", "run"]

logger = logging.getLogger(__name__)

_DEFAULT = Path("runs/embedded/ablation.safetensors")


@dataclasses.dataclass(frozen=True)
class Config:
    """Draw the rise in loss without each language's neurons."""

    ablation: Path = _DEFAULT
    """A file that `python -m lse_interp.ablation` wrote."""
    figures: Path = Path("figures")
    """Folder to write to."""


def run(config: Config) -> list[Path]:
    """Draw the figure and return the files written.

    Raises:
        ArtifactError: no such artefact.
    """
    path = require_artifact(config.ablation, stage="lse_interp.ablation")
    matrix = AblationMatrix.load(path)
    frame = ablation_frame(matrix)
    written = save_figure(
        plot_ablation_panels(frame)[0].figure,
        figure_stem(config.figures, "fig_ablation", matrix.model),
        frame=frame,
        source=_describe(matrix),
        title=f"What breaks in {matrix.model.name} without a language's neurons",
        caption=(
            "Rise in loss on parallel sentences, as a share of the intact loss: rows are the "
            "language whose neurons are silenced, columns the language measured; framed, the "
            "language itself. Beside it, as many random neurons. An addition to the paper, after "
            "arXiv:2402.16438."
        ),
        command=_command(config),
    )
    logger.info("wrote %s", written[0])
    return written


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script from the command line."""
    return main_for(Config, run, argv, description=__doc__)


def _describe(matrix: AblationMatrix) -> str:
    parts = [matrix.model.name, f"neurons by {matrix.method}"]
    parts.append(f"{matrix.intact.shape[-1]} sentences per language")
    parts.append(f"{matrix.site} set to zero")
    if matrix.control is not None:
        parts.append(f"control matched by {matrix.control}, mean of {matrix.n_controls}")
    return "; ".join(parts)


def _command(config: Config) -> str:
    words = ["python -m analyses.fig_ablation"]
    words += [f"--ablation {config.ablation}"] if config.ablation != _DEFAULT else []
    words += [f"--figures {config.figures}"] if config.figures != Path("figures") else []
    return " ".join(words)


if __name__ == "__main__":
    raise SystemExit(main())
