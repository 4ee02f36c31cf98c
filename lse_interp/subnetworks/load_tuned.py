"""The tuned model of a fine-tuning run, whatever its method."""

import dataclasses
from pathlib import Path

from torch import nn

from lse_interp.artifacts.folder_checksums import SUMS, check_sums
from lse_interp.core.cli import ModelArgs
from lse_interp.core.errors import ArtifactError
from lse_interp.models.hooked import HookedModel
from lse_interp.models.loading import load_from_args
from lse_interp.subnetworks.apply import apply_subnetwork, label
from lse_interp.subnetworks.finetune_run import FinetuneRun

__all__ = ["load_tuned"]

_FOLDERS = {"lora": "adapter", "ffn": "model", "full": "model"}


def load_tuned(
    run_or_folder: FinetuneRun | str | Path, args: ModelArgs | None = None
) -> HookedModel:
    """Load the model that a run ended with, as an ordinary transformers model.

    Chosen neurons are written into the base model (`remove_subnetwork` takes them out again), a
    LoRA adapter is merged into it, and a model tuned as a whole is read from the run's folder.

    Args:
        run_or_folder: The run, or the folder it was saved in.
        args: How to load the base model; by default by the name in the run, in the dtype of its
            rows.

    Returns:
        The tuned model, named after base, language and method: `embedded+mlt:target`.

    Raises:
        ArtifactError: No run there, or its adapter or model folder is missing or damaged.
        MismatchError: The base model found is not the one the run was made from.
        LseError: The base model cannot be read.
    """
    run = run_or_folder
    if not isinstance(run, FinetuneRun):
        run = FinetuneRun.load(run)
    args = args or _default_args(run)
    if run.is_subnetwork:
        model = _base(run, args)
        apply_subnetwork(model, run)
        hf = model.hf
    elif run.method == "lora":
        adapter = _folder(run)
        model = _base(run, args)
        hf = _merged(model, adapter)
    else:
        model = load_from_args(
            dataclasses.replace(args, model=str(_folder(run)), backend="torch", revision=None)
        )
        # Its weights are new, so that only its shape can be compared with the base.
        shape = dataclasses.replace(run.model, fingerprint=None)
        shape.require_same(model.info, what=model.name)
        hf = model.hf
    wrapping = model.wrapping | {"name": f"{run.model.name}+{label(run)}"}
    return HookedModel(hf, **wrapping, backend=args.backend)


def _default_args(run: FinetuneRun) -> ModelArgs:
    dtypes = {str(rows.dtype).removeprefix("torch.") for rows in run.rows or () if rows.numel()}
    return ModelArgs(model=run.model.name, dtype=dtypes.pop() if dtypes else None)


def _base(run: FinetuneRun, args: ModelArgs) -> HookedModel:
    # Weights are about to change, so hooking libraries come afterwards.
    model = load_from_args(dataclasses.replace(args, backend="torch"))
    model.info.require_same(run.model, what=f"The run {label(run)}")
    return model


def _folder(run: FinetuneRun) -> Path:
    name = _FOLDERS[run.method]
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


def _merged(model: HookedModel, adapter: Path) -> nn.Module:
    from peft import PeftModel

    return PeftModel.from_pretrained(model.hf, adapter).merge_and_unload()
