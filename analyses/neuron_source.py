"""Which neurons a figure shows, and what it says about them."""

from collections.abc import Iterator
from pathlib import Path

from analyses.registry import Request
from lse_interp.artifacts.paths import RunPaths
from lse_interp.core.errors import ArtifactError, LseError
from lse_interp.neurons.formats.masks_pth import RELEASED_MODELS, model_of_masks
from lse_interp.neurons.sets import NeuronSets

__all__ = ["describe_neurons", "read_neurons", "require_artifact"]


def read_neurons(request: Request, *, second: bool = False) -> Iterator[NeuronSets]:
    """Read the requested neurons; by default those of the run.

    Args:
        request: which figure, and from what.
        second: read another run than that of the model by default.

    Raises:
        LseError: both files and masks; or a folder of masks without `mask_model`.
        ArtifactError: a file that is missing or cannot be read; or no second run.
    """
    if request.masks is not None:
        if request.paths:
            raise LseError("FILE and `--masks` both name the neurons; give one of them.")
        yield _read_masks(request.masks, request)
        return
    run = RunPaths(request.root, request.model)
    for path in request.paths or [_second(run) if second else run.neurons]:
        yield NeuronSets.load(require_artifact(path, stage="lape"))


def require_artifact(path: Path, *, stage: str) -> Path:
    """Return `path`, or say what writes it.

    Raises:
        ArtifactError: there is no such file.
    """
    if not path.is_file():
        raise ArtifactError(
            f"{path} does not exist. `make demo` writes the artefacts of the embedded model; "
            f"`python -m lse_interp.{stage} --help` says how to write them for another."
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


def _read_masks(path: Path, request: Request) -> NeuronSets:
    if path.is_dir():
        files = {info.name: path / file for file, info in RELEASED_MODELS.items()}
        if request.mask_model not in files:
            raise LseError(
                f"{path} is a folder, which may hold several models; add --mask-model "
                f"({' or '.join(files)}), or give a file."
            )
        path = files[request.mask_model]
    model = model_of_masks(path, request.mask_model)
    return NeuronSets.from_masks(path, languages=request.mask_languages or None, model=model)


def _second(run: RunPaths) -> Path:
    place = run.neurons.relative_to(run.folder)
    found = sorted(path for path in run.root.glob(f"*/{place}") if path != run.neurons)
    if not found:
        raise ArtifactError(
            f"{run.root} holds the neurons of no second model. Name some: `--masks nemo-5` (the "
            "released file of Mistral-Nemo-12B) or a file that `python -m lse_interp.lape` wrote."
        )
    return found[0]
