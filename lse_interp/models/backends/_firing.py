"""What every backend shares: it counts how often a site fires, and applies a hook to a value."""

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, cat, is_grad_enabled, nn, tensor

from lse_interp.core.errors import ActivationError
from lse_interp.models.layout import Point
from lse_interp.models.sites import parse_site

__all__ = [
    "Firings",
    "HookFn",
    "StopForward",
    "apply_hook",
    "dropout_off",
    "in_turn",
    "share_tensors",
]

HookFn = Callable[[Tensor, str], Any]
"""`fn(activation, site)`; returns None to leave the activation, or its replacement."""


class StopForward(Exception):  # noqa: N818 - not an error: it ends a forward pass on purpose
    """Ends a forward pass from inside a hook."""


class Firings:
    """Counts how often each hooked site fires in one forward pass.

    Args:
        hooks: `{site: fn}`.
        stop: Whether the pass ends as soon as every site has fired.

    Attributes:
        hooks: The same functions, counted.
        counts: Firings so far, by site.
    """

    def __init__(self, hooks: Mapping[str, HookFn], *, stop: bool) -> None:
        self.hooks = {site: self._counted(fn) for site, fn in hooks.items()}
        self.counts = dict.fromkeys(hooks, 0)
        self._waiting = len(hooks)
        self._stop = stop and self._waiting > 0

    @contextlib.contextmanager
    def each_once(self) -> Iterator[None]:
        """Run a forward pass in a `with` block, which a hook may end early.

        Raises:
            ActivationError: A site did not fire exactly once.
        """
        with contextlib.suppress(StopForward):
            yield
        self.check()

    def _counted(self, fn: HookFn) -> HookFn:
        def hook(activation: Tensor, site: str) -> Any:
            self.counts[site] += 1
            replacement = fn(activation, site)
            if self.counts[site] == 1:
                self._waiting -= 1
                if self._stop and self._waiting == 0:
                    raise StopForward
            return replacement

        return hook

    def check(self) -> None:
        """Refuse a pass in which a site did not fire exactly once.

        Raises:
            ActivationError: Names the first such site and its count.
        """
        for site, count in self.counts.items():
            if count != 1:
                raise ActivationError(
                    f"{site} should fire exactly once in a forward pass; it fired {count} times. "
                    "Its module is bypassed or reused by this model's forward, so values there "
                    "would be silently missing or mixed."
                )


def apply_hook(
    value: Float[Tensor, "..."],
    fn: HookFn,
    site: str,
    *,
    at: Point,
    batch_pos: Sequence[int] | None = None,
) -> Float[Tensor, "..."] | None:
    """Show a module's value to a hook as `batch pos width`, and put its replacement back.

    Some models write to their own tensors later in the pass, as Falcon adds its attention to the
    output of its MLP. So the hook gets a copy, and the model a copy of the replacement. With
    gradients the hook gets the model's tensor, which is the one that receives them.

    Args:
        value: What the module received or returned.
        fn: The hook; it may also write to what it gets.
        site: Full site name, passed to `fn`.
        at: Which slice of the value the site is; the rest is kept.
        batch_pos: Sizes of batch and pos where the module folds them into one axis.

    Returns:
        None where the hook changed nothing, else the whole new value in the layout of `value`.

    Raises:
        ActivationError: The value is not three-dimensional, or the replacement has another shape.
    """
    if at.stream is not None:
        one = apply_hook(value[at.stream], fn, site, at=Point(at.module, at.side))
        return None if one is None else value.index_put((tensor(at.stream),), one)
    activation = value if at.part is None else value[..., slice(*at.part)]
    if batch_pos is not None and activation.ndim == 2:
        activation = activation.view(*batch_pos, -1)
    if activation.ndim != 3:
        raise ActivationError(
            f"{site} should be [batch pos width]; this model gives {list(value.shape)}."
        )
    shared = is_grad_enabled() or activation.is_inference()
    shown = activation if shared else activation.clone()
    replacement = fn(shown, site)
    if replacement is None and (shared or not shown._version):
        return None
    replacement = shown if replacement is None else replacement
    if not isinstance(replacement, Tensor) or replacement.shape != activation.shape:
        found = getattr(replacement, "shape", type(replacement).__name__)
        raise ActivationError(
            f"The hook at {site} must return None or a tensor of shape {list(activation.shape)}; "
            f"got {list(found) if not isinstance(found, str) else found}."
        )
    replacement = replacement.to(activation, copy=True).view(*value.shape[:-1], -1)
    if at.part is None:
        return replacement
    start, end = at.part
    return cat([value[..., :start], replacement, value[..., end:]], dim=-1)


def in_turn(layers: Sequence[Mapping[str, HookFn]], *, stop_after: int | None) -> dict[str, HookFn]:
    """Merge several sets of hooks into one: at each site, the functions run one after the other."""
    merged: dict[str, HookFn] = {}
    for layer in layers:
        for site, fn in layer.items():
            if stop_after is None or parse_site(site)[1] <= stop_after:
                merged[site] = _chain(merged[site], fn) if site in merged else fn
    return merged


def _chain(first: HookFn, second: HookFn) -> HookFn:
    def both(activation: Tensor, site: str) -> Any:
        edited = first(activation, site)
        replacement = second(activation if edited is None else edited, site)
        return edited if replacement is None else replacement

    return both


@contextlib.contextmanager
def dropout_off(hf: nn.Module) -> Iterator[None]:
    """Turn dropout off inside a `with` block, whatever the mode of each module."""
    training = [module for module in hf.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def share_tensors(hf: nn.Module) -> nn.Module:
    """Copy a model's modules and configuration; parameters and buffers stay the same objects.

    Args:
        hf: Any model.

    Returns:
        A copy in evaluation mode. Rewriting its module tree does not touch `hf`; training either
        one trains both.
    """
    memo = {id(tensor): tensor for tensor in (*hf.parameters(), *hf.buffers())}
    return copy.deepcopy(hf, memo).eval()
