"""Figure 1: the method, drawn with the real neurons of a language.

python -m analyses fig01
python -m analyses fig01 --langs cym --masks released_masks/llama-3.1-5
"""

from collections.abc import Iterator

from analyses.neuron_source import describe_neurons
from analyses.registry import FIGURES, Figure, Request
from lse_interp.core.languages import lookup
from lse_interp.neurons.sets import NeuronSets
from lse_interp.plotting.picture import Picture
from lse_interp.plotting.schematic import plot_schematic, schematic_frame
from lse_interp.plotting.style import language_label

_DEFAULT_LANG = "mlt"


def draw(neurons: NeuronSets, request: Request) -> Iterator[Picture]:
    """Draw every requested language.

    Raises:
        LanguageError: a language the neurons are not known of.
        LseError: one without neurons.
    """
    for name in request.langs or (_DEFAULT_LANG,):
        language = lookup(name).code
        frame = schematic_frame(neurons, language)
        yield Picture(
            name="fig01_schematic" + ("" if language == _DEFAULT_LANG else f"_{language}"),
            axes=plot_schematic(frame, model=neurons.model, layer=request.layer),
            frame=frame,
            source=describe_neurons(neurons),
            title=f"Training the {language_label(language)} neurons of {neurons.model.name} alone",
            caption=(
                "Each coloured line is one neuron of the language at its place along the neuron "
                "axis: a row of gate, a row of up and a column of down, which are trained; all "
                "that is grey is frozen. Above, all layers; below, the MLP with most neurons, in "
                "full. Form of Figure 1."
            ),
            model=neurons.model,
        )


FIGURES.register("fig01")(Figure("Figure 1", "the method", draw, needs="neuron_sets"))
