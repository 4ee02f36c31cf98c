"""What a forward pass is given: token ids, where they are padding, and their positions."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from lse_interp.core.errors import LseError, UnsupportedModelError
from lse_interp.models.architectures import HFModel, without_adapter

__all__ = ["Batch", "forward_inputs"]

Batch = Int[Tensor, "batch pos"] | Mapping[str, Any] | str | Sequence[str]
"""Token ids [batch pos]; a mapping with `input_ids` and `attention_mask`, both [batch pos]; or
text: one sentence or several."""


def forward_inputs(
    hf: HFModel, batch: Int[Tensor, "..."] | Mapping[str, Any]
) -> dict[str, Int[Tensor, "batch pos"]]:
    """Check a batch of token ids and bring it to the model's device.

    Positions are counted from the attention mask, so that padding on either side moves no token.

    Args:
        hf: The transformers model.
        batch: Token ids, or a mapping with `input_ids` and perhaps `attention_mask`; other keys
            are not used.

    Raises:
        LseError: No `input_ids`, ids that are not [batch pos], or a mask of another shape.
        UnsupportedModelError: Padding on the left, of a model that would count it.
    """
    if isinstance(batch, Tensor):
        batch = {"input_ids": batch}
    if "input_ids" not in batch:
        raise LseError(f"A batch needs input_ids; got the keys {sorted(batch)}.")
    device = hf.get_input_embeddings().weight.device
    ids = torch.as_tensor(batch["input_ids"]).to(device)
    if ids.ndim != 2:
        raise LseError(
            f"input_ids should be [batch pos]; got shape {list(ids.shape)}. "
            "Give one sequence as a batch of one."
        )
    mask = batch.get("attention_mask")
    if mask is None:
        return {"input_ids": ids}
    mask = torch.as_tensor(mask).to(device)
    if mask.shape != ids.shape:
        raise LseError(
            f"attention_mask should have the shape of input_ids, {list(ids.shape)}; "
            f"got {list(mask.shape)}."
        )
    inputs = {"input_ids": ids, "attention_mask": mask}
    decoder = without_adapter(hf).base_model
    # BLOOM takes no positions: its ALiBi biases come from the attention mask.
    if "position_ids" in inspect.signature(decoder.forward).parameters:
        inputs["position_ids"] = (mask.long().cumsum(dim=-1) - 1).clamp(min=0)
    elif any("position" in name for name, _ in decoder.named_modules()) and not mask[:, 0].all():
        raise UnsupportedModelError(
            f"{type(hf).__name__} counts positions from the start of a row, padding included. Pad "
            "on the right: tokenizer.padding_side = 'right'."
        )
    return inputs
