"""Table 1 and Figure 11: neurons, trainable parameters and their share, language by language.

python -m analyses.table01_subnetworks
python -m analyses.table01_subnetworks --masks released_masks/llama-3.1-5

For the two models of the paper the published numbers stand beside.
"""

import dataclasses
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analyses.sources import NeuronArgs, command, describe_neurons, read_neurons
from lse_interp.artifacts.atomic import write_atomic
from lse_interp.core.cli import CONFIG_FLAT, main_for
from lse_interp.neurons.formats.masks_pth import RELEASED_MODELS
from lse_interp.neurons.sizes import subnetwork_sizes
from lse_interp.plotting.style import figure_stem

__all__ = ["Config", "beside_published", "differences", "main", "run", "to_markdown"]

logger = logging.getLogger(__name__)

_PAPER = Path(__file__).parent / "paper"
_PUBLISHED = {
    RELEASED_MODELS["llama-3.1-5"].name: _PAPER / "table01.csv",
    RELEASED_MODELS["nemo-5"].name: _PAPER / "figure11.csv",
}
_COMPARED = ("n_neurons", "trainable_millions", "percent")


@dataclasses.dataclass(frozen=True)
class Config:
    """Tabulate the subnetworks."""

    source: CONFIG_FLAT[NeuronArgs] = NeuronArgs()


def beside_published(own: pd.DataFrame, *, model: str) -> pd.DataFrame:
    """Add the published numbers, where the paper has that model.

    Args:
        own: language, name, n_neurons, n_trainable, percent.
        model: hub id.

    Returns:
        `own` sorted by language, with `published_n_neurons`, `published_trainable_millions` and
        `published_percent` (text, at the printed precision) for a model of the paper.
    """
    own = own.sort_values("language", ignore_index=True)
    if model not in _PUBLISHED:
        return own
    published = pd.read_csv(_PUBLISHED[model], dtype=str).set_index("language")
    return own.join(published.add_prefix("published_"), on="language")


def differences(frame: pd.DataFrame) -> list[str]:
    """List the published languages whose numbers differ at the printed precision."""
    printed = _printed(frame)
    published = frame[frame["published_n_neurons"].notna()].index
    return [
        f"{frame.at[row, 'language']}: {name} {printed.at[row, name]}, "
        f"published {frame.at[row, f'published_{name}']}"
        for row in published
        for name in _COMPARED
        if printed.at[row, name] != frame.at[row, f"published_{name}"]
    ]


def to_markdown(frame: pd.DataFrame) -> str:
    """Write the table as the paper prints it, published numbers beside where there are any."""
    printed = _printed(frame)
    small = frame["n_trainable"].max() < 1e6
    columns = {
        "Language": frame["name"],
        "Neurons": frame["n_neurons"].map("{:,}".format),
        "Trainable": frame["n_trainable"].map("{:,}".format)
        if small
        else printed["trainable_millions"] + "M",
        "%": printed["percent"],
    }
    if "published_n_neurons" in frame:
        columns["Published: neurons"] = frame["published_n_neurons"].fillna("")
        columns["trainable"] = (frame["published_trainable_millions"] + "M").fillna("")
        columns["% "] = frame["published_percent"].fillna("")
    lines = [list(columns), ["---", *["---:"] * (len(columns) - 1)]]
    lines += [list(row) for row in zip(*columns.values(), strict=True)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def run(config: Config, *, script: str = "table01_subnetworks") -> list[Path]:
    """Write csv and markdown, print the table, and say whether it equals the published one.

    Args:
        config: which neurons.
        script: what the table and the command that writes it are named after.
    """
    neurons = read_neurons(config.source)
    frame = beside_published(subnetwork_sizes(neurons), model=neurons.model.name)
    text = to_markdown(frame)
    about = f"Source: {describe_neurons(neurons)}. `{command(script, config.source)}`\n"
    stem = figure_stem(config.source.figures, script.removesuffix("_nemo"), neurons.model)
    csv, markdown = (stem.with_name(f"{stem.name}.{suffix}") for suffix in ("csv", "md"))
    write_atomic(csv, lambda path: frame.to_csv(path, index=False))
    write_atomic(markdown, lambda path: path.write_text(f"{text}\n{about}", encoding="utf-8"))
    sys.stdout.write(text)
    if "published_n_neurons" in frame:
        _compare(frame)
    logger.info("wrote %s", markdown)
    return [csv, markdown]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script from the command line."""
    return main_for(Config, run, argv, description=__doc__)


def _printed(frame: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "n_neurons": frame["n_neurons"].map(str),
            "trainable_millions": (frame["n_trainable"] / 1e6).map("{:.1f}".format),
            "percent": frame["percent"].map("{:.2f}".format),
        }
    )


def _compare(frame: pd.DataFrame) -> None:
    found, n_published = differences(frame), int(frame["published_n_neurons"].notna().sum())
    if not found:
        logger.info("all %d published rows equal, at the printed precision", n_published)
    for line in found:
        logger.info("differs: %s", line)


if __name__ == "__main__":
    raise SystemExit(main())
