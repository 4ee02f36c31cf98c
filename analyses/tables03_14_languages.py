"""Tables 3 to 26: the scores of every method, one table per language.

python -m analyses tables03_14
python -m analyses tables03_14 --source published
python -m analyses tables03_14 runs/my-model/evaluation
python -m analyses tables15_26
"""

import functools
from collections.abc import Iterator

import pandas as pd

from analyses import published
from analyses.paper_tables import LEGEND, csv_of, language_cells, ranked, scores_markdown
from analyses.registry import FIGURES, Figure, Request
from analyses.scores import Scores, published_scores
from lse_interp.core.languages import PAPER_TARGETS
from lse_interp.plotting.picture import COMMAND, Page
from lse_interp.plotting.style import language_label

_FIRST = {"tables03_14": 3, "tables15_26": 15}


def draw(scores: Scores, request: Request) -> Iterator[Page]:
    """Write one table per language, all on one page."""
    first = _FIRST[request.figure]
    cells = ranked(language_cells(scores), by=("language", "group", "label"))
    sections = [
        f"## {_title(code, scores, first)}\n\n{scores_markdown(cells[cells['language'] == code])}"
        for code in sorted(cells["language"].unique(), key=_place)
    ]
    yield Page(
        name=f"tables{first:02}_{first + 11}_{scores.name}",
        frame=csv_of(cells),
        markdown=(
            f"# Scores language by language\n\n{_about(scores, cells)} Form of Tables {first} to "
            f"{first + 11}. Source: {scores.about}. `{COMMAND}`\n\n" + "\n".join(sections)
        ),
    )


def _published(figure: str, model: published.Model) -> Iterator[Page]:
    """Write the published tables of one model."""
    return draw(published_scores(model), Request(figure))


def _place(code: str) -> tuple[int, str]:
    known = code in PAPER_TARGETS
    return (PAPER_TARGETS.index(code) if known else len(PAPER_TARGETS), code)


def _title(code: str, scores: Scores, first: int) -> str:
    if scores.printed is None:
        return language_label(code)
    return f"{language_label(code)} (Table {first + PAPER_TARGETS.index(code)})"


def _about(scores: Scores, cells: pd.DataFrame) -> str:
    sentences = [f"{LEGEND} Averages say over how many rows; – is a cell that does not exist."]
    if scores.printed is not None:
        sentences.append(
            "In brackets the mean of the rows, where it does not round to the printed average."
        )
    if cells["stderr"].notna().any():
        sentences.append(
            "± is the standard error over questions, in averages taken as independent."
        )
    if "nats" in set(cells["unit"]):
        sentences.append("Losses in nats are best when low, and in no average.")
    if scores.frame["n_seeds"].max() > 1:
        sentences.append("Methods with several seeds show the mean over them.")
    return " ".join(sentences)


FIGURES.register("tables03_14")(
    Figure(
        "Tables 3-14",
        "scores by language",
        draw,
        needs="scores",
        published=functools.partial(_published, "tables03_14", "llama"),
        inline=False,
    )
)

FIGURES.register("tables15_26")(
    Figure(
        "Tables 15-26",
        "scores, second model",
        draw,
        needs="scores",
        published=functools.partial(_published, "tables15_26", "nemo"),
        model="second",
        inline=False,
    )
)
