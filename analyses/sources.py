"""Where the pictures get their neurons, and what they say about it."""

import dataclasses
from pathlib import Path
from typing import Literal

from matplotlib.figure import Figure
from pandas import DataFrame

from lse_interp.artifacts.paths import RunPaths
from lse_interp.core.cli import DEFAULT_MODEL
from lse_interp.core.errors import ArtifactError, LseError
from lse_interp.core.languages import RELEASED_LANGUAGES
from lse_interp.neurons.formats.masks_pth import RELEASED_MODELS, released_model
from lse_interp.neurons.sets import NeuronSets
from lse_interp.plotting.style import figure_stem, save_figure

__all__ = [
    "NeuronArgs",
    "command",
    "describe_neurons",
    "read_neurons",
    "require_artifact",
    "save_neuron_figure",
]

_DEFAULT_NEURONS = RunPaths(Path("runs"), DEFAULT_MODEL).neurons
_MASK_FILES = {"llama-3.1-8b": "llama-3.1-5", "mistral-nemo-12b": "nemo-5"}


@dataclasses.dataclass(frozen=True)
class NeuronArgs:
    """Which neurons: an artefact of this package, or a released file of index lists."""

    neurons: Path = _DEFAULT_NEURONS
    """A neuron file that `python -m lse_interp.lape` wrote."""
    masks: Path | None = None
    """Instead: a released file of index lists, or the folder that holds it."""
    mask_languages: tuple[str, ...] = RELEASED_LANGUAGES
    """The languages of `--masks` in their order, which the file does not hold."""
    mask_model: Literal["llama-3.1-8b", "mistral-nemo-12b"] | None = None
    """The model of `--masks`; by default known from the file name."""
    figures: Path = Path("figures")
    """Folder to write to."""


def read_neurons(args: NeuronArgs) -> NeuronSets:
    """Read the neurons asked for.

    Raises:
        LseError: both an artefact and masks; or a folder of masks without `mask_model`.
        ArtifactError: a file that is missing or cannot be read.
    """
    if args.masks is None:
        return NeuronSets.load(require_artifact(args.neurons, stage="lse_interp.lape"))
    if args.neurons != _DEFAULT_NEURONS:
        raise LseError("`--neurons` and `--masks` both name the neurons; give one of them.")
    path = args.masks
    if path.is_dir():
        if args.mask_model is None:
            raise LseError(
                f"{path} is a folder, which may hold several models; add --mask-model "
                f"({' or '.join(_MASK_FILES)}), or give a file."
            )
        path = path / _MASK_FILES[args.mask_model]
    known = args.mask_model is not None
    model = RELEASED_MODELS[_MASK_FILES[args.mask_model]] if known else released_model(path)
    return NeuronSets.from_masks(path, languages=args.mask_languages, model=model)


def require_artifact(path: Path, *, stage: str) -> Path:
    """Return `path`, or say what writes it.

    Raises:
        ArtifactError: there is no such file.
    """
    if not path.is_file():
        raise ArtifactError(
            f"{path} does not exist. `make demo` writes the artefacts of the embedded model; "
            f"`python -m {stage} --help` says how to write them for another."
        )
    return path


def describe_neurons(neurons: NeuronSets) -> str:
    """Say in one line where the neurons are from."""
    parts = [neurons.model.name, f"{len(neurons)} languages"]
    if neurons.method == "masks":
        parts.append(f"released neurons, {Path(neurons.provenance['masks']).name}")
    else:
        parts.append(neurons.method.upper() if neurons.method == "lape" else neurons.method)
    if "k" in neurons.thresholds:
        parts.append(f"K = {100 * neurons.thresholds['k']:g} %")
    if neurons.site is not None:
        parts.append(neurons.site)
    return "; ".join(parts)


def command(script: str, args: NeuronArgs) -> str:
    """Spell the command that draws the same picture again."""
    flags = []
    for field in dataclasses.fields(args):
        value = getattr(args, field.name)
        if value != field.default:
            words = value if isinstance(value, tuple) else (str(value),)
            flags += [f"--{field.name.replace('_', '-')}", *words]
    return " ".join(["python -m", f"analyses.{script}", *flags])


def save_neuron_figure(
    figure: Figure,
    script: str,
    *,
    frame: DataFrame,
    neurons: NeuronSets,
    args: NeuronArgs,
    title: str,
    caption: str,
) -> list[Path]:
    """Write a figure about neurons under the name of its script, its model's name at the end."""
    return save_figure(
        figure,
        figure_stem(args.figures, script.removesuffix("_nemo"), neurons.model),
        frame=frame,
        source=describe_neurons(neurons),
        title=title,
        caption=caption,
        command=command(script, args),
    )
