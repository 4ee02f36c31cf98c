"""Figure 1: the method, drawn with the real neurons of a language.

python -m analyses.fig01_schematic
python -m analyses.fig01_schematic --lang cym --masks released_masks/llama-3.1-5
"""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

from analyses.sources import NeuronArgs, command, describe_neurons, read_neurons
from lse_interp.core.cli import CONFIG_FLAT, main_for
from lse_interp.core.languages import lookup
from lse_interp.plotting.schematic import plot_schematic, schematic_frame
from lse_interp.plotting.style import figure_stem, language_label, save_figure

__all__ = ["Config", "main", "run"]

logger = logging.getLogger(__name__)

_DEFAULT_LANG = "mlt"


@dataclasses.dataclass(frozen=True)
class Config:
    """Draw the method."""

    lang: str = _DEFAULT_LANG
    """The language whose neurons are drawn."""
    layer: int | None = None
    """The layer drawn in full; by default that with most neurons."""
    source: CONFIG_FLAT[NeuronArgs] = NeuronArgs()


def run(config: Config) -> list[Path]:
    """Draw the figure and return the files written.

    Raises:
        LanguageError: a language the neurons are not known of.
        LseError: one without neurons.
    """
    language = lookup(config.lang).code
    neurons = read_neurons(config.source)
    frame = schematic_frame(neurons, language)
    name = "fig01_schematic" + ("" if language == _DEFAULT_LANG else f"_{language}")
    written = save_figure(
        plot_schematic(frame, model=neurons.model, layer=config.layer).figure,
        figure_stem(config.source.figures, name, neurons.model),
        frame=frame,
        source=describe_neurons(neurons),
        title=f"Training the {language_label(language)} neurons of {neurons.model.name} alone",
        caption=(
            "Each coloured line is one neuron of the language at its place along the neuron axis: "
            "a row of gate, a row of up and a column of down, which are trained; all that is grey "
            "is frozen. Above, all layers; below, the MLP with most neurons, in full. "
            "Form of Figure 1."
        ),
        command=_command(config),
    )
    logger.info("wrote %s", written[0])
    return written


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script from the command line."""
    return main_for(Config, run, argv, description=__doc__)


def _command(config: Config) -> str:
    words = [command("fig01_schematic", config.source)]
    words += [f"--lang {config.lang}"] if config.lang != _DEFAULT_LANG else []
    words += [f"--layer {config.layer}"] if config.layer is not None else []
    return " ".join(words)


if __name__ == "__main__":
    raise SystemExit(main())
