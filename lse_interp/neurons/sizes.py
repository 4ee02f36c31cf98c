"""How many neurons each language has, and where in the depth they sit."""

import numpy as np
import pandas as pd

from lse_interp.core.languages import describe
from lse_interp.neurons.sets import NeuronSets

__all__ = ["depth_profile", "size_report", "subnetwork_sizes"]

_HEADINGS = {
    "n_neurons": "neurons",
    "n_trainable": "trainable",
    "percent": "% of model",
    "lower": "% lower",
    "middle": "% middle",
    "upper": "% upper third",
    "median_layer": "median layer",
}


def subnetwork_sizes(neurons: NeuronSets) -> pd.DataFrame:
    """Tabulate the size of each language's subnetwork.

    Columns: language, name, n_neurons, n_trainable (weights), percent (of all parameters of the
    model).

    Args:
        neurons: the sets.

    Source: paper, Table 1 and Figure 11.
    """
    rows = [
        {
            "language": language,
            "name": describe(language).name,
            "n_neurons": neurons.size(language),
            "n_trainable": neurons.n_trainable(language),
        }
        for language in neurons
    ]
    frame = pd.DataFrame(rows)
    return frame.assign(percent=100 * frame["n_trainable"] / neurons.model.n_parameters)


def depth_profile(neurons: NeuronSets) -> pd.DataFrame:
    """Say where in the depth each language's neurons sit.

    Columns: language; lower, middle, upper (percent of its neurons in each third of the layers,
    split as evenly as `numpy.array_split` does); median_layer. NaN for a language without neurons.
    """
    rows = []
    for language in neurons:
        n = neurons.counts(language).numpy()
        size = n.sum()
        thirds = [100 * part.sum() / size if size else np.nan for part in np.array_split(n, 3)]
        layers = np.repeat(np.arange(len(n)), n)
        rows.append((language, *thirds, np.median(layers) if size else np.nan))
    return pd.DataFrame(rows, columns=["language", "lower", "middle", "upper", "median_layer"])


def size_report(neurons: NeuronSets) -> str:
    """Tabulate sizes and depths, and say how many neurons belong to some language."""
    table = subnetwork_sizes(neurons).merge(depth_profile(neurons), on="language")
    shares = dict.fromkeys(("% lower", "% middle", "% upper third"), "{:.0f}".format)
    text = table.rename(columns=_HEADINGS).to_string(
        index=False, formatters={"% of model": "{:.2f}".format, **shares}
    )
    n_union, n_all = int(neurons.union().sum()), neurons.model.n_layers * neurons.model.d_mlp
    return (
        f"{text}\n{neurons.model.name}: {n_union} of {n_all} neurons "
        f"({100 * n_union / n_all:.2f} %) belong to at least one of {len(neurons)} languages"
    )
