"""Draw the method on real neurons: which rows and columns of which layers are trained.

Source: paper, Figure 1, whose neurons are made up; here every mark is a neuron of a language.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyBboxPatch, Rectangle

from lse_interp.core.errors import LseError
from lse_interp.models.info import ModelInfo
from lse_interp.neurons.sets import NeuronSets
from lse_interp.plotting.style import COLUMN_INCHES, PROJECTION_COLORS, language_label, themed

__all__ = ["plot_schematic", "schematic_frame"]

_FROZEN = "0.9"
_EDGE = "0.62"
_INK = "0.15"
_SMALL = 5.8
_ZOOM_INCHES = 2.51
_STACK_LEFT, _MLP_LEFT, _MLP_RIGHT = 0.42, 1.36, 3.16
_ELBOW = 3.34


@dataclasses.dataclass(frozen=True)
class _Box:
    """A rectangle in inches."""

    left: float
    bottom: float
    width: float
    height: float

    @property
    def right(self) -> float:
        return self.left + self.width

    @property
    def top(self) -> float:
        return self.bottom + self.height

    @property
    def middle(self) -> tuple[float, float]:
        return self.left + self.width / 2, self.bottom + self.height / 2


def schematic_frame(neurons: NeuronSets, language: str) -> pd.DataFrame:
    """List the neurons of one language: language, layer, neuron.

    Raises:
        LanguageError: a language that the sets do not hold.
    """
    layers = neurons[language]
    return pd.DataFrame(
        {
            "language": language,
            "layer": [at for at, indices in enumerate(layers) for _ in indices],
            "neuron": [int(neuron) for indices in layers for neuron in indices],
        }
    )


@themed
def plot_schematic(
    frame: pd.DataFrame, *, model: ModelInfo, layer: int | None = None, ax: Axes | None = None
) -> Axes:
    """Draw the stack of blocks with every selected neuron, and one MLP of it in full.

    A neuron is one row of gate and up and one column of down; each is drawn at its true place along
    the neuron axis. Grey is frozen. The Axes counts in inches, from (0, 0) at the lower left.

    Args:
        frame: what `schematic_frame` returns.
        model: the model the neurons are of.
        layer: the layer drawn in full; by default that with most neurons.
        ax: where to draw, one column wide; None makes a new figure.

    Raises:
        LseError: no neurons; a layer or a neuron outside the model; or a `layer` without any.

    Source: paper, Figure 1 and section 3.2.
    """
    layer = _checked_layer(frame, model=model, layer=layer)
    step = min(0.31, max(0.085, 2.5 / model.n_layers))
    height = _ZOOM_INCHES + 0.98 + step * model.n_layers
    if ax is None:
        figure, ax = plt.subplots(figsize=(COLUMN_INCHES, height))
        figure.set_layout_engine("none")
        ax.set_position((0, 0, 1, 1))
    ax.set(xlim=(0, COLUMN_INCHES), ylim=(0, height), aspect="equal")
    ax.axis("off")
    names = model.projections
    _draw_stack(ax, frame, model=model, names=names, zoomed=layer, step=step)
    _draw_zoom(ax, frame[frame["layer"] == layer], model=model, names=names, layer=layer)
    _draw_numbers(ax, frame, model=model, names=names)
    return ax


def _checked_layer(frame: pd.DataFrame, *, model: ModelInfo, layer: int | None) -> int:
    if frame.empty:
        raise LseError("No neurons to draw: the language has none. Choose another.")
    if frame["layer"].max() >= model.n_layers or frame["neuron"].max() >= model.d_mlp:
        raise LseError(
            f"The neurons reach layer {frame['layer'].max()}, neuron {frame['neuron'].max()}; "
            f"{model.name} has {model.n_layers} layers of {model.d_mlp} neurons."
        )
    counts = frame["layer"].value_counts().sort_index()
    if layer is None:
        return int(counts.idxmax())
    if layer not in counts.index:
        raise LseError(
            f"No neurons in layer {layer} to draw; there are some in layers "
            f"{', '.join(map(str, counts.index))}."
        )
    return layer


def _draw_stack(
    ax: Axes,
    frame: pd.DataFrame,
    *,
    model: ModelInfo,
    names: Sequence[str],
    zoomed: int,
    step: float,
) -> None:
    """Draw all blocks, the first at the bottom, between the embedding and the unembedding."""
    bottom = _ZOOM_INCHES + 0.44
    top = bottom + step * model.n_layers
    width = _MLP_RIGHT - _STACK_LEFT
    below = _Box(_STACK_LEFT, bottom - 0.3, width, 0.13)
    above = _Box(_STACK_LEFT, top + 0.16, width, 0.13)
    _box(ax, below, "token embedding")
    _box(ax, above, "final norm and unembedding")
    rail = 0.3
    ax.plot([below.left, rail, rail], [below.middle[1]] * 2 + [above.middle[1]], **_line())
    _arrow(ax, (rail, above.middle[1]), (above.left, above.middle[1]))
    linewidth = _line_width(_MLP_RIGHT - _MLP_LEFT, int(frame["layer"].value_counts().max()))
    for at in range(model.n_layers):
        block = _Box(_STACK_LEFT, bottom + step * at, width, 0.82 * step)
        _draw_frozen(ax, block, rail=rail)
        mlp = _Box(_MLP_LEFT, block.bottom, _MLP_RIGHT - _MLP_LEFT, block.height)
        places = _places(frame.loc[frame["layer"] == at, "neuron"], d_mlp=model.d_mlp)
        _draw_strips(ax, mlp, places, names=names, linewidth=linewidth)
        if at == zoomed:
            _connect(ax, mlp)
    language = language_label(frame["language"].iloc[0])
    title = f"{language}: {len(frame):,} of {model.n_layers * model.d_mlp:,} MLP neurons"
    ax.text(0.1, above.top + 0.11, title, fontsize=6.5, fontweight="bold", va="center")
    _label_stack(ax, model=model, names=names, bottom=bottom, top=top, step=step)


def _draw_frozen(ax: Axes, block: _Box, *, rail: float) -> None:
    y = block.middle[1]
    ax.plot([rail, block.left], [y, y], **_line())
    places = ((0.0, 0.08), (0.11, 0.62), (0.76, 0.08))
    for (left, width), text in zip(places, ("", "attention", ""), strict=True):
        _box(
            ax,
            _Box(block.left + left, block.bottom, width, block.height),
            text * (block.height > 0.12),
        )
    ax.plot([block.left + 0.84, _MLP_LEFT], [y, y], **_line())


def _draw_strips(
    ax: Axes, mlp: _Box, places: Sequence[float], *, names: Sequence[str], linewidth: float
) -> None:
    """Draw one MLP as one strip per projection, the neurons from left to right."""
    height = mlp.height / len(names)
    for at, name in enumerate(names):
        strip = _Box(mlp.left, mlp.top - (at + 1) * height, mlp.width, height)
        ax.add_patch(_rectangle(strip, edgecolor="white", linewidth=0.3))
        color = PROJECTION_COLORS[name]
        _mark(ax, strip, places, color=color, upright=True, linewidth=linewidth)


def _places(neurons: pd.Series, *, d_mlp: int) -> list[float]:
    """Return how far along the neuron axis each neuron is, in (0, 1)."""
    return [(neuron + 0.5) / d_mlp for neuron in neurons]


def _line_width(inches: float, n: int) -> float:
    """Return so many points that few lines are seen, and many cover a third of the length."""
    return min(1.1, 72 * inches / (3 * n))


def _mark(
    ax: Axes, box: _Box, places: Sequence[float], *, color: str, upright: bool, linewidth: float
) -> None:
    """Mark neurons across a box: upright lines from the left, or level ones from the top."""
    look: dict[str, Any] = {"color": color, "linewidth": linewidth, "snap": False}
    if upright:
        ax.vlines([box.left + box.width * x for x in places], box.bottom, box.top, **look)
    else:
        ax.hlines([box.top - box.height * x for x in places], box.left, box.right, **look)


def _connect(ax: Axes, mlp: _Box) -> None:
    """Frame the block that is drawn in full, and draw lines from it to that drawing."""
    frame = _rectangle(mlp, facecolor="none", edgecolor=_INK, linewidth=0.8, zorder=4)
    ax.add_patch(frame)
    y = mlp.middle[1]
    ax.plot([mlp.right, _ELBOW, _ELBOW], [y, y, _ZOOM_INCHES + 0.02], color=_INK, linewidth=0.8)
    _arrow(ax, (_ELBOW, _ZOOM_INCHES + 0.06), (_ELBOW, _ZOOM_INCHES - 0.04), color=_INK)


def _label_stack(
    ax: Axes, *, model: ModelInfo, names: Sequence[str], bottom: float, top: float, step: float
) -> None:
    every = next(n for n in (1, 2, 4, 8, 16, 32) if n * step >= 0.12)
    for at in range(0, model.n_layers, every):
        _text(ax, 0.24, bottom + step * (at + 0.41), str(at), ha="right")
    _text(ax, 0.06, bottom + step * model.n_layers / 2, "layer", rotation=90)
    y = top + 0.065
    _text(ax, _STACK_LEFT + 0.42, y, "norm, attention, norm")
    _words(ax, _MLP_LEFT, y, [("MLP:", "0.35"), *((f"{n}", PROJECTION_COLORS[n]) for n in names)])
    below = bottom - 0.075
    _text(ax, _MLP_LEFT, below, "neuron 0", ha="left")
    _text(ax, _MLP_RIGHT, below, f"{model.d_mlp - 1:,}", ha="right")


def _draw_zoom(
    ax: Axes, rows: pd.DataFrame, *, model: ModelInfo, names: Sequence[str], layer: int
) -> None:
    """Draw one MLP: residual stream -> gate and up -> act(gate) * up -> down -> residual stream."""
    panel = FancyBboxPatch(
        (0.03, 0.37),
        COLUMN_INCHES - 0.06,
        _ZOOM_INCHES - 0.42,
        boxstyle="round,pad=0,rounding_size=0.05",
        facecolor="none",
        edgecolor=_EDGE,
        linewidth=0.6,
    )
    ax.add_patch(panel)
    places = _places(rows["neuron"], d_mlp=model.d_mlp)
    text = f"MLP of layer {layer}: {len(places):,} of {model.d_mlp:,} neurons"
    ax.text(0.1, _ZOOM_INCHES - 0.15, text, fontsize=6.5, fontweight="bold", va="center")
    rail, middle, norm = 0.52, 1.42, _Box(0.12, 1.33, 0.3, 0.18)
    boxes = _read_boxes(names, middle=middle)
    hidden = _Box(1.86, middle - 0.33, 0.07, 0.66)
    down = _Box(2.2, middle - 0.17, 0.68, 0.34)
    _draw_residual(ax, rail=rail, norm=norm, out=(down.right, middle))
    for name, box in boxes.items():
        _fork(ax, norm, box)
        _draw_matrix(ax, box, places, name=name)
    _combine(ax, boxes, hidden=hidden)
    ax.add_patch(_rectangle(hidden))
    look = {"linewidth": _line_width(hidden.height, len(places))}
    _mark(ax, hidden, places, color="0.45", upright=False, **look)
    product = "act(gate) \N{DOT OPERATOR} up" if model.gated else "act(up)"
    _text(ax, hidden.middle[0], hidden.top + 0.07, product)
    _arrow(ax, (hidden.right, middle), (down.left, middle))
    _draw_matrix(ax, down, places, name="down")
    rows_of, sign = f"{model.d_mlp:,}", "\N{MULTIPLICATION SIGN}"
    lowest = list(boxes.values())[-1]
    _text(ax, lowest.middle[0], lowest.bottom - 0.07, f"{rows_of} {sign} {model.d_model:,}")
    _text(ax, down.middle[0], down.bottom - 0.07, f"{model.d_model:,} {sign} {rows_of}")


def _read_boxes(names: Sequence[str], *, middle: float) -> dict[str, _Box]:
    """Place the matrices that read the residual stream, above each other."""
    reading = [name for name in names if name != "down"]
    return {
        name: _Box(0.68, middle + place - 0.33, 0.34, 0.66)
        for name, place in zip(reading, (0.42, -0.42) if len(reading) > 1 else (0.0,), strict=True)
    }


def _draw_residual(ax: Axes, *, rail: float, norm: _Box, out: tuple[float, float]) -> None:
    x, end = norm.middle[0], COLUMN_INCHES - 0.1
    _arrow(ax, (0.08, rail), (end, rail), linewidth=1.4)
    _text(ax, 2.3, rail + 0.06, "residual stream")
    _arrow(ax, (x, rail), (x, norm.bottom))
    _box(ax, norm, "norm")
    add = (out[0] + 0.2, rail)
    ax.plot([out[0], add[0]], [out[1]] * 2, **_line())
    _arrow(ax, (add[0], out[1]), (add[0], rail + 0.07))
    _node(ax, add, "+")


def _fork(ax: Axes, norm: _Box, box: _Box) -> None:
    x, y = norm.right + 0.1, box.middle[1]
    ax.plot([norm.right, x, x], [norm.middle[1]] * 2 + [y], **_line())
    _arrow(ax, (x, y), (box.left, y))


def _draw_matrix(ax: Axes, box: _Box, places: Sequence[float], *, name: str) -> None:
    """Draw a projection in its true orientation, with its trained rows or columns."""
    ax.add_patch(_rectangle(box, edgecolor=_EDGE))
    color, is_down = PROJECTION_COLORS[name], name == "down"
    width = _line_width(box.width if is_down else box.height, len(places))
    _mark(ax, box, places, color=color, upright=is_down, linewidth=width)
    part = "columns" if is_down else "rows"
    look: dict[str, Any] = {"color": color, "fontweight": "bold"}
    _text(ax, box.middle[0], box.top + 0.06, f"{name} {part}", **look)


def _combine(ax: Axes, boxes: dict[str, _Box], *, hidden: _Box) -> None:
    """Draw act(gate) * up, or act(up) if there is no gate."""
    first, *rest = boxes.values()
    act = _Box(1.16, first.middle[1] - 0.08, 0.24, 0.16)
    _arrow(ax, (first.right, act.middle[1]), (act.left, act.middle[1]))
    _box(ax, act, "act")
    middle = hidden.middle[1]
    times = (1.58, middle)
    if not rest:
        _arrow(ax, (act.right, middle), (hidden.left, middle))
        return
    _corner(ax, (act.right, act.middle[1]), (times[0], middle + 0.07))
    _corner(ax, (rest[0].right, rest[0].middle[1]), (times[0], middle - 0.07))
    _node(ax, times, "\N{MULTIPLICATION SIGN}")
    _arrow(ax, (times[0] + 0.07, middle), (hidden.left, middle))


def _draw_numbers(ax: Axes, frame: pd.DataFrame, *, model: ModelInfo, names: Sequence[str]) -> None:
    """Write how much is trained and how much frozen."""
    n_neurons = len(frame)
    trained = n_neurons * len(names) * model.d_model
    share = 100 * trained / model.n_parameters
    side = 0.08
    for at, name in enumerate(names):
        box = _Box(0.05 + side * at, 0.22 - side / 2, side, side)
        ax.add_patch(_rectangle(box, facecolor=PROJECTION_COLORS[name]))
    ax.add_patch(_rectangle(_Box(0.05, 0.08 - side / 2, side * len(names), side)))
    times = "\N{MULTIPLICATION SIGN}"
    lines = (
        f"trained: {n_neurons:,} neurons {times} {len(names)} {times} {model.d_model:,} = "
        f"{trained:,} parameters ({share:.2f} %)",
        f"frozen: the other {model.n_parameters - trained:,} parameters ({100 - share:.2f} %)",
    )
    for y, line in zip((0.22, 0.08), lines, strict=True):
        _text(ax, 0.34, y, line, ha="left", color=_INK)


def _line() -> dict:
    return {"color": "0.45", "linewidth": 0.7, "solid_capstyle": "butt", "zorder": 1}


def _rectangle(box: _Box, **look: Any) -> Rectangle:
    look = {"facecolor": _FROZEN, "edgecolor": "none", "linewidth": 0.5, **look}
    return Rectangle((box.left, box.bottom), box.width, box.height, **look)


def _box(ax: Axes, box: _Box, text: str) -> None:
    ax.add_patch(_rectangle(box))
    if text:
        _text(ax, *box.middle, text)


def _text(ax: Axes, x: float, y: float, text: str, **look: Any) -> None:
    defaults: dict[str, Any] = {"fontsize": _SMALL, "color": "0.35", "ha": "center", "va": "center"}
    look = defaults | look
    if look["va"] == "center":
        look["va"] = "center_baseline" if not look.get("rotation") else "center"
    ax.text(x, y, text, **look)


def _words(ax: Axes, x: float, y: float, words: Sequence[tuple[str, str]]) -> None:
    """Write words of several colours on one line."""
    look: dict[str, Any] = {"fontsize": _SMALL, "va": "center_baseline"}
    before = ax.text(x, y, words[0][0], color=words[0][1], **look)
    for word, color in words[1:]:
        before = ax.annotate(
            word,
            (1, 0),
            xycoords=before,
            xytext=(3, 0),
            textcoords="offset points",
            color=color,
            fontsize=_SMALL,
            fontweight="bold",
            va="bottom",
        )


def _arrow(
    ax: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    *,
    color: str = "0.45",
    linewidth: float = 0.7,
) -> None:
    look = {"arrowstyle": "-|>,head_length=0.28,head_width=0.14", "mutation_scale": 8}
    look |= {"color": color, "linewidth": linewidth, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", end, start, arrowprops=look, zorder=1)


def _corner(ax: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Go level to the place above or below `end`, and from there to it."""
    ax.plot([start[0], end[0]], [start[1]] * 2, **_line())
    _arrow(ax, (end[0], start[1]), end)


def _node(ax: Axes, at: tuple[float, float], sign: str) -> None:
    ax.add_patch(Circle(at, 0.07, facecolor="white", edgecolor="0.45", linewidth=0.7, zorder=3))
    ax.text(*at, sign, fontsize=8, ha="center", va="center_baseline", color="0.35", zorder=4)
