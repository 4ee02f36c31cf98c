"""Sites through the hook points of a TransformerLens bridge."""

import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, tensor

from lse_interp.core.errors import ActivationError, UnsupportedModelError
from lse_interp.models.architectures import HFModel
from lse_interp.models.backends._firing import (
    Firings,
    HookFn,
    apply_hook,
    share_tensors,
)
from lse_interp.models.backends.torch_hooks import TorchBackend, hooked
from lse_interp.models.inputs import forward_inputs
from lse_interp.models.layout import Layout, Point

__all__ = ["LensBackend"]


class LensBackend:
    """Runs a TransformerBridge built on a copy that shares the model's tensors.

    The weights stay raw (nothing folded or centred). The bridge always runs eager attention.

    Args:
        hf: The transformers model.
        layout: Its module paths.
        tokenizer: Handed to the bridge; None leaves it without one.

    Raises:
        UnsupportedModelError: TransformerLens has no adapter for the architecture, or computes it
            otherwise than transformers; or the model carries adapters of peft, which a bridge
            drops from the matrices that it splits.
    """

    runs_hf = False

    def __init__(self, hf: HFModel, layout: Layout, tokenizer: Any) -> None:
        if any(hasattr(module, "base_layer") for module in hf.modules()):
            raise UnsupportedModelError(
                "TransformerLens does not run the adapters that this model carries. Merge them "
                "first (merge_and_unload), or use backend='torch'."
            )
        shared: HFModel = share_tensors(hf)
        # Found before the bridge rewrites the module tree of the copy. It still runs them, and
        # they are what the sites name; some of its own hook points are behind a norm or a scale.
        paths = {path for at in layout.blocks for path in at.paths}
        self._modules = {path: shared.get_submodule(path) for path in paths}
        self._layout, self._reads_mask = layout, True
        shared.set_attn_implementation("eager")
        ids = tensor([[0, 1, 2]])
        probes = [{"input_ids": ids}, {"input_ids": ids, "attention_mask": tensor([[0, 1, 1]])}]
        probes = [] if hf.device.type == "meta" else [forward_inputs(hf, one) for one in probes]
        plain = TorchBackend(shared, layout)
        expected = [(one, _stream(plain, one, layout)) for one in probes]
        self.bridge = _boot(shared, tokenizer)
        self._named = set(self.bridge.hook_dict)
        agrees = [self._agrees(*pair) for pair in expected]
        if not all(agrees[:1]):
            raise UnsupportedModelError(
                f"TransformerLens computes {layout.architecture} otherwise than transformers. Use "
                "backend='torch'."
            )
        self._reads_mask = all(agrees)

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
            UnsupportedModelError: There is a mask, which the bridge does not read, as that of
                OpenAI GPT does not.
        """
        if "attention_mask" in inputs and not self._reads_mask:
            raise UnsupportedModelError(
                f"With an attention mask, TransformerLens computes {self._layout.architecture} "
                "otherwise than transformers. Give sentences of one length and no mask, or use "
                "backend='torch'."
            )
        firings = Firings(hooks, stop=stop_after is not None)
        # Most bridges run the halves of a fused matrix apart, as modules of their own.
        halves = {
            site: fn
            for site, fn in firings.hooks.items()
            if self._layout.locate(site).part is not None and site in self._named
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

    def _agrees(self, inputs: dict[str, Tensor], expected: Tensor) -> bool:
        try:
            found = _stream(self, inputs, self._layout)
        except (ActivationError, RuntimeError):
            return False
        # bfloat16 sums in another order differ by about a hundredth.
        return bool((found - expected).abs().max() < 0.1 * expected.std())


def _stream(backend: Any, inputs: dict[str, Tensor], layout: Layout) -> Tensor:
    """Return the residual stream of the last two tokens behind the last block."""
    ends: list[Tensor] = []
    hooks = {layout.sites[-1]: lambda activation, _: ends.append(activation[0, -2:].float())}
    with torch.no_grad():
        backend.run(inputs, hooks, stop_after=layout.n_layers - 1, logits=False)
    return ends[0]


def _boot(shared: HFModel, tokenizer: Any) -> Any:
    from transformer_lens.model_bridge.sources import build_bridge_from_module

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
        except (AttributeError, ImportError, KeyError, NotImplementedError, ValueError) as error:
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
