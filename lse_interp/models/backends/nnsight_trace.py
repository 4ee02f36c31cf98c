"""Sites through an nnsight trace."""

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lse_interp.models.architectures import HFModel, without_adapter
from lse_interp.models.backends._firing import (
    Firings,
    HookFn,
    StopForward,
    apply_hook,
    share_tensors,
)
from lse_interp.models.backends.torch_hooks import hooked
from lse_interp.models.layout import Layout, Point

__all__ = ["NNsightBackend"]


class NNsightBackend:
    """Runs an nnsight model built on a copy that shares the model's tensors.

    Args:
        hf: The transformers model.
        layout: Its module paths.
        tokenizer: Where given, `nnsight` also traces text; otherwise only token ids.
    """

    runs_hf = False

    def __init__(self, hf: HFModel, layout: Layout, tokenizer: Any) -> None:
        import nnsight

        shared = share_tensors(hf)
        self._layout = layout
        self._order = _firing_order(shared, layout)
        if tokenizer is None:
            self.nnsight = nnsight.NNsight(shared)
        else:
            # nnsight sets the padding side and token of its tokenizer.
            self.nnsight = nnsight.TransformersModel(shared, tokenizer=copy.deepcopy(tokenizer))

    def run(
        self,
        inputs: Mapping[str, Tensor],
        hooks: Mapping[str, HookFn],
        *,
        stop_after: int | None,
        logits: bool,
    ) -> Float[Tensor, "batch pos vocab"] | None:
        """Run one trace; without logits, it ends at the last block."""
        firings = Firings(hooks, stop=stop_after is not None)
        steps = [
            (site, self._layout.locate(site), firings.hooks[site])
            for site in sorted(hooks, key=self._order.index)
        ]
        last = self._layout.n_layers - 1 if stop_after is None else stop_after
        block = self._envoy(self._layout.blocks[last].block)
        batch_pos = inputs["input_ids"].shape
        output = None
        # Two statements, since nnsight reads the source of its own `with` statement.
        with self._counted_calls(firings, steps):  # noqa: SIM117
            with self.nnsight.trace(**inputs, use_cache=False) as tracer:
                for site, point, fn in steps:
                    if self._visit(site, point, fn, batch_pos):
                        tracer.stop()
                if not logits:
                    _ = block.output  # waits until the block has run
                    tracer.stop()
                output = self.nnsight.output.logits.save()
        return output

    @contextlib.contextmanager
    def _counted_calls(
        self, firings: Firings, steps: Sequence[tuple[str, Point, HookFn]]
    ) -> Iterator[None]:
        """Check that each site's module ran once; a trace hands over its first call only."""
        from nnsight.intervention.interleaver import OutOfOrderError

        calls = dict.fromkeys(firings.counts, 0)

        def count(site: str) -> Callable[..., None]:
            def hook(module: nn.Module, args: tuple) -> None:
                calls[site] += 1

            return hook

        handles = [
            self._envoy(point.module)._module.register_forward_pre_hook(count(site))
            for site, point, _ in steps
        ]
        missing = None
        try:
            yield
        except OutOfOrderError as error:
            missing = error
        finally:
            for handle in handles:
                handle.remove()
        firings.counts.update(calls)
        firings.check()
        if missing is not None:
            raise missing

    def _envoy(self, path: str) -> Any:
        envoy = self.nnsight
        for name in path.split("."):
            envoy = envoy[int(name)] if name.isdigit() else getattr(envoy, name)
        return envoy

    def _visit(self, site: str, point: Point, fn: HookFn, batch_pos: tuple[int, ...]) -> bool:
        """Show a value to a hook and put its replacement back; say whether the pass may end."""
        envoy = self._envoy(point.module)
        value = envoy.input if point.side == "input" else envoy.output
        whole = value
        if isinstance(whole, (tuple, list)):
            value = whole[0]
        try:
            replacement = apply_hook(value, fn, site, at=point, batch_pos=batch_pos)
        except StopForward:
            return True
        if replacement is not None and point.side == "input":
            envoy.input = replacement
        elif replacement is not None:
            several = value is not whole
            envoy.output = type(whole)([replacement, *whole[1:]]) if several else replacement
        return False


@torch.no_grad()
def _firing_order(hf: HFModel, layout: Layout) -> list[str]:
    """List all sites in the order in which they fire, the order in which a trace may ask for them.

    One token shows it: MLPs differ in what they compute first. A site that does not fire is last.
    """
    fired: list[str] = []
    with hooked(
        hf.get_submodule, layout, dict.fromkeys(layout.sites, lambda _, site: fired.append(site))
    ):
        ids = torch.zeros(1, 1, dtype=torch.int64, device=hf.get_input_embeddings().weight.device)
        without_adapter(hf).base_model(input_ids=ids, use_cache=False)
    return list(dict.fromkeys([*fired, *layout.sites]))
