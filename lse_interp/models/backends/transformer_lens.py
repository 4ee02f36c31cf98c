"""Sites through the hook points of a TransformerLens bridge."""

import tempfile
from collections.abc import Callable, Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor, tensor

from lse_interp.core.errors import UnsupportedModelError
from lse_interp.models.architectures import HFModel
from lse_interp.models.backends._firing import (
    Firings,
    HookFn,
    apply_hook,
    share_tensors,
)
from lse_interp.models.backends.torch_hooks import hooked
from lse_interp.models.layout import Layout, Point
from lse_interp.models.sites import site_name

__all__ = ["LensBackend"]


class LensBackend:
    """Runs a TransformerBridge built on a copy that shares the model's tensors.

    The weights stay raw (nothing folded or centred). The bridge always runs eager attention.

    Args:
        hf: The transformers model.
        layout: Its module paths.
        tokenizer: Handed to the bridge; None leaves it without one.

    Raises:
        UnsupportedModelError: TransformerLens has no adapter for the architecture, or the model
            carries adapters of peft, which a bridge drops from the matrices that it splits.
    """

    runs_hf = False

    def __init__(self, hf: HFModel, layout: Layout, tokenizer: Any) -> None:
        if any(hasattr(module, "base_layer") for module in hf.modules()):
            raise UnsupportedModelError(
                "TransformerLens does not run the adapters that this model carries. Merge them "
                "first (merge_and_unload), or use backend='torch'."
            )
        shared = share_tensors(hf)
        # Found before the bridge rewrites the module tree of the copy. It still runs them, and
        # they are what the sites name; some of its own hook points are behind a norm or a scale.
        paths = {path for at in layout.blocks for path in at.paths}
        self._modules = {path: shared.get_submodule(path) for path in paths}
        self._layout = layout
        self._reads_mask: bool | None = None
        self.bridge = _boot(shared, tokenizer)

    def run(
        self,
        inputs: Mapping[str, Tensor],
        hooks: Mapping[str, HookFn],
        *,
        stop_after: int | None,
        logits: bool,
    ) -> Float[Tensor, "batch pos vocab"] | None:
        """Run one forward pass; without logits, it ends at the last block.

        Raises:
            UnsupportedModelError: There is a mask, and the bridge does not read it.
        """
        if "attention_mask" in inputs:
            self._require_mask(inputs)
        firings = Firings(hooks, stop=stop_after is not None)
        # A bridge runs the halves of a fused matrix apart, as modules of its own.
        halves = {
            site: fn
            for site, fn in firings.hooks.items()
            if self._layout.locate(site).part is not None
        }
        rest = {site: fn for site, fn in firings.hooks.items() if site not in halves}
        last = self._layout.n_layers - 1 if stop_after is None and not logits else stop_after
        given = dict(inputs)
        ids = given.pop("input_ids")
        find = self._modules.__getitem__
        with firings.each_once(), hooked(find, self._layout, rest, stop_after=last):
            return self.bridge.run_with_hooks(
                ids,
                fwd_hooks=[(site, _adapt(fn, site)) for site, fn in halves.items()],
                return_type="logits" if logits else None,
                **given,
            )
        return None

    def _require_mask(self, inputs: Mapping[str, Tensor]) -> None:
        """Refuse a bridge in which a mask changes the first block, as that of OpenAI GPT does."""
        if self._reads_mask is None:
            self._reads_mask = True
            ends: list[Tensor] = []
            site = site_name("hook_resid_post", 0)
            hooks = {site: lambda activation, _: ends.append(activation[0, -2:].float())}
            padded = {
                "input_ids": (0, 1, 2),
                "attention_mask": (0, 1, 1),
                "position_ids": (0, 0, 1),
            }
            device = inputs["input_ids"].device
            masked = {name: tensor([padded[name]], device=device) for name in inputs}
            for given in (masked, {"input_ids": masked["input_ids"][:, 1:]}):
                self.run(given, hooks, stop_after=0, logits=False)
            gap = (ends[0] - ends[1]).abs().max()
            self._reads_mask = bool(gap < 0.05 * ends[1].std())
        if not self._reads_mask:
            raise UnsupportedModelError(
                f"With an attention mask, TransformerLens computes {self._layout.architecture} "
                "otherwise than transformers. Give sentences of one length and no mask, or use "
                "backend='torch'."
            )


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
        return apply_hook(activation, fn, site, at=Point(site, "output"))

    return hook
