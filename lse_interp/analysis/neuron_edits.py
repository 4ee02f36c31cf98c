"""Switch neurons off, or turn them up, while a model runs."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lse_interp.core.errors import ActivationError, LseError, MismatchError, near_misses
from lse_interp.counting.count_settings import NEURON_SITES
from lse_interp.counting.counts import ActivationCounts
from lse_interp.models.hooked import HookedModel
from lse_interp.models.sites import site_name
from lse_interp.neurons.sets import NeuronSets

__all__ = ["NEURON_SITE", "ablate", "amplify"]

NEURON_SITE = "mlp.hook_post"
"""Where neurons are edited: the input of the down projection."""

# The values of a layer's marked neurons -> what they become.
_Edit = Callable[[Tensor, int], Tensor | float]


@contextlib.contextmanager
def ablate(
    model: HookedModel,
    neurons: NeuronSets | Bool[Tensor, "layer neuron"],
    languages: str | Sequence[str] | None = None,
    *,
    to: int | float | Float[Tensor, "layer neuron"] | ActivationCounts = 0.0,
    site: str | None = None,
) -> Iterator[HookedModel]:
    """Hold neurons at one value in every forward pass inside a `with` block.

        with lse.ablate(model, neurons, "cym"):
            text = model.generate("Mae'r", max_new_tokens=20)

    At `mlp.hook_post` with 0, this removes what a neuron adds to the residual stream, as if its
    column of the down projection were zero. In BitNet, whose down projection reads neurons through
    a norm, the other neurons are scaled to fill the gap.

    Args:
        model: The model.
        neurons: Neuron sets, or a mask.
        languages: Whose neurons, of several the union; None for a mask.
        to: What the neurons become: a number, a value per neuron, or counts, of which each neuron
            gets its mean.
        site: A site with one value per neuron; by default `mlp.hook_post`, or that of the counts.

    Yields:
        The model, edited until the block ends (see `HookedModel.edits`).

    Raises:
        MismatchError: Neurons or values of another shape than the model's. A tuned model takes the
            neurons of its base.
        ActivationError: A site without neurons, or one that this model does not have.
        LanguageError: A language without neurons.
        LseError: Sets without a language, or a mask with one.
    """
    if isinstance(to, ActivationCounts):
        site = site or to.site
        to = to.mean
    if isinstance(to, Tensor):
        _check_grid("`to`", to, model)

    def value(activation: Tensor, layer: int) -> Tensor | float:
        return to[layer].to(activation) if isinstance(to, Tensor) else to

    with _edited(model, neurons, languages, value, site=site or NEURON_SITE):
        yield model


@contextlib.contextmanager
def amplify(
    model: HookedModel,
    neurons: NeuronSets | Bool[Tensor, "layer neuron"],
    languages: str | Sequence[str] | None = None,
    *,
    factor: int | float = 2.0,
    site: str = NEURON_SITE,
) -> Iterator[HookedModel]:
    """Multiply neurons in every forward pass inside a `with` block.

        with lse.amplify(model, neurons, "cym", factor=3):
            logits = model("Mae'r")

    Args:
        model: The model.
        neurons: Neuron sets, or a mask.
        languages: Whose neurons, of several the union; None for a mask.
        factor: 1 changes nothing, 0 switches off.
        site: A site with one value per neuron.

    Yields:
        The model, edited until the block ends (see `HookedModel.edits`).

    Raises:
        LseError: See `ablate`.
    """
    with _edited(model, neurons, languages, lambda values, layer: values * factor, site=site):
        yield model


def _edited(
    model: HookedModel,
    neurons: NeuronSets | Bool[Tensor, "layer neuron"],
    languages: str | Sequence[str] | None,
    edit: _Edit,
    *,
    site: str,
) -> contextlib.AbstractContextManager[HookedModel]:
    """Return the edits of all layers that hold some of the neurons."""
    if site not in NEURON_SITES:
        raise ActivationError(
            f"Neurons are edited at {', '.join(NEURON_SITES)}; got site {site!r}. "
            f"{near_misses(site, NEURON_SITES)}"
        )
    mask = _mask(model, neurons, languages)
    layers = mask.any(dim=-1).nonzero().flatten().tolist()
    return model.edits({site_name(site, n): _hook(mask[n], n, edit) for n in layers})


def _mask(
    model: HookedModel,
    neurons: NeuronSets | Bool[Tensor, "layer neuron"],
    languages: str | Sequence[str] | None,
) -> Bool[Tensor, "layer neuron"]:
    if isinstance(neurons, NeuronSets):
        if languages is None:
            raise LseError(
                f"Say whose neurons to edit: {', '.join(neurons.languages)}, or several in a list."
            )
        neurons = neurons.union(*[languages] if isinstance(languages, str) else languages)
    elif languages is not None:
        raise LseError(f"A mask is of no language; got {languages!r} with it. Give NeuronSets.")
    _check_grid("The mask of the neurons", neurons, model)
    return neurons


def _check_grid(name: str, grid: Tensor, model: HookedModel) -> None:
    expected = [model.n_layers, model.d_mlp]
    if list(grid.shape) != expected:
        raise MismatchError(
            f"{name} should be [layer neuron] = {expected} for {model.name}; got "
            f"{list(grid.shape)}."
        )


def _hook(
    mask: Bool[Tensor, " neuron"], layer: int, edit: _Edit
) -> Callable[[Tensor, str], Tensor]:
    """Return a hook that edits the marked neurons of a layer, on whatever device it is."""

    def hook(activation: Tensor, site: str) -> Tensor:
        value = edit(activation, layer)
        if not isinstance(value, Tensor):
            value = torch.tensor(value, dtype=activation.dtype, device=activation.device)
        return torch.where(mask.to(activation.device), value, activation)

    return hook
