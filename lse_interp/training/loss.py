"""The loss of a causal language model, whole or in chunks of positions.

The logits of a large vocabulary are the largest tensor of a training step. In chunks, they exist
for `chunk` positions at a time. If the head is frozen, the forward pass forms the gradient of its
input too, so nothing is computed twice. A trained head is recomputed in the backward pass.
"""

from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from lse_interp.core.errors import UnsupportedModelError
from lse_interp.data.packing import IGNORE
from lse_interp.models.architectures import HFModel

__all__ = ["check_chunked", "total_loss"]


def total_loss(
    hf: HFModel,
    ids: Int64[Tensor, "batch pos"],
    labels: Int64[Tensor, "batch pos"],
    *,
    chunk: int | None = None,
) -> Float[Tensor, ""]:
    """Sum the negative log-likelihood of the labels, in nats.

    loss = - sum over b, t of log p(labels[b, t + 1] | ids[b, <= t]), without labels `IGNORE`.
    Token losses are taken in float32 (float64 for a float64 model).

    Args:
        hf: A transformers causal language model.
        ids: Token ids.
        labels: The same ids, `IGNORE` at positions that are not predicted.
        chunk: Positions whose logits exist at a time; None computes them all at once.
    """
    targets = torch.cat([labels[:, 1:], labels.new_full((len(labels), 1), IGNORE)], dim=1)
    if chunk is None:
        logits = hf(input_ids=ids, use_cache=False).logits
        return _nats(logits.flatten(0, 1), targets.flatten())
    hidden = hf.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
    head = hf.get_output_embeddings()
    flat, targets = hidden.flatten(0, 1), targets.flatten()
    if any(weight.requires_grad for weight in head.parameters()):
        pieces = zip(flat.split(chunk), targets.split(chunk), strict=True)
        return torch.stack(
            [checkpoint(_head_nats, head, h, t, use_reentrant=False) for h, t in pieces]
        ).sum()
    return _FrozenHead.apply(flat, targets, head, chunk)


def check_chunked(hf: HFModel) -> None:
    """Refuse models whose logits are more than a linear map of the last hidden state.

    Raises:
        UnsupportedModelError: A soft cap or a scale, before or behind the head.
    """
    ids = torch.arange(4, device=next(hf.parameters()).device).view(1, 4)
    head = hf.get_output_embeddings()
    seen: list[Tensor] = []

    # Large logits in place of the head's own: a soft cap leaves small ones all but untouched.
    def probe(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        large = torch.linspace(-100, 100, output.numel()).view(output.shape).to(output)
        seen.extend((inputs[0], large))
        return large

    with torch.no_grad():
        handle = head.register_forward_hook(probe)
        try:
            found = hf(input_ids=ids, use_cache=False).logits
        finally:
            handle.remove()
        hidden = hf.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
    given, large = seen
    is_plain = torch.allclose(given.float(), hidden.float(), rtol=1e-3, atol=1e-3)
    if not (is_plain and torch.equal(found.float(), large.float())):
        raise UnsupportedModelError(
            f"{type(hf).__name__} does more than one linear map behind its last layer (a soft cap "
            "or a scale), so its loss cannot be taken in chunks. Leave out --loss-chunk."
        )


class _FrozenHead(torch.autograd.Function):
    """Cross-entropy behind a frozen head; logits exist for one chunk at a time."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Float[Tensor, "pos d_model"],
        targets: Int64[Tensor, " pos"],
        head: nn.Module,
        chunk: int,
    ) -> Float[Tensor, ""]:
        wanted = ctx.needs_input_grad[0]
        total = hidden.new_zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32))
        gradient = torch.empty_like(hidden) if wanted else None
        for start in range(0, len(hidden), chunk):
            part = slice(start, start + chunk)
            logits = head(hidden[part]).to(total.dtype)
            target = targets[part]
            counted = target != IGNORE
            index = target.masked_fill(~counted, 0).unsqueeze(1)
            p = logits.log_softmax(dim=1)
            del logits
            total -= p.gather(1, index).squeeze(1).masked_fill(~counted, 0.0).sum()
            if gradient is not None:
                p.exp_()
                p.scatter_add_(1, index, p.new_full((len(p), 1), -1.0))
                through = p.to(head.weight.dtype) @ head.weight
                gradient[part] = through.masked_fill_(~counted.unsqueeze(1), 0.0)
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, dtotal: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * dtotal.to(gradient.dtype), None, None, None


def _head_nats(head: nn.Module, hidden: Tensor, targets: Tensor) -> Float[Tensor, ""]:
    return _nats(head(hidden), targets)


def _nats(logits: Float[Tensor, "pos vocab"], targets: Int64[Tensor, " pos"]) -> Float[Tensor, ""]:
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return functional.cross_entropy(wide, targets, ignore_index=IGNORE, reduction="sum")
