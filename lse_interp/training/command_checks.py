"""Refuse contradictory command lines, all faults at once, before anything is loaded."""

from pathlib import Path
from typing import Any

from lse_interp.core.errors import LseError
from lse_interp.training.launch_options import Launch
from lse_interp.training.methods import METHODS

__all__ = ["check_flags"]


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
    if config.random_match is not None and config.random_match not in method.variants:
        faults.append(f"--random-match needs --method random; got {config.method}.")
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
