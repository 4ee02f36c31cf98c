"""All fine-tuning methods over all languages: what they gain, and what they cost in English.

python -m analyses.fig_methods
python -m analyses.fig_methods --results my_results.csv

Reads a table of results (`RESULT_COLUMNS` in `lse_interp.plotting.method_tables`), draws it, and
prints it as markdown.
"""

import dataclasses
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from lse_interp.core.cli import main_for
from lse_interp.core.errors import ArtifactError
from lse_interp.plotting.method_comparison import plot_methods_panels
from lse_interp.plotting.method_tables import methods_frame, methods_table, other_languages
from lse_interp.plotting.style import language_label, save_figure

__all__ = ["Config", "main", "markdown", "run"]

logger = logging.getLogger(__name__)

_DEFAULT = Path("docs/results.csv")


@dataclasses.dataclass(frozen=True)
class Config:
    """Draw and print the comparison of methods."""

    results: Path = _DEFAULT
    """A table of results, as csv."""
    figures: Path = Path("figures")
    """Folder to write to."""


def run(config: Config) -> list[Path]:
    """Draw the figure, print the tables, and return the files written.

    Raises:
        ArtifactError: no such table.
        LseError: a table that lacks columns or contradicts itself.
    """
    if not config.results.is_file():
        raise ArtifactError(f"{config.results} does not exist; give a table of results.")
    results = pd.read_csv(config.results)
    frame = methods_frame(results)
    written = save_figure(
        plot_methods_panels(frame)[0].figure,
        config.figures / "fig_methods",
        frame=frame,
        source=_describe(config, results),
        title="What each fine-tuning method gains, and what it costs",
        caption=_caption(frame),
        command=_command(config),
    )
    sys.stdout.write(markdown(frame))
    logger.info("wrote %s", written[0])
    return written


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script from the command line."""
    return main_for(Config, run, argv, description=__doc__)


def markdown(frame: pd.DataFrame) -> str:
    """Write one table per language measured: the trained one first.

    Args:
        frame: what `lse_interp.plotting.method_tables.methods_frame` returns.
    """
    parts = [f"Change in loss in the language trained (nats/sentence)\n\n{methods_table(frame)}"]
    parts += [
        f"Change in loss in {language_label(code)} (nats/sentence)\n\n"
        f"{methods_table(frame, measured=code)}"
        for code in other_languages(frame)
    ]
    return "\n".join(parts)


def _caption(frame: pd.DataFrame) -> str:
    text = (
        "Change in loss per sentence against the base model; a dot is a trained language, a bar "
        "the mean over them; light lines are 95 % intervals, paired over sentences. Below 0 is "
        "better than the base model."
    )
    pairs = frame[frame["against"] != "base"]
    if pairs.empty:
        return text
    text += " Right: the loss with the target subnetwork less that with random neurons"
    return text + ("." if pairs["low"].notna().any() else ", without intervals.")


def _describe(config: Config, results: pd.DataFrame) -> str:
    languages, seeds, n_sentences = (
        sorted(results[name].unique()) for name in ("language", "seed", "n_sentences")
    )
    return (
        f"{config.results}; languages {', '.join(languages)}; "
        f"seeds {', '.join(map(str, seeds))}; {' or '.join(map(str, n_sentences))} sentences each"
    )


def _command(config: Config) -> str:
    words = ["python -m analyses.fig_methods"]
    words += [f"--results {config.results}"] if config.results != _DEFAULT else []
    words += [f"--figures {config.figures}"] if config.figures != Path("figures") else []
    return " ".join(words)


if __name__ == "__main__":
    raise SystemExit(main())
