"""The numbers the paper prints, ready to draw or to compare with others.

They are csv files in analyses/paper, which `analyses.paper.transcribe` writes from the paper.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import pandas as pd

from analyses.paper.transcribe import BENCHMARKS
from lse_interp.core.languages import PAPER_TARGETS
from lse_interp.plotting.panels import in_order

__all__ = [
    "MODELS",
    "ROWS",
    "Model",
    "alignment_averages",
    "averages",
    "downstream",
    "subnetworks",
]

Model = Literal["llama", "nemo"]

MODELS: Mapping[str, str] = {"llama": "Llama-3.1-8B", "nemo": "Mistral-Nemo-12B"}
"""Model -> its name as the paper writes it."""

ROWS: tuple[str, ...] = tuple(BENCHMARKS)
"""The rows of Table 2 without its averages, in its order."""

_FOLDER = Path(__file__).parent / "paper"
_DOWNSTREAM = {"llama": "tables03_14.csv", "nemo": "tables15_26.csv"}
_SUBNETWORKS = {"llama": "table01.csv", "nemo": "figure11.csv"}


def downstream(model: Model) -> pd.DataFrame:
    """Return Tables 3 to 14 (`llama`) or 15 to 26 (`nemo`): one row per printed number.

    Columns: table; language (ISO 639-3); method, and column, the same as printed; group (`target`
    or `general`); benchmark (empty for an average); row of Table 2 (`Avg.` for an average), and
    printed, the label of the row as printed; score in percent or BLEU; is_average.
    """
    return _in_order(_read(_DOWNSTREAM[model]))


def averages() -> pd.DataFrame:
    """Return Table 2, over the languages of Llama-3.1-8B: the columns of `downstream`, no language.

    An average has `is_average`, as in `downstream`.
    """
    return _in_order(_read("table02.csv"))


def alignment_averages() -> pd.DataFrame:
    """Return Tables 27 to 38: table, language, model, against, cosine (in percent), vectors (raw).

    `model` is the row as printed: Baseline, Full, MLP, Adapter, Random, Target.
    """
    return _read("tables27_38.csv").assign(vectors="raw")


def subnetworks(model: Model) -> pd.DataFrame:
    """Return Table 1 (`llama`) or Figure 11 (`nemo`).

    Columns: language, n_neurons, trainable_millions, percent (of all parameters).
    """
    return _read(_SUBNETWORKS[model])


def _read(name: str) -> pd.DataFrame:
    return pd.read_csv(_FOLDER / name, keep_default_na=False)


def _in_order(frame: pd.DataFrame) -> pd.DataFrame:
    """Sort languages as in Table 1 and rows as in Table 2; some tables print them otherwise."""
    orders = {"group": ("target", "general"), "row": (*ROWS, "Avg.")}
    return in_order(frame, **({"language": PAPER_TARGETS} if "language" in frame else {}), **orders)
