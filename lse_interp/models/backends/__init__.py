"""The same sites through three hooking libraries: torch, TransformerLens, nnsight."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from lse_interp.core.errors import LseError, near_misses
from lse_interp.models.architectures import HFModel, Layout
from lse_interp.models.backends.firing import HookFn
from lse_interp.models.placement.device_map import is_spread

__all__ = ["BACKENDS", "Backend", "make_backend"]

BACKENDS: tuple[str, ...] = ("torch", "lens", "nnsight")


@runtime_checkable
class Backend(Protocol):
    """One way to run a model with functions at its sites."""

    def run(
        self,
        inputs: Mapping[str, Tensor],
        hooks: Mapping[str, HookFn],
        *,
        stop_after: int | None,
        logits: bool,
    ) -> Float[Tensor, "batch pos vocab"] | None:
        """Run one forward pass; return the logits where they are asked for."""
        ...


def make_backend(name: str, hf: HFModel, layout: Layout, tokenizer: Any) -> Backend:
    """Build a backend for a model; its hooking library is imported here, not before.

    Args:
        name: One of `BACKENDS`.
        hf: The transformers model. It is never modified: libraries that rewrite their model get
            a copy that shares its tensors.
        layout: Module paths of `hf`.
        tokenizer: Tokenizer handed to libraries that carry one, or None.

    Returns:
        The backend.

    Raises:
        LseError: `name` is not a backend, or cannot run a model that is spread over devices.
    """
    if name in ("lens", "nnsight") and is_spread(hf):
        raise LseError(
            f"Backend {name} holds a model on one device, and this one is spread over several. "
            "Use backend='torch', or --device cuda for a model that fits on one GPU."
        )
    if name == "torch":
        from lse_interp.models.backends.torch_hooks import TorchBackend

        return TorchBackend(hf, layout)
    if name == "lens":
        from lse_interp.models.backends.transformer_lens import LensBackend

        return LensBackend(hf, layout, tokenizer)
    if name == "nnsight":
        from lse_interp.models.backends.nnsight_trace import NNsightBackend

        return NNsightBackend(hf, layout, tokenizer)
    raise LseError(f"Unknown backend {name!r}. {near_misses(name, BACKENDS)}")
