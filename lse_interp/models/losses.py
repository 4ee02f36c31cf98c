"""How well a model predicts sentences: nats per sentence."""

from collections.abc import Sequence

import torch
from jaxtyping import Float64
from torch import Tensor
from torch.nn import functional

from lse_interp.core.errors import ActivationError, CorpusError, LseError
from lse_interp.models.hooked import HookedModel
from lse_interp.models.sentences import bos_ids, check_lengths, pad, token_ids

__all__ = ["sentence_losses"]

_NOT_PREDICTED = -100


def sentence_losses(
    model: HookedModel, sentences: Sequence[str], *, batch_size: int = 32
) -> Float64[Tensor, " sentence"]:
    """Sum the negative log-likelihood of each sentence's text tokens, in nats.

    loss[s] = - sum_t log p(token_t | BOS, token_1 ... token_{t-1}).

    BOS is given to the model and not predicted; padding is neither. Where the tokenizer puts no
    BOS before a text, the first token has nothing to be predicted from and is left out. Edits
    that are open (`model.edits`, `ablate`) hold. Token losses are taken in float32 (float64 for a
    float64 model) and summed in float64. Sentences run in batches of similar length.

    Args:
        model: The model, with its tokenizer.
        sentences: Texts, at least one.
        batch_size: Sentences per forward pass; changes results by rounding alone.

    Returns:
        Nats per sentence, on the CPU, in the order of `sentences`.

    Raises:
        CorpusError: No sentence, one without a token to predict, or one longer than the model's
            context.
        ActivationError: Losses that are not finite.
        LseError: A batch size below 1, or a model without a tokenizer.
    """
    if batch_size < 1:
        raise LseError(f"`batch_size` must be at least 1; got {batch_size}.")
    if not sentences:
        raise CorpusError("There is no sentence to predict; give at least one.")
    ids = token_ids(model, sentences)
    bos = bos_ids(model.tokenizer)
    check_lengths(model, ids, n_bos=len(bos))
    _require_targets(ids, n_bos=len(bos))
    losses = torch.empty(len(ids), dtype=torch.float64)
    longest_first = sorted(range(len(ids)), key=lambda i: len(ids[i]), reverse=True)
    for start in range(0, len(ids), batch_size):
        members = longest_first[start : start + batch_size]
        losses[members] = _batch_losses(model, [ids[i] for i in members], bos=bos)
    if not bool(torch.isfinite(losses).all()):
        at = int((~torch.isfinite(losses)).nonzero()[0])
        raise ActivationError(
            f"The loss of {model.name} on sentence {at + 1} is {losses[at]}. The weights may be "
            f"broken, or {model.dtype} too narrow: try bfloat16 or float32."
        )
    return losses


def _batch_losses(
    model: HookedModel, ids: Sequence[list[int]], *, bos: list[int]
) -> Float64[Tensor, " batch"]:
    batch, is_text = pad(ids, bos=bos, left=False)
    logits = model.run_with_hooks(batch, {}, logits=True)
    assert logits is not None
    # Position t predicts token t + 1; the last predicts none. Shifting the targets and not the
    # logits spares a copy of the largest tensor here.
    targets = batch["input_ids"].masked_fill(~is_text, _NOT_PREDICTED).roll(-1, dims=1)
    targets[:, -1] = _NOT_PREDICTED
    nats = functional.cross_entropy(
        logits.to(torch.promote_types(logits.dtype, torch.float32)).flatten(0, 1),
        targets.to(logits.device).flatten(),
        ignore_index=_NOT_PREDICTED,
        reduction="none",
    )
    return nats.double().view(targets.shape).sum(dim=-1).cpu()


def _require_targets(ids: Sequence[list[int]], *, n_bos: int) -> None:
    for position, sentence in enumerate(ids, start=1):
        if n_bos + len(sentence) < 2:
            raise CorpusError(
                f"Sentence {position} is one token, and this tokenizer puts no BOS before it: "
                "there is nothing to predict it from. Remove it, or make it longer."
            )
