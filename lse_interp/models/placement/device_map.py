"""Where the layers of a model go that is larger than one GPU: consecutive layers, GPU by GPU.

Each GPU holds a run of consecutive blocks, filled to about the same share of its free memory. The
forward pass goes from GPU to GPU (accelerate moves the hidden states). Several processes on one
machine divide its GPUs: 4 processes on 8 GPUs take 2 each.

accelerate's `infer_auto_device_map` is not used: it keeps the room of the largest layer free on
every GPU, and so sends the head of a model of 141 GB to disk that two GPUs with 72 GB each hold.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from lse_interp.core.errors import LseError
from lse_interp.core.processes import Processes
from lse_interp.models.architectures import MLPNames, find_layout
from lse_interp.models.checkpoint import without_weights

__all__ = ["device_map", "gpu_share", "is_spread", "plan"]

# What remains is for activations, which at the batch sizes of counting are far smaller.
_SHARE_FOR_WEIGHTS = 0.9
_BISECTIONS = 30


def device_map(
    config: Any, *, dtype: str | torch.dtype | None, name: str, mlp: MLPNames | None = None
) -> dict[str, int]:
    """Spread a model over the GPUs that belong to this process.

    Args:
        config: Its transformers configuration.
        dtype: Floating-point type it will have; None takes the checkpoint's own.
        name: Of the model, for the error.
        mlp: What the parts of its MLPs are called; None looks in the table of known MLPs.

    Returns:
        Module path -> GPU, which covers all weights; `{"": gpu}` for one GPU. Empty on a machine
        without a GPU.

    Raises:
        LseError: There are fewer GPUs than processes, or the weights do not fit.
    """
    if not torch.cuda.is_available():
        return {}
    here = Processes.find()
    gpus = gpu_share(
        torch.cuda.device_count(), process=here.local_rank, n_processes=here.local_world
    )
    memory = {gpu: int(_SHARE_FOR_WEIGHTS * torch.cuda.mem_get_info(gpu)[0]) for gpu in gpus}
    hf = without_weights(config, dtype=dtype)
    return plan(hf, [at.block for at in find_layout(hf, mlp).blocks], memory=memory, name=name)


def gpu_share(n_gpus: int, *, process: int, n_processes: int) -> range:
    """Divide the GPUs of a machine among its processes; a remainder stays unused.

    >>> gpu_share(8, process=1, n_processes=4)
    range(2, 4)

    Raises:
        LseError: There are fewer GPUs than processes.
    """
    if n_gpus < n_processes:
        raise LseError(
            f"With --device auto every process has GPUs of its own, but {n_processes} processes "
            f"were started on a machine with {n_gpus}. Start at most {n_gpus}, and fewer where "
            "the model needs several."
        )
    each = n_gpus // n_processes
    return range(process * each, (process + 1) * each)


def plan(
    hf: nn.Module, blocks: Sequence[str], *, memory: Mapping[int, int], name: str
) -> dict[str, int]:
    """Place the weights of a model in consecutive runs, every GPU filled to the same share.

    Args:
        hf: The model; its weights may be on `meta`.
        blocks: Module paths that stay whole, in the order in which they run.
        memory: Bytes for weights on each GPU, in the order in which they are filled.
        name: Of the model, for the error.

    Returns:
        Module path -> GPU, or `{"": gpu}` where one is enough.

    Raises:
        LseError: Names what does not fit.
    """
    sizes, followers = _sizes(hf, blocks)
    placed = _place(sizes, memory, share=1.0)
    if len(placed) < len(sizes):
        rest = [unit for unit in sizes if unit not in placed]
        raise LseError(
            f"The weights of {name} take {sum(sizes.values()) / 1e9:.1f} GB in {hf.dtype}, and "
            f"{len(memory)} GPU(s) have room for {sum(memory.values()) / 1e9:.1f} GB: {rest[0]} to "
            f"{rest[-1]} do not fit. Give each process more GPUs (fewer processes on a machine), "
            "free the GPUs of other programs, or choose a narrower --dtype."
        )
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        found = _place(sizes, memory, share=middle)
        if len(found) == len(sizes):
            placed, high = found, middle
        else:
            low = middle
    placed |= {unit: placed[twin] for unit, twin in followers.items()}
    return placed if len(set(placed.values())) > 1 else {"": next(iter(placed.values()))}


def is_spread(hf: nn.Module) -> bool:
    """Whether accelerate moves activations or weights between devices in a model's forward."""
    return any(hasattr(module, "_hf_hook") for module in hf.modules())


def _sizes(hf: nn.Module, blocks: Sequence[str]) -> tuple[dict[str, int], dict[str, str]]:
    """Weigh each block, and each module outside them, in bytes; name those whose weights are tied.

    Returns:
        Module path -> bytes, in order, and module path -> module that holds its weights.
    """
    block_of = {
        f"{block}.{name}".removesuffix("."): block
        for block in blocks
        for name, _ in hf.get_submodule(block).named_modules()
    }
    sizes: dict[str, int] = {}
    followers: dict[str, str] = {}
    home: dict[int, str] = {}
    for name, module in hf.named_modules():
        unit = block_of.get(name, name)
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            if id(tensor) not in home:
                home[id(tensor)] = unit
                sizes[unit] = sizes.get(unit, 0) + tensor.nbytes
            elif unit not in sizes and home[id(tensor)] != unit:
                followers[unit] = home[id(tensor)]
    return sizes, {unit: twin for unit, twin in followers.items() if unit not in sizes}


def _place(sizes: Mapping[str, int], memory: Mapping[int, int], *, share: float) -> dict[str, int]:
    """Fill one GPU after another up to a share of its memory, until something does not fit."""
    placed: dict[str, int] = {}
    room = iter(memory.items())
    gpu, left = -1, 0.0
    for unit, size in sizes.items():
        while size > left:
            following = next(room, None)
            if following is None:
                return placed
            gpu, left = following[0], share * following[1]
        placed[unit] = gpu
        left -= size
    return placed
