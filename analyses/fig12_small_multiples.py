"""Figures 12 and 13: one small histogram over the layers per language, on shared axes.

python -m analyses fig12
python -m analyses fig12 --masks released_masks/llama-3.1-5
python -m analyses fig13 --masks released_masks/nemo-5
"""

from collections.abc import Iterator

from analyses.neuron_source import describe_neurons
from analyses.registry import FIGURES, Figure, Request
from lse_interp.neurons.sets import NeuronSets
from lse_interp.plotting.neuron_layers import layer_frame, plot_small_multiples
from lse_interp.plotting.picture import Picture


def draw(neurons: NeuronSets, request: Request) -> Iterator[Picture]:
    """Draw one panel per language."""
    frame = layer_frame(neurons)
    yield Picture(
        name=f"{request.figure}_small_multiples",
        axes=plot_small_multiples(frame)[0],
        frame=frame,
        source=describe_neurons(neurons),
        title=f"Language neurons over the layers of {neurons.model.name}, language by language",
        caption="The number in a panel is the language's total. Form of Figures 12 and 13.",
        model=neurons.model,
    )


FIGURES.register("fig12")(Figure("Figure 12", "neurons by language", draw, needs="neuron_sets"))

FIGURES.register("fig13")(
    Figure("Figure 13", "Figure 12 of a second model", draw, needs="neuron_sets", model="second")
)
