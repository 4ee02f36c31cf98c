"""What a launch and its command line ask of a training, and the refusal of what it cannot do.

`accelerate launch` says in the environment how the processes share a training.

Replicas (DDP): every process holds the model, and gradients are averaged. Shards (FSDP2): every
process holds a part of each block (see `models.placement.fsdp`), of one model or, with a
parallelism config, of one of several replicas, such as one per machine. This package shards the
model itself: the plugin of accelerate would rebuild parameters that the engines hold. Each option
of its configuration is followed or refused.
"""

import contextlib
import dataclasses
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from lse_interp.core.cli import ModelArgs
from lse_interp.core.errors import LseError
from lse_interp.core.processes import Processes
from lse_interp.models.hooked import HookedModel
from lse_interp.models.loading import load_from_args
from lse_interp.models.placement.fsdp import load_sharded
from lse_interp.training.methods import METHODS

__all__ = ["Launch", "check_flags"]

_USE_FSDP, _USE_MESH = "accelerate_use_fsdp", "accelerate_use_parallelism_config"
_RESHARD = "fsdp_reshard_after_forward"
_MESH = "parallelism_config_"
_OTHER_STRATEGY = (
    "Launch with --multi_gpu, or with --use_fsdp --fsdp_version 2 for a model that does not fit "
    "one GPU."
)
_SHARDED_BY_BLOCKS = "Fine-tuning shards the data and the transformer blocks, and nothing else."
_FOLLOWED: dict[str, tuple[tuple[str, ...], str]] = {
    "accelerate_mixed_precision": (("no",), "The weights decide: choose by --dtype."),
    "accelerate_use_deepspeed": (("false",), _OTHER_STRATEGY),
    "accelerate_use_megatron_lm": (("false",), _OTHER_STRATEGY),
}
"""Option -> the values that are followed, the default first, and what to do about others."""
_FOLLOWED_WITH_FSDP: dict[str, tuple[tuple[str, ...], str]] = {
    "fsdp_version": (("2",), "Launch with --fsdp_version 2."),
    _RESHARD: (("true", "false"), "Other strategies are of version 1."),
    "fsdp_offload_params": (("false",), "Launch more processes: each holds a smaller part."),
    "fsdp_activation_checkpointing": (("false",), "Pass --checkpointing to lse_interp.finetune."),
    "fsdp_auto_wrap_policy": (("transformer_based_wrap",), _SHARDED_BY_BLOCKS),
    "fsdp_ignored_modules": (("",), _SHARDED_BY_BLOCKS),
}
_FOLLOWED_WITH_MESH: dict[str, tuple[tuple[str, ...], str]] = {
    f"{_MESH}{name}_size": (("1",), _SHARDED_BY_BLOCKS) for name in ("tp", "cp", "sp")
}


@dataclasses.dataclass(frozen=True)
class Launch:
    """What a launch asks of training.

    Attributes:
        sharded: Whether processes share models, rather than holding one each.
        replicas: Number of models they share; each is spread over `world / replicas` processes.
        reshard_after_forward: Whether blocks are gathered again for the backward pass.
    """

    sharded: bool = False
    replicas: int = 1
    reshard_after_forward: bool = True

    @classmethod
    def find(cls) -> "Launch":
        """Read the environment."""
        replicas = int(_option(f"{_MESH}dp_replicate_size", "1")) if _is_on(_USE_MESH) else 1
        return cls(
            sharded=_is_on(_USE_FSDP) and Processes.find().world > replicas,
            replicas=replicas,
            reshard_after_forward=_option(_RESHARD, "true") == "true",
        )

    def faults(self, *, device: str | None) -> list[str]:
        """List the launch options that fine-tuning does not support, and what to use instead.

        Args:
            device: The requested device.
        """
        world = Processes.find().world
        faults = []
        followed = _FOLLOWED | (_FOLLOWED_WITH_FSDP if _is_on(_USE_FSDP) else {})
        followed |= _FOLLOWED_WITH_MESH if _is_on(_USE_MESH) else {}
        for name, (values, remedy) in followed.items():
            if (found := _option(name, values[0])) not in values:
                shown = name.removeprefix("accelerate_")
                faults.append(
                    f"The launch asks for {shown} {found}; fine-tuning follows "
                    f"{' or '.join(values) or 'none'}. {remedy}"
                )
        n_shards = int(_option(f"{_MESH}dp_shard_size", "1"))
        if _is_on(_USE_MESH) and self.replicas * n_shards != world:
            faults.append(
                f"dp_replicate_size x dp_shard_size of parallelism_config must be the number of "
                f"processes, {world}; got {self.replicas} x {n_shards}."
            )
        if world > 1 and device not in (None, "auto", "cpu", "cuda"):
            faults.append(
                f"--device {device} names one device for {world} processes. Leave it out: "
                "each process takes a GPU of its own."
            )
        return faults

    @contextlib.contextmanager
    def joined(self, args: ModelArgs) -> Iterator[tuple[Processes, ModelArgs]]:
        """Join the processes that train together; they fail together, and one of them logs.

        Meanwhile transformers and accelerate see nothing of the launch: they would shard again.

        Yields:
            The processes, and the model on the device of this one.
        """
        device = Processes.find().device(args.device)
        names = [name.upper() for name in (_USE_FSDP, _USE_MESH)]
        hidden = {name: os.environ.pop(name) for name in names if name in os.environ}
        try:
            with Processes.find().joined(trains_on=device) as processes, processes.together():
                if not processes.is_main:
                    logging.disable(logging.WARNING)
                yield processes, dataclasses.replace(args, device=device)
        finally:
            os.environ.update(hidden)

    def load(self, args: ModelArgs) -> HookedModel:
        """Load a model: whole on this process's device, or this process's part of it."""
        if not self.sharded:
            return load_from_args(args)
        return load_sharded(
            lambda: load_from_args(dataclasses.replace(args, device="cpu")),
            device=torch.device(args.device or "cpu"),
            replicas=self.replicas,
            reshard_after_forward=self.reshard_after_forward,
        )


def check_flags(config: Any, launch: Launch) -> None:
    """Refuse what the command `finetune` cannot do.

    Args:
        config: `lse_interp.finetune.Config`.
        launch: What the launcher asks for.

    Raises:
        LseError: Names every fault.
    """
    method, device = METHODS[config.method], config.model.device
    faults = launch.faults(device=device)
    if launch.sharded and config.model.backend != "torch":
        faults.append(f"--backend {config.model.backend} does not run sharded models; use torch.")
    if config.random_match not in (None, *method.variants):
        known = " or ".join(method.variants) or "no --random-match"
        faults.append(f"--method {config.method} takes {known}; got {config.random_match}.")
    if (config.neurons or config.masks) and not method.needs_neurons:
        flag = "--masks" if config.masks else "--neurons"
        faults.append(f"{flag} is of no use to --method {config.method}. Leave it out.")
    if config.name is not None and Path(config.name).name != config.name:
        faults.append(f"--name is the name of one folder, without a path; got {config.name}.")
    if config.name is not None and len(config.n_tokens) > 1:
        faults.append("--name fits one run; --n-tokens asks for several. Leave out --name.")
    if any(n < 1 for n in config.n_tokens):
        faults.append(f"--n-tokens must be at least 1; got {', '.join(map(str, config.n_tokens))}.")
    if config.model.dtype == "float16":
        faults.append("--dtype float16 overflows in training; use bfloat16 or float32.")
    if device == "auto":
        faults.append(
            "--device auto is for reading activations; to train a model larger than one GPU, "
            "shard it: accelerate launch --use_fsdp --fsdp_version 2."
        )
    try:
        config.training.check(method)
    except LseError as error:
        faults.append(str(error))
    if faults:
        raise LseError("\n".join(faults))


def _option(name: str, default: str) -> str:
    return os.environ.get(name.upper(), default).lower()


def _is_on(name: str) -> bool:
    return _option(name, "false") in ("1", "true", "yes", "on")
