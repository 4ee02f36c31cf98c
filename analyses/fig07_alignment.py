"""Figure 7: how close parallel sentences lie in each layer, and averaged over the layers.

python -m analyses.fig07_alignment
python -m analyses.fig07_alignment --lang isl slk
python -m analyses.fig07_alignment --curves runs/my-model/alignment/mlt.safetensors
python -m analyses.fig07_alignment --source published

An artefact of several models (`python -m lse_interp.alignment --runs ...`) is also drawn averaged
over the layers, as in Figure 7c, and artefacts of several languages with the same models averaged
over these too. A table in the form of Tables 27 to 38 goes beside. `--source published` draws
Figure 7c from the tables of the paper, which prints no curves.
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import pandas as pd

from analyses.published import alignment_averages
from analyses.sources import require_artifact
from lse_interp.analysis.alignment import AlignmentCurves
from lse_interp.artifacts.paths import RunPaths
from lse_interp.core.cli import main_for
from lse_interp.core.errors import ArtifactError, LseError
from lse_interp.core.languages import LANGUAGES, lookup
from lse_interp.plotting.alignment_curves import (
    alignment_frame,
    layer_average_frame,
    plot_layer_average,
    plot_layer_average_panels,
)
from lse_interp.plotting.alignment_report import write_alignment
from lse_interp.plotting.style import figure_stem, save_figure

__all__ = ["Config", "main", "run"]

logger = logging.getLogger(__name__)

_EMBEDDED = RunPaths(Path("runs"), "embedded")


@dataclasses.dataclass(frozen=True)
class Config:
    """Draw alignment over the layers."""

    curves: tuple[Path, ...] = ()
    """Files that `python -m lse_interp.alignment` wrote; by default all of the embedded run."""
    lang: tuple[str, ...] = ()
    """Languages drawn by themselves, beside the average over all; by default every one of
    `--curves`, and Maltese of the embedded run."""
    source: Literal["embedded", "published"] = "embedded"
    """The artefacts, or the published averages."""
    figures: Path = Path("figures")
    """Folder to write to."""


def run(config: Config) -> list[Path]:
    """Write figures and table of each artefact, and their average; return the files written.

    Raises:
        ArtifactError: no such artefact.
        LseError: artefacts and published numbers asked for together.
    """
    written = _draw_published(config) if config.source == "published" else _draw_measured(config)
    for path in written:
        if path.suffix == ".png":
            logger.info("wrote %s", path)
    return written


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script from the command line."""
    return main_for(Config, run, argv, description=__doc__)


def _draw_published(config: Config) -> list[Path]:
    if config.curves:
        raise LseError("`--curves` and `--source published` name two sources; give one of them.")
    frame = alignment_averages()
    return save_figure(
        plot_layer_average(frame).figure,
        config.figures / "fig07c_published",
        frame=frame,
        source="published numbers: paper, Tables 27 to 38 (Llama-3.1-8B, FLORES-200)",
        title="Alignment averaged over the layers, as published",
        caption=(
            "One dot per target language, averaged over the nine languages it is compared with; "
            "the bar is the mean over the twelve. Figure 7c, redrawn from the paper's tables."
        ),
        command="python -m analyses.fig07_alignment --source published",
    )


def _draw_measured(config: Config) -> list[Path]:
    paths = config.curves or _finished(_EMBEDDED)
    parts = [
        AlignmentCurves.load(require_artifact(path, stage="lse_interp.alignment")) for path in paths
    ]
    written = []
    for path in _singles(config, {p.language: path for p, path in zip(parts, paths, strict=True)}):
        curves = parts[paths.index(path)]
        written += write_alignment(curves, config.figures, command=_command(config, path))
    return written + _draw_all_languages(parts, config, _command(config, *paths))


def _singles(config: Config, known: Mapping[str, Path]) -> list[Path]:
    """Return the artefacts that are drawn by themselves."""
    if not config.lang:
        first = known.get("mlt", next(iter(known.values())))
        return list(known.values()) if config.curves else [first]
    codes = [lookup(language).code for language in config.lang]
    if missing := [code for code in codes if code not in known]:
        raise ArtifactError(
            f"There is no alignment of {', '.join(missing)}; there is {', '.join(known)}. "
            f"`python -m lse_interp.alignment --lang {missing[0]}` measures it."
        )
    return [known[code] for code in codes]


def _finished(paths: RunPaths) -> tuple[Path, ...]:
    """Return what there is, or the first file that could be there."""
    known = [paths.alignment(code) for code in LANGUAGES]
    return tuple(path for path in known if path.is_file()) or (paths.alignment("mlt"),)


def _draw_all_languages(
    parts: Sequence[AlignmentCurves], config: Config, command: str
) -> list[Path]:
    """Average over languages too, where several were measured in the same models."""
    parts = [part for part in parts if len(part.models) > 1]
    if len(parts) < 2 or len({(part.models, part.site, part.pooling) for part in parts}) > 1:
        return []
    first = parts[0]
    averages = pd.concat([layer_average_frame(alignment_frame(part)) for part in parts])
    return save_figure(
        plot_layer_average_panels(averages)[0].figure,
        figure_stem(config.figures, "fig07c_layer_average", first.infos[0]),
        frame=averages,
        source=(
            f"{', '.join(first.models)} of {first.infos[0].name}, in {len(parts)} languages; "
            f"{first.site}, {first.pooling} pooling"
        ),
        title="Sentences and their translations, averaged over layers and languages",
        caption=(
            "One dot per language, whose runs are compared with the base model and averaged over "
            "the languages it is compared with; the bar is the mean. Left, cosine with "
            "translations; right, how far it lies above that of sentences that are no "
            "translations of each other. Form of Figure 7c; the right half is an addition."
        ),
        command=command,
    )


def _command(config: Config, *paths: Path) -> str:
    words = ["python -m analyses.fig07_alignment"]
    if not set(paths) <= set(_finished(_EMBEDDED)):
        words.append(f"--curves {' '.join(map(str, paths))}")
    words += [f"--lang {' '.join(config.lang)}"] if config.lang not in ((), ("mlt",)) else []
    words += [f"--figures {config.figures}"] if config.figures != Path("figures") else []
    return " ".join(words)


if __name__ == "__main__":
    raise SystemExit(main())
