"""Figures 2 and 10: the neurons of every language over the layers.

python -m analyses fig02
python -m analyses fig02 --masks released_masks/llama-3.1-5
python -m analyses fig10 --masks released_masks/nemo-5
"""

from collections.abc import Iterator

from analyses.neuron_source import describe_neurons
from analyses.registry import FIGURES, Figure, Request
from lse_interp.neurons.sets import NeuronSets
from lse_interp.plotting.neuron_layers import describe_layers, layer_frame, plot_layers
from lse_interp.plotting.picture import Picture


def draw(neurons: NeuronSets, request: Request) -> Iterator[Picture]:
    """Draw all languages in one picture."""
    frame = layer_frame(neurons)
    yield Picture(
        name=f"{request.figure}_neurons_by_layer",
        axes=plot_layers(frame),
        frame=frame,
        source=describe_neurons(neurons),
        title=f"Language neurons over the layers of {neurons.model.name}",
        caption=f"{describe_layers(frame)} Form of Figures 2 and 10.",
        model=neurons.model,
    )


FIGURES.register("fig02")(Figure("Figure 2", "neurons over the layers", draw, needs="neuron_sets"))

FIGURES.register("fig10")(
    Figure("Figure 10", "Figure 2 of a second model", draw, needs="neuron_sets", model="second")
)
