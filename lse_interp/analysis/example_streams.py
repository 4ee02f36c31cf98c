"""Which positions of a text each neuron keeps while the text streams by.

Every (neuron, position) has a key, and a neuron keeps the positions with the largest keys. What is
kept depends on the set of positions alone, not on batches, their order, or processes. The keys:

- `top`: the value; of equal values, the earlier position.
- `random`: a hash of neuron and position, so the positions are a uniform sample without repeats.
- `active`: the same hash, of positions where the value is > 0.

`weak` and `middle` are taken from a larger `active` sample of n positions (`sample` of them, or all
if there are fewer), sorted by value: its k lowest, and the k around its median. So with k = 4 and
n = 32, `weak` comes from about the lowest eighth of a neuron's active values, and `middle` from the
eighth around the median. `active` is the first k of the sample in the order of the hash. In a
neuron that is rarely active, these kinds hold some of the same positions.

Memory, for one language: layers * neurons * (k * 28 + sample * 12) bytes, and about
15 MB for the keys that are looked at in turn.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Float32, Int32, Int64, Shaped
from torch import Tensor

from lse_interp.core.errors import ActivationError

__all__ = ["ABSENT", "WHICH", "NeuronStream"]

WHICH = ("top", "middle", "weak", "active", "random")
"""Kinds of examples. `top` starts with the strongest, `weak` with the weakest."""

ABSENT = -1
"""The position of an example that does not exist; its value is NaN."""

# Tokens and neurons at once: their keys fit into the cache of a core.
_CHUNK, _BLOCK = 2048, 256
_LEAST = torch.iinfo(torch.int32).min
_ODD = -1640531535  # 2^32 divided by the golden ratio, as int32.


class _Kept(NamedTuple):
    """The positions of each neuron with the largest keys, largest first."""

    keys: Shaped[Tensor, "neuron example"]
    positions: Int32[Tensor, "neuron example"]
    values: Float32[Tensor, "neuron example"]

    def largest(self, k: int) -> "_Kept":
        keys, at = self.keys.topk(min(k, self.keys.shape[1]), dim=1)
        absent = keys == torch.iinfo(keys.dtype).min
        positions = self.positions.gather(1, at)
        values = self.values.gather(1, at)
        return _Kept(
            keys, positions.masked_fill(absent, ABSENT), values.masked_fill(absent, torch.nan)
        )

    def with_more(self, other: "_Kept", k: int) -> "_Kept":
        return _Kept(*(torch.cat(pair, dim=1) for pair in zip(self, other, strict=True))).largest(k)


class NeuronStream:
    """The examples of all neurons of one layer, so far.

    Args:
        layer: Which layer; neurons of two layers have different random positions.
        k: Examples of each kind.
        sample: Active positions from which `middle` and `weak` are taken.
        seed: Of the random positions.
    """

    def __init__(self, layer: int, *, k: int, sample: int, seed: int) -> None:
        self._salt = _mix(_mix(torch.tensor([seed])).long() + layer)
        self._sizes = {"top": k, "active": max(sample, k), "random": k}
        self._k = k
        self._kept: dict[str, _Kept] = {}

    def add(self, values: Float[Tensor, "pos neuron"], positions: Int64[Tensor, " pos"]) -> None:
        """See the values of all neurons at some positions, each of which comes once.

        Raises:
            ActivationError: Values that are not finite.
        """
        neurons = _mix(self._salt.long() + torch.arange(values.shape[1])).to(values.device)
        for part, at in zip(values.split(_CHUNK), positions.split(_CHUNK), strict=True):
            blocks = zip(part.split(_BLOCK, dim=1), neurons.split(_BLOCK), strict=True)
            found = [self._largest(*block, at.to(part.device, torch.int32)) for block in blocks]
            for name in self._sizes:
                columns = zip(*(kept[name] for kept in found), strict=True)
                self._keep(name, _Kept(*map(torch.cat, columns)))

    def merge(self, other: "NeuronStream") -> None:
        """Take over what another stream of the same layer and settings saw at other positions."""
        for name, kept in other._kept.items():
            self._keep(name, kept)

    def finish(
        self,
    ) -> tuple[Float32[Tensor, "which neuron example"], Int32[Tensor, "which neuron example"]]:
        """Return the values and the positions of the examples, on the host."""
        active = self._kept["active"]
        # By value and, of equal values, by position; absent ones are NaN, which is sorted last.
        for name in ("positions", "values"):
            order = getattr(active, name).argsort(dim=1, stable=True)
            active = _Kept(*(tensor.gather(1, order) for tensor in active))
        n = (active.positions != ABSENT).sum(dim=1, keepdim=True)
        middle = ((n - self._k) // 2).clamp(min=0) + torch.arange(self._k, device=n.device)
        middle = middle.clamp(max=active.keys.shape[1] - 1)
        found = {
            "top": self._kept["top"],
            "middle": _Kept(*(tensor.gather(1, middle) for tensor in active)),
            "weak": active,
            "active": self._kept["active"],
            "random": self._kept["random"],
        }
        values = [_wide(found[name].values, self._k, torch.nan) for name in WHICH]
        positions = [_wide(found[name].positions, self._k, ABSENT) for name in WHICH]
        return torch.stack(values).cpu(), torch.stack(positions).cpu()

    def _largest(
        self,
        values: Float[Tensor, "pos neuron"],
        salts: Int32[Tensor, " neuron"],
        positions: Int32[Tensor, " pos"],
    ) -> dict[str, _Kept]:
        # Minus zero becomes zero, which it is equal to.
        rows = values.float().T.contiguous().add_(0.0)
        if not bool(rows.sum().isfinite()):
            raise ActivationError(
                "Activations are not finite (NaN or infinity). The weights may be broken, or "
                "their dtype too narrow: try bfloat16 or float32."
            )
        # One to one, so no two positions of a neuron have the same key.
        chance = (salts[:, None] ^ _mix(positions.long())[None, :]).mul_(_ODD)
        # `chance` where active, else the least key; several times faster than torch.where.
        active = (chance ^ _LEAST).mul_((rows > 0).int()).bitwise_xor_(_LEAST)
        keys = {"top": _by_value(rows, positions), "active": active, "random": chance}
        places = positions.expand_as(rows)
        return {name: _Kept(keys[name], places, rows).largest(k) for name, k in self._sizes.items()}

    def _keep(self, name: str, more: _Kept) -> None:
        if name in self._kept:
            more = self._kept[name].with_more(more, self._sizes[name])
        self._kept[name] = more


def _mix(numbers: Int64[Tensor, " index"]) -> Int32[Tensor, " index"]:
    """Hash numbers below 2^32, one to one.

    Source: Austin Appleby, MurmurHash3, the finaliser of 32 bits.
    """
    mixed = numbers & 0xFFFFFFFF
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        mixed = ((mixed ^ (mixed >> shift)) * factor) & 0xFFFFFFFF
    return mixed.to(torch.int32)


def _by_value(
    values: Float32[Tensor, "neuron pos"], positions: Int32[Tensor, " pos"]
) -> Int64[Tensor, "neuron pos"]:
    """Return whole numbers in the order of the values and, among equal ones, against positions."""
    bits = values.view(torch.int32)
    # As whole numbers, the bits of negative floats are in the wrong order.
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return ordered.long().bitwise_left_shift_(32).bitwise_or_(0x7FFFFFFF - positions.long())


def _wide(
    tensor: Shaped[Tensor, "neuron _example"], k: int, fill: int | float
) -> Shaped[Tensor, "neuron example"]:
    narrow = tensor[:, :k]
    missing = narrow.new_full((len(narrow), k - narrow.shape[1]), fill)
    return torch.cat([narrow, missing], dim=1)
