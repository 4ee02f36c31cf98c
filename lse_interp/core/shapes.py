"""The axis glossary: every jaxtyping shape in this package is spelled with these words.

A one-axis shape takes a leading space: `Float[Tensor, " neuron"]`. An axis that differs from call
to call, as the number of neurons per layer does, takes a leading underscore: `" _neuron"`.
"""

__all__ = ["AXES"]

AXES: dict[str, str] = {
    "batch": "sequences in one forward pass",
    "pos": "token positions",
    "layer": "transformer blocks, 0 at the input",
    "neuron": "hidden units of one MLP (d_mlp of them)",
    "d_model": "width of the residual stream",
    "lang": "languages, addressed by ISO 639-3 code through a label list",
    "sentence": "parallel sentences: the same index means the same sentence",
    "block": "sequences that a corpus is cut into",
    "shard": "consecutive pieces of a corpus, counted separately",
    "vocab": "entries of the tokenizer",
    "model": "models compared, by label",
    "vectors": "how sentence vectors are read: centred, raw",
    "statistic": "what is measured of them: cosine, shuffled, gap, retrieval",
    "ablated": "languages whose neurons are switched off",
    "measured": "languages whose loss is measured",
    "projection": "gate, up, down, in this order; up, down where there is no gate",
    "quantile": "levels of a distribution",
    "bin": "bins of a histogram",
    "edge": "their limits, one more",
    "cell": "combinations of layer and projection",
    "document": "questions of one evaluation task",
    "width": "last axis of a site: neurons, or d_model",
    "row": "rows of a matrix",
    "index": "entries along one axis of a weight",
    "other": "neurons of another set",
    "common": "neurons that two sets share",
    "pos_so_far": "positions read before",
    "resample": "draws of a bootstrap",
    "pos_out": "positions written",
    "which": "kinds of example of a neuron: strongest, middling, weak, random",
    "example": "examples of one kind",
    "window": "tokens around an example",
    "value": "entries of a tensor, flat",
}
"""Axis -> what it runs over."""
