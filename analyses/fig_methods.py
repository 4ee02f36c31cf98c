"""All fine-tuning methods over all languages: what they gain, and what they cost in English.

python -m analyses fig_methods
python -m analyses fig_methods my_results.csv

Draws a table of results (`RESULT_COLUMNS` in `lse_interp.plotting.method_tables`), and prints it
as markdown.
"""

from collections.abc import Iterator

import pandas as pd

from analyses.artefacts import Table
from analyses.registry import FIGURES, Figure, Request
from lse_interp.plotting.method_comparison import plot_methods_panels
from lse_interp.plotting.method_tables import methods_frame, methods_table, other_languages
from lse_interp.plotting.picture import Picture
from lse_interp.plotting.style import language_label

__all__ = ["draw", "markdown"]


def draw(results: Table, _: Request) -> Iterator[Picture]:
    """Draw the comparison of methods.

    Raises:
        LseError: a table that lacks columns or contradicts itself.
    """
    frame = methods_frame(results.frame)
    yield Picture(
        name="fig_methods",
        axes=plot_methods_panels(frame)[0],
        frame=frame,
        source=_describe(results),
        title="What each fine-tuning method gains, and what it costs",
        caption=_caption(frame),
        printed=markdown(frame),
    )


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


def _describe(results: Table) -> str:
    languages, seeds, n_sentences = (
        sorted(results.frame[name].unique()) for name in ("language", "seed", "n_sentences")
    )
    return (
        f"{results.path}; languages {', '.join(languages)}; "
        f"seeds {', '.join(map(str, seeds))}; {' or '.join(map(str, n_sentences))} sentences each"
    )


FIGURES.register("fig_methods")(
    Figure("addition", "gains and costs of all methods", draw, needs="results")
)
