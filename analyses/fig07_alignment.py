"""Figure 7: how close parallel sentences lie in each layer, and averaged over the layers.

python -m analyses.fig07_alignment
python -m analyses.fig07_alignment --curves runs/my-model/alignment/mlt.safetensors

An artefact of several models is also drawn averaged over the layers, as in Figure 7c.
"""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

from analyses.sources import require_artifact
from lse_interp.core.artifacts import RunPaths
from lse_interp.core.cli import main_for
from lse_interp.core.curves import AlignmentCurves
from lse_interp.core.languages import LANGUAGES
from lse_interp.plotting.alignment import (
    alignment_frame,
    layer_average_frame,
    plot_alignment,
    plot_layer_average,
)
from lse_interp.plotting.style import figure_stem, language_label, save_figure

__all__ = ["Config", "main", "run"]

logger = logging.getLogger(__name__)

_EMBEDDED = RunPaths(Path("runs"), "embedded")


@dataclasses.dataclass(frozen=True)
class Config:
    """Draw alignment over the layers."""

    curves: tuple[Path, ...] = ()
    """Files that `python -m lse_interp.alignment` wrote; by default all of the embedded run."""
    figures: Path = Path("figures")
    """Folder to write to."""


def run(config: Config) -> list[Path]:
    """Draw one figure per artefact and return the files written.

    Raises:
        ArtifactError: no such artefact.
    """
    paths = config.curves or _finished(_EMBEDDED)
    written = []
    for path in paths:
        written += _draw(require_artifact(path, stage="lse_interp.alignment"), config)
    for path in written:
        if path.suffix == ".png":
            logger.info("wrote %s", path)
    return written


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script from the command line."""
    return main_for(Config, run, argv, description=__doc__)


def _finished(paths: RunPaths) -> tuple[Path, ...]:
    """Return what there is, or the first file that could be there."""
    known = [paths.alignment(code) for code in LANGUAGES]
    return tuple(path for path in known if path.is_file()) or (paths.alignment("mlt"),)


def _draw(path: Path, config: Config) -> list[Path]:
    curves = AlignmentCurves.load(path)
    frame, name = alignment_frame(curves), language_label(curves.language)
    about = {
        "source": (
            f"{', '.join(curves.models)}; {curves.n_sentences} sentences; {curves.site}, "
            f"{curves.pooling} pooling"
        ),
        "command": _command(config, path),
    }
    written = save_figure(
        plot_alignment(frame).figure,
        _stem(config, "fig07_alignment", curves),
        frame=frame,
        title=f"{name} sentences and their translations, layer by layer",
        caption=(
            f"Mean cosine of {name} sentences with their translations, with 95 % bootstrap "
            "intervals; faint, that of sentences that are no translations of each other. Form of "
            "Figure 7; intervals and control are additions."
        ),
        **about,
    )
    if len(curves.models) > 1:
        averages = layer_average_frame(frame)
        written += save_figure(
            plot_layer_average(averages).figure,
            _stem(config, "fig07c_layer_average", curves),
            frame=averages,
            title=f"{name} sentences and their translations, averaged over the layers",
            caption="One dot per language compared with; the bar is their mean. Form of Figure 7c.",
            **about,
        )
    return written


def _stem(config: Config, name: str, curves: AlignmentCurves) -> Path:
    return figure_stem(config.figures, f"{name}_{curves.language}", curves.infos[0])


def _command(config: Config, path: Path) -> str:
    words = ["python -m analyses.fig07_alignment"]
    words += [] if path in _finished(_EMBEDDED) else [f"--curves {path}"]
    words += [f"--figures {config.figures}"] if config.figures != Path("figures") else []
    return " ".join(words)


if __name__ == "__main__":
    raise SystemExit(main())
