"""HookedModel: an ordinary transformers model whose activation sites can be read and edited."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from lse_interp.core.errors import LseError, UnsupportedModelError
from lse_interp.models.architectures import HFModel, MLPNames, find_layout
from lse_interp.models.backends import Backend, make_backend
from lse_interp.models.backends._firing import HookFn, dropout_off, in_turn
from lse_interp.models.backends.torch_hooks import hooked
from lse_interp.models.defaults import ModelDefaults
from lse_interp.models.fingerprint import fingerprint
from lse_interp.models.gguf_files import as_plain_model
from lse_interp.models.info import ModelInfo
from lse_interp.models.inputs import Batch, forward_inputs
from lse_interp.models.layout import Layout
from lse_interp.models.sites import parse_site, site_name
from lse_interp.models.tokenization import check_prefix, find_prefix, pad, token_ids

__all__ = ["HookedModel"]


class HookedModel:
    """A causal language model with named activation sites.

    Holds the transformers model unmodified: hooks exist only while a method runs or an `edits`
    block is open, and the weights are raw.

    Args:
        hf: A transformers causal language model, in memory.
        tokenizer: Its tokenizer; None where only token ids are used.
        name: How artefacts name the model; None takes the model's own name.
        backend: `torch`, `lens` or `nnsight`: the library that runs the hooks.
        defaults: How it is read and trained where nobody says otherwise; None takes the general
            defaults.
        mlp: What the parts of its MLPs are called; None looks in the table of known MLPs.

    Attributes:
        hf: The transformers model.
        tokenizer: Its tokenizer.
        defaults: How it is read and trained where nobody says otherwise.
        mlp: The names of its MLPs' parts that were given.
        prefix: The token ids that the model expects before text; see `find_prefix`.
        layout: Where the model keeps its blocks and projections.

    Raises:
        UnsupportedModelError: The model's sites are not defined, or do not follow their
            equations with the names in `mlp`.
    """

    def __init__(
        self,
        hf: HFModel,
        tokenizer: Any = None,
        *,
        name: str | None = None,
        backend: str = "torch",
        defaults: ModelDefaults | None = None,
        mlp: MLPNames | None = None,
    ) -> None:
        self.hf = as_plain_model(hf)
        self.tokenizer = tokenizer
        self.defaults = defaults or ModelDefaults()
        self.mlp = mlp
        self.layout: Layout = find_layout(hf, mlp)
        self.name = name or hf.config.name_or_path or type(hf).__name__
        self.prefix = find_prefix(tokenizer, hf.config, bos=self.defaults.bos, name=self.name)
        check_prefix(self.prefix, n_ids=len(hf.get_input_embeddings().weight), name=self.name)
        self._backends: dict[str, Backend] = {}
        self._edits: list[Mapping[str, HookFn]] = []
        self._info: tuple[Any, ModelInfo] | None = None
        self.backend = backend
        self._backend(backend)
        if mlp is not None:
            self._check_equations()

    def __repr__(self) -> str:
        return (
            f"HookedModel({self.name!r}: {self.layout.architecture}, {self.n_layers} layers x "
            f"{self.d_mlp:,} neurons, d_model {self.d_model}, "
            f"{str(self.dtype).removeprefix('torch.')} on {self.device}, backend {self.backend})"
        )

    @property
    def wrapping(self) -> dict[str, Any]:
        """What wraps another copy of the model in the same way: `HookedModel(hf, **wrapping)`."""
        return {
            "tokenizer": self.tokenizer,
            "name": self.name,
            "defaults": self.defaults,
            "mlp": self.mlp,
        }

    @property
    def n_layers(self) -> int:
        """Number of transformer blocks."""
        return self.layout.n_layers

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.layout.d_model

    @property
    def d_mlp(self) -> int:
        """Neurons in the MLP of one block."""
        return self.layout.d_mlp

    @property
    def gated(self) -> bool:
        """Whether the MLPs are gated: down(act(gate) * up)."""
        return self.layout.gated

    @property
    def sites(self) -> tuple[str, ...]:
        """The full names of all sites, layer by layer."""
        return self.layout.sites

    @property
    def device(self) -> torch.device:
        """Where token ids are sent: the device of the embedding, where layers lie on several."""
        return self.hf.get_input_embeddings().weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the weights."""
        return self.hf.dtype

    @property
    def info(self) -> ModelInfo:
        """Which model this is, with a hash of its weights.

        The hash is kept until a weight is written to. Writes through `weight.data`, which torch
        does not track, go unnoticed.
        """
        state = [(p.data_ptr(), p.shape, p.dtype, p._version) for p in self.hf.parameters()]
        if self._info is None or self._info[0] != state:
            info = ModelInfo.of(self.hf, self.layout, name=self.name)
            self._info = (state, dataclasses.replace(info, fingerprint=fingerprint(self.hf)))
        return self._info[1]

    @property
    def bridge(self) -> Any:
        """The model as a TransformerLens `TransformerBridge`, sharing this model's tensors.

        Built on first use. Architectures with interleaved attention projections (GPT-NeoX, BLOOM)
        get their attention weights copied, so take a fresh HookedModel after training those.
        """
        backend: Any = self._backend("lens")
        return backend.bridge

    @property
    def nnsight(self) -> Any:
        """The model as an nnsight model, sharing this model's tensors. Built on first use."""
        backend: Any = self._backend("nnsight")
        return backend.nnsight

    def run_with_hooks(
        self,
        batch: Batch,
        hooks: Mapping[str, HookFn],
        *,
        stop_after: int | None = None,
        logits: bool = False,
        grad: bool = False,
    ) -> Float[Tensor, "batch pos vocab"] | None:
        """Run one forward pass with a function at each hooked site.

        Dropout is off whatever the mode of the model. Values at real tokens do not depend on the
        side of the padding: positions are counted from the attention mask.

        Args:
            batch: Token ids, a mapping with `input_ids` and `attention_mask` (other keys are not
                used), or text as in `to_tokens`. Moved to the model's device.
            hooks: `{site: fn}` with `fn(activation, site)` returning None, or a replacement of
                the same shape (cast to the activation's dtype and device). The activation is a
                copy; writing to it is another way to replace it. With `grad` it is the model's
                own tensor, to which the model may write later. A kind of site such as
                `mlp.hook_post` stands for every layer; `parse_site(site)` tells a function which
                one it is at.
            stop_after: Last layer needed. The pass ends once every hooked site has fired, at the
                latest after this layer. None runs all layers.
            logits: Whether to compute and return the logits; otherwise the language-model head
                is not run.
            grad: Whether to build the autograd graph.

        Returns:
            The logits if asked for, else None.

        Raises:
            ActivationError: A site is unknown, comes after `stop_after`, or did not fire exactly
                once.
            LseError: `logits` and `stop_after` are both given, or the batch is malformed.
        """
        if logits and stop_after is not None:
            raise LseError("stop_after ends the pass before the logits; give one or the other.")
        hooks = self._checked(hooks, stop_after=stop_after)
        if not isinstance(batch, (Tensor, Mapping)):
            batch = self.to_tokens(batch)
        inputs = forward_inputs(self.hf, batch)
        backend = self._backend(self.backend)
        if not backend.runs_hf:
            hooks = in_turn((*self._edits, hooks), stop_after=stop_after)
        with torch.inference_mode(False), torch.set_grad_enabled(grad), dropout_off(self.hf):
            return backend.run(inputs, hooks, stop_after=stop_after, logits=logits)

    def collect(
        self,
        batch: Batch,
        sites: str | Sequence[str],
        *,
        reduce: Callable[[Tensor, str], Tensor] | None = None,
        grad: bool = False,
    ) -> dict[str, Shaped[Tensor, "..."]]:
        """Gather activations; the pass ends after the last site.

        Args:
            batch: As in `run_with_hooks`.
            sites: One site or several, each a full name, or a kind such as `mlp.hook_post` for
                that site of every layer.
            reduce: `fn(activation, site) -> Tensor`, applied as each site fires so that the
                full activations are never held together.
            grad: Whether to build the autograd graph.

        Returns:
            `{site: activation}`, or the reduced tensors.

        Raises:
            ActivationError: A site is unknown or did not fire exactly once.
        """
        chosen = self.layout.expand(sites)
        return self._gather(batch, chosen, reduce=reduce, logits=False, grad=grad)[1]

    def run_with_cache(
        self,
        batch: Batch,
        names_filter: str | Sequence[str] | Callable[[str], bool] | None = None,
        *,
        grad: bool = False,
    ) -> tuple[Float[Tensor, "batch pos vocab"], dict[str, Float[Tensor, "batch pos _width"]]]:
        """Compute the logits and keep activations, as in TransformerLens.

        `collect` needs less memory and time where no logits are wanted.

        Args:
            batch: As in `run_with_hooks`.
            names_filter: Which sites to keep: one or several, as in `collect`, or a function that
                says so of a name; None keeps all.
            grad: Whether to build the autograd graph.

        Returns:
            The logits, and `{site: activation}` in the order of the layers.

        Raises:
            ActivationError: A site is unknown or did not fire exactly once.
        """
        if names_filter is None:
            chosen = list(self.sites)
        elif callable(names_filter):
            chosen = [site for site in self.sites if names_filter(site)]
        else:
            chosen = self.layout.expand(names_filter)
        logits, cache = self._gather(batch, chosen, reduce=None, logits=True, grad=grad)
        assert logits is not None
        return logits, cache

    def __call__(self, batch: Batch, *, grad: bool = False) -> Float[Tensor, "batch pos vocab"]:
        """Compute the logits of a batch, which is as in `run_with_hooks`."""
        logits = self.run_with_hooks(batch, {}, logits=True, grad=grad)
        assert logits is not None
        return logits

    def to_tokens(
        self, text: str | Sequence[str], *, padding_side: str | None = None
    ) -> dict[str, Int64[Tensor, "batch pos"]]:
        """Tokenise text as this model reads it, the prefix before each sentence.

        Args:
            text: One sentence, or several.
            padding_side: Where shorter sentences are padded; None takes the tokenizer's side.

        Returns:
            `input_ids` and `attention_mask`, a batch for the other methods.

        Raises:
            CorpusError: No sentence, one without a token, or one longer than the model's context.
            LseError: The model has no tokenizer.
        """
        ids = token_ids(self, [text] if isinstance(text, str) else text)
        left = (padding_side or self.tokenizer.padding_side) == "left"
        return pad(ids, prefix=self.prefix, left=left)[0]

    def write_defaults(self, folder: str | Path) -> None:
        """Write the defaults next to saved weights, with the prefix, which a tokenizer may lose."""
        dataclasses.replace(self.defaults, bos=self.prefix or "none").write(folder)

    def generate(self, text: str | Sequence[str], **options: Any) -> str | list[str]:
        """Continue text; open edits apply.

        Args:
            text: One text, or several.
            options: For transformers' `generate`, such as `max_new_tokens=20`.

        Returns:
            The continuations alone, one for one text.

        Raises:
            LseError: See `to_tokens`.
        """
        # Text is continued at its right end.
        batch = self.to_tokens(text, padding_side="left")
        batch = {name: tensor.to(self.device) for name, tensor in batch.items()}
        with torch.no_grad():
            found = self.hf.generate(**batch, **options)
        new = found[:, batch["input_ids"].shape[1] :]
        texts = self.tokenizer.batch_decode(new, skip_special_tokens=True)
        return texts[0] if isinstance(text, str) else texts

    @contextlib.contextmanager
    def edits(self, edits: Mapping[str, HookFn]) -> Iterator["HookedModel"]:
        """Edit activations in every forward pass inside a `with` block.

        Holds for `model.hf(...)`, `model.hf.generate(...)`, `run_with_hooks` and `collect`, which
        see the edited values; not for `model.bridge` and `model.nnsight` called directly. In
        `generate` a function runs once per step, on the new tokens alone when a cache is used.

        Args:
            edits: `{site: fn}` as in `run_with_hooks`.

        Yields:
            This model.

        Raises:
            ActivationError: A site is unknown to this model.
        """
        edits = self._checked(edits)
        self._edits.append(edits)
        try:
            with hooked(self.hf.get_submodule, self.layout, edits):
                yield self
        finally:
            self._edits.remove(edits)

    def _backend(self, name: str) -> Backend:
        if name not in self._backends:
            self._backends[name] = make_backend(name, self.hf, self.layout, self.tokenizer)
        return self._backends[name]

    def _gather(
        self,
        batch: Batch,
        sites: Sequence[str],
        *,
        reduce: Callable[[Tensor, str], Tensor] | None,
        logits: bool,
        grad: bool,
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        gathered: dict[str, Tensor] = {}

        def keep(activation: Tensor, site: str) -> None:
            value = activation if reduce is None else reduce(activation, site)
            # With gradients, the model may write to its own tensor later in the pass.
            gathered[site] = value.clone() if grad else value

        self.layout.check(sites, stop_after=None)
        hooks = dict.fromkeys(sites, keep)
        last = None if logits else max((parse_site(site)[1] for site in sites), default=0)
        found = self.run_with_hooks(batch, hooks, stop_after=last, logits=logits, grad=grad)
        return found, {site: gathered[site] for site in sites}

    def _check_equations(self) -> None:
        """Refuse names under which the sites do not follow their equations."""
        if any(weight.is_meta for weight in self.hf.parameters()):
            return
        kinds = ("mlp.hook_act", "mlp.hook_post", *["mlp.hook_pre_linear"] * self.gated)
        token = torch.zeros(1, 1, dtype=torch.int64)
        act, post, *linear = self.collect(token, [site_name(kind, 0) for kind in kinds]).values()
        expected = act * linear[0] if linear else act
        if not torch.allclose(post, expected, rtol=1e-2, atol=1e-4):
            equation = "act(gate x) * (up x)" if linear else "act(up x)"
            raise UnsupportedModelError(
                f"{self.name}: the down projection does not read {equation} with {self.mlp}. "
                "Check which projection the activation function is applied to, and in a fused "
                "one which half."
            )

    def _checked(
        self, hooks: Mapping[str, HookFn], *, stop_after: int | None = None
    ) -> dict[str, HookFn]:
        full = {site: hook for name, hook in hooks.items() for site in self.layout.expand(name)}
        self.layout.check(full, stop_after=stop_after)
        return full
