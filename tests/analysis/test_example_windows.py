"""Values around all examples at once: against the values of all tokens."""

import numpy as np
import pytest
import torch

from lse_interp.analysis.example_collection import collect_examples
from lse_interp.analysis.example_streams import ABSENT
from lse_interp.analysis.example_windows import window_values
from lse_interp.core.errors import LanguageError, LseError, MismatchError
from tests.analysis.test_neuron_examples import BLOCK, short_blocks, slow_values
from tests.test_ablation import D_MLP, N_LAYERS

DOCUMENTS = ("", "Il-qattus jorqod.", "Xita.", "", "Illum kalm, u l-kelb ukoll.")


@pytest.mark.parametrize(("before", "after", "batch_tokens"), [(3, 2, 20), (0, 0, 999), (40, 9, 1)])
def test_window_values_are_those_of_the_same_block(before, after, batch_tokens):
    model = short_blocks()
    examples = collect_examples(model, {"eng": ["Rain."], "mlt": DOCUMENTS}, k=5)
    options = {"before": before, "after": after, "batch_tokens": batch_tokens}
    found = window_values(examples, model, "Maltese", **options)
    assert found.shape == (5, N_LAYERS, D_MLP, 5, before + after + 1)
    values = slow_values(model, DOCUMENTS, "mlp.hook_act")
    block_of = []
    for document, length in enumerate(examples.lengths["mlt"]):
        block_of += [(document, token // (BLOCK - 1)) for token in range(length)]
    expected = np.full(found.shape, np.nan)
    places = examples.positions[:, 1]
    for cell in (places != ABSENT).nonzero().tolist():
        position = int(places[tuple(cell)])
        for place, at in enumerate(range(position - before, position + after + 1)):
            if 0 <= at < len(block_of) and block_of[at] == block_of[position]:
                expected[(*cell, place)] = values[cell[1], at, cell[2]]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)
    torch.testing.assert_close(
        found[..., before], examples.values[:, 1], rtol=1e-6, atol=0, equal_nan=True
    )


def test_window_values_refuses_what_does_not_fit():
    model = short_blocks()
    examples = collect_examples(model, {"mlt": DOCUMENTS})
    with pytest.raises(MismatchError, match="other weights"):
        window_values(examples, short_blocks(seed=1), "mlt")
    with pytest.raises(LanguageError, match="no examples in deu"):
        window_values(examples, model, "deu")
    with pytest.raises(LseError, match="`after` must be at least 0; got -1"):
        window_values(examples, model, "mlt", after=-1)
