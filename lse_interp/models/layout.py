"""Layout: where a model keeps what the sites name, as module paths.

A layout holds no modules, so it fits every copy of the model that it was read from.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from lse_interp.core.errors import ActivationError, near_misses
from lse_interp.models.sites import SITES, parse_site, site_name

__all__ = ["BlockLayout", "Layout", "Point"]


@dataclass(frozen=True)
class Point:
    """One place in the module tree: the value of a site, or a slice of that value.

    Attributes:
        module: Dotted path from the model's root.
        side: Whether the site is the module's first input or its output.
        part: First and last index (exclusive) along the last axis of the value; None for all.
        flat_in: Path of the block that folds batch and pos into one axis before this module.
        stream: Which of several streams, the first axis of the value; None where there is one.
    """

    module: str
    side: Literal["input", "output"]
    part: tuple[int, int] | None = None
    flat_in: str | None = None
    stream: int | None = None


@dataclass(frozen=True)
class BlockLayout:
    """Module paths of one block, and how its projections are stored.

    Attributes:
        block: The block.
        act: The activation function.
        gate: The gate projection; None for an ungated MLP.
        up: The up projection; the same module as `gate` where both are one matrix.
        down: The down projection.
        post: The module that reads the activations of neurons: the down projection, or a norm
            before it.
        up_first: Whether such a matrix has the up half before the gate half.
        transposed: Whether the weights are stored [in out], not [out in].
        flat: Whether the block folds batch and pos into one axis before its MLP.
    """

    block: str
    act: str
    gate: str | None
    up: str
    down: str
    post: str
    up_first: bool
    transposed: bool
    flat: bool

    @property
    def fused(self) -> bool:
        """Whether gate and up are the halves of one matrix."""
        return self.gate == self.up

    @property
    def paths(self) -> set[str]:
        """Return the paths of all modules that sites name."""
        return {self.block, self.act, self.post, *self.projections.values()}

    @property
    def projections(self) -> dict[str, str]:
        """Return projection -> module path: `gate` (of a gated MLP), `up` and `down`."""
        gate = {} if self.gate is None else {"gate": self.gate}
        return {**gate, "up": self.up, "down": self.down}


@dataclass(frozen=True)
class Layout:
    """Module paths of every block, and the sizes that all blocks share.

    Attributes:
        architecture: Class name of the model.
        blocks: The paths of each block.
        d_model: Width of the residual stream.
        d_mlp: Neurons in one block.
        stream: Where blocks pass on several streams, the one that attention and MLP read and
            write; None where there is one.
        one_act: Whether all blocks run the same activation module, which then names no site.
    """

    architecture: str
    blocks: tuple[BlockLayout, ...]
    d_model: int
    d_mlp: int
    stream: int | None = None
    one_act: bool = False

    @property
    def n_layers(self) -> int:
        """Number of transformer blocks."""
        return len(self.blocks)

    @property
    def gated(self) -> bool:
        """Whether act(gate) multiplies a linear up projection."""
        return self.blocks[0].gate is not None

    @property
    def sites(self) -> tuple[str, ...]:
        """The full names of all sites, layer by layer."""
        kinds = [kind for kind in SITES if self.gated or kind != "mlp.hook_pre_linear"]
        return tuple(site_name(kind, layer) for layer in range(self.n_layers) for kind in kinds)

    def expand(self, names: str | Iterable[str]) -> list[str]:
        """Write sites in full: a kind such as `mlp.hook_post` means that site of every layer."""
        names = [names] if isinstance(names, str) else names
        return [
            full
            for name in names
            for full in (
                [site_name(name, layer) for layer in range(self.n_layers)]
                if name in SITES
                else [name]
            )
        ]

    @property
    def transposed(self) -> bool:
        """Whether the weights of the projections are stored [in out], not [out in]."""
        return self.blocks[0].transposed

    def start(self, projection: str, *, layer: int) -> int:
        """Return the index of neuron 0 in a projection: d_mlp in the second half of a fused one."""
        at = self.blocks[layer]
        second = "gate" if at.up_first else "up"
        return self.d_mlp if at.fused and projection == second else 0

    def check(self, sites: Iterable[str], *, stop_after: int | None) -> None:
        """Refuse sites that do not fire in a pass that ends after a layer; None runs all.

        Raises:
            ActivationError: An unknown site or layer, or a site after `stop_after`.
        """
        if stop_after is not None and not 0 <= stop_after < self.n_layers:
            raise ActivationError(
                f"stop_after must be a layer, 0 to {self.n_layers - 1}; got {stop_after}."
            )
        for site in sites:
            self.locate(site)
            layer = parse_site(site)[1]
            if stop_after is not None and layer > stop_after:
                raise ActivationError(
                    f"{site} comes after stop_after={stop_after} and would never fire. "
                    f"Raise stop_after to at least {layer}."
                )

    def locate(self, site: str) -> Point:
        """Find the module of a site.

        Args:
            site: `blocks.{layer}.{kind}`.

        Returns:
            The place to hook.

        Raises:
            ActivationError: The model has no such layer, or an ungated MLP has no such site.
        """
        kind, layer = parse_site(site)
        if layer >= self.n_layers:
            raise ActivationError(
                f"{site} names layer {layer}; {self.architecture} has {self.n_layers} layers, "
                f"0 to {self.n_layers - 1}."
            )
        if kind == "mlp.hook_pre_linear" and not self.gated:
            others = [other for other in SITES if other != kind]
            raise ActivationError(
                f"{self.architecture} has an ungated MLP, which has no {kind}. "
                f"{near_misses('', others)}"
            )
        at = self.blocks[layer]
        sides: dict[str, tuple[str, Literal["input", "output"]]] = {
            "mlp.hook_pre": (at.gate or at.up, "output"),
            "mlp.hook_pre_linear": (at.up, "output"),
            "mlp.hook_act": (at.post, "input") if self.one_act else (at.act, "output"),
            "mlp.hook_post": (at.post, "input"),
            "hook_mlp_out": (at.down, "output"),
            "hook_resid_post": (at.block, "output"),
        }
        module, side = sides[kind]
        part = None
        if at.fused and kind in ("mlp.hook_pre", "mlp.hook_pre_linear"):
            start = self.start("gate" if kind == "mlp.hook_pre" else "up", layer=layer)
            part = (start, start + self.d_mlp)
        if module == at.block:
            return Point(module, side, stream=self.stream)
        return Point(module, side, part, flat_in=at.block if at.flat else None)
