"""Sentences as vectors: one per layer, pooled over the text tokens of each sentence.

Some positions are attention sinks: their values are huge and nearly the same in every text, so one
of them decides a mean. The first position that a model reads is often one, and is never pooled: it
is the prefix, or the first text token of a model without one. Other positions are sinks where their
norm is massive, more than `SINK_FACTOR` times the median over the pooled positions of the sentence
in that layer. The median is of the sentence, so that a vector depends on no other sentence.

Source: Sun et al., "Massive Activations in Large Language Models", 2024 (arXiv 2402.17762): single
entries about 1,000 times the median magnitude, at the first token and at some delimiters. An entry
of 1,000 times the median magnitude has 10 times the norm of 4,096 normally distributed entries, and
more in a narrower model.
"""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from lse_interp.analysis.constants import BATCH_SIZE, POOLING, SINKS, SITE
from lse_interp.core.errors import ActivationError, CorpusError, LseError, near_misses
from lse_interp.models.hooked import HookedModel
from lse_interp.models.sites import site_name
from lse_interp.models.tokenization import pad, token_ids

__all__ = [
    "POOLINGS",
    "SENTENCE_SITES",
    "SINK_CHOICES",
    "SINK_FACTOR",
    "SentenceVectors",
    "check_options",
    "embed",
    "embed_counting_sinks",
]

logger = logging.getLogger(__name__)


SENTENCE_SITES: tuple[str, ...] = ("hook_resid_post", "hook_mlp_out", "mlp.hook_post")
"""Sites a sentence can be represented at."""

POOLINGS: tuple[str, ...] = ("mean", "last")
"""How a sentence's text tokens become one vector."""

SINK_CHOICES: tuple[str, ...] = ("drop", "keep")
"""What happens to positions of massive norm."""

SINK_FACTOR = 10.0
"""A norm is massive above this many times the median of its sentence and layer."""


class SentenceVectors(NamedTuple):
    """Sentences as vectors, and how many positions of massive norm they have."""

    vectors: Float[Tensor, "layer sentence d_model"]
    n_sinks: Int64[Tensor, " layer"]
    """Positions of massive norm, over all sentences."""


def embed(
    model: HookedModel,
    sentences: Sequence[str],
    *,
    site: str = SITE,
    pooling: str = POOLING,
    sinks: str = SINKS,
    batch_size: int = BATCH_SIZE,
) -> Float[Tensor, "layer sentence d_model"]:
    """Represent each sentence by one vector per layer, pooled over its text tokens.

    The model reads its prefix (`model.prefix`) before each text; the pooling leaves it out, like
    padding. Without a prefix it leaves out the first text token. Values are pooled on the device as
    each layer fires, in float32 (float64 for a float64 model). Sentences run in batches of similar
    length, padded on the tokenizer's side. Positions of massive norm are counted in the log.

    Args:
        model: The model, with its tokenizer.
        sentences: Texts, at least one.
        site: One of `SENTENCE_SITES`, read in every layer.
        pooling: `mean` over the text tokens, or `last`.
        sinks: `drop` leaves positions of massive norm out, layer by layer; `keep` pools them.
        batch_size: Sentences per forward pass; changes results only by rounding.

    Returns:
        The vectors, on the model's device, in the order of `sentences`. The last axis is the
        width of the site: `d_mlp` for `mlp.hook_post`.

    Raises:
        CorpusError: No sentence, one without a token to pool, or one longer than the model's
            context.
        ActivationError: Another site, or values that are not finite.
        LseError: Another pooling or choice of sinks, a batch size below 1, or a model without a
            tokenizer.
    """
    found = embed_counting_sinks(
        model, sentences, site=site, pooling=pooling, sinks=sinks, batch_size=batch_size
    )
    if layers := found.n_sinks.nonzero().flatten().tolist():
        told = {"drop": "left out", "keep": "pooled"}[sinks]
        counts = ", ".join(f"{layer}: {int(found.n_sinks[layer])}" for layer in layers)
        logger.warning("%s: positions of massive norm per layer, %s: %s", model.name, told, counts)
    return found.vectors


def embed_counting_sinks(
    model: HookedModel,
    sentences: Sequence[str],
    *,
    site: str,
    pooling: str,
    sinks: str,
    batch_size: int,
) -> SentenceVectors:
    """Do what `embed` does, and return the number of positions of massive norm instead of logging.

    Raises:
        LseError: See `embed`.
    """
    check_options(site=site, pooling=pooling, sinks=sinks, batch_size=batch_size)
    ids = token_ids(model, sentences)
    if not model.prefix and 1 in (lengths := [len(tokens) for tokens in ids]):
        raise CorpusError(
            f"Sentence {lengths.index(1) + 1} has 1 token, which {model.name} reads first. The "
            "first position is an attention sink and is not pooled. Remove the sentence, or use a "
            "model with a prefix (BOS)."
        )
    sites = [site_name(site, layer) for layer in range(model.n_layers)]
    vectors: Tensor | None = None
    n_sinks = torch.zeros(len(sites), dtype=torch.int64, device=model.device)
    longest_first = sorted(range(len(ids)), key=lambda i: len(ids[i]), reverse=True)
    for start in range(0, len(ids), batch_size):
        members = longest_first[start : start + batch_size]
        part = _pooled(model, [ids[i] for i in members], sites=sites, pooling=pooling, sinks=sinks)
        if vectors is None:
            vectors = part.vectors.new_empty(len(sites), len(ids), part.vectors.shape[-1])
        vectors[:, members] = part.vectors
        n_sinks = n_sinks + part.n_sinks
    assert vectors is not None
    _require_finite(vectors, sites=sites, model=model)
    return SentenceVectors(vectors, n_sinks.cpu())


def check_options(*, site: str, pooling: str, sinks: str, batch_size: int) -> None:
    """Refuse options that `embed` does not have, before any model runs.

    Raises:
        ActivationError: Another site.
        LseError: Another pooling or choice of sinks, or a batch size below 1.
    """
    if site not in SENTENCE_SITES:
        raise ActivationError(
            f"A sentence is represented at {', '.join(SENTENCE_SITES)}; got site {site!r}. "
            f"{near_misses(site, SENTENCE_SITES)}"
        )
    if pooling not in POOLINGS:
        raise LseError(f"`pooling` must be {' or '.join(POOLINGS)}; got {pooling!r}.")
    if sinks not in SINK_CHOICES:
        raise LseError(f"`sinks` must be {' or '.join(SINK_CHOICES)}; got {sinks!r}.")
    if batch_size < 1:
        raise LseError(f"`batch_size` must be at least 1; got {batch_size}.")


def _pooled(
    model: HookedModel, ids: Sequence[list[int]], *, sites: Sequence[str], pooling: str, sinks: str
) -> SentenceVectors:
    left = model.tokenizer.padding_side == "left"
    batch, is_text = pad(ids, prefix=model.prefix, left=left)
    pooled = is_text if model.prefix else is_text & (is_text.cumsum(dim=-1) > 1)
    dtype = torch.promote_types(model.dtype, torch.float32)
    n_sinks: dict[str, Tensor] = {}

    def pool(values: Tensor, site: str) -> Tensor:
        kept = pooled.to(values.device)
        # Values at padding are undefined: a weight of 0 would let a NaN through.
        text = values.to(dtype).masked_fill(~kept[..., None], 0)
        massive = _massive(text.norm(dim=-1), kept)
        n_sinks[site] = massive.sum().to(model.device)
        weights = _weights(kept & ~massive if sinks == "drop" else kept, pooling=pooling)
        return torch.einsum("bpd,bp->bd", text, weights.to(dtype)).to(model.device)

    gathered = model.collect(batch, sites, reduce=pool)
    return SentenceVectors(*(torch.stack([f[site] for site in sites]) for f in (gathered, n_sinks)))


def _massive(
    norms: Float[Tensor, "batch pos"], pooled: Bool[Tensor, "batch pos"]
) -> Bool[Tensor, "batch pos"]:
    """Mark positions of massive norm; never the median itself, so that one is always pooled."""
    median = norms.masked_fill(~pooled, torch.nan).nanmedian(dim=-1, keepdim=True).values
    # An infinity stays, and is refused later.
    return pooled & (norms > SINK_FACTOR * median) & norms.isfinite()


def _weights(pooled: Bool[Tensor, "batch pos"], *, pooling: str) -> Float[Tensor, "batch pos"]:
    if pooling == "mean":
        return pooled.double() / pooled.sum(dim=-1, keepdim=True)
    last = pooled.cumsum(dim=-1).argmax(dim=-1)
    return torch.nn.functional.one_hot(last, num_classes=pooled.shape[-1]).double()


def _require_finite(
    vectors: Float[Tensor, "layer sentence d_model"], *, sites: Sequence[str], model: HookedModel
) -> None:
    for site, layer in zip(sites, vectors, strict=True):
        if not bool(torch.isfinite(layer).all()):
            raise ActivationError(
                f"Values at {site} of {model.name} are not finite (NaN or infinity). The weights "
                f"may be broken, or {model.dtype} too narrow: try bfloat16 or float32."
            )
