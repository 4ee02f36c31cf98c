"""What MLPs are called in transformers models: one table, and how a model is matched with it.

A new spelling is one row of `MLPS`, or an argument: `load_model(..., mlp=MLPNames(...))`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import Tensor, nn

from lse_interp.core.errors import LseError, UnsupportedModelError
from lse_interp.models.layout import BlockLayout, Layout

__all__ = [
    "MLPS",
    "SUPPORTED",
    "HFModel",
    "MLPNames",
    "check_supported",
    "find_layout",
    "without_adapter",
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class MLPNames:
    """What the parts of an MLP are called inside a transformer block.

        MLPNames(gate="w1", up="w3", down="w2")             down(act(gate x) * (up x))
        MLPNames(fused="gate_up_proj", down="down_proj")    the same, gate and up in one matrix
        MLPNames(up="fc1", down="fc2")                      down(act(up x))

    Attributes:
        gate: The gate projection, the one that the activation function is applied to; None for
            an ungated MLP.
        up: The up projection; None where it is half of `fused`.
        fused: The matrix of gate and up.
        down: The down projection.
        up_first: Whether `fused` has the up half before the gate half.
        act: The module of the activation function; None looks for the usual names.
        container: The MLP, as a path in the block; "" where the block itself holds the
            projections; None looks for the usual names.

    Raises:
        LseError: Neither `up` nor `fused`, or both.
    """

    gate: str | None = None
    up: str | None = None
    fused: str | None = None
    down: str
    up_first: bool = False
    act: str | None = None
    container: str | None = None

    def __post_init__(self) -> None:
        if (self.up is None) == (self.fused is None) or (self.fused and self.gate):
            raise LseError(
                "MLPNames takes `up` (with `gate`, where the MLP is gated) or `fused`, the matrix "
                f"of both; got {self}."
            )

    @property
    def linear(self) -> set[str]:
        """The names of the projections."""
        return {name for name in (self.gate, self.up, self.fused, self.down) if name}

    def __repr__(self) -> str:
        """Return the call that makes these names, without what has its default."""
        given = [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        ]
        return f"MLPNames({', '.join(given)})"


MLPS: tuple[MLPNames, ...] = (
    MLPNames(gate="gate_proj", up="up_proj", down="down_proj"),
    MLPNames(fused="gate_up_proj", down="down_proj"),
    MLPNames(up="c_fc", down="c_proj"),
    MLPNames(up="dense_h_to_4h", down="dense_4h_to_h"),
    MLPNames(up="fc1", down="fc2"),
    MLPNames(up="fc_in", down="fc_out"),
    MLPNames(up="up_proj", down="down_proj"),
    # Granite 4.
    MLPNames(fused="input_linear", down="output_linear", act="activation", container="shared_mlp"),
)
"""The known MLPs. A row fits a container whose linear maps are exactly those that it names."""

# OPT keeps its projections on the block itself: the empty name.
_CONTAINERS = ("mlp", "ffn", "feed_forward", "")
_ACTIVATIONS = ("act_fn", "activation_fn", "act", "gelu_impl")
_EXPERT_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")


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


def without_adapter(hf: HFModel) -> HFModel:
    """Return the transformers model inside a model of peft, or the model itself.

    The adapters are modules of the transformers model, so it computes what peft's model does.

    Raises:
        UnsupportedModelError: The adapter is a learned prompt, which peft's model alone puts in.
    """
    if not hasattr(hf, "get_base_model"):
        return hf
    if getattr(hf.active_peft_config, "is_prompt_learning", False):
        raise UnsupportedModelError(
            "The adapter of this model is a learned prompt: it adds positions before the text, "
            "for which there are no sites. Use the base model, or an adapter that changes modules, "
            "such as LoRA."
        )
    return hf.get_base_model()


def find_layout(hf: HFModel, mlp: MLPNames | None = None) -> Layout:
    """Read the layout of a transformers causal language model.

    Args:
        hf: The model, with its language-model head.
        mlp: What the parts of its MLPs are called; None looks in the table of known MLPs.

    Returns:
        Paths and sizes of every block.

    Raises:
        UnsupportedModelError: The blocks or their MLPs are not of a known form, or not of the
            form that `mlp` describes.
    """
    architecture = type(hf).__name__
    check_supported(without_adapter(hf).config, architecture)
    prefix, blocks = _find_blocks(hf, architecture)
    found = []
    for i, block in enumerate(blocks):
        path = f"{prefix}.{i}"
        at = _find_block(block, path, mlp)
        if at is None:
            raise UnsupportedModelError(_unknown(block, path, mlp, architecture))
        found.append(at)
    sizes = {_sizes(hf, at, architecture) for at in found}
    if len(sizes) != 1:
        raise UnsupportedModelError(
            f"{architecture} has blocks of different sizes (d_model, d_mlp): {sorted(sizes)}; "
            f"expected one size for all. {SUPPORTED}"
        )
    d_model, d_mlp = sizes.pop()
    # Gemma 3n (AltUp).
    stream = getattr(hf.config.get_text_config(), "altup_active_idx", None)
    acts = {hf.get_submodule(at.act) for at in found}
    return Layout(
        architecture,
        tuple(found),
        d_model,
        d_mlp,
        stream=stream,
        # OpenAI GPT. Of an ungated MLP, the down projection reads what the module returns.
        one_act=len(acts) < len(found) and found[0].gate is None,
    )


def _find_blocks(hf: HFModel, architecture: str) -> tuple[str, nn.ModuleList]:
    decoder = hf.get_decoder()
    root = next(name for name, module in hf.named_modules() if module is decoder)
    n_layers = getattr(hf.config.get_text_config(), "num_hidden_layers", None)
    lists = [
        (f"{root}.{name}" if root else name, child)
        for name, child in decoder.named_children()
        if isinstance(child, nn.ModuleList) and len(child) == n_layers
    ]
    if len(lists) != 1:
        raise UnsupportedModelError(
            f"{architecture} should keep its {n_layers or ''} blocks in one ModuleList of "
            f"{type(decoder).__name__}; found {len(lists)} such lists. {SUPPORTED}"
        )
    return lists[0]


def _find_block(block: nn.Module, path: str, mlp: MLPNames | None) -> BlockLayout | None:
    modules = dict(block.named_modules())
    for names in MLPS if mlp is None else (mlp,):
        for container in _CONTAINERS if names.container is None else (names.container,):
            if container not in modules:
                continue
            children = dict(modules[container].named_children())
            linear = {name: _linear(child) for name, child in children.items()}
            known = {name for name, found in linear.items() if found is not None}
            exact = mlp is None and container
            if known != names.linear if exact else not known >= names.linear:
                continue
            act = next((n for n in _activations(names) if n in children), None)
            if act is None:
                continue
            at = f"{path}.{container}" if container else path
            up = names.up or names.fused
            down = linear[names.down]
            assert down is not None
            norm = _sub_norm(children, down.n_in) if container else None
            gate = names.gate or names.fused
            return BlockLayout(
                block=path,
                act=f"{at}.{act}",
                gate=None if gate is None else f"{at}.{gate}",
                up=f"{at}.{up}",
                down=f"{at}.{names.down}",
                post=f"{at}.{norm or names.down}",
                up_first=names.up_first,
                transposed=down.transposed,
                flat=not container,
            )
    return None


def _sub_norm(children: Mapping[str, nn.Module], width: int) -> str | None:
    """Name the norm between the activations of neurons and the down projection, as in BitNet."""
    for name, child in children.items():
        weight = getattr(child, "weight", None)
        if "norm" in name and isinstance(weight, Tensor) and weight.shape == (width,):
            return name
    return None


def _activations(names: MLPNames) -> Sequence[str]:
    return _ACTIVATIONS if names.act is None else (names.act,)


@dataclasses.dataclass(frozen=True)
class _Linear:
    n_in: int
    n_out: int
    transposed: bool
    """Whether the weight is stored [in out]."""


def _linear(module: Any) -> _Linear | None:
    """Describe a linear map; None for other modules. The one place that knows their classes."""
    # An adapter of peft around it has `in_features` whichever way the weight is stored.
    while hasattr(module, "base_layer"):
        module = module.base_layer
    if hasattr(module, "in_features"):
        return _Linear(module.in_features, module.out_features, transposed=False)
    # transformers' Conv1D.
    if hasattr(module, "nx") and hasattr(module, "nf"):
        return _Linear(module.nx, module.nf, transposed=True)
    return None


def _sizes(hf: HFModel, at: BlockLayout, architecture: str) -> tuple[int, int]:
    found = {name: _linear(hf.get_submodule(path)) for name, path in at.projections.items()}
    up, down = found["up"], found["down"]
    assert up is not None
    assert down is not None
    expected = 2 * down.n_in if at.fused else down.n_in
    if up.n_out != expected or down.n_out != up.n_in or found.get("gate", up) != up:
        raise UnsupportedModelError(
            f"{architecture}: {at.up} maps {up.n_in} to {up.n_out} and {at.down} maps {down.n_in} "
            f"to {down.n_out}; expected {up.n_in} to {expected} and back, and a gate like up. "
            f"{SUPPORTED}"
        )
    return up.n_in, down.n_in


def _unknown(block: nn.Module, path: str, mlp: MLPNames | None, architecture: str) -> str:
    """Say what a block has instead of a known MLP, and which call to try."""
    held = "\n".join(
        f"  {name}: {_form(module)}"
        for name, module in block.named_modules()
        if name and not any(module.children())
    )
    asked = "no dense MLP of a known form" if mlp is None else f"no MLP like {mlp}"
    guess = _guess(block)
    hint = " (check that `gate` is the one with the activation function)" if guess else ""
    advice = (
        f"If its MLP is down(act(gate x) * (up x)) or down(act(up x)), name the parts: "
        f"load_model(..., mlp={guess or MLPNames(gate='...', up='...', down='...')})"
    )
    return (
        f"{architecture}: block {path} has {asked}. It holds\n{held}\n{advice}{hint}. The "
        f"activation function has to be a module too, since its output is a site. {SUPPORTED}"
    )


def _form(module: nn.Module) -> str:
    linear = _linear(module)
    maps = "" if linear is None else f" {linear.n_in} -> {linear.n_out}"
    return f"{type(module).__name__}{maps}"


def _guess(block: nn.Module) -> MLPNames | None:
    """Guess the names of an MLP from the shapes of its linear maps."""
    for container, module in block.named_modules():
        children = dict(module.named_children())
        linear = {name: found for name, child in children.items() if (found := _linear(child))}
        act = [
            name
            for name, child in children.items()
            if name not in linear and not list(child.parameters()) and "drop" not in name
        ]
        for down, last in linear.items():
            sides = [
                (name, found.n_out // last.n_in)
                for name, found in linear.items()
                if name != down and found.n_in == last.n_out and not found.n_out % last.n_in
            ]
            if last.n_in == last.n_out or len(sides) != len(linear) - 1 or len(act) != 1:
                continue
            more = {"down": down, "act": act[0], "container": container}
            match [width for _, width in sides]:
                case [1]:
                    return MLPNames(up=sides[0][0], **more)
                case [2]:
                    return MLPNames(fused=sides[0][0], **more)
                case [1, 1]:
                    gate, up = sorted((name for name, _ in sides), key=lambda n: "gate" not in n)
                    return MLPNames(gate=gate, up=up, **more)
    return None
