"""LoRA: low-rank updates of gate and up, and of down too in the profile `authors`.

Source: paper, section 4.3.
"""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lse_interp.artifacts.atomic import write_folder
from lse_interp.artifacts.folder_checksums import write_sums
from lse_interp.core.cli import ModelArgs
from lse_interp.models.adapter_folders import merge_adapter
from lse_interp.models.hooked import HookedModel
from lse_interp.models.placement.dtensors import stand_ins
from lse_interp.subnetworks.finetune_run import FinetuneRun
from lse_interp.training.engines.base import frozen
from lse_interp.training.hyperparameters import Hyperparameters
from lse_interp.training.methods import METHODS, Look, Method
from lse_interp.training.methods._common import Trainable, base_of, kept_folder, tuned
from lse_interp.training.methods.dense import DenseMasters

__all__ = ["add_lora"]

_FOLDER = "adapter"


def add_lora(
    model: HookedModel, *, rank: int, alpha: float, down: bool, seed: int
) -> tuple[Any, dict[str, nn.Parameter]]:
    """Put LoRA adapters on gate and up projections (only on up if there is no gate).

    The base weights are shared, not copied; `.unload()` of the result gives the model back.

    Args:
        model: The model.
        rank: Rank of each update.
        alpha: Updates are scaled by alpha / rank.
        down: Whether the down projection gets an adapter too.
        seed: Of the adapters' first values.

    Returns:
        The peft model, and its trainable parameters by name.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # peft divides it by r, whole or not
        lora_dropout=0.0,
        target_modules=_adapted(model, down=down),
        fan_in_fan_out=model.layout.transposed,
        task_type="CAUSAL_LM",
    )
    # From sharded weights, peft would take the shape of this process's part.
    with torch.random.fork_rng(), _quiet(), stand_ins(model.hf):
        torch.manual_seed(seed)
        peft = get_peft_model(model.hf, config)
    return peft, {name: w for name, w in peft.named_parameters() if w.requires_grad}


@contextlib.contextmanager
def _train_adapter(
    model: HookedModel, *, neurons: None, options: Hyperparameters
) -> Iterator[Trainable]:
    # peft freezes the model before the engine is made.
    restore = frozen(model.hf, {})
    switches = options.switches
    peft, weights = add_lora(
        model,
        rank=switches.lora_rank,
        alpha=switches.lora_alpha,
        down=switches.lora_down,
        seed=options.seed,
    )
    engine = DenseMasters(peft, weights)
    try:
        yield Trainable(peft, engine)
    finally:
        engine.close()
        peft.unload()
        restore()


def _keep(model: HookedModel, trainable: Trainable, folder: Path, *, is_main: bool) -> None:
    def write(path: Path) -> None:
        # By default, peft asks the hub whether the vocabulary grew; it never does here.
        trainable.hf.save_pretrained(path, save_embedding_layers=False)
        write_sums(path)

    if is_main:
        for adapter in trainable.hf.peft_config.values():
            adapter.base_model_name_or_path = model.name
        write_folder(folder / _FOLDER, write)


def _load(run: FinetuneRun, args: ModelArgs) -> HookedModel:
    """Merge the adapter of a run into its base model."""
    adapter = kept_folder(run, _FOLDER)
    model = base_of(run, args)
    return tuned(run, merge_adapter(model.hf, adapter), model, backend=args.backend)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        # peft asks transformers about checkpointing by a deprecated name.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`")
        yield


def _adapted(model: HookedModel, *, down: bool) -> list[str]:
    """Name the linear maps that get an adapter, one by one."""
    names = [
        path
        for at in model.layout.blocks
        for projection, path in at.projections.items()
        if down or projection != "down"
    ]
    return list(dict.fromkeys(names))


METHODS.register("lora")(
    Method(
        name="lora",
        rank=20,
        looks={"lora": Look("LoRA", "#777ce7", 2)},
        prepare=_train_adapter,
        keep=_keep,
        load=_load,
        flags=("lora_rank", "lora_alpha"),
        # The two factors decay, not the weight that they are added to.
        decays_weights=False,
    )
)
