"""Text in, token blocks out: corpora, parallel sentences, packing.

Nothing here knows a model; a tokenizer is the only thing taken from one.
"""

from lse_interp.data.blocks import Block, batches, pack
from lse_interp.data.corpora import Corpus, load_corpus
from lse_interp.data.parallel import ParallelText, load_parallel

__all__ = [
    "Block",
    "Corpus",
    "ParallelText",
    "batches",
    "load_corpus",
    "load_parallel",
    "pack",
]
