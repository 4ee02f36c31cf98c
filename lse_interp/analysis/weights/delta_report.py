"""Report how far the selected neurons moved, and what else did, in words and a table."""

from collections.abc import Sequence

import pandas as pd

from lse_interp.analysis.weights.deltas import WeightDeltas

__all__ = ["delta_report"]


def delta_report(deltas: WeightDeltas) -> str:
    """Say how far the selected neurons moved, in which projections, and what else did.

    A table per layer: root mean square change of a weight, L2 of the change relative to the
    weights, and share of the squared change that weight decay explains; then the headlines.
    """
    frame = deltas.to_frame()
    n_entries = int(deltas.n_entries.sum()) * len(deltas.projections)
    opening = (
        f"Change of {int(deltas.n_neurons.sum())} neurons of {deltas.base.name}, "
        f"{deltas.language} {deltas.name}; {int(deltas.n_changed.sum())} of {n_entries} weights "
        "differ:"
    )
    headlines = (_most(frame), _about_decay(deltas), _about_rest(deltas), _about_neurons(deltas))
    return "\n".join([opening, _table(frame, deltas.projections), *headlines])


def _table(frame: pd.DataFrame, names: Sequence[str]) -> str:
    """Lay out one line per layer: RMS change, change relative to the weights, share of decay."""
    scaled = frame.assign(
        **{"rms x 1e3": 1e3 * frame["rms"], "L2 %": 100 * frame["relative_l2"]},
        **{"decay %": 100 * frame["decay_share"]},
    )
    values = ["rms x 1e3", "L2 %", "decay %"]
    table = scaled.pivot(index="layer", columns="projection", values=values)
    table = table[[(value, name) for value in values for name in names]]
    table.insert(0, ("", "neurons"), frame.groupby("layer")["n_neurons"].first())
    return table.rename_axis(columns=[None, None]).to_string(
        float_format="{:.3f}".format, na_rep="-"
    )


def _most(frame: pd.DataFrame) -> str:
    """Name the projections that moved most, in size and relative to their weights."""
    known = frame[frame["n_neurons"] > 0]
    lines = []
    for title, value, form in (("RMS", "rms", "{:.2e}"), ("relative L2", "relative_l2", "{:.1%}")):
        most = known.loc[known.groupby("layer")[value].idxmax()]
        ranks = ", ".join(f"{name} in {n}" for name, n in most["projection"].value_counts().items())
        top = most.loc[most[value].idxmax()]
        lines.append(
            f"Largest {title} change: {ranks} of {len(most)} layers; most of all "
            f"{top['projection']} in layer {top['layer']} ({form.format(top[value])})."
        )
    return "\n".join(lines)


def _about_decay(deltas: WeightDeltas) -> str:
    if deltas.decay_factor is None:
        return "Weight decay: unknown."
    alone = deltas.decay_l2.square().sum().sqrt() / deltas.l2.square().sum().sqrt()
    return (
        f"Weight decay alone takes the weights to {deltas.decay_factor:.6f} of themselves: "
        f"{alone:.2%} of the L2 of the change; it explains {deltas.total_decay_share:.2%} of the "
        "squared change."
    )


def _about_rest(deltas: WeightDeltas) -> str:
    others = deltas.others
    n_rest, n_others = int(deltas.rest_n_changed.sum()), int(others["n_changed"].sum())
    counts = (
        f"{n_rest} of {deltas.rest_n_entries} weights of other neurons and {n_others} of "
        f"{int(others['n_entries'].sum())} entries of {len(others)} other parameters differ"
    )
    if deltas.rest_exactly_zero:
        return f"The rest is exactly zero: {counts}, bit for bit."
    changed = others[others["n_changed"] > 0].nlargest(1, "l2")["parameter"].tolist()
    return f"The rest changed too: {counts}{f'; most of all {changed[0]}' if changed else ''}."


def _about_neurons(deltas: WeightDeltas) -> str:
    if deltas.scores is None:
        return "Change and score: no scores known."
    found = deltas.correlation()
    return (
        f"Change of a neuron and its {deltas.score_label}: Spearman {found['overall']:.2f} over "
        f"{found['n_neurons']} neurons, {found['within_layers']:.2f} within layers."
    )
