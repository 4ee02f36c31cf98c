"""What follows from the paper's printed numbers, compared with what it prints.

Nothing here measures a model. Numbers are printed to two decimals, so a recomputed one agrees if
it rounds to the printed one, either way at a half.
"""

from collections.abc import Mapping
from itertools import combinations

import pandas as pd

from analyses import published
from lse_interp.core.errors import LseError, near_misses
from lse_interp.models.info import ModelInfo
from lse_interp.neurons.formats.masks_pth import RELEASED_MODELS

__all__ = [
    "MODEL_INFOS",
    "N_QUESTIONS",
    "agrees",
    "base_scores",
    "fractions",
    "gains",
    "lora_parameters",
    "shared_cells",
    "sizes",
    "summary_averages",
    "summary_rows",
    "table_averages",
]

N_QUESTIONS: Mapping[str, tuple[str, int]] = {
    "BELEBELE": ("test", 900),
    "SIB200": ("test", 204),
    "ARC CHALLENGE": ("validation", 299),
    "ARC EASY": ("validation", 570),
    "PIQA": ("validation", 1838),
    "WINOGRANDE": ("validation", 1267),
    "MMLU": ("validation", 1531),
}
"""Benchmark -> the split whose size fits the printed accuracies, and that size. HellaSwag has so
many questions that any number of two decimals would fit."""

MODEL_INFOS: Mapping[str, ModelInfo] = {
    "llama": RELEASED_MODELS["llama-3.1-5"],
    "nemo": RELEASED_MODELS["nemo-5"],
}
"""Sizes of the paper's models."""


def agrees(printed: pd.Series, recomputed: pd.Series, *, unit: float = 0.01) -> pd.Series:
    """Say which recomputed numbers round to the printed ones.

    Args:
        printed: numbers as printed.
        recomputed: the same, exactly.
        unit: the last digit printed, 0.01 or 0.1.
    """
    # A hair more than half a digit, for binary fractions.
    return (printed - recomputed).abs() <= unit / 2 + 1e-9


def table_averages(model: published.Model) -> pd.DataFrame:
    """Recompute the averages of the tables of single languages.

    Columns: table, language, method, group, n (rows averaged), printed, recomputed, agrees.
    """
    frame = published.downstream(model)
    averages = frame[frame["is_average"]]
    return _recomputed(averages, frame, keys=["table", "language", "method", "group"])


def summary_rows() -> pd.DataFrame:
    """Recompute the rows of Table 2 as means of Tables 3 to 14 over the languages.

    Columns: group, row, method, n (languages averaged), printed, recomputed, agrees.
    """
    frame, summary = published.downstream("llama"), published.averages()
    rows = summary[~summary["is_average"]]
    return _recomputed(rows, frame, keys=["group", "row", "method"])


def summary_averages() -> pd.DataFrame:
    """Recompute the averages of Table 2 in two ways.

    Columns: group, method, printed, of_rows (mean of the rows printed above it), of_languages
    (mean of the averages printed in Tables 3 to 14), in which Welsh, which has one row less,
    weighs as much as others.
    """
    summary, frame = published.averages(), published.downstream("llama")
    keys = ["group", "method"]
    parts = {
        "printed": summary[summary["is_average"]].set_index(keys)["score"],
        "of_rows": summary[~summary["is_average"]].groupby(keys)["score"].mean(),
        "of_languages": frame[frame["is_average"]].groupby(keys)["score"].mean(),
    }
    order = pd.MultiIndex.from_frame(summary.loc[summary["is_average"], keys])
    return pd.DataFrame(parts).loc[order].reset_index()


def sizes(model: published.Model) -> pd.DataFrame:
    """Recompute trainable parameters and their share from the printed number of neurons.

    A neuron has a row of gate, a row of up and a column of down: 3 x d_model weights.

    Columns: language, n_neurons, n_trainable, trainable_millions and percent as printed,
    recomputed_millions, recomputed_percent, agrees.
    """
    info, frame = MODEL_INFOS[model], published.subnetworks(model)
    n_trainable = 3 * frame["n_neurons"] * info.d_model
    millions, percent = n_trainable / 1e6, 100 * n_trainable / info.n_parameters
    fits = agrees(frame["trainable_millions"], millions, unit=0.1)
    fits &= agrees(frame["percent"], percent)
    return frame.assign(
        n_trainable=n_trainable,
        recomputed_millions=millions,
        recomputed_percent=percent,
        agrees=fits,
    )


def lora_parameters(model: published.Model, *, rank: int, n_matrices: int) -> int:
    """Count the parameters of LoRA on `n_matrices` of gate, up and down, in every layer.

    The factors of a matrix of d_mlp x d_model have rank x d_model and d_mlp x rank entries.

    >>> lora_parameters("llama", rank=62, n_matrices=2)
    73138176
    """
    info = MODEL_INFOS[model]
    return info.n_layers * n_matrices * rank * (info.d_model + info.d_mlp)


def fractions(model: published.Model) -> pd.DataFrame:
    """Ask whether the printed accuracies are fractions of the questions of a split.

    Columns: row, split, n_questions, n_printed, n_fitting, chance (that a number of two decimals
    drawn at random would fit).
    """
    frame = published.downstream(model)
    rows = []
    for row, (split, n) in N_QUESTIONS.items():
        scores = frame.loc[frame["row"] == row, "score"]
        nearest = 100 * (scores * n / 100).round() / n
        fitting = int(agrees(scores, nearest).sum())
        possible = {f"{100 * right / n:.2f}" for right in range(n + 1)}
        rows.append((row, split, n, len(scores), fitting, len(possible) / 10_001))
    names = ["row", "split", "n_questions", "n_printed", "n_fitting", "chance"]
    return pd.DataFrame(rows, columns=names)


def base_scores(model: published.Model) -> pd.DataFrame:
    """List English benchmarks on which the base model has different scores in different tables.

    Columns: row, score, languages (of the tables with that score).
    """
    frame = published.downstream(model)
    frame = frame[(frame["method"] == "base") & (frame["group"] == "general")]
    frame = frame[~frame["is_average"]]
    varied = frame.groupby("row")["score"].transform("nunique") > 1
    groups = frame[varied].groupby(["row", "score"])["language"].agg(", ".join)
    return groups.reset_index(name="languages")


def shared_cells(model: published.Model) -> pd.DataFrame:
    """Count, for every two tables, the cells of a trained model that hold the same number.

    Columns: one, other (languages), n_shared, n_cells (compared); the most alike first.
    """
    frame = published.downstream(model)
    frame = frame[~frame["is_average"] & (frame["method"] != "base")]
    wide = frame.pivot(index=["row", "method"], columns="language", values="score")
    rows = [
        (one, other, int((wide[one] == wide[other]).sum()), len(wide[[one, other]].dropna()))
        for one, other in combinations(wide, 2)
    ]
    found = pd.DataFrame(rows, columns=["one", "other", "n_shared", "n_cells"])
    return found.sort_values("n_shared", ascending=False, kind="stable", ignore_index=True)


def gains(
    model: published.Model, *, over: str = "target", method: str = "target"
) -> "pd.Series[float]":
    """Return the mean gain of a method over the base model, language by language.

    Args:
        model: whose tables.
        over: `target` or `general`, the averages as printed, or `all`, the mean over all rows.
        method: the method.

    Raises:
        LseError: another `over`.
    """
    frame = published.downstream(model)
    if over not in ("target", "general", "all"):
        raise LseError(f"No mean over {over!r}. {near_misses(over, ('target', 'general', 'all'))}")
    if over == "all":
        means = frame[~frame["is_average"]].groupby(["language", "method"])["score"].mean()
    else:
        own = frame["is_average"] & (frame["group"] == over)
        means = frame[own].set_index(["language", "method"])["score"]
    wide = means.unstack()
    return (wide[method] - wide["base"]).rename("gain")


def _recomputed(printed: pd.DataFrame, frame: pd.DataFrame, *, keys: list[str]) -> pd.DataFrame:
    """Compare printed means with those of the single scores of a frame."""
    means = frame[~frame["is_average"]].groupby(keys)["score"].agg(n="size", recomputed="mean")
    found = printed.set_index(keys)["score"].rename("printed").to_frame().join(means).reset_index()
    return found.assign(agrees=agrees(found["printed"], found["recomputed"]))
