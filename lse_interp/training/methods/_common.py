"""Code that the families of methods share."""

import dataclasses
from pathlib import Path

from torch import nn

from lse_interp.artifacts.folder_checksums import SUMS, check_sums
from lse_interp.core.cli import ModelArgs
from lse_interp.core.errors import ArtifactError
from lse_interp.models.architectures import HFModel
from lse_interp.models.hooked import HookedModel
from lse_interp.models.loading import load_from_args
from lse_interp.subnetworks.apply import label
from lse_interp.subnetworks.finetune_run import FinetuneRun
from lse_interp.training.engines.base import Engine

__all__ = ["Trainable", "base_of", "kept_folder", "tuned"]


@dataclasses.dataclass(frozen=True)
class Trainable:
    """A model ready to train."""

    hf: HFModel
    """The transformers model, or the peft model around it."""
    engine: Engine


def base_of(run: FinetuneRun, args: ModelArgs) -> HookedModel:
    """Load the model that a run started from.

    Raises:
        MismatchError: The model found is another one.
    """
    # Weights are about to change, so hooking libraries come afterwards.
    model = load_from_args(dataclasses.replace(args, backend="torch"))
    model.info.require_same(run.model, what=f"The run {label(run)}")
    return model


def tuned(run: FinetuneRun, hf: nn.Module, model: HookedModel, *, backend: str) -> HookedModel:
    """Wrap a tuned model, named after base, language and method: `embedded+mlt:target`."""
    wrapping = model.wrapping | {"name": f"{run.model.name}+{label(run)}"}
    return HookedModel(hf, **wrapping, backend=backend)


def kept_folder(run: FinetuneRun, name: str) -> Path:
    """Return the folder in which a run kept its weights, after checking it.

    Raises:
        ArtifactError: It is missing or damaged.
    """
    if run.folder is None:
        raise ArtifactError(
            f"The run {label(run)} was not loaded from a folder, so its `{name}/` is unknown. "
            "Give the folder that `python -m lse_interp.finetune` wrote."
        )
    if not (run.folder / name).is_dir():
        raise ArtifactError(
            f"{run.folder / name} does not exist: a run of method {run.method} keeps its weights "
            f"there. Copy `{name}/` along with the run, or train it again."
        )
    if (run.folder / name / SUMS).is_file():
        check_sums(run.folder / name, remedy="Copy it again, or train the run again.")
    return run.folder / name
