"""The table of results of all fine-tuning methods: checked, averaged over seeds, as markdown.

The input has one row per language, method, seed and language measured; see `RESULT_COLUMNS`.
"""

import numpy as np
import pandas as pd

from lse_interp.core.errors import LseError
from lse_interp.core.languages import family_order
from lse_interp.plotting.panels import in_order
from lse_interp.plotting.picture import markdown_table
from lse_interp.plotting.style import language_label, method_label, method_order
from lse_interp.training.methods import method_looks

__all__ = [
    "RESULT_COLUMNS",
    "methods_frame",
    "methods_table",
    "other_languages",
    "select_measured",
]

RESULT_COLUMNS = (
    *("language", "method", "seed", "measured", "loss", "base", "difference", "low", "high"),
    "n_sentences",
)
"""Columns of a table of results: the language trained, method, seed, the language measured, mean
loss per sentence in nats, that of the base model, their difference with its 95 % interval (paired
over sentences), and the number of sentences. A further column `against` names the method compared
with. If it is not `base`, the column `base` holds the loss of that method."""

_CONTROLS = ("random:layer", "random:size", "random:activity")


def methods_frame(results: pd.DataFrame) -> pd.DataFrame:
    """Average a table of results over seeds, and compare target with the random controls.

    Columns: language, method, measured, against, n_seeds, loss, reference (the loss of
    `against`), difference = loss - reference, low, high. Rows of `against` = `base` are all
    methods; the others compare `target` with random neurons. Bounds of several seeds are
    averaged, which is wider than the interval of their mean, as seeds share the sentences.
    Differences that the table lacks are computed from the mean losses, without bounds.

    Raises:
        LseError: a column or all rows missing; an unknown method; a doubled row; or a difference
            that is not that of its losses.
    """
    results = _checked(results)
    keys = ["language", "method", "measured", "against"]
    means = (
        results.groupby(keys, sort=False)
        .agg(
            n_seeds=("seed", "nunique"),
            loss=("loss", "mean"),
            reference=("base", "mean"),
            difference=("difference", "mean"),
            low=("low", "mean"),
            high=("high", "mean"),
        )
        .reset_index()
    )
    frame = pd.concat([means, _unpaired(means)], ignore_index=True)
    languages, methods = family_order(frame["language"].unique()), list(method_looks())
    # The trained language comes first of those measured.
    frame = frame.assign(other=frame["measured"] != frame["language"])
    orders = {"language": languages, "method": methods, "against": ["base", *methods]}
    return in_order(frame, **orders, other=[False, True]).drop(columns="other")


def methods_table(frame: pd.DataFrame, *, measured: str | None = None) -> str:
    """Write the change in loss against base as markdown: languages x methods.

    The lowest value of a row is bold. The row below the mean counts the languages in which the
    target subnetwork ends lower than the method. If there are intervals, it also counts those whose
    interval of the difference excludes 0.

    Args:
        frame: what `methods_frame` returns.
        measured: the language measured; by default the one trained.

    Raises:
        LseError: nothing was measured there.
    """
    grid = _grid(select_measured(frame, measured=measured))
    lines = []
    for code, values in grid.iterrows():
        lowest = values.min()
        cells = [_cell(value, bold=bool(value == lowest)) for value in values]
        lines.append([language_label(str(code)), *cells])
    lines.append(["**Mean**", *(_cell(value, bold=False) for value in grid.mean())])
    if "target" in grid:
        wins = [_wins(frame, grid, method, measured=measured) for method in grid.columns]
        lines.append(["Target is lower", *wins])
    return markdown_table(["Language", *map(method_label, grid.columns)], lines)


def select_measured(frame: pd.DataFrame, *, measured: str | None) -> pd.DataFrame:
    """Return the rows against base of one language measured; None is the trained one."""
    base = frame[frame["against"] == "base"]
    own = base["measured"] == base["language"]
    rows = base[own] if measured is None else base[~own & (base["measured"] == measured)]
    if rows.empty:
        where = "the languages trained" if measured is None else repr(measured)
        there = ", ".join(["the languages trained"] * int(own.any()) + other_languages(frame))
        raise LseError(f"Nothing was measured in {where}; there is {there}.")
    return rows


def other_languages(frame: pd.DataFrame) -> list[str]:
    """Return the languages measured besides the trained one."""
    return family_order(frame.loc[frame["measured"] != frame["language"], "measured"].unique())


def _checked(results: pd.DataFrame) -> pd.DataFrame:
    if missing := [name for name in RESULT_COLUMNS if name not in results.columns]:
        raise LseError(
            f"A table of results needs the columns {', '.join(RESULT_COLUMNS)}; "
            f"{', '.join(missing)} missing."
        )
    if results.empty:
        raise LseError("The table of results has no rows.")
    if "against" not in results:
        results = results.assign(against="base")
    results = results.fillna({"against": "base"})
    method_order(set(results["method"]) | set(results["against"]) - {"base"})
    keys = ["language", "method", "seed", "measured", "against"]
    if (doubled := results.duplicated(keys)).any():
        at = results.loc[doubled, keys].iloc[0]
        raise LseError(f"The table of results has two rows of {', '.join(map(str, at))}.")
    wrong = ~np.isclose(results["loss"] - results["base"], results["difference"], atol=1e-3)
    if wrong.any():
        at = results[wrong].iloc[0]
        raise LseError(
            f"`difference` should be loss - base; {at['language']}, {at['method']} has "
            f"{at['difference']} for {at['loss']} - {at['base']}."
        )
    return results


def _unpaired(means: pd.DataFrame) -> pd.DataFrame:
    """Compare target with each random control that the table does not already compare it with."""
    base = means[means["against"] == "base"]
    keys = ["language", "measured"]
    target = base[base["method"] == "target"]
    control = base[base["method"].isin(_CONTROLS)]
    pairs = target.merge(control, on=keys, suffixes=("", "_control"))
    pairs = pairs.assign(
        against=pairs["method_control"],
        n_seeds=pairs[["n_seeds", "n_seeds_control"]].min(axis=1),
        reference=pairs["loss_control"],
        difference=pairs["loss"] - pairs["loss_control"],
        low=np.nan,
        high=np.nan,
    )[means.columns]
    known = means.set_index([*keys, "method", "against"]).index
    return pairs[~pairs.set_index([*keys, "method", "against"]).index.isin(known)]


def _grid(rows: pd.DataFrame) -> pd.DataFrame:
    grid = rows.pivot(index="language", columns="method", values="difference")
    return grid.reindex(index=family_order(grid.index), columns=method_order(rows["method"]))


def _cell(value: float, *, bold: bool) -> str:
    if np.isnan(value):
        return ""
    text = f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")
    return f"**{text}**" if bold else text


def _wins(frame: pd.DataFrame, grid: pd.DataFrame, method: str, *, measured: str | None) -> str:
    if method == "target":
        return ""
    own = frame["measured"] == (frame["language"] if measured is None else measured)
    pairs = frame[own & (frame["method"] == "target") & (frame["against"] == method)]
    if pairs.empty:
        both = grid[["target", method]].dropna()
        return f"{int((both['target'] < both[method]).sum())} of {len(both)}"
    text = f"{int((pairs['difference'] < 0).sum())} of {len(pairs)}"
    bounds = pairs.dropna(subset="high")
    return text if bounds.empty else f"{text} ({int((bounds['high'] < 0).sum())} clearly)"
