"""Task scores in one form, wherever they are from: with changes against base, and their bounds.

`analyses.score_sources` reads the same for the tables, which need no bounds.
"""

from pathlib import Path

import pandas as pd

from analyses.published import MODELS, Model, downstream
from analyses.score_sources import EVALUATION, evaluation_frame
from lse_interp.core.errors import ArtifactError

__all__ = ["EVALUATION", "EVALUATION_SIZES", "measured_scores", "published_scores", "size_scores"]

EVALUATION_SIZES = Path("docs/evaluation_sizes.csv")
"""Scores of target fine-tuning on several amounts of text, with a column `tokens`."""

_BLEU = ("flores", "opus")


def measured_scores(source: Path) -> pd.DataFrame:
    """Read scores in the columns of `EvaluationTable.to_frame`.

    Args:
        source: a table as csv, an artefact of `python -m lse_interp.evaluation`, or a folder of
            these.

    Raises:
        ArtifactError: nothing there, or a file that cannot be read.
        LseError: a table that lacks columns, or has a score twice.
    """
    return evaluation_frame(source, n_bootstrap=1000)


def published_scores(model: Model) -> pd.DataFrame:
    """Return the published scores in the same columns, `model` the name of the model.

    Standard errors, bounds and numbers of questions are not published.
    """
    frame = downstream(model)
    frame = frame[~frame["is_average"]].copy()
    keys = ["language", "row"]
    base = frame[frame["method"] == "base"].set_index(keys)["score"].rename("base")
    frame = frame.join(base, on=keys)
    frame["difference"] = frame["score"] - frame["base"]
    frame.loc[frame["method"] == "base", ["base", "difference"]] = float("nan")
    is_bleu = frame["benchmark"].str.startswith(_BLEU)
    frame["unit"] = is_bleu.map({True: "BLEU", False: "%"})
    unknown = dict.fromkeys(("stderr", "low", "high"), float("nan"))
    return frame.assign(model=MODELS[model], seed=0, headline=True, **unknown)


def size_scores(path: Path) -> pd.DataFrame:
    """Read scores after training on several amounts of text: the same columns, and `tokens`.

    Raises:
        ArtifactError: there is no such table.
    """
    if not path.is_file():
        raise ArtifactError(
            f"{path} does not exist; `python -m analyses.evaluation_results` writes the tables of "
            "scores of the embedded model."
        )
    return pd.read_csv(path)
