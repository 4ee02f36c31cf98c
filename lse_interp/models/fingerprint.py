"""A short hash of a model's weights, so that artefacts of different models are never mixed."""

import hashlib

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

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
    result.

    Args:
        model: A model with its weights loaded.

    Returns:
        The first 16 hexadecimal digits of a sha256.
    """
    entries = sorted((name, _digest(weight)) for name, weight in model.named_parameters())
    digest = hashlib.sha256()
    for name, entry in entries:
        digest.update(f"{name}\0{entry}\n".encode())
    return digest.hexdigest()[:16]


def n_parameters(model: nn.Module) -> int:
    """Count the parameters of a model, tied ones once."""
    return sum(weight.numel() for weight in model.parameters())


def _digest(weight: Shaped[Tensor, "..."]) -> str:
    octets = weight.detach().contiguous().reshape(-1).view(torch.uint8)
    whole = octets.numel() - octets.numel() % _WORD_BYTES
    total, sample = 0, []
    for j, chunk in enumerate(octets[:whole].split(_CHUNK_BYTES)):
        # A view as words needs an aligned start.
        words = (chunk.clone() if chunk.storage_offset() % _WORD_BYTES else chunk).view(torch.int64)
        total += (2 * j + 1) * int(words.sum())
        sample.append(words[:: max(1, whole // _WORD_BYTES // _N_SAMPLES)])
    digest = hashlib.sha256(f"{tuple(weight.shape)} {weight.dtype} {total % (1 << 64)}".encode())
    for part in (*sample, octets[whole:]):
        digest.update(part.cpu().numpy().tobytes())
    return digest.hexdigest()
