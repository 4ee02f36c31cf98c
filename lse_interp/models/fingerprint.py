"""A short hash of a model's weights, so that artefacts of different models are never mixed."""

import hashlib

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from lse_interp.core.errors import LseError
from lse_interp.models.placement.dtensors import whole

__all__ = ["fingerprint", "n_parameters"]

_CHUNK_BYTES = 1 << 26
_WORD_BYTES = 8
_N_SAMPLES = 1024


def fingerprint(model: nn.Module) -> str:
    """Hash the names, shapes, dtypes and values of a model's parameters.

    A parameter, read as 64-bit words and cut into chunks c_0, c_1, ..., enters as
    sum_j (2 j + 1) * sum(c_j) modulo 2^64, which any change of one value alters, together with an
    evenly strided sample of one to two thousand of its words. The order of the
    parameters does not matter, tied parameters enter once, and the device does not change the
    result. Sharded parameters are gathered one by one: every process has to ask for the hash.

    Args:
        model: A model with its weights loaded.

    Returns:
        The first 16 hexadecimal digits of a sha256.

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
    entries = sorted(
        (name, _digest(whole(weight.detach()))) for name, weight in model.named_parameters()
    )
    digest = hashlib.sha256()
    for name, entry in entries:
        digest.update(f"{name}\0{entry}\n".encode())
    return digest.hexdigest()[:16]


def n_parameters(model: nn.Module) -> int:
    """Count the parameters of a model, tied ones once."""
    return sum(weight.numel() for weight in model.parameters())


def _digest(weight: Shaped[Tensor, "..."]) -> str:
    octets = weight.contiguous().reshape(-1).view(torch.uint8)
    even = octets.numel() - octets.numel() % _WORD_BYTES
    total, sample = 0, []
    for j, chunk in enumerate(octets[:even].split(_CHUNK_BYTES)):
        # A view as words needs an aligned start.
        words = (chunk.clone() if chunk.storage_offset() % _WORD_BYTES else chunk).view(torch.int64)
        total += (2 * j + 1) * int(words.sum())
        sample.append(words[:: max(1, even // _WORD_BYTES // _N_SAMPLES)])
    digest = hashlib.sha256(f"{tuple(weight.shape)} {weight.dtype} {total % (1 << 64)}".encode())
    for part in (*sample, octets[even:]):
        digest.update(part.cpu().numpy().tobytes())
    return digest.hexdigest()
