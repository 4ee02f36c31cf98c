"""Draw the method on real neurons: which rows and columns of which layers are trained.

Source: paper, Figure 1, whose neurons are made up; here every mark is a neuron of a language.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyBboxPatch, Rectangle

from lse_interp.core.errors import LseError
from lse_interp.models.info import ModelInfo
from lse_interp.neurons.sets import NeuronSets
from lse_interp.plotting.style import (
    COLUMN_INCHES,
    PROJECTION_COLORS,
    drawing,
    language_label,
    points,
    sized,
)

__all__ = ["plot_schematic", "schematic_frame"]

_FROZEN = "0.9"
_EDGE = "0.62"
_INK = "0.15"
_LINE: dict[str, Any] = {"color": "0.45", "linewidth": 0.7}
_TIMES = "\N{MULTIPLICATION SIGN}"
_ZOOM_INCHES = 2.51
_STACK_LEFT, _MLP_LEFT, _MLP_RIGHT = 0.42, 1.36, 3.16
_ELBOW = 3.34


class _Box(NamedTuple):
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
    def x(self) -> float:
        return self.left + self.width / 2

    @property
    def y(self) -> float:
        return self.bottom + self.height / 2


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


@drawing()
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
        figure, ax = plt.subplots(figsize=sized(COLUMN_INCHES, height))
        figure.set_layout_engine("none")
        ax.set_position((0, 0, 1, 1))
    ax.set(xlim=(0, COLUMN_INCHES), ylim=(0, height), aspect="equal")
    ax.axis("off")
    sketch = _Sketch(ax, model)
    _draw_stack(sketch, frame, zoomed=layer, step=step)
    _draw_zoom(sketch, frame.loc[frame["layer"] == layer, "neuron"], layer=layer)
    _draw_numbers(sketch, len(frame))
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


class _Sketch:
    """The pieces that the drawing is made of, and the Axes they go to."""

    def __init__(self, ax: Axes, model: ModelInfo) -> None:
        self.ax = ax
        self.model = model

    def box(self, box: _Box, text: str = "", **look: Any) -> None:
        look = {"facecolor": _FROZEN, "edgecolor": "none", "linewidth": 0.5, **look}
        self.ax.add_patch(Rectangle(box[:2], box.width, box.height, **look))
        if text:
            self.text(box.x, box.y, text)

    def text(self, x: float, y: float, text: str, **look: Any) -> Any:
        style: dict[str, Any] = {"fontsize": points(5.8), "color": "0.35", "ha": "center"}
        return self.ax.text(x, y, text, **style | {"va": "center_baseline"} | look)

    def heading(self, y: float, text: str) -> None:
        self.ax.text(0.1, y, text, fontsize=points(6.5), fontweight="bold", va="center")

    def arrow(self, *path: tuple[float, float], **look: Any) -> None:
        """Draw lines from point to point, the last one with a head."""
        look = _LINE | look
        self.ax.plot(*zip(*path[:-1], strict=True), solid_capstyle="butt", zorder=1, **look)
        look |= {"arrowstyle": "-|>,head_length=0.28,head_width=0.14", "mutation_scale": 8}
        look |= {"shrinkA": 0, "shrinkB": 0}
        self.ax.annotate("", path[-1], path[-2], arrowprops=look, zorder=1)

    def node(self, at: tuple[float, float], sign: str) -> None:
        self.ax.add_patch(Circle(at, 0.07, facecolor="white", edgecolor="0.45", lw=0.7, zorder=3))
        self.text(*at, sign, fontsize=points(8), zorder=4)

    def neurons(
        self, box: _Box, neurons: pd.Series, *, color: str, upright: bool, n: int | None = None
    ) -> None:
        """Mark neurons across a box: upright lines from the left, or level ones from the top.

        Few lines are wide enough to be seen; `n` lines, by default all, cover a third of the box.
        """
        inches = box.width if upright else box.height
        width = min(1.1, 72 * inches / (3 * (n or len(neurons) or 1)))
        look: dict[str, Any] = {"color": color, "linewidth": width, "snap": False}
        places = (neurons + 0.5) / self.model.d_mlp
        if upright:
            self.ax.vlines(box.left + box.width * places, box.bottom, box.top, **look)
        else:
            self.ax.hlines(box.top - box.height * places, box.left, box.right, **look)


def _draw_stack(sketch: _Sketch, frame: pd.DataFrame, *, zoomed: int, step: float) -> None:
    """Draw all blocks, the first at the bottom, between the embedding and the unembedding."""
    ax, model = sketch.ax, sketch.model
    bottom, rail = _ZOOM_INCHES + 0.44, 0.3
    top, width = bottom + step * model.n_layers, _MLP_RIGHT - _STACK_LEFT
    below = _Box(_STACK_LEFT, bottom - 0.3, width, 0.13)
    above = _Box(_STACK_LEFT, top + 0.16, width, 0.13)
    sketch.box(below, "token embedding")
    sketch.box(above, "final norm and unembedding")
    start, end = (below.left, below.y), (above.left, above.y)
    sketch.arrow(start, (rail, below.y), (rail, above.y), end)
    most = int(frame["layer"].value_counts().max())
    for at in range(model.n_layers):
        mlp = _Box(_MLP_LEFT, bottom + step * at, _MLP_RIGHT - _MLP_LEFT, 0.82 * step)
        ax.plot([rail, _STACK_LEFT], [mlp.y] * 2, **_LINE, zorder=1)
        ax.plot([_STACK_LEFT + 0.84, _MLP_LEFT], [mlp.y] * 2, **_LINE, zorder=1)
        for left, wide, text in ((0.0, 0.08, ""), (0.11, 0.62, "attention"), (0.76, 0.08, "")):
            frozen = _Box(_STACK_LEFT + left, mlp.bottom, wide, mlp.height)
            sketch.box(frozen, text if mlp.height > 0.12 else "")
        neurons = frame.loc[frame["layer"] == at, "neuron"]
        height = mlp.height / len(model.projections)
        for place, name in enumerate(model.projections, start=1):
            strip = _Box(mlp.left, mlp.top - place * height, mlp.width, height)
            sketch.box(strip, edgecolor="white", linewidth=0.3)
            sketch.neurons(strip, neurons, color=PROJECTION_COLORS[name], upright=True, n=most)
        if at == zoomed:
            sketch.box(mlp, facecolor="none", edgecolor=_INK, linewidth=0.8, zorder=4)
            path = [(mlp.right, mlp.y), (_ELBOW, mlp.y)]
            path += [(_ELBOW, _ZOOM_INCHES + end) for end in (0.06, -0.04)]
            sketch.arrow(*path, color=_INK, linewidth=0.8)
    language = language_label(frame["language"].iloc[0])
    n_all = model.n_layers * model.d_mlp
    sketch.heading(above.top + 0.11, f"{language}: {len(frame):,} of {n_all:,} MLP neurons")
    every = next(n for n in (1, 2, 4, 8, 16, 32) if n * step >= 0.12)
    for at in range(0, model.n_layers, every):
        sketch.text(0.24, bottom + step * (at + 0.41), str(at), ha="right")
    sketch.text(0.06, (bottom + top) / 2, "layer", rotation=90, va="center")
    sketch.text(_STACK_LEFT + 0.42, top + 0.065, "norm, attention, norm")
    word = sketch.text(_MLP_LEFT, top + 0.065, "MLP:", ha="left")
    for name in model.projections:
        look: dict[str, Any] = {"color": PROJECTION_COLORS[name], "fontsize": points(5.8)}
        look |= {"xycoords": word, "xytext": (3, 0), "textcoords": "offset points"}
        word = ax.annotate(name, (1, 0), **look, fontweight="bold", va="bottom")
    sketch.text(_MLP_LEFT, bottom - 0.075, "neuron 0", ha="left")
    sketch.text(_MLP_RIGHT, bottom - 0.075, f"{model.d_mlp - 1:,}", ha="right")


def _draw_zoom(sketch: _Sketch, neurons: pd.Series, *, layer: int) -> None:
    """Draw one MLP: residual stream -> gate and up -> act(gate) * up -> down -> residual stream."""
    model, middle = sketch.model, 1.42
    corner, width, height = (0.03, 0.37), COLUMN_INCHES - 0.06, _ZOOM_INCHES - 0.42
    look: dict[str, Any] = {"boxstyle": "round,pad=0,rounding_size=0.05", "linewidth": 0.6}
    look |= {"facecolor": "none", "edgecolor": _EDGE}
    sketch.ax.add_patch(FancyBboxPatch(corner, width, height, **look))
    text = f"MLP of layer {layer}: {len(neurons):,} of {model.d_mlp:,} neurons"
    sketch.heading(_ZOOM_INCHES - 0.15, text)
    norm, down = _Box(0.12, 1.33, 0.3, 0.18), _Box(2.2, middle - 0.17, 0.68, 0.34)
    hidden = _Box(1.86, middle - 0.33, 0.07, 0.66)
    heights = (0.42, -0.42) if model.gated else (0.0,)
    reading = [_Box(0.68, middle + place - 0.33, 0.34, 0.66) for place in heights]
    _draw_residual(sketch, norm=norm, down=down)
    for name, box in zip(model.projections, reading, strict=False):
        x = norm.right + 0.1
        sketch.arrow((norm.right, norm.y), (x, norm.y), (x, box.y), (box.left, box.y))
        _draw_matrix(sketch, box, neurons, name=name)
    _draw_product(sketch, reading, hidden=hidden)
    sketch.box(hidden)
    sketch.neurons(hidden, neurons, color="0.45", upright=False)
    product = "act(gate) \N{DOT OPERATOR} up" if model.gated else "act(up)"
    sketch.text(hidden.x, hidden.top + 0.07, product)
    sketch.arrow((hidden.right, middle), (down.left, middle))
    _draw_matrix(sketch, down, neurons, name="down")
    sizes = [f"{model.d_mlp:,}", f"{model.d_model:,}"]
    for box, size in ((reading[-1], sizes), (down, sizes[::-1])):
        sketch.text(box.x, box.bottom - 0.07, f" {_TIMES} ".join(size))


def _draw_residual(sketch: _Sketch, *, norm: _Box, down: _Box) -> None:
    rail, add = 0.52, down.right + 0.2
    sketch.arrow((0.08, rail), (COLUMN_INCHES - 0.1, rail), linewidth=1.4)
    sketch.text(2.3, rail + 0.06, "residual stream")
    sketch.arrow((norm.x, rail), (norm.x, norm.bottom))
    sketch.box(norm, "norm")
    sketch.arrow((down.right, down.y), (add, down.y), (add, rail + 0.07))
    sketch.node((add, rail), "+")


def _draw_matrix(sketch: _Sketch, box: _Box, neurons: pd.Series, *, name: str) -> None:
    """Draw a projection in its true orientation, with its trained rows or columns."""
    color, is_down = PROJECTION_COLORS[name], name == "down"
    sketch.box(box, edgecolor=_EDGE)
    sketch.neurons(box, neurons, color=color, upright=is_down)
    what = f"{name} {'columns' if is_down else 'rows'}"
    sketch.text(box.x, box.top + 0.06, what, color=color, fontweight="bold")


def _draw_product(sketch: _Sketch, reading: Sequence[_Box], *, hidden: _Box) -> None:
    """Draw act(gate) * up, or act(up) if there is no gate."""
    first, *rest = reading
    act, times, middle = _Box(1.16, first.y - 0.08, 0.24, 0.16), 1.58, hidden.y
    sketch.arrow((first.right, act.y), (act.left, act.y))
    sketch.box(act, "act")
    if not rest:
        sketch.arrow((act.right, middle), (hidden.left, middle))
        return
    for box, side in ((act, 0.07), (rest[0], -0.07)):
        sketch.arrow((box.right, box.y), (times, box.y), (times, middle + side))
    sketch.node((times, middle), _TIMES)
    sketch.arrow((times + 0.07, middle), (hidden.left, middle))


def _draw_numbers(sketch: _Sketch, n_neurons: int) -> None:
    """Write how much is trained and how much frozen."""
    model, side = sketch.model, 0.08
    names = model.projections
    trained = n_neurons * len(names) * model.d_model
    share = 100 * trained / model.n_parameters
    for at, name in enumerate(names):
        box = _Box(0.05 + side * at, 0.22 - side / 2, side, side)
        sketch.box(box, facecolor=PROJECTION_COLORS[name])
    sketch.box(_Box(0.05, 0.08 - side / 2, side * len(names), side))
    lines = (
        f"trained: {n_neurons:,} neurons {_TIMES} {len(names)} {_TIMES} {model.d_model:,} = "
        f"{trained:,} parameters ({share:.2f} %)",
        f"frozen: the other {model.n_parameters - trained:,} parameters ({100 - share:.2f} %)",
    )
    for y, line in zip((0.22, 0.08), lines, strict=True):
        sketch.text(0.34, y, line, ha="left", color=_INK)
