"""Switch neurons off while a model runs."""

import contextlib
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Bool
from torch import Tensor

from lse_interp.core.errors import ActivationError, MismatchError, near_misses
from lse_interp.models.hooked import HookedModel
from lse_interp.models.sites import site_name

__all__ = ["NEURON_SITE", "ablate"]

NEURON_SITE = "mlp.hook_post"
"""Where neurons are switched off: the input of the down projection."""

_SITES = (NEURON_SITE, "mlp.hook_act", "mlp.hook_pre", "mlp.hook_pre_linear")


@contextlib.contextmanager
def ablate(
    model: HookedModel, mask: Bool[Tensor, "layer neuron"], *, site: str = NEURON_SITE
) -> Iterator[HookedModel]:
    """Set neurons to zero in every forward pass inside a `with` block.

    At `mlp.hook_post` this removes what a neuron adds to the residual stream, as if its column of
    `down` were zero.

    Args:
        model: the model.
        mask: the neurons, e.g. `neurons.mask("mlt")`.
        site: a site with one value per neuron.

    Yields:
        The model, edited until the block ends (see `HookedModel.edits`).

    Raises:
        MismatchError: a mask of another shape than the model's neurons.
        ActivationError: a site without neurons, or one this model does not have.
    """
    if site not in _SITES:
        raise ActivationError(
            f"Neurons are switched off at {', '.join(_SITES)}; got site {site!r}. "
            f"{near_misses(site, _SITES)}"
        )
    grid = (model.n_layers, model.d_mlp)
    if tuple(mask.shape) != grid:
        raise MismatchError(
            f"`mask` should be [layer neuron] = {list(grid)} for {model.name}; got "
            f"{list(mask.shape)}."
        )
    layers = mask.any(dim=-1).nonzero().flatten().tolist()
    with model.edits({site_name(site, layer): _silence(mask[layer]) for layer in layers}):
        yield model


def _silence(mask: Bool[Tensor, " neuron"]) -> Callable[[Tensor, str], Tensor]:
    """Return a hook that zeroes the marked neurons, on whatever device the layer is."""

    def hook(activation: Tensor, site: str) -> Tensor:
        zero = torch.zeros((), dtype=activation.dtype, device=activation.device)
        return torch.where(mask.to(activation.device), zero, activation)

    return hook
