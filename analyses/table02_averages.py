"""Table 2: the scores of every method, averaged over the languages.

    python -m analyses table02
    python -m analyses table02 --source published
    python -m analyses table02 runs/my-model/evaluation

The paper prints this table only for its first model. The table of the second is computed from its
Tables 15 to 26.
"""

from collections.abc import Iterator

import pandas as pd

from analyses import published
from analyses.paper_tables import LEGEND, csv_of, ranked, scores_markdown, summary_cells
from analyses.registry import FIGURES, Figure, Request
from analyses.scores import Scores, published_scores
from lse_interp.plotting.picture import COMMAND, Page

_RECOMPUTED = "In brackets the mean over Tables 3 to 14, where it does not round to what is printed"
_ERRORS = "± is the standard error over questions"


def draw(scores: Scores, _: Request) -> Iterator[Page]:
    """Tabulate what was measured."""
    yield _page(scores, name=f"table02_{scores.name}")


def draw_published() -> Iterator[Page]:
    """Tabulate both models of the paper."""
    yield _page(published_scores("llama"), name="table02_published", printed=published.averages())
    yield _page(published_scores("nemo"), name="table02_published_nemo")


def _page(scores: Scores, *, name: str, printed: pd.DataFrame | None = None) -> Page:
    cells = ranked(summary_cells(scores, printed=printed))
    table = scores_markdown(cells, counted="over")
    return Page(
        name=name,
        frame=csv_of(cells),
        markdown=f"{table}\n{_about(scores, is_printed=printed is not None)}\n",
        printed=table,
    )


def _about(scores: Scores, *, is_printed: bool) -> str:
    sentences = [f"Mean over the languages that have the benchmark, which Over counts. {LEGEND}"]
    if is_printed:
        sentences.append(f"{_RECOMPUTED}.")
    if scores.frame["stderr"].notna().any():
        sentences.append(f"{_ERRORS}, language by language, taken as independent.")
    if "nats" in set(scores.frame["unit"]):
        sentences.append("Losses in nats are best when low, and in no average.")
    about = scores.about.replace("Tables 3", "Table 2 and Tables 3") if is_printed else scores.about
    return f"{' '.join(sentences)} Form of Table 2. Source: {about}. `{COMMAND}`"


FIGURES.register("table02")(
    Figure(
        "Table 2", "average scores of all methods", draw, needs="scores", published=draw_published
    )
)
