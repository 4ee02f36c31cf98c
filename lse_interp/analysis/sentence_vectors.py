"""Sentences as vectors: one per layer, pooled over the text tokens of each sentence."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lse_interp.core.errors import ActivationError, LseError, near_misses
from lse_interp.models.hooked import HookedModel
from lse_interp.models.sites import site_name
from lse_interp.models.tokenization import pad, token_ids

__all__ = ["POOLINGS", "SENTENCE_SITES", "check_options", "embed"]


SENTENCE_SITES: tuple[str, ...] = ("hook_resid_post", "hook_mlp_out", "mlp.hook_post")
"""Sites a sentence can be represented at."""

POOLINGS: tuple[str, ...] = ("mean", "last")
"""How a sentence's text tokens become one vector."""


def embed(
    model: HookedModel,
    sentences: Sequence[str],
    *,
    site: str = "hook_resid_post",
    pooling: str = "mean",
    batch_size: int = 32,
) -> Float[Tensor, "layer sentence d_model"]:
    """Represent each sentence by one vector per layer, pooled over its text tokens.

    The model reads its prefix (`model.prefix`) before each text; the pooling leaves it out, like
    padding. Values are pooled on the device as each layer fires, in float32 (float64 for a
    float64 model). Sentences run in batches of similar length, padded on the tokenizer's side.

    Args:
        model: The model, with its tokenizer.
        sentences: Texts, at least one.
        site: One of `SENTENCE_SITES`, read in every layer.
        pooling: `mean` over the text tokens, or `last`.
        batch_size: Sentences per forward pass; changes results only by rounding.

    Returns:
        The vectors, on the model's device, in the order of `sentences`. The last axis is the
        width of the site: `d_mlp` for `mlp.hook_post`.

    Raises:
        CorpusError: No sentence, one without a token, or one longer than the model's context.
        ActivationError: Another site, or values that are not finite.
        LseError: Another pooling, a batch size below 1, or a model without a tokenizer.
    """
    check_options(site=site, pooling=pooling, batch_size=batch_size)
    ids = token_ids(model, sentences)
    sites = [site_name(site, layer) for layer in range(model.n_layers)]
    vectors: Tensor | None = None
    longest_first = sorted(range(len(ids)), key=lambda i: len(ids[i]), reverse=True)
    for start in range(0, len(ids), batch_size):
        members = longest_first[start : start + batch_size]
        pooled = _pooled(model, [ids[i] for i in members], sites=sites, pooling=pooling)
        if vectors is None:
            vectors = pooled.new_empty(len(sites), len(ids), pooled.shape[-1])
        vectors[:, members] = pooled
    assert vectors is not None
    _require_finite(vectors, sites=sites, model=model)
    return vectors


def check_options(*, site: str, pooling: str, batch_size: int) -> None:
    """Refuse options that `embed` does not have, before any model runs.

    Raises:
        ActivationError: Another site.
        LseError: Another pooling, or a batch size below 1.
    """
    if site not in SENTENCE_SITES:
        raise ActivationError(
            f"A sentence is represented at {', '.join(SENTENCE_SITES)}; got site {site!r}. "
            f"{near_misses(site, SENTENCE_SITES)}"
        )
    if pooling not in POOLINGS:
        raise LseError(f"`pooling` must be {' or '.join(POOLINGS)}; got {pooling!r}.")
    if batch_size < 1:
        raise LseError(f"`batch_size` must be at least 1; got {batch_size}.")


def _pooled(
    model: HookedModel,
    ids: Sequence[list[int]],
    *,
    sites: Sequence[str],
    pooling: str,
) -> Float[Tensor, "layer batch d_model"]:
    left = model.tokenizer.padding_side == "left"
    batch, is_text = pad(ids, prefix=model.prefix, left=left)
    weights = _pooling_weights(is_text, pooling=pooling)
    dtype = torch.promote_types(model.dtype, torch.float32)
    weights, is_text = weights.to(model.device, dtype), is_text.to(model.device)

    def pool(values: Tensor, site: str) -> Tensor:
        # Values at padding are undefined: a weight of 0 would let a NaN through.
        text = values.to(dtype).masked_fill(~is_text.to(values.device)[..., None], 0)
        pooled = torch.einsum("bpd,bp->bd", text, weights.to(values.device))
        return pooled.to(model.device)

    gathered = model.collect(batch, sites, reduce=pool)
    return torch.stack([gathered[site] for site in sites])


def _pooling_weights(
    is_text: Bool[Tensor, "batch pos"], *, pooling: str
) -> Float[Tensor, "batch pos"]:
    if pooling == "mean":
        return is_text.double() / is_text.sum(dim=-1, keepdim=True)
    last = is_text.cumsum(dim=-1).argmax(dim=-1)
    return torch.nn.functional.one_hot(last, num_classes=is_text.shape[-1]).double()


def _require_finite(
    vectors: Float[Tensor, "layer sentence d_model"], *, sites: Sequence[str], model: HookedModel
) -> None:
    for site, layer in zip(sites, vectors, strict=True):
        if not bool(torch.isfinite(layer).all()):
            raise ActivationError(
                f"Values at {site} of {model.name} are not finite (NaN or infinity). The weights "
                f"may be broken, or {model.dtype} too narrow: try bfloat16 or float32."
            )
