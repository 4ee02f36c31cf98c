"""Text in, token blocks out: corpora, parallel sentences, packing.

Nothing here knows a model; a tokenizer is the only thing taken from one. Names are imported on
first use, so that reading an option needs no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lse_interp.data.corpora import Corpus, load_corpus
    from lse_interp.data.packing import Block, batches, pack
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

_HOMES = {
    "Block": "packing",
    "Corpus": "corpora",
    "ParallelText": "parallel",
    "batches": "packing",
    "load_corpus": "corpora",
    "load_parallel": "parallel",
    "pack": "packing",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
