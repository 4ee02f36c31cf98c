"""Sites through plain torch forward hooks on the model itself: the fastest backend."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lse_interp.models.architectures import HFModel, without_adapter
from lse_interp.models.backends._firing import Firings, HookFn, StopForward, apply_hook
from lse_interp.models.layout import Layout, Point

__all__ = ["TorchBackend", "hooked"]


class TorchBackend:
    """Runs the transformers model with forward hooks that live for one pass.

    Args:
        hf: The transformers model.
        layout: Its module paths.
        tokenizer: Not used.
    """

    runs_hf = True

    def __init__(self, hf: HFModel, layout: Layout, tokenizer: Any = None) -> None:
        self._hf = hf
        self._layout = layout

    def run(
        self,
        inputs: Mapping[str, Tensor],
        hooks: Mapping[str, HookFn],
        *,
        stop_after: int | None,
        logits: bool,
    ) -> Float[Tensor, "batch pos vocab"] | None:
        """Run one forward pass; without logits, the language-model head is not computed."""
        firings = Firings(hooks, stop=stop_after is not None)
        model = self._hf if logits else without_adapter(self._hf).base_model
        output = None
        find = self._hf.get_submodule
        with firings.each_once(), hooked(find, self._layout, firings.hooks, stop_after=stop_after):
            output = model(**inputs, use_cache=False)
        return output.logits if logits else None


@contextlib.contextmanager
def hooked(
    find: Callable[[str], nn.Module],
    layout: Layout,
    hooks: Mapping[str, HookFn],
    *,
    stop_after: int | None = None,
) -> Iterator[None]:
    """Attach hooks to a model's sites for the length of a `with` block.

    Args:
        find: Gives the module at a path of the layout.
        layout: Module paths of the model.
        hooks: A function for each full site name.
        stop_after: The block whose end raises `StopForward`; None for none.
    """
    handles: list[RemovableHandle] = []
    try:
        for site, fn in hooks.items():
            handles += _attach(find, layout.locate(site), site, fn)
        if stop_after is not None:
            handles.append(find(layout.blocks[stop_after].block).register_forward_hook(_stop))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _attach(
    find: Callable[[str], nn.Module], point: Point, site: str, fn: HookFn
) -> list[RemovableHandle]:
    handles = []
    sizes: list[Sequence[int]] = []
    if point.flat_in is not None:
        block = find(point.flat_in)
        handles.append(block.register_forward_pre_hook(_record_sizes(sizes), with_kwargs=True))

    def visit(value: Tensor) -> Tensor | None:
        batch_pos = sizes[-1] if sizes else None
        return apply_hook(value, fn, site, at=point, batch_pos=batch_pos)

    module = find(point.module)
    if point.side == "input":
        handles.append(module.register_forward_pre_hook(_on_input(visit)))
    else:
        handles.append(module.register_forward_hook(_on_output(visit)))
    return handles


def _on_input(visit: Callable[[Tensor], Tensor | None]) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple) -> tuple | None:
        replacement = visit(args[0])
        return None if replacement is None else (replacement, *args[1:])

    return hook


def _on_output(visit: Callable[[Tensor], Tensor | None]) -> Callable[..., Any]:
    # Some blocks return (hidden states, attention weights, ...), a tuple or a list.
    def hook(module: nn.Module, args: tuple, output: Any) -> Any:
        if not isinstance(output, (tuple, list)):
            return visit(output)
        replacement = visit(output[0])
        return None if replacement is None else type(output)([replacement, *output[1:]])

    return hook


def _record_sizes(sizes: list[Sequence[int]]) -> Callable[..., None]:
    def hook(block: nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        sizes[:] = [hidden.shape[:2]]

    return hook


def _stop(module: nn.Module, args: tuple, output: Any) -> None:
    raise StopForward
