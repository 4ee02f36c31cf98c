"""A tiny model with a tokenizer, text of a made-up language for it, and neurons to train."""

import contextlib
import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from lse_interp.models.hooked import HookedModel
from lse_interp.neurons.sets import NeuronSets
from lse_interp.training.checkpoints import CheckpointStore
from lse_interp.training.engines.base import NeuronRows
from lse_interp.training.engines.compact import CompactRows
from lse_interp.training.finetune_language import finetune_language
from lse_interp.training.hyperparameters import Hyperparameters
from lse_interp.training.loop import train
from lse_interp.training.token_blocks import TokenBlocks, pack_text
from tests.tiny_models import VOCAB, tiny_hf, tiny_tokenizer

N_WORDS = VOCAB - 4
BLOCK = 16
NEURONS = (tuple(range(0, 24, 2)), (), (1, 4, 5, 9, 17, 23))
OPTIONS = Hyperparameters(lr=1e-2, block_size=BLOCK, validate_every=2)


def tiny_model(seed=0, *, dtype=torch.float32):
    return HookedModel(tiny_hf("llama", seed=seed).to(dtype), tiny_tokenizer(), name="tiny")


def counting(starts, *, length=20):
    """Return documents in which each word follows from the one before."""
    return [
        " ".join(f"w{(start + i * (1 + start % 3)) % N_WORDS}" for i in range(length))
        for start in starts
    ]


def noise(n_documents, *, seed=0, length=20):
    """Return documents of words drawn at random."""
    words = np.random.default_rng(seed).integers(0, N_WORDS, (n_documents, length))
    return [" ".join(f"w{i}" for i in document) for document in words]


TRAINING = counting(range(20))
VALIDATION = {"mlt": counting(range(20, 24)), "eng": noise(4, seed=3)}


def neuron_sets(model, *, mlt=NEURONS, eng=((0,), (3,), ())):
    sets = {
        code: tuple(torch.tensor(layer, dtype=torch.int64) for layer in layers)
        for code, layers in (("mlt", mlt), ("eng", eng))
    }
    return NeuronSets(indices=sets, model=model.info, site="mlp.hook_act", method="hand")


def tune(model, *, corpus=TRAINING, validation=VALIDATION, options=OPTIONS, folder=None, **rest):
    """Call `finetune` on the tiny model; fields of the options may be given by name."""
    return finetune_language(
        model,
        corpus,
        language="mlt",
        validation=validation,
        neurons=neuron_sets(model),
        options=options,
        folder=folder,
        **rest,
    )


def tiny_text(model, options, *, n_blocks=None, training=TRAINING, validation=VALIDATION):
    """Pack text as the profile `fixed` does, whatever the options say."""
    plain = dataclasses.replace(options, profile="fixed")
    text = pack_text(
        model, lambda: training, validation, language="mlt", n_tokens=None, options=plain
    )
    blocks = TokenBlocks(text.training.ids[:n_blocks], text.training.labels[:n_blocks])
    return dataclasses.replace(text, training=blocks)


@contextlib.contextmanager
def rows_engine(model):
    """Open the engine of the tiny neurons, and close it afterwards."""
    engine = CompactRows(NeuronRows(model, neuron_sets(model)["mlt"]))
    try:
        yield engine
    finally:
        engine.close()


def fit(model, engine, folder, *, options=OPTIONS, text=None, log_folder=None):
    """Run the loop alone; the engine is left open, so that the model can be looked at."""
    text = text or tiny_text(model, options)
    return train(
        model.hf,
        engine,
        text=text,
        options=options,
        language="mlt",
        store=CheckpointStore(folder, {}),
        log_folder=log_folder,
    )


class Stopped(Exception):
    pass


@contextlib.contextmanager
def stopped_at(model, n_batches, *, expected=True):
    """Stop the run in training batch `n_batches`, from 0, and expect that it gets there or not."""
    seen = iter(range(n_batches))

    def stop(*_):
        if torch.is_grad_enabled() and next(seen, None) is None:
            raise Stopped

    handle = model.hf.register_forward_pre_hook(stop)
    with pytest.raises(Stopped) if expected else contextlib.nullcontext():
        yield
    handle.remove()


def same_run(found, expected):
    """Compare what two runs found, to the bit."""
    pd.testing.assert_frame_equal(found.curves, expected.curves, check_exact=True)
    for ours, theirs in zip(found.rows, expected.rows, strict=True):
        assert torch.equal(ours, theirs)
    timed = ("tokens_per_second", "peak_memory_bytes")
    kept = [{k: v for k, v in run.results.items() if k not in timed} for run in (found, expected)]
    assert kept[0] == kept[1]
