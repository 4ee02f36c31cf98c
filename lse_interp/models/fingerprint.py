"""A short hash of a model's weights, so that artefacts of different models are never mixed."""

import hashlib

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

__all__ = ["fingerprint", "n_parameters"]

_CHUNK = 1 << 24
_N_SAMPLES = 1024
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def fingerprint(model: nn.Module) -> str:
    """Hash the names, shapes, dtypes and values of a model's parameters.

    A parameter w, read as integers of its own width and cut into chunks c_1, c_2, ..., enters as
    sum_j (2 j + 1) * sum(c_j) modulo 2^64, which any change of one value alters, together with an
    evenly strided sample of at most 1024 of its values. The order of the parameters does not
    matter, tied parameters enter once, and the device does not change the result.

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
    flat = weight.detach().reshape(-1)
    bits = flat.view(_BITS[flat.element_size()]) if flat.dtype != torch.bool else flat
    # Chunks keep the int64 intermediates of the sum small on back ends that make them.
    sums = [int(chunk.sum(dtype=torch.int64)) for chunk in bits.split(_CHUNK)]
    total = sum((2 * j + 1) * value for j, value in enumerate(sums)) % (1 << 64)
    stride = max(1, bits.numel() // _N_SAMPLES)
    sample = bits[::stride][:_N_SAMPLES].cpu().numpy().tobytes()
    shape = "x".join(map(str, weight.shape))
    return f"{shape} {weight.dtype} {total:016x} {hashlib.sha256(sample).hexdigest()}"
