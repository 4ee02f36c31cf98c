"""Fine-tuning runs made by hand: chosen rows of a model, moved by noise."""

import pandas as pd
import torch

from lse_interp.models.mlp_weights import read_rows
from lse_interp.subnetworks.finetune_run import CURVE_COLUMNS, FinetuneRun

NO_CURVES = pd.DataFrame(columns=list(CURVE_COLUMNS))


def chosen(model, *, seed=0, sizes=(5, 0, 3)):
    """Random neurons, so many per layer in turn; some layers have none."""
    random = torch.Generator().manual_seed(seed)
    n_neurons = [sizes[layer % len(sizes)] for layer in range(model.n_layers)]
    return [torch.randperm(model.d_mlp, generator=random)[:n].sort().values for n in n_neurons]


def make_run(model, neurons=None, *, language="mlt", method="target", seed=0, std=0.2):
    """A run whose rows are those of the model, plus noise."""
    random = torch.Generator().manual_seed(seed)
    lists = chosen(model, seed=seed) if neurons is None else neurons
    base = [read_rows(model, layer, list_) for layer, list_ in enumerate(lists)]
    noise = [std * torch.randn(part.shape, generator=random) for part in base]
    return FinetuneRun(
        language=language,
        method=method,
        model=model.info,
        neurons=tuple(lists),
        rows=tuple(part + change.to(part) for part, change in zip(base, noise, strict=True)),
        base=tuple(base),
        curves=NO_CURVES,
        settings={},
        results={},
    )


def record_alone(model, method, *, language="mlt"):
    """A run that carries no rows."""
    return FinetuneRun(
        language=language,
        method=method,
        model=model.info,
        neurons=None,
        rows=None,
        base=None,
        curves=NO_CURVES,
        settings={},
        results={},
    )
