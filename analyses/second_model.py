"""The neurons of a second model, of which the paper shows the same pictures as of the first."""

import dataclasses

from analyses.sources import NeuronArgs
from lse_interp.artifacts.paths import RunPaths
from lse_interp.core.errors import ArtifactError

__all__ = ["is_given", "second_model"]

_FIRST = "embedded"


def is_given(args: NeuronArgs) -> bool:
    """Say whether the arguments name neurons."""
    return args.masks is not None or args.neurons != NeuronArgs().neurons


def second_model(args: NeuronArgs) -> NeuronArgs:
    """Return the neurons asked for, or those of the first run beside that of the embedded model.

    Raises:
        ArtifactError: none are named, and there is no second run.
    """
    if is_given(args):
        return args
    root = RunPaths(args.neurons.parents[2], _FIRST).root
    found = sorted(path for path in root.glob("*/neurons/lape.safetensors") if path != args.neurons)
    if not found:
        raise ArtifactError(
            f"{root} holds the neurons of no second model. Name some: `--masks nemo-5` (the "
            "released file of Mistral-Nemo-12B) or `--neurons` (a file that `python -m "
            "lse_interp.lape` wrote)."
        )
    return dataclasses.replace(args, neurons=found[0])
