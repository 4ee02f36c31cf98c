"""Figure 6: how far fine-tuning moved each projection of each layer, and each neuron.

python -m analyses fig06
python -m analyses fig06 runs/my-model/deltas/mlt/target.safetensors

Draws boxes as in Figure 6, densities, norms relative to the weights, and single neurons by LAPE.
"""

from collections.abc import Iterator

from analyses.registry import FIGURES, Figure, Request
from lse_interp.analysis.weights.deltas import UNDETERMINED, WeightDeltas
from lse_interp.plotting.picture import Picture
from lse_interp.plotting.style import language_label
from lse_interp.plotting.weight_deltas import (
    delta_frame,
    density_frame,
    describe_deltas,
    figure_name,
    neuron_delta_frame,
    plot_delta_density,
    plot_delta_norms,
    plot_deltas,
    plot_neuron_deltas,
)

_BOXES = (
    "Boxes span the quartiles, whiskers the 1 % to 99 % quantiles, of the changes of the gate "
    "rows, up rows and down columns of the selected neurons. Form of Figure 6."
)
_DENSITY = (
    "Smoothed density of the changes; each violin is scaled to one width, and the largest changes "
    "may lie beyond the axis. An addition to Figure 6."
)
_NORMS = (
    "L2 norm of the change as a share of that of the same weights before; dashed, what weight "
    "decay alone would have done. An addition to Figure 6."
)
_NEURONS = (
    "Each dot is a neuron: its LAPE before, and the L2 norm of the change of its gate row, up row "
    "and down column together. An addition to Figure 6."
)


def draw(deltas: WeightDeltas, _: Request) -> Iterator[Picture]:
    """Draw every view of one run."""
    frame, densities = delta_frame(deltas), density_frame(deltas)
    neurons, what = neuron_delta_frame(deltas), _what(deltas)
    views = [
        ("", plot_deltas, frame, f"Change of single weights by {what}", _BOXES),
        (
            "density",
            plot_delta_density,
            densities,
            f"Distribution of the change by {what}",
            _DENSITY,
        ),
        ("norms", plot_delta_norms, frame, f"Size of the change by {what}", _NORMS),
    ]
    if len(neurons):
        title = f"Change of single neurons by {what}, and their LAPE"
        views.append(("neurons", plot_neuron_deltas, neurons, title, _NEURONS))
    for view, plot, numbers, title, caption in views:
        yield Picture(
            name=figure_name(deltas, view),
            axes=plot(numbers),
            frame=numbers,
            source=describe_deltas(deltas),
            title=title,
            caption=caption,
            model=deltas.base,
        )


def _what(deltas: WeightDeltas) -> str:
    if deltas.language == UNDETERMINED:
        return f"training of {deltas.name}"
    return f"{language_label(deltas.language)} fine-tuning ({deltas.name})"


FIGURES.register("fig06")(
    Figure(
        "Figure 6",
        "changes of weights by layer",
        draw,
        needs="weight_deltas",
        stems=("fig06_weight_deltas_mlt", "fig06"),
    )
)
