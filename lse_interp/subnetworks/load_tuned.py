"""The tuned model of a fine-tuning run, whatever its method."""

from dataclasses import replace
from pathlib import Path

from lse_interp.core.cli import ModelArgs
from lse_interp.models.hooked import HookedModel
from lse_interp.subnetworks.finetune_run import FinetuneRun
from lse_interp.training.methods import method_of

__all__ = ["load_tuned"]


def load_tuned(
    run_or_folder: FinetuneRun | str | Path, args: ModelArgs | None = None
) -> HookedModel:
    """Load the model that a run ended with, as an ordinary transformers model.

    Chosen neurons are written into the base model (`remove_subnetwork` takes them out again), a
    LoRA adapter is merged into it, and a model tuned as a whole is read from the run's folder.

    Args:
        run_or_folder: The run, or the folder it was saved in.
        args: How to load the base model; by default by the name in the run, in the dtype of its
            rows. Without `bos`, it reads before text what it read in training.

    Returns:
        The tuned model, named after base, language and method: `embedded+mlt:target`.

    Raises:
        ArtifactError: No run is in the folder, or its adapter or model folder is missing or
            damaged.
        MismatchError: The base model found is not the one the run was made from.
        LseError: The base model cannot be read, or the method is unknown.
    """
    run = run_or_folder
    if not isinstance(run, FinetuneRun):
        run = FinetuneRun.load(run)
    args = args or _default_args(run)
    if args.bos is None and "prefix" in run.settings:
        # The model reads before text what it read in training.
        args = replace(args, bos=",".join(map(str, run.settings["prefix"])) or "none")
    return method_of(run.method).load(run, args)


def _default_args(run: FinetuneRun) -> ModelArgs:
    dtypes = {str(rows.dtype).removeprefix("torch.") for rows in run.rows or () if rows.numel()}
    return ModelArgs(model=run.model.name, dtype=dtypes.pop() if dtypes else None)
