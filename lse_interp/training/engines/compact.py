r"""The engine `compact`: gradients of only the chosen neurons. The default.

For y = down(act(gate x) * (up x)) with neurons S chosen, one autograd function runs the MLP with
its dense weights and, in the backward pass, forms only the gradients of the chosen rows:

    dgate[S] = dg[:, S]^T x,    dup[S] = du[:, S]^T x,    ddown[:, S]^T = (h u)[:, S]^T dy,

with g = gate x, u = up x, h = act(g). It keeps x, g and u; no dense weight gradient, clone or
optimizer state exists. In the lowest layer with chosen neurons, where no gradient is needed for
x, only the columns S of g and u are kept and computed with.

MLPs of another form (ungated, fused, with biases) get the same for each linear map apart.

Source: paper, section 3.2; the engine is an addition.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lse_interp.core.errors import UnsupportedModelError
from lse_interp.models.hooked import HookedModel
from lse_interp.models.layout import BlockLayout
from lse_interp.models.placement.dtensors import whole
from lse_interp.training.engines.base import NeuronRows, frozen

__all__ = ["CompactRows"]


class CompactRows:
    """Train the rows of chosen neurons without dense gradients.

    While the engine is open, hooks on modules inside a patched MLP fire in passes without
    gradients only.

    Args:
        rows: The leaves.
    """

    def __init__(self, rows: NeuronRows) -> None:
        self.rows = rows
        self.module: nn.Module | None = rows
        self._restore = frozen(rows.model.hf, {})
        self._patched: list[nn.Module] = []
        for layer in rows.layers:
            self._patch_layer(layer)

    def leaves(self) -> dict[str, nn.Parameter]:
        """Return the rows by layer."""
        return dict(self.rows.leaves.items())

    def before_step(self) -> None:
        """Do nothing: the backward pass has left the gradients where they belong."""

    def after_step(self) -> None:
        """Write the rows into the model."""
        self.rows.write()

    def close(self) -> None:
        """Give the modules their own forward back and restore `requires_grad`."""
        for module in self._patched:
            del module.forward
        self._restore()

    def _patch_layer(self, layer: int) -> None:
        model = self.rows.model
        at = model.layout.blocks[layer]
        mlp = _gated_mlp(model, at)
        if mlp is not None:
            self._patch(mlp, _mlp_forward(mlp, self.rows, layer))
            return
        for path in dict.fromkeys(at.projections.values()):
            if hasattr(model.hf.get_submodule(path), "base_layer"):
                raise UnsupportedModelError(
                    f"{path} carries an adapter, which the engine compact does not train through. "
                    "Merge the adapter first (merge_and_unload), or use --engine masked."
                )
            self._patch(model.hf.get_submodule(path), _linear_forward(path, self.rows, layer))

    def _patch(self, module: nn.Module, forward: Callable[..., Any]) -> None:
        # On the instance: the class and other models keep theirs.
        module.forward = forward
        self._patched.append(module)


def _gated_mlp(model: HookedModel, at: BlockLayout) -> nn.Module | None:
    """Return the module that is down(act(gate x) * (up x)) and nothing else, if there is one."""
    if at.fused or at.gate is None:
        return None
    paths = (at.gate, at.up, at.down)
    parents = {path.rpartition(".")[0] for path in (*paths, at.act)}
    if len(parents) != 1:
        return None
    mlp = model.hf.get_submodule(parents.pop())
    linears = [model.hf.get_submodule(path) for path in paths]
    if any(type(linear) is not nn.Linear or linear.bias is not None for linear in linears):
        return None
    # Sharded weights are gathered for as long as this takes.
    weights = {name: whole(weight.detach()) for name, weight in mlp.named_parameters()}
    gate, up, down = (weights[f"{path.rpartition('.')[2]}.weight"] for path in paths)
    # Anything else that the module computes (a scale, a clamp, sparsity, and dropout while it is
    # trained) shows in its values.
    x = torch.linspace(-2, 2, 2 * model.d_model).view(1, 2, model.d_model)
    x = x.to(gate)
    training = mlp.training
    with torch.no_grad(), torch.random.fork_rng([x.device] if x.is_cuda else []):
        linear, act = nn.functional.linear, model.hf.get_submodule(at.act)
        expected = linear(act(linear(x, gate)) * linear(x, up), down)
        found = torch.func.functional_call(mlp.train(), weights, (x,))
    mlp.train(training)
    return mlp if isinstance(found, Tensor) and torch.equal(found, expected) else None


def _mlp_forward(mlp: nn.Module, rows: NeuronRows, layer: int) -> Callable[[Tensor], Tensor]:
    plain = type(mlp).forward
    chosen = rows.neurons[layer]
    hf, at = rows.model.hf, rows.model.layout.blocks[layer]
    act = hf.get_submodule(at.act)
    linears = [hf.get_submodule(path) for path in at.projections.values()]

    def forward(x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return plain(mlp, x)
        weights = (linear.weight for linear in linears)
        return _GatedMLP.apply(x, rows.leaf(layer), *weights, chosen.to(x.device), act)

    return forward


def _linear_forward(path: str, rows: NeuronRows, layer: int) -> Callable[[Tensor], Tensor]:
    model, at = rows.model, rows.model.layout.blocks[layer]
    linear = model.hf.get_submodule(path)
    plain = type(linear).forward
    names = [name for name, module in at.projections.items() if module == path]
    axes = [list(at.projections).index(name) for name in names]
    index = torch.cat([rows.neurons[layer] + model.layout.start(n, layer=layer) for n in names])
    form = _Form(transposed=at.transposed, neuron_is_output=path != at.down)

    def forward(x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return plain(linear, x)
        trained = torch.cat([rows.leaf(layer)[axis] for axis in axes])
        run = functools.partial(plain, linear)
        return _RowsLinear.apply(x, trained, linear.weight, run, index.to(x.device), form)

    return forward


class _GatedMLP(torch.autograd.Function):
    """down(act(gate x) * (up x)); the leaf gets the gradient of the chosen rows."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Float[Tensor, "batch pos d_model"],
        leaf: Float[Tensor, "projection _neuron d_model"],
        gate: Float[Tensor, "neuron d_model"],
        up: Float[Tensor, "neuron d_model"],
        down: Float[Tensor, "d_model neuron"],
        chosen: Tensor,
        act: nn.Module,
    ) -> Float[Tensor, "batch pos d_model"]:
        flat = x.reshape(-1, x.shape[-1])
        g, u = nn.functional.linear(flat, gate), nn.functional.linear(flat, up)
        y = nn.functional.linear(act(g) * u, down)
        ctx.act, ctx.shape, ctx.autocast = act, x.shape, _autocast_state(x)
        ctx.whole = ctx.needs_input_grad[0]
        if not ctx.whole:
            g, u = g.index_select(1, chosen), u.index_select(1, chosen)
        ctx.save_for_backward(flat, g, u, gate, up, down, leaf, chosen)
        return y.view(*x.shape[:-1], y.shape[-1])

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, g, u, gate, up, down, leaf, chosen = ctx.saved_tensors
        with ctx.autocast():
            dy = dy.reshape(-1, dy.shape[-1])
            dz = dy @ (down if ctx.whole else down.index_select(1, chosen))
            with torch.enable_grad():
                g = g.detach().requires_grad_(True)
                h = ctx.act(g)
            (dg,) = torch.autograd.grad(h, g, dz * u)
            h = h.detach()
            du = dz.mul_(h) if dz.dtype == h.dtype else dz * h
            parts = (dg, du, h, u)
            picked = [part.index_select(1, chosen) for part in parts] if ctx.whole else parts
            dgs, dus, hs, us = picked
            drows = torch.stack([dgs.mT @ x, dus.mT @ x, (hs * us).mT @ dy])
            dx = torch.addmm(dg @ gate, du, up).view(ctx.shape) if ctx.whole else None
        return dx, drows.to(leaf.dtype), None, None, None, None, None


class _Form(NamedTuple):
    transposed: bool
    """Whether the weight is stored [in out]."""
    neuron_is_output: bool


class _RowsLinear(torch.autograd.Function):
    """A linear map; `trained` gets the gradient of some of its rows (or columns)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        trained: Float[Tensor, "_neuron d_model"],
        weight: Tensor,
        run: Callable[[Tensor], Tensor],
        index: Tensor,
        form: _Form,
    ) -> Tensor:
        y = run(x)
        ctx.save_for_backward(x, weight, trained, index)
        ctx.form, ctx.autocast = form, _autocast_state(x)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, trained, index = ctx.saved_tensors
        with ctx.autocast():
            flat_x, flat_dy = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
            if ctx.form.neuron_is_output:
                drows = flat_dy.index_select(1, index).mT @ flat_x
            else:
                drows = flat_x.index_select(1, index).mT @ flat_dy
            dx = None
            if ctx.needs_input_grad[0]:
                dx = flat_dy @ (weight.mT if ctx.form.transposed else weight)
                dx = dx.view(x.shape)
        return dx, drows.to(trained.dtype), None, None, None, None


def _autocast_state(x: Tensor) -> Callable[[], contextlib.AbstractContextManager]:
    """Return what puts the backward pass under the autocast of the forward pass."""
    device = x.device.type
    if not torch.is_autocast_enabled(device):
        return contextlib.nullcontext
    dtype = torch.get_autocast_dtype(device)
    return lambda: torch.autocast(device, dtype=dtype)
