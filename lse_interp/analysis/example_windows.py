"""The values around the examples of all neurons at once, in a second pass over the text.

`NeuronExamples.windows` shows a few neurons. To show every neuron, read the text once more:

    around = window_values(examples, model, "mlt")  # [which layer neuron example window]

Memory: which * layers * neurons * k * window * 4 bytes, of one language.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from lse_interp.analysis.example_collection import read_tokens
from lse_interp.analysis.neuron_examples import NeuronExamples
from lse_interp.core.errors import LseError
from lse_interp.models.hooked import HookedModel

__all__ = ["window_values"]


def window_values(
    examples: NeuronExamples,
    model: HookedModel,
    language: str,
    *,
    before: int = 16,
    after: int = 8,
    batch_tokens: int = 4096,
) -> Float32[Tensor, "which layer neuron example window"]:
    """Read the value of each neuron at the tokens around each of its examples.

    Args:
        examples: The examples.
        model: Their model.
        language: In any spelling.
        before: Tokens before an example.
        after: Tokens after it.
        batch_tokens: As in `collect_examples`.

    Returns:
        The values; the example is at `before`. NaN where there is no example, and outside of its
        document (or of the block that it was read in).

    Raises:
        LanguageError: No text of that language.
        MismatchError: Another model, or a tokenizer that reads the text differently.
        LseError: A number out of range.
    """
    for name, number, least in (
        ("before", before, 0),
        ("after", after, 0),
        ("batch_tokens", batch_tokens, 1),
    ):
        if number < least:
            raise LseError(f"`{name}` must be at least {least}; got {number}.")
    code = examples.code(language)
    documents = [encoded.ids for encoded in examples.encode(model, code)]
    positions = examples.positions[:, examples.languages.index(code)]
    offsets = torch.arange(-before, after + 1)
    found = torch.full((*positions.shape, len(offsets)), torch.nan)
    blocks = _blocks(documents, examples.block)

    def see(layer: int) -> Callable[[Tensor, Tensor], None]:
        def fill(values: Float[Tensor, "pos neuron"], read: Int64[Tensor, " pos"]) -> None:
            row_of = torch.full((len(blocks),), -1)
            row_of[read] = torch.arange(len(read))
            cells = positions[:, layer].long()
            here = (cells >= 0) & (row_of[cells.clamp(min=0)] >= 0)
            which, neuron, example = here.nonzero(as_tuple=True)
            center = cells[here][:, None]
            at = (center + offsets).clamp(0, len(blocks) - 1)
            # Clamped positions are repeats, not places of their own.
            inside = (blocks[at] == blocks[center]) & (at == center + offsets)
            rows = row_of[at.where(inside, center)]
            around = values.cpu().float()[rows, neuron[:, None]]
            found[which, layer, neuron, example] = around.masked_fill(~inside, torch.nan)

        return fill

    read_tokens(
        model,
        documents,
        [see(layer) for layer in range(model.n_layers)],
        site=examples.site,
        block=examples.block,
        batch_tokens=batch_tokens,
    )
    return found


def _blocks(documents: list[list[int]], block: int) -> Int64[Tensor, " pos"]:
    """Number the blocks that documents are read in, per token."""
    lengths = [
        min(block, len(ids) - start) for ids in documents for start in range(0, len(ids), block)
    ]
    return torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
