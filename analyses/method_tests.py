"""The methods compared over languages: who is ahead where, how sure that is, and who learns faster.

A language is one observation: the mean of its seeds. Wilcoxon's signed-rank test over languages
treats them as independent, which relatives are not.
"""

import numpy as np
import pandas as pd
from scipy import stats

from lse_interp.plotting.style import method_label, method_order

__all__ = ["ahead_table", "speed_table"]

_EARLY = 10_000
"""Tokens after which curves are compared."""


def ahead_table(results: pd.DataFrame) -> str:
    """Set target against every other method, in the trained language and in English.

    Args:
        results: docs/results.csv.
    """
    base = results[results["against"] == "base"]
    trained = base["measured"] == base["language"]
    lines = [
        "In how many languages the target subnetwork ends with the lower loss, and p of Wilcoxon's "
        "signed-rank test over languages\n",
        "| Target against | trained language | English |",
        "| --- | ---: | ---: |",
    ]
    parts = [
        part.pivot_table(index="language", columns="method", values="loss")
        for part in (base[trained], base[base["measured"] == "eng"])
    ]
    for method in method_order(set(base["method"]) - {"target"}):
        cells = [_ahead(losses["target"] - losses[method]) for losses in parts]
        lines.append(f"| {method_label(method)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def speed_table(curves: pd.DataFrame) -> str:
    """Compare the validation curves early on.

    Args:
        curves: figures/figB_training_dynamics.csv.
    """
    own = curves[(curves["split"] == "validation") & (curves["measured"] == curves["language"])]
    keys = ["language", "method", "seed"]
    early = own.groupby(keys).apply(_early, include_groups=False)
    means = early.groupby(["language", "method"]).mean().unstack("method")
    lines = [
        f"Validation loss in the trained language (nats per token): after {_EARLY:,} tokens, and "
        "the first step at which half of the final fall is there; means over languages\n",
        f"| | after {_EARLY:,} tokens | target is lower | half of the fall at step |",
        "| --- | ---: | ---: | ---: |",
    ]
    for method in method_order(set(own["method"])):
        loss, step = means["loss"][method], means["half"][method]
        ahead = "" if method == "target" else _ahead(means["loss"]["target"] - loss)
        lines.append(
            f"| {method_label(method)} | {loss.mean():.2f} | {ahead} | {step.mean():.0f} |"
        )
    return "\n".join(lines) + "\n"


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
