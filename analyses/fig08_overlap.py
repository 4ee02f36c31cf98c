"""Figures 8 and 9: which languages share neurons, with the Jaccard index and the ratio to chance.

python -m analyses fig08
python -m analyses fig08 --masks released_masks/llama-3.1-5
python -m analyses fig09 --masks released_masks/nemo-5
"""

from collections.abc import Iterator

from analyses.neuron_source import describe_neurons
from analyses.registry import FIGURES, Figure, Request
from lse_interp.analysis.overlap import measure_overlap
from lse_interp.neurons.sets import NeuronSets
from lse_interp.plotting.overlap_heatmap import overlap_frame, plot_overlap_panels
from lse_interp.plotting.picture import Picture


def draw(neurons: NeuronSets, request: Request) -> Iterator[Picture]:
    """Draw the three heat maps."""
    frame = overlap_frame(measure_overlap(neurons))
    yield Picture(
        name=f"{request.figure}_overlap",
        axes=plot_overlap_panels(frame)[0],
        frame=frame,
        source=describe_neurons(neurons),
        title=f"Languages that share neurons in {neurons.model.name}",
        caption=(
            "Neurons shared by each pair (on the diagonal, each language's own number), Jaccard "
            "index, and the ratio to what random sets with as many neurons per layer share "
            "(blank: nothing shared and less than one neuron expected). Relatives stand together. "
            "Form of Figures 8 and 9; the right column is an addition."
        ),
        model=neurons.model,
    )


FIGURES.register("fig08")(Figure("Figure 8", "overlap of languages", draw, needs="neuron_sets"))

FIGURES.register("fig09")(
    Figure("Figure 9", "Figure 8 of a second model", draw, needs="neuron_sets", model="second")
)
