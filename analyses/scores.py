"""Task scores in one form, wherever they are from.

Scores are the paper's tables of single languages, or a path: an EvaluationTable, a folder of them
such as runs/<model>/evaluation, or a csv with the columns of
`lse_interp.tasks.results.FRAME_COLUMNS` such as docs/evaluation.csv.
"""

import dataclasses
from pathlib import Path

import pandas as pd

from analyses import published
from lse_interp.core.errors import ArtifactError, LseError
from lse_interp.plotting.scores import mean_over_seeds
from lse_interp.plotting.style import method_order
from lse_interp.tasks.results import FRAME_COLUMNS, EvaluationTable

__all__ = [
    "EVALUATION",
    "EVALUATION_SIZES",
    "Scores",
    "measured_scores",
    "published_scores",
    "read_scores",
    "size_scores",
]

EVALUATION = Path("docs/evaluation.csv")
"""Scores of all languages and methods on the embedded tasks."""
EVALUATION_SIZES = Path("docs/evaluation_sizes.csv")
"""Scores of target fine-tuning on several amounts of text, with a column `tokens`."""

_KEYS = ["language", "method", "group", "row", "label", "unit"]
_BLEU = ("flores", "opus")
_WRITER = "`python -m analyses.evaluation_results`"


@dataclasses.dataclass(frozen=True)
class Scores:
    """One number per language, method and task; and what they are averages of."""

    frame: pd.DataFrame
    """Columns: language, method, group, row, label, unit, score, stderr (missing where unknown),
    n_seeds."""
    printed: pd.DataFrame | None
    """Averages as printed, if the source has any: language, method, group, score."""
    name: str
    """Short, for file names."""
    about: str
    """Model and data, in a line."""
    single: pd.DataFrame
    """Every seed, with changes against base and their bounds: `EvaluationTable.to_frame`."""

    @property
    def suffix(self) -> str:
        """What follows the name of a picture: nothing for the embedded model."""
        return "" if self.name == "embedded" else f"_{self.name}"


def read_scores(path: Path = EVALUATION) -> Scores:
    """Read scores that were measured.

    Raises:
        ArtifactError: the source does not exist, or cannot be read.
        LseError: a table that lacks columns, or has a score twice.
    """
    results = measured_scores(path)
    languages, seeds = results["language"].nunique(), sorted(results["seed"].unique())
    about = (
        f"{path}; {languages} language{'s' * (languages > 1)}; "
        f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
    )
    return Scores(mean_over_seeds(results, by=_KEYS), None, _name(path), about, results)


def published_scores(model: published.Model = "llama") -> Scores:
    """Return the published scores of one model.

    Standard errors, bounds and numbers of questions are not published.
    """
    frame = published.downstream(model)
    scores = frame[~frame["is_average"]]
    labelled = scores.assign(label=_labels(scores), unit="", stderr=float("nan"), n_seeds=1)
    columns = [*_KEYS, "score", "stderr", "n_seeds"]
    tables = f"{frame['table'].min()} to {frame['table'].max()}"
    return Scores(
        frame=labelled[columns].reset_index(drop=True),
        printed=frame.loc[frame["is_average"], ["language", "method", "group", "score"]],
        name="published",
        about=f"published numbers: paper, Tables {tables} ({published.MODELS[model]})",
        single=_with_changes(scores).assign(model=published.MODELS[model]),
    )


def measured_scores(path: Path, *, n_bootstrap: int = 1000) -> pd.DataFrame:
    """Read the headline scores of a csv, an EvaluationTable, or a folder of them.

    Columns: those of `FRAME_COLUMNS`.

    Args:
        path: what to read.
        n_bootstrap: resamples for the bounds of differences, which a csv holds already.

    Raises:
        ArtifactError: nothing there, or not to be read.
        LseError: a table that lacks columns, or has a score twice.
    """
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise ArtifactError(
            f"{path} {'holds no evaluation' if path.is_dir() else 'does not exist'}. {_WRITER} "
            f"writes {EVALUATION}; `python -m lse_interp.evaluation --help` says how to evaluate "
            "another model."
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


def size_scores(path: Path = EVALUATION_SIZES) -> pd.DataFrame:
    """Read scores after training on several amounts of text: the same columns, and `tokens`.

    Raises:
        ArtifactError: there is no such table.
    """
    if not path.is_file():
        raise ArtifactError(
            f"{path} does not exist; {_WRITER} writes the tables of scores of the embedded model."
        )
    return pd.read_csv(path)


def _read(path: Path, *, n_bootstrap: int) -> pd.DataFrame:
    if path.suffix != ".csv":
        return EvaluationTable.load(path).to_frame(n_bootstrap=n_bootstrap)
    frame = pd.read_csv(path)
    if missing := [name for name in FRAME_COLUMNS if name not in frame.columns]:
        raise LseError(
            f"{path} needs the columns {', '.join(FRAME_COLUMNS)}; {', '.join(missing)} missing."
        )
    return frame


def _with_changes(frame: pd.DataFrame) -> pd.DataFrame:
    """Add what `EvaluationTable.to_frame` has and the paper does not print, known or missing."""
    keys = ["language", "row"]
    base = frame[frame["method"] == "base"].set_index(keys)["score"].rename("base")
    frame = frame.join(base, on=keys)
    frame["difference"] = frame["score"] - frame["base"]
    frame.loc[frame["method"] == "base", ["base", "difference"]] = float("nan")
    is_bleu = frame["benchmark"].str.startswith(_BLEU)
    frame["unit"] = is_bleu.map({True: "BLEU", False: "%"})
    unknown = dict.fromkeys(("stderr", "low", "high"), float("nan"))
    return frame.assign(seed=0, headline=True, **unknown)


def _labels(frame: pd.DataFrame) -> list[str]:
    """Name the languages of a translation, and tidy what the tables spell in several ways."""
    return [
        row.replace("TG", language).replace("EN", "eng") if "→" in row else row
        for row, language in zip(frame["row"], frame["language"], strict=True)
    ]


def _name(path: Path) -> str:
    """Name a file after its model: runs/<model>/evaluation."""
    if path == EVALUATION:
        return "embedded"
    folder = path if path.is_dir() else path.parent
    if folder.name == "evaluation":
        whole = folder.parent.name
        return whole if path.is_dir() else f"{whole}_{path.stem}"
    return path.stem if path.is_file() else path.name
