"""A short hash of a model's weights, so that artefacts of different models are never mixed."""

import copy
import hashlib
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from lse_interp.core.errors import LseError
from lse_interp.models.placement.dtensors import whole

__all__ = ["fingerprint", "n_parameters"]

_CHUNK = 1 << 20
_WORD_BYTES = 8
_N_SAMPLES = 1024
_SIGN = -(1 << 15)


def fingerprint(model: nn.Module) -> str:
    """Hash the names, shapes and values of a model's parameters.

    Five parts, joined by hyphens: a hash of the weights to the bit; the dtype they are held in;
    and hashes of the weights rounded to bfloat16, of the weights rounded to float16, and of their
    signs. From these `ModelInfo.require_same` tells one checkpoint held in two dtypes from two
    checkpoints.

    A parameter is read as 64-bit words and cut into chunks c_0, c_1, ... It enters a hash as
    sum_j (2 j + 1) * sum(c_j) modulo 2^64, which any change of one value alters, together with an
    evenly strided sample of its words. The order of the parameters does not matter, tied parameters
    enter once, and the device does not change the result. Sharded parameters are gathered one by
    one: every process has to ask for the hash.

    Args:
        model: A model with its weights loaded.

    Raises:
        LseError: Weights are not loaded, or lie where only accelerate fetches them.
    """
    if absent := [name for name, weight in model.named_parameters() if weight.is_meta]:
        raise LseError(
            f"{len(absent)} weights of {type(model).__name__} are on no device, {absent[0]} to "
            f"{absent[-1]}: never loaded, or put on the host or disk because the GPUs were full. "
            "Load the model onto GPUs that hold all of it (device='auto' uses every GPU of the "
            "machine), or onto the CPU."
        )
    hashes = [hashlib.sha256() for _ in range(4)]
    for name, weight in sorted(model.named_parameters()):
        for digest, part in zip(hashes, _parts(whole(weight.detach())), strict=True):
            digest.update(f"{name}\0{part}\n".encode())
    held = sorted({str(weight.dtype).removeprefix("torch.") for weight in model.parameters()})
    exact, *rounded = (digest.hexdigest() for digest in hashes)
    return "-".join([exact[:16], "+".join(held), *(digest[:8] for digest in rounded)])


def n_parameters(model: nn.Module) -> int:
    """Count the parameters of a model, tied ones once; of a quantised one, before it was packed."""
    if getattr(model, "is_quantized", False):
        config: Any = copy.deepcopy(model.config)
        del config.quantization_config
        with torch.device("meta"):
            model = type(model)(config)
    return sum(weight.numel() for weight in model.parameters())


def _parts(weight: Shaped[Tensor, "..."]) -> list[str]:
    totals, samples = [0] * 4, [b""] * 4
    for j, chunk in enumerate(weight.reshape(-1).split(_CHUNK)):
        for i, view in enumerate(_views(chunk)):
            octets = view.view(torch.uint8)
            even = octets.numel() - octets.numel() % _WORD_BYTES
            words = octets[:even].view(torch.int64)
            totals[i] += (2 * j + 1) * int(words.sum())
            n_words = weight.numel() * view.element_size() // _WORD_BYTES
            sample = words[:: max(1, n_words // _N_SAMPLES)], octets[even:]
            samples[i] += b"".join(part.cpu().numpy().tobytes() for part in sample)
    return [
        hashlib.sha256(f"{tuple(weight.shape)} {total % (1 << 64)}".encode() + sample).hexdigest()
        for total, sample in zip(totals, samples, strict=True)
    ]


def _views(values: Shaped[Tensor, " value"]) -> tuple[Shaped[Tensor, " value"], ...]:
    """Return values as they are held, rounded to bfloat16 and to float16, and their signs."""
    # A view as words needs an aligned start.
    aligned = values.storage_offset() * values.element_size() % _WORD_BYTES == 0
    held = values if aligned else values.clone()
    if not values.is_floating_point():
        return held, held, held, held
    brief = held.to(torch.bfloat16)
    return held, brief, held.to(torch.float16), brief.view(torch.int16) & _SIGN
