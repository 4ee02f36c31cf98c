"""Table 1 and Figure 11: neurons, trainable parameters and their share, language by language.

python -m analyses table01
python -m analyses table01 --masks released_masks/llama-3.1-5
python -m analyses fig11
python -m analyses fig11 --masks released_masks/nemo-5

For the two models of the paper the published numbers are added. Figure 11 is a table of the second
model, which the paper prints as a figure; without neurons named, it is the published one.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from analyses import published
from analyses.neuron_source import describe_neurons
from analyses.registry import FIGURES, Figure, Request
from lse_interp.neurons.formats.masks_pth import RELEASED_MODELS
from lse_interp.neurons.sets import NeuronSets
from lse_interp.neurons.sizes import subnetwork_sizes
from lse_interp.plotting.picture import COMMAND, Page, markdown_table
from lse_interp.plotting.style import language_label

__all__ = ["PUBLISHED", "beside_published", "differences", "draw", "draw_published", "to_markdown"]

logger = logging.getLogger(__name__)

_PAPER = Path(__file__).parent / "paper"
PUBLISHED = {
    RELEASED_MODELS["llama-3.1-5"].name: _PAPER / "table01.csv",
    RELEASED_MODELS["nemo-5"].name: _PAPER / "figure11.csv",
}
"""Hub id -> the table of the paper."""
_COMPARED = ("n_neurons", "trainable_millions", "percent")


def draw(neurons: NeuronSets, request: Request) -> Iterator[Page]:
    """Tabulate the subnetworks, and say whether they equal the published ones."""
    frame = beside_published(subnetwork_sizes(neurons), model=neurons.model.name)
    text = to_markdown(frame)
    if "published_n_neurons" in frame:
        _compare(frame)
    yield Page(
        name=f"{request.figure}_subnetworks",
        frame=frame,
        markdown=f"{text}\nSource: {describe_neurons(neurons)}. `{COMMAND}`\n",
        model=neurons.model,
        printed=text,
    )


def draw_published() -> Iterator[Page]:
    """Tabulate Figure 11 as published."""
    frame = published.subnetworks("nemo")
    lines = [
        [language_label(row.language), f"{row.n_neurons:,}", f"{row.trainable_millions:.1f}M"]
        + [f"{row.percent:.2f}"]
        for row in frame.itertuples()
    ]
    text = markdown_table(["Language", "Neurons", "Trainable", "%"], lines)
    source = f"published numbers: paper, Figure 11 ({published.MODELS['nemo']})"
    yield Page(
        name="fig11_subnetworks_published",
        frame=frame,
        markdown=f"{text}\nSource: {source}. `{COMMAND}`\n",
        printed=text,
    )


def beside_published(own: pd.DataFrame, *, model: str) -> pd.DataFrame:
    """Add the published numbers, if the paper has that model.

    Args:
        own: language, name, n_neurons, n_trainable, percent.
        model: hub id.

    Returns:
        `own` sorted by language, with `published_n_neurons`, `published_trainable_millions` and
        `published_percent` (text, at the printed precision) for a model of the paper.
    """
    own = own.sort_values("language", ignore_index=True)
    if model not in PUBLISHED:
        return own
    printed = pd.read_csv(PUBLISHED[model], dtype=str).set_index("language")
    return own.join(printed.add_prefix("published_"), on="language")


def differences(frame: pd.DataFrame) -> list[str]:
    """List the published languages whose numbers differ at the printed precision."""
    printed = _printed(frame)
    rows = frame[frame["published_n_neurons"].notna()].index
    return [
        f"{frame.at[row, 'language']}: {name} {printed.at[row, name]}, "
        f"published {frame.at[row, f'published_{name}']}"
        for row in rows
        for name in _COMPARED
        if printed.at[row, name] != frame.at[row, f"published_{name}"]
    ]


def to_markdown(frame: pd.DataFrame) -> str:
    """Write the table as the paper prints it, with the published numbers if there are any."""
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
    return markdown_table(list(columns), list(zip(*columns.values(), strict=True)))


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


FIGURES.register("table01")(
    Figure("Table 1", "sizes of the subnetworks", draw, needs="neuron_sets")
)

FIGURES.register("fig11")(
    Figure(
        "Figure 11",
        "Table 1 of a second model",
        draw,
        needs="neuron_sets",
        published=draw_published,
        model="second",
        inline=False,
    )
)
