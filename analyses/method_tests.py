"""The methods compared over languages: who is ahead where, how sure that is, and who learns faster.

A language is one observation: the mean of its seeds. Wilcoxon's signed-rank test over languages
treats them as independent, which relatives are not.
"""

import numpy as np
import pandas as pd
from scipy import stats

from analyses.markdown import interval
from lse_interp.plotting.picture import markdown_table
from lse_interp.plotting.style import method_label, method_order

__all__ = ["ahead_table", "changes_table", "speed_table"]

_EARLY = 10_000
"""Tokens after which curves are compared."""


def changes_table(results: pd.DataFrame) -> str:
    """Write mean changes over languages, with 95 % t-intervals over languages.

    Args:
        results: docs/results.csv.
    """
    parts = _by_language(results, "difference")
    head = ["", *(text for name in parts for text in (name, "target less this"))]
    lines = []
    for method in method_order(set(results["method"])):
        cells = [method_label(method)]
        for changes in parts.values():
            less = changes["target"] - changes[method]
            cells += [interval(changes[method]), "" if method == "target" else interval(less)]
        lines.append(cells)
    return (
        f"Mean over {len(parts['trained language'])} languages (each the mean of its seeds), nats "
        "per sentence, with 95 % t-intervals over languages; below 0 is better\n\n"
        + markdown_table(head, lines)
    )


def ahead_table(results: pd.DataFrame) -> str:
    """Set target against every other method, in the trained language and in English.

    Args:
        results: docs/results.csv.
    """
    parts = _by_language(results, "loss")
    lines = [
        [method_label(method), *(_ahead(part["target"] - part[method]) for part in parts.values())]
        for method in method_order(set(results["method"]) - {"target"})
    ]
    return (
        "In how many languages the target subnetwork ends with the lower loss, and p of Wilcoxon's "
        f"signed-rank test over languages\n\n{markdown_table(['Target against', *parts], lines)}"
    )


def speed_table(curves: pd.DataFrame) -> str:
    """Compare the validation curves early on.

    Args:
        curves: figures/figB_training_dynamics.csv.
    """
    own = curves[(curves["split"] == "validation") & (curves["measured"] == curves["language"])]
    keys = ["language", "method", "seed"]
    early = own.groupby(keys).apply(_early, include_groups=False)
    means = early.groupby(["language", "method"]).mean().unstack("method")
    lines = []
    for method in method_order(set(own["method"])):
        loss, step = means["loss"][method], means["half"][method]
        ahead = "" if method == "target" else _ahead(means["loss"]["target"] - loss)
        lines.append([method_label(method), f"{loss.mean():.2f}", ahead, f"{step.mean():.0f}"])
    head = ["", f"after {_EARLY:,} tokens", "target is lower", "half of the fall at step"]
    return (
        f"Validation loss in the trained language (nats per token): after {_EARLY:,} tokens, and "
        "the first step at which half of the final fall is there; means over languages\n\n"
        + markdown_table(head, lines)
    )


def _by_language(results: pd.DataFrame, value: str) -> dict[str, pd.DataFrame]:
    """Return languages x methods, in the trained language and in English."""
    base = results[results["against"] == "base"]
    trained = base["measured"] == base["language"]
    parts = {"trained language": base[trained], "English": base[base["measured"] == "eng"]}
    return {
        name: part.pivot_table(index="language", columns="method", values=value)
        for name, part in parts.items()
    }


def _ahead(differences: pd.Series) -> str:
    n = len(differences)
    p = stats.wilcoxon(differences).pvalue
    return f"{int((differences < 0).sum())} of {n}, p = {p:.2g}"


def _early(curve: pd.DataFrame) -> pd.Series:
    curve = curve.sort_values("tokens")
    loss = curve["loss"].to_numpy()
    half = (loss[0] + loss.min()) / 2
    return pd.Series(
        {
            "loss": np.interp(_EARLY, curve["tokens"], loss),
            "half": curve["step"].to_numpy()[np.argmax(loss <= half)],
        }
    )
