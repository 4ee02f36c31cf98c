"""Sites through the hook points of a TransformerLens bridge."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from lse_interp.core.errors import UnsupportedModelError
from lse_interp.models.architectures import HFModel
from lse_interp.models.backends._firing import (
    Firings,
    HookFn,
    StopForward,
    apply_hook,
    share_tensors,
)
from lse_interp.models.layout import Layout
from lse_interp.models.sites import parse_site, site_name

__all__ = ["LensBackend"]


class LensBackend:
    """Runs a TransformerBridge built on a copy that shares the model's tensors.

    The weights stay raw (nothing folded or centred). The bridge always runs eager attention.

    Args:
        hf: The transformers model.
        layout: Its module paths.
        tokenizer: Handed to the bridge; None leaves it without one.

    Raises:
        UnsupportedModelError: TransformerLens has no adapter for the architecture.
    """

    runs_hf = False

    def __init__(self, hf: HFModel, layout: Layout, tokenizer: Any) -> None:
        shared = share_tensors(hf)
        # Found before the bridge rewrites the module tree of the copy.
        self._activations = [shared.get_submodule(at.act) for at in layout.blocks]
        self._layout = layout
        self.bridge = _boot(shared, tokenizer)

    def run(
        self,
        inputs: Mapping[str, Tensor],
        hooks: Mapping[str, HookFn],
        *,
        stop_after: int | None,
        logits: bool,
    ) -> Float[Tensor, "batch pos vocab"] | None:
        """Run one forward pass; without logits, it ends at the last block."""
        firings = Firings(hooks, stop=stop_after is not None)
        points = [
            (site, _adapt(fn, site))
            for site, fn in firings.hooks.items()
            if parse_site(site)[0] != "mlp.hook_act"
        ]
        last = self._layout.n_layers - 1 if stop_after is None and not logits else stop_after
        if last is not None:
            points.append((site_name("hook_resid_post", last), _stop))
        rest = dict(inputs)
        ids = rest.pop("input_ids")
        with firings.each_once(), self._hooked_activations(firings.hooks, ids.shape):
            return self.bridge.run_with_hooks(
                ids, fwd_hooks=points, return_type="logits" if logits else None, **rest
            )
        return None

    @contextlib.contextmanager
    def _hooked_activations(
        self, hooks: Mapping[str, HookFn], batch_pos: tuple[int, ...]
    ) -> Iterator[None]:
        # TransformerLens has no hook point after the activation function.
        with contextlib.ExitStack() as stack:
            for site, fn in hooks.items():
                kind, layer = parse_site(site)
                if kind == "mlp.hook_act":
                    hook = _on_activation(fn, site, batch_pos)
                    # A handle is a context manager that removes its hook.
                    stack.enter_context(self._activations[layer].register_forward_hook(hook))
            yield


def _boot(shared: HFModel, tokenizer: Any) -> Any:
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    shared.set_attn_implementation("eager")
    architecture = type(shared).__name__
    with tempfile.TemporaryDirectory() as folder:
        try:
            return build_bridge_from_module(
                shared,
                architecture,
                hf_config=shared.config,
                tokenizer=_reloadable(tokenizer, folder),
                model_name=shared.config.name_or_path or architecture,
            )
        except (AttributeError, KeyError, NotImplementedError, ValueError) as error:
            raise UnsupportedModelError(
                f"TransformerLens cannot wrap {architecture}: {error}. "
                "Use backend='torch', which needs no adapter."
            ) from error


def _reloadable(tokenizer: Any, folder: str) -> Any:
    """Copy a tokenizer to disk: the bridge reads it again from where it came, perhaps a network."""
    if tokenizer is None:
        return None
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def _adapt(fn: HookFn, site: str) -> Callable[..., Any]:
    def hook(activation: Tensor, hook: Any) -> Tensor | None:
        return apply_hook(activation, fn, site)

    return hook


def _on_activation(fn: HookFn, site: str, batch_pos: tuple[int, ...]) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple, output: Tensor) -> Tensor | None:
        return apply_hook(output, fn, site, batch_pos=batch_pos)

    return hook


def _stop(activation: Tensor, hook: Any) -> None:
    raise StopForward
