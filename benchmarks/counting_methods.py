"""Ways to count activations: ours, and those one would write with other tools."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lse_interp.counting.counter import NeuronCounter
from lse_interp.models.hooked import HookedModel

__all__ = ["METHODS", "Method", "Step", "ours"]

Step = Callable[[Tensor], tuple[Tensor, Tensor] | None]
"""Runs one batch of token ids; returns n_positive and sums [layer neuron] so far, or None."""


@dataclass(frozen=True)
class Method:
    """One way to count, under one attention implementation."""

    name: str
    attention: str
    make: Callable[[HookedModel], Step]


def bare(model: HookedModel) -> Step:
    """Run the model and look at nothing."""

    def step(ids: Tensor) -> None:
        with torch.no_grad():
            model.hf.base_model(input_ids=ids, use_cache=False)

    return step


def ours(model: HookedModel) -> Step:
    """Count as `count_activations` does."""
    counter = NeuronCounter(model, "mlp.hook_act")

    def step(ids: Tensor) -> tuple[Tensor, Tensor]:
        counter.add(ids, torch.ones(ids.shape, dtype=torch.bool))
        return counter.totals()

    return step


def lens_hooks(model: HookedModel) -> Step:
    """Count in the hooks of TransformerLens `run_with_hooks`."""
    n_positive, total = _zeros(model)

    def hook(value: Tensor, hook: object) -> None:
        _tally(n_positive, total, int(hook.name.split(".")[1]), value)  # type: ignore[attr-defined]

    hooks = [(name, hook) for name in _lens_points(model)]

    def step(ids: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            model.bridge.run_with_hooks(ids, fwd_hooks=hooks, return_type=None)
        return n_positive, total

    return step


def lens_cache(model: HookedModel) -> Step:
    """Count from what TransformerLens `run_with_cache` has kept."""
    n_positive, total = _zeros(model)
    names = _lens_points(model)

    def step(ids: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            _, cache = model.bridge.run_with_cache(ids, names_filter=names, return_type=None)
        for layer, name in enumerate(names):
            _tally(n_positive, total, layer, cache[name])
        return n_positive, total

    return step


def nnsight_trace(model: HookedModel) -> Step:
    """Count inside an nnsight trace that ends behind the last MLP."""
    n_positive, total = _zeros(model)
    wrapped = model.nnsight

    def step(ids: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad(), wrapped.trace(input_ids=ids, use_cache=False) as tracer:
            for layer in range(model.n_layers):
                value = wrapped.model.layers[layer].mlp.act_fn.output
                _tally(n_positive, total, layer, value)
            tracer.stop()
        return n_positive, total

    return step


def numpy_hooks(model: HookedModel) -> Step:
    """Copy every activation to the host in a torch hook and count there with NumPy."""
    n_positive, total = _zeros(model)

    def hook_of(layer: int) -> Callable[..., None]:
        def hook(module: object, args: object, value: Tensor) -> None:
            values = value.float().cpu().numpy()
            n_positive[layer] += torch.from_numpy((values > 0).sum((0, 1))).to(value.device)
            total[layer] += torch.from_numpy(values.sum((0, 1))).to(value.device)

        return hook

    def step(ids: Tensor) -> tuple[Tensor, Tensor]:
        blocks = model.hf.model.layers
        handles = [
            block.mlp.act_fn.register_forward_hook(hook_of(layer))
            for layer, block in enumerate(blocks)
        ]
        with torch.no_grad():
            model.hf.base_model(input_ids=ids, use_cache=False)
        for handle in handles:
            handle.remove()
        return n_positive, total

    return step


METHODS: tuple[Method, ...] = (
    Method("bare forward, no LM head", "sdpa", bare),
    Method("lse_interp", "sdpa", ours),
    Method("bare forward, no LM head", "eager", bare),
    Method("lse_interp", "eager", ours),
    Method("torch hooks, counted in NumPy", "eager", numpy_hooks),
    Method("nnsight trace", "eager", nnsight_trace),
    Method("TransformerLens run_with_hooks", "eager", lens_hooks),
    Method("TransformerLens run_with_cache", "eager", lens_cache),
)
"""The bridge of TransformerLens is always eager, so everything else is measured so as well."""


def _zeros(model: HookedModel) -> tuple[Tensor, Tensor]:
    shape = (model.n_layers, model.d_mlp)
    return (
        torch.zeros(shape, dtype=torch.int64, device=model.device),
        torch.zeros(shape, dtype=torch.float64, device=model.device),
    )


def _tally(n_positive: Tensor, total: Tensor, layer: int, value: Tensor) -> None:
    """Count in the plainest way, as one would write it in a notebook."""
    n_positive[layer] += (value > 0).sum((0, 1))
    total[layer] += value.sum((0, 1), dtype=torch.float32)


def _lens_points(model: HookedModel) -> list[str]:
    return [f"blocks.{layer}.mlp.hook_pre" for layer in range(model.n_layers)]
