"""Where a transformers model keeps what the sites name: blocks, projections, activation function.

A layout holds module paths, so it fits any copy of the model it was read from.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from torch import nn

from lse_interp.core.errors import ActivationError, UnsupportedModelError, near_misses
from lse_interp.models.sites import SITES, parse_site

__all__ = [
    "SUPPORTED",
    "BlockLayout",
    "HFModel",
    "Layout",
    "Point",
    "check_supported",
    "find_layout",
]

# A transformers model, or peft's around one. Type checkers take any attribute of a torch module for
# `Tensor | Module`, which theirs are not.
if TYPE_CHECKING:
    HFModel: TypeAlias = Any
else:
    HFModel = nn.Module

SUPPORTED = (
    "Supported: causal decoder-only models with one dense MLP per block, such as Llama, Mistral, "
    "Qwen3, Gemma, Phi-3, GPT-2, OPT, GPT-NeoX and BLOOM."
)

_EXPERT_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
# OPT keeps its projections on the block itself: the empty name.
_CONTAINERS = ("mlp", "ffn", "feed_forward", "")
_GATED = ("gate_proj", "up_proj", "down_proj")
_FUSED = ("gate_up_proj", "down_proj")
_UNGATED = (
    ("c_fc", "c_proj"),
    ("dense_h_to_4h", "dense_4h_to_h"),
    ("fc1", "fc2"),
    ("fc_in", "fc_out"),
    ("up_proj", "down_proj"),
)
_ACTIVATIONS = ("act_fn", "activation_fn", "act", "gelu_impl")


@dataclass(frozen=True)
class Point:
    """One place in the module tree: the value of a site, or a slice of that value.

    Attributes:
        module: Dotted path from the model's root.
        side: Whether the site is the module's first input or its output.
        start: First index of the site along the last axis of the value.
        flat_in: Path of the block that folds batch and pos into one axis before this module.
    """

    module: str
    side: Literal["input", "output"]
    start: int = 0
    flat_in: str | None = None


@dataclass(frozen=True)
class BlockLayout:
    """Module paths of one block. A fused block has its gate in the first half of `up`."""

    block: str
    act: str
    gate: str | None
    up: str
    down: str
    fused: bool
    flat: bool

    @property
    def gated(self) -> bool:
        """Whether act(gate) multiplies a linear up projection."""
        return self.fused or self.gate is not None


@dataclass(frozen=True)
class Layout:
    """Module paths of every block, and the sizes all blocks share."""

    architecture: str
    blocks: tuple[BlockLayout, ...]
    d_model: int
    d_mlp: int

    @property
    def n_layers(self) -> int:
        """Number of transformer blocks."""
        return len(self.blocks)

    @property
    def gated(self) -> bool:
        """Whether the MLPs are gated."""
        return self.blocks[0].gated

    def locate(self, site: str) -> Point:
        """Find the module behind a full site name.

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
            "mlp.hook_pre": (at.act, "input"),
            "mlp.hook_pre_linear": (at.up, "output"),
            "mlp.hook_act": (at.act, "output"),
            "mlp.hook_post": (at.down, "input"),
            "hook_mlp_out": (at.down, "output"),
            "hook_resid_post": (at.block, "output"),
        }
        module, side = sides[kind]
        return Point(
            module,
            side,
            start=self.d_mlp if at.fused and kind == "mlp.hook_pre_linear" else 0,
            flat_in=at.block if at.flat and module != at.block else None,
        )


def check_supported(config: Any, architecture: str) -> None:
    """Refuse models whose sites are not defined, from the configuration alone.

    Args:
        config: A transformers configuration.
        architecture: Class name shown in the error.

    Raises:
        UnsupportedModelError: An encoder, an encoder-decoder or a mixture of experts.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as MASKED

    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModelError(f"{architecture} is an encoder-decoder model. {SUPPORTED}")
    if config.model_type in MASKED and not getattr(config, "is_decoder", False):
        raise UnsupportedModelError(
            f"{architecture} is an encoder: its attention is not causal. {SUPPORTED}"
        )
    text = config.get_text_config()
    for attribute in _EXPERT_COUNTS:
        count = getattr(text, attribute, None)
        if isinstance(count, int) and count > 1:
            raise UnsupportedModelError(
                f"{architecture} is a mixture of experts ({attribute}={count}): a neuron there "
                f"sees only the tokens routed to it, and its sites are not defined. {SUPPORTED}"
            )


def find_layout(hf: HFModel) -> Layout:
    """Read the layout of a transformers causal language model.

    Args:
        hf: The model, with its language-model head.

    Returns:
        Paths and sizes of every block.

    Raises:
        UnsupportedModelError: The blocks or their MLPs are not of a known form.
    """
    architecture = type(hf).__name__
    check_supported(hf.config, architecture)
    prefix, blocks = _find_blocks(hf, architecture)
    found = [_find_block(b, f"{prefix}.{i}", architecture) for i, b in enumerate(blocks)]
    sizes = {_sizes(hf, at, architecture) for at in found}
    if len(sizes) != 1:
        raise UnsupportedModelError(
            f"{architecture} has blocks of different sizes (d_model, d_mlp): {sorted(sizes)}; "
            f"expected one size for all. {SUPPORTED}"
        )
    d_model, d_mlp = sizes.pop()
    return Layout(architecture, tuple(found), d_model, d_mlp)


def _find_blocks(hf: HFModel, architecture: str) -> tuple[str, nn.ModuleList]:
    decoder = hf.get_decoder()
    root = next(name for name, module in hf.named_modules() if module is decoder)
    n_layers = hf.config.get_text_config().num_hidden_layers
    lists = [
        (f"{root}.{name}" if root else name, child)
        for name, child in decoder.named_children()
        if isinstance(child, nn.ModuleList) and len(child) == n_layers
    ]
    if len(lists) != 1:
        raise UnsupportedModelError(
            f"{architecture} should keep its {n_layers} blocks in one ModuleList of "
            f"{type(decoder).__name__}; found {len(lists)} such lists. {SUPPORTED}"
        )
    return lists[0]


def _find_block(block: nn.Module, path: str, architecture: str) -> BlockLayout:
    for container in _CONTAINERS:
        mlp = getattr(block, container, None) if container else block
        if not isinstance(mlp, nn.Module):
            continue
        names = _projections(mlp, closed=bool(container))
        act = next((n for n in _ACTIVATIONS if isinstance(getattr(mlp, n, None), nn.Module)), None)
        if names is not None and act is not None:
            at = f"{path}.{container}" if container else path
            gate = f"{at}.{names[0]}" if len(names) == 3 else None
            return BlockLayout(
                block=path,
                act=f"{at}.{act}",
                gate=gate,
                up=f"{at}.{names[-2]}",
                down=f"{at}.{names[-1]}",
                fused=names == _FUSED,
                flat=not container,
            )
    children = ", ".join(name for name, _ in block.named_children())
    raise UnsupportedModelError(
        f"{architecture}: block {path} (children: {children}) has no dense MLP of a known form. "
        f"{SUPPORTED}"
    )


def _projections(mlp: nn.Module, *, closed: bool) -> tuple[str, ...] | None:
    """Name the linear children of an MLP; None unless they are exactly one known set."""
    linear = {name for name, child in mlp.named_children() if _features(child) is not None}
    for names in (_GATED, _FUSED, *_UNGATED):
        if linear == set(names) or (not closed and linear > set(names)):
            return names
    return None


def _features(module: Any) -> tuple[int, int] | None:
    """Give (inputs, outputs) of a linear map, whichever way its weight lies; None for others."""
    if hasattr(module, "in_features"):
        return module.in_features, module.out_features
    # transformers' Conv1D.
    if hasattr(module, "nx") and hasattr(module, "nf"):
        return module.nx, module.nf
    return None


def _sizes(hf: HFModel, at: BlockLayout, architecture: str) -> tuple[int, int]:
    up, down = (_features(hf.get_submodule(path)) for path in (at.up, at.down))
    assert up is not None
    assert down is not None
    d_model, up_width = up
    d_mlp, _ = down
    expected = 2 * d_mlp if at.fused else d_mlp
    if up_width != expected or down[1] != d_model:
        raise UnsupportedModelError(
            f"{architecture}: {at.up} maps {d_model} to {up_width} and {at.down} maps {down[0]} to "
            f"{down[1]}; expected {d_model} to {expected} and back. {SUPPORTED}"
        )
    return d_model, d_mlp
