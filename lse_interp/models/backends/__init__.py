"""The same sites through three hooking libraries: torch, TransformerLens, nnsight."""

import importlib
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from lse_interp.core.errors import LseError, near_misses
from lse_interp.models.architectures import HFModel
from lse_interp.models.backends._firing import HookFn
from lse_interp.models.layout import Layout
from lse_interp.models.placement.device_map import is_spread

__all__ = ["BACKENDS", "Backend", "make_backend"]

_HOMES = {
    "torch": ("torch_hooks", "TorchBackend"),
    "lens": ("transformer_lens", "LensBackend"),
    "nnsight": ("nnsight_trace", "NNsightBackend"),
}

BACKENDS: tuple[str, ...] = tuple(_HOMES)


@runtime_checkable
class Backend(Protocol):
    """One way to run a model with functions at its sites."""

    runs_hf: ClassVar[bool]
    """Whether it runs the transformers model itself, or a copy that shares its tensors."""

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
    if name not in _HOMES:
        raise LseError(f"Unknown backend {name!r}. {near_misses(name, BACKENDS)}")
    home, class_name = _HOMES[name]
    backend = getattr(importlib.import_module(f"{__name__}.{home}"), class_name)
    if not backend.runs_hf and is_spread(hf):
        raise LseError(
            f"Backend {name} holds a model on one device, and this one is spread over several. "
            "Use backend='torch', or --device cuda for a model that fits on one GPU."
        )
    return backend(hf, layout, tokenizer)
