"""Draw how far fine-tuning moved each projection, layer by layer, and each neuron.

Source: paper, Figure 6 (`plot_deltas`); densities, norms and neurons are additions.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from lse_interp.analysis.weights.deltas import UNDETERMINED, WeightDeltas
from lse_interp.analysis.weights.row_statistics import QUANTILES
from lse_interp.artifacts.registry import writer_command
from lse_interp.core.errors import LseError
from lse_interp.plotting.style import (
    COLUMN_INCHES,
    PAGE_INCHES,
    PROJECTION_COLORS,
    drawing,
    figure_stem,
    language_label,
    save_figure,
    sized,
)

__all__ = [
    "delta_frame",
    "density_frame",
    "describe_deltas",
    "figure_name",
    "neuron_delta_frame",
    "plot_delta_density",
    "plot_delta_norms",
    "plot_deltas",
    "plot_neuron_deltas",
    "write_deltas",
]

_HEIGHT = 2.7
_LEGEND: Mapping[str, Any] = {
    "loc": "center left",
    "bbox_to_anchor": (1.0, 0.5),
    "handlelength": 1.4,
}
_BOX = {"whislo": "q0.01", "q1": "q0.25", "med": "q0.5", "q3": "q0.75", "whishi": "q0.99"}


def delta_frame(deltas: WeightDeltas) -> pd.DataFrame:
    """List what `plot_deltas` and `plot_delta_norms` draw: one row per layer and projection.

    Columns as in `WeightDeltas.to_frame`.
    """
    return deltas.to_frame()


def density_frame(deltas: WeightDeltas) -> pd.DataFrame:
    """List what `plot_delta_density` draws: one row per layer, projection and bin.

    Columns: language, name, layer, projection, low, high (borders of the bin), n_entries and
    density, the share of entries per unit of change, smoothed by a Gaussian kernel of Silverman's
    width, 0.9 min(std, IQR / 1.34) n^(-1/5). Layers without selected neurons are left out.
    """
    edges = deltas.edges.numpy()
    middle, width = (edges[1:] + edges[:-1]) / 2, edges[1] - edges[0]
    quartiles = [QUANTILES.index(q) for q in (0.25, 0.75)]
    parts = []
    for layer, n_entries in enumerate(deltas.n_entries.tolist()):
        for at, projection in enumerate(deltas.projections) if n_entries else ():
            low, high = deltas.quantiles[layer, at, quartiles].tolist()
            spread = min(float(deltas.std[layer, at]), (high - low) / 1.34)
            # A kernel narrower than a bin would smooth nothing.
            bandwidth = max(0.9 * spread * n_entries**-0.2, width / 4)
            kernel = np.exp(-(((middle[:, None] - middle) / bandwidth) ** 2) / 2)
            kernel /= kernel.sum(axis=0)
            counts = deltas.histogram[layer, at].numpy()
            density = kernel @ counts / n_entries / width
            bins = {"low": edges[:-1], "high": edges[1:], "n_entries": counts, "density": density}
            about = {"language": deltas.language, "name": deltas.name}
            parts.append(pd.DataFrame(about | {"layer": layer, "projection": projection} | bins))
    return pd.concat(parts, ignore_index=True)


def neuron_delta_frame(deltas: WeightDeltas) -> pd.DataFrame:
    """List what `plot_neuron_deltas` draws: one row per selected neuron with a finite score.

    Columns as in `WeightDeltas.neuron_frame`; `attrs` name the score and its axis label.
    """
    frame = deltas.neuron_frame()
    frame = frame[np.isfinite(frame[deltas.score_name])].reset_index(drop=True)
    unit = f" ({deltas.score_unit})" if deltas.score_unit else ""
    frame.attrs |= {"score": deltas.score_name, "label": f"{deltas.score_label}{unit}"}
    return frame


@drawing()
def plot_deltas(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the change of single weights: per layer one box for each projection, side by side.

    Boxes span the quartiles, whiskers reach from the 1 % to the 99 % quantile, and the weights
    beyond are not drawn. A layer without selected neurons stays empty.

    Args:
        frame: what `delta_frame` returns, of one result.
        ax: where to draw; None makes a new figure.

    Raises:
        LseError: several results in one frame.

    Source: paper, Figure 6.
    """
    _require_one(frame)
    names, n_layers = _projections(frame), frame["layer"].nunique()
    ax = ax or _axes(n_layers)
    width = 0.8 / len(names)
    for place, name in enumerate(names):
        rows = frame[(frame["projection"] == name) & (frame["n_neurons"] > 0)]
        boxes = [{key: row[column] for key, column in _BOX.items()} for _, row in rows.iterrows()]
        offset, color = (place - (len(names) - 1) / 2) * width, PROJECTION_COLORS[name]
        line = {"color": color, "linewidth": 0.8}
        ax.bxp(
            boxes,
            positions=rows["layer"] + offset,
            widths=0.86 * width,
            showfliers=False,
            patch_artist=True,
            manage_ticks=False,
            boxprops={"facecolor": color, "edgecolor": color, "linewidth": 0.6},
            medianprops={"color": "white", "linewidth": 1.0},
            whiskerprops=line,
            capprops=line,
        )
    _decorate(ax, n_layers=n_layers)
    ax.axhline(0, color="0.55", linewidth=0.6, zorder=0.5)
    ax.set_ylabel("Change of a weight")
    ax.yaxis.set_major_formatter("{x:g}")
    ax.legend(
        handles=[Patch(color=PROJECTION_COLORS[name], label=name) for name in names], **_LEGEND
    )
    return ax


@drawing()
def plot_delta_density(frame: pd.DataFrame) -> Axes:
    """Draw how the change of single weights is distributed: one violin per layer.

    Each projection has a panel, all on one scale. Violins are equally wide at their widest and
    reach as far as the histograms do.

    Args:
        frame: what `density_frame` returns, of one result.

    Returns:
        The first of the panels; `.figure` has them all.

    Raises:
        LseError: several results in one frame.
    """
    _require_one(frame)
    names = _projections(frame)
    layers = sorted(frame["layer"].unique().tolist())
    width = float(np.clip(1.2 + 0.2 * len(names) * (max(layers) + 1), 4.6, 14))
    _, axes = plt.subplots(
        1, len(names), figsize=sized(width, _HEIGHT), sharex=True, sharey=True, squeeze=False
    )
    for ax, name in zip(axes.flat, names, strict=True):
        for layer in layers:
            cell = frame[(frame["projection"] == name) & (frame["layer"] == layer)]
            half = 0.42 * cell["density"] / max(cell["density"].max(), 1e-300)
            look: dict[str, Any] = {"color": PROJECTION_COLORS[name], "alpha": 0.85}
            middle = (cell["low"] + cell["high"]) / 2
            ax.fill_betweenx(middle, layer - half, layer + half, linewidth=0, **look)
        _decorate(ax, n_layers=max(layers) + 1)
        ax.set_title(name)
        ax.label_outer()
    axes[0, 0].set_ylim(frame["low"].min(), frame["high"].max())
    axes[0, 0].set_ylabel("Change of a weight")
    axes[0, 0].yaxis.set_major_formatter("{x:g}")
    return axes[0, 0]


@drawing()
def plot_delta_norms(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw how large the change is, relative to the weights: L2 per layer and projection.

    Dashed lines show what weight decay alone would have done, if that is known.

    Args:
        frame: what `delta_frame` returns, of one result.
        ax: where to draw; None makes a new figure.

    Raises:
        LseError: several results in one frame.
    """
    _require_one(frame)
    names, n_layers = _projections(frame), frame["layer"].nunique()
    ax = ax or _axes(n_layers, wide=COLUMN_INCHES + 0.9)
    for name in names:
        rows = frame[frame["projection"] == name].sort_values("layer")
        look: dict[str, Any] = {"color": PROJECTION_COLORS[name], "marker": "o", "markersize": 3}
        ax.plot(rows["layer"], rows["relative_l2"], label=name, **look)
    decay = (frame["decay_l2"] / frame["base_l2"]).dropna()
    if len(decay):
        look = {"color": "0.35", "linewidth": 1.0, "linestyle": (0, (3, 2))}
        ax.axhline(decay.mean(), label="decay alone", **look)
    _decorate(ax, n_layers=n_layers)
    ax.set_ylim(bottom=0)
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    ax.set_ylabel("L2 of the change / L2 of the weights")
    ax.legend(**_LEGEND)
    return ax


@drawing()
def plot_neuron_deltas(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw each neuron by its score and how far its weights moved, coloured by layer.

    Args:
        frame: what `neuron_delta_frame` returns, of one result.
        ax: where to draw; None makes a new figure.

    Raises:
        LseError: no neuron, or several results in one frame.
    """
    if frame.empty:
        raise LseError(
            "No neuron with a known score to draw. Measure with the neuron sets of the model, "
            f"which `{writer_command('neuron_sets')}` writes."
        )
    _require_one(frame)
    if ax is None:
        _, ax = plt.subplots(figsize=sized(COLUMN_INCHES + 0.4, _HEIGHT))
    dots = ax.scatter(
        frame[frame.attrs["score"]],
        frame["norm"],
        c=frame["layer"],
        cmap="viridis_r",
        s=9 if len(frame) < 2000 else 2,
        linewidths=0,
        alpha=0.85,
        rasterized=len(frame) > 2000,
    )
    ax.set_ylim(bottom=0)
    ax.set_xlabel(frame.attrs["label"])
    ax.set_ylabel("L2 of the neuron's change")
    ticks = MaxNLocator(nbins=6, integer=True)
    bar = ax.figure.colorbar(dots, ax=ax, aspect=30, pad=0.02, label="Layer", ticks=ticks)
    assert bar.solids is not None
    bar.solids.set_alpha(1)
    bar.outline.set_visible(False)
    return ax


def describe_deltas(deltas: WeightDeltas) -> str:
    """Describe in one line the run that a picture shows."""
    parts = [f"{deltas.base.name}, {_title(deltas)}"]
    parts.append(f"{int(deltas.n_neurons.sum())} neurons of {deltas.base.n_layers} layers")
    state = "exactly 0" if deltas.rest_exactly_zero else "not 0"
    parts.append(f"change of all other weights {state}")
    return "; ".join(parts)


def figure_name(deltas: WeightDeltas, view: str = "") -> str:
    """Name a figure, e.g. `fig06_weight_deltas_mlt`; the run is named unless it is `target`."""
    run = "" if deltas.name == "target" else deltas.name
    parts = ["fig06_weight_deltas", view, deltas.language, run]
    return "_".join(part for part in parts if part)


def write_deltas(deltas: WeightDeltas, folder: Path) -> list[Path]:
    """Write the figure of `plot_deltas` as png, pdf and csv; return the files."""
    frame = delta_frame(deltas)
    return save_figure(
        plot_deltas(frame).figure,
        figure_stem(folder, figure_name(deltas), deltas.base),
        frame=frame,
        source=describe_deltas(deltas),
    )


def _title(deltas: WeightDeltas) -> str:
    if deltas.language == UNDETERMINED:
        return deltas.name
    return f"{language_label(deltas.language)} {deltas.name}"


def _require_one(frame: pd.DataFrame) -> None:
    found = frame[["language", "name"]].drop_duplicates()
    if len(found) != 1:
        names = ", ".join(f"{row.language} {row['name']}" for _, row in found.iterrows())
        raise LseError(f"One figure shows one result; the frame holds {names or 'none'}.")


def _projections(frame: pd.DataFrame) -> list[str]:
    present = set(frame["projection"])
    return [name for name in PROJECTION_COLORS if name in present]


def _axes(n_layers: int, *, wide: float = PAGE_INCHES) -> Axes:
    width = float(np.clip(1.6 + 0.55 * n_layers, COLUMN_INCHES, wide))
    return plt.subplots(figsize=sized(width, _HEIGHT))[1]


def _decorate(ax: Axes, *, n_layers: int) -> None:
    ax.set_xlim(-0.6, n_layers - 0.4)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=16, integer=True))
    ax.grid(visible=False, axis="x")
    ax.set_xlabel("Layer")
