"""How the processes of one launch share a training, as `accelerate launch` says in the environment.

Replicas (DDP): every process holds the model, and gradients are averaged. Shards (FSDP2): every
process holds a part of each block (see `models.placement.fsdp`), of one model or, with a
parallelism config, of one of several replicas, such as one per machine. This package shards the
model itself: the plugin of accelerate would rebuild parameters that the engines hold. Each option
of its configuration is followed or refused.
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterator

import torch

from lse_interp.core.cli import ModelArgs
from lse_interp.core.processes import Processes
from lse_interp.models.hooked import HookedModel
from lse_interp.models.loading import load_from_args
from lse_interp.models.placement.fsdp import load_sharded

__all__ = ["Launch"]

_USE_FSDP = "ACCELERATE_USE_FSDP"
_RESHARD = "FSDP_RESHARD_AFTER_FORWARD"
_OTHER_STRATEGIES = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}
_USE_MESH = "ACCELERATE_USE_PARALLELISM_CONFIG"
_MESH = "PARALLELISM_CONFIG_"
_OTHER_DIMENSIONS = {"TP": "tensor", "CP": "context", "SP": "sequence"}
_FIRST_TORCH = (2, 7)
"""Since this version, `fully_shard` takes parameters to leave alone."""


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
        replicas = _number(f"{_MESH}DP_REPLICATE_SIZE", 1) if _is_on(_USE_MESH) else 1
        return cls(
            sharded=_is_on(_USE_FSDP) and Processes.find().world > replicas,
            replicas=replicas,
            reshard_after_forward=_is_on(_RESHARD, default=True),
        )

    def faults(self, *, device: str | None) -> list[str]:
        """List the launch options that fine-tuning does not support, and what to use instead.

        Args:
            device: The requested device.
        """
        world = Processes.find().world
        faults = _precision_faults() + _strategy_faults()
        if _is_on(_USE_MESH):
            faults += _mesh_faults(world)
        if world > 1 and device not in (None, "auto", "cpu", "cuda"):
            faults.append(
                f"--device {device} names one device for {world} processes. Leave it out: "
                "each process takes a GPU of its own."
            )
        return faults

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

    @contextlib.contextmanager
    def hidden(self) -> Iterator[None]:
        """Hide the launch from transformers and accelerate, which would shard again."""
        names = (_USE_FSDP, _USE_MESH)
        values = {name: os.environ.pop(name) for name in names if name in os.environ}
        try:
            yield
        finally:
            os.environ.update(values)


def _strategy_faults() -> list[str]:
    faults = [
        f"{name} was asked for, which fine-tuning does not use. Launch with --multi_gpu, or with "
        "--use_fsdp --fsdp_version 2 for a model that does not fit one GPU."
        for variable, name in _OTHER_STRATEGIES.items()
        if _is_on(variable)
    ]
    return faults + (_fsdp_faults() if _is_on(_USE_FSDP) else [])


def _precision_faults() -> list[str]:
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if precision == "no":
        return []
    return [
        f"Mixed precision ({precision}) was asked for; the precision is that of the weights. "
        "Launch with --mixed_precision no (mixed_precision: 'no'), and choose it by --dtype."
    ]


def _fsdp_faults() -> list[str]:
    faults = []
    version = os.environ.get("FSDP_VERSION", "1")
    if version != "2":
        faults.append(
            f"FSDP version {version} was asked for; fine-tuning shards with version 2. Launch with "
            "--fsdp_version 2 (fsdp_version: 2)."
        )
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < _FIRST_TORCH:
        needed = ".".join(map(str, _FIRST_TORCH))
        faults.append(f"FSDP2 needs torch {needed} or later; this is torch {torch.__version__}.")
    reshard = os.environ.get(_RESHARD, "true")
    if reshard.lower() not in ("true", "false"):
        faults.append(
            f"fsdp_reshard_after_forward must be true or false with version 2; got {reshard}."
        )
    if _is_on("FSDP_OFFLOAD_PARAMS"):
        faults.append(
            "fsdp_offload_params would keep weights on the host, which is not supported. Set it "
            "to false, and launch more processes instead: each holds a smaller part."
        )
    if _is_on("FSDP_ACTIVATION_CHECKPOINTING"):
        faults.append(
            "fsdp_activation_checkpointing is chosen elsewhere: set it to false, and pass "
            "--checkpointing to lse_interp.finetune."
        )
    policy = os.environ.get("FSDP_AUTO_WRAP_POLICY", "TRANSFORMER_BASED_WRAP").upper()
    if policy != "TRANSFORMER_BASED_WRAP":
        faults.append(
            f"fsdp_auto_wrap_policy {policy} was asked for; the units are transformer blocks. Set "
            "it to TRANSFORMER_BASED_WRAP, or leave it out."
        )
    if os.environ.get("FSDP_IGNORED_MODULES"):
        faults.append("fsdp_ignored_modules is not supported. Leave it out.")
    return faults


def _mesh_faults(world: int) -> list[str]:
    faults = [
        f"parallelism_config asks for {name} parallelism, which fine-tuning does not use. Leave "
        f"out its {short.lower()}_size."
        for short, name in _OTHER_DIMENSIONS.items()
        if _number(f"{_MESH}{short}_SIZE", 1) > 1
    ]
    replicas, shards = (_number(f"{_MESH}DP_{kind}_SIZE", 1) for kind in ("REPLICATE", "SHARD"))
    if replicas * shards != world:
        faults.append(
            f"dp_replicate_size x dp_shard_size of parallelism_config must be the number of "
            f"processes, {world}; got {replicas} x {shards}."
        )
    return faults


def _number(variable: str, default: int) -> int:
    return int(os.environ.get(variable, default))


def _is_on(variable: str, *, default: bool = False) -> bool:
    return os.environ.get(variable, str(default)).lower() in ("1", "true", "yes", "on")
