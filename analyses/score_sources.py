"""Where the tables of task scores get their numbers, and what they say about it.

A source is `published` (the paper's tables of single languages), `embedded` (docs/evaluation.csv),
or a path: an EvaluationTable, a folder of them such as runs/<model>/evaluation, or a csv with the
columns of `lse_interp.tasks.results.FRAME_COLUMNS`.
"""

import dataclasses
from pathlib import Path

import pandas as pd

from analyses import published
from lse_interp.core.errors import ArtifactError, LseError
from lse_interp.plotting.style import method_order
from lse_interp.tasks.results import FRAME_COLUMNS, EvaluationTable

__all__ = ["EVALUATION", "Scores", "evaluation_frame", "read_scores"]

EVALUATION = Path("docs/evaluation.csv")
"""Scores of all languages and methods on the embedded tasks."""

_KEYS = ["language", "method", "group", "row", "label", "unit"]


@dataclasses.dataclass(frozen=True)
class Scores:
    """One number per language, method and task."""

    frame: pd.DataFrame
    """Columns: language, method, group, row, label, unit, score, stderr (missing where unknown),
    n_seeds."""
    printed: pd.DataFrame | None
    """Averages as printed, where the source has any: language, method, group, score."""
    name: str
    """Short, for file names."""
    about: str
    """Model and data, in a line."""


def read_scores(
    source: str, *, model: published.Model = "llama", evaluation: Path = EVALUATION
) -> Scores:
    """Read the scores of a source.

    Args:
        source: `published`, `embedded` or a path.
        model: whose published tables.
        evaluation: what `embedded` reads.

    Raises:
        ArtifactError: the source does not exist, or cannot be read.
        LseError: a table that lacks columns, or has a score twice.
    """
    if source == "published":
        return _published(model)
    path = evaluation if source == "embedded" else Path(source)
    results = evaluation_frame(path)
    name = "embedded" if source == "embedded" else _name(path)
    languages, seeds = results["language"].nunique(), sorted(results["seed"].unique())
    about = f"{path}; {languages} languages; seeds {', '.join(map(str, seeds))}"
    return Scores(_averaged_over_seeds(results), None, name, about)


def evaluation_frame(path: Path, *, n_bootstrap: int = 2) -> pd.DataFrame:
    """Read the headline scores of a csv, an EvaluationTable, or a folder of them.

    Columns: those of `FRAME_COLUMNS`.

    Args:
        path: what to read.
        n_bootstrap: resamples for the bounds of differences, which a csv holds already; means and
            standard errors need none.

    Raises:
        ArtifactError: nothing there, or not to be read.
        LseError: a table that lacks columns, or has a score twice.
    """
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise ArtifactError(
            f"{path} {'holds no evaluation' if path.is_dir() else 'does not exist'}. `python -m "
            f"analyses.evaluation_results` writes {EVALUATION}; `python -m lse_interp.evaluation "
            "--help` says how to evaluate another model."
        )
    frame = pd.concat([_read(file, n_bootstrap=n_bootstrap) for file in files], ignore_index=True)
    frame = frame[frame["headline"].astype(bool)].drop_duplicates(ignore_index=True)
    if frame.empty:
        raise LseError(f"{path} has no headline score; the tables are made of these.")
    method_order(set(frame["method"]) - {"base"})
    doubled = frame.duplicated(["language", "method", "seed", "row"])
    if doubled.any():
        at = frame.loc[doubled, ["language", "method", "seed", "row"]].iloc[0]
        raise LseError(f"{path} has two scores of {', '.join(map(str, at))}; keep one of them.")
    return frame


def _read(path: Path, *, n_bootstrap: int) -> pd.DataFrame:
    if path.suffix != ".csv":
        return EvaluationTable.load(path).to_frame(n_bootstrap=n_bootstrap)
    frame = pd.read_csv(path)
    if missing := [name for name in FRAME_COLUMNS if name not in frame.columns]:
        raise LseError(
            f"{path} needs the columns {', '.join(FRAME_COLUMNS)}; {', '.join(missing)} missing."
        )
    return frame


def _averaged_over_seeds(results: pd.DataFrame) -> pd.DataFrame:
    """Average over seeds.

    So is the standard error, which is then too wide rather than too narrow: seeds are asked the
    same questions.
    """
    groups = results.groupby(_KEYS, sort=False)
    return groups.agg(
        score=("score", "mean"), stderr=("stderr", "mean"), n_seeds=("seed", "nunique")
    ).reset_index()


def _published(model: published.Model) -> Scores:
    frame = published.downstream(model)
    scores = frame[~frame["is_average"]]
    scores = scores.assign(label=_labels(scores), unit="", stderr=float("nan"), n_seeds=1)
    columns = [*_KEYS, "score", "stderr", "n_seeds"]
    tables = f"{frame['table'].min()} to {frame['table'].max()}"
    return Scores(
        frame=scores[columns].reset_index(drop=True),
        printed=frame.loc[frame["is_average"], ["language", "method", "group", "score"]],
        name="published",
        about=f"published numbers: paper, Tables {tables} ({published.MODELS[model]})",
    )


def _labels(frame: pd.DataFrame) -> list[str]:
    """Name the languages of a translation, and tidy what the tables spell in several ways."""
    return [
        row.replace("TG", language).replace("EN", "eng") if "→" in row else row
        for row, language in zip(frame["row"], frame["language"], strict=True)
    ]


def _name(path: Path) -> str:
    """Name a file after its model: runs/<model>/evaluation."""
    folder = path if path.is_dir() else path.parent
    if folder.name == "evaluation":
        whole = folder.parent.name
        return whole if path.is_dir() else f"{whole}_{path.stem}"
    return path.stem if path.is_file() else path.name
