"""The figures and tables of the paper by name, one file each in this folder.

A file draws what it is given, and registers itself:

    def draw(deltas: WeightDeltas, request: Request) -> Iterator[Picture]:
        yield Picture(name="fig06_weight_deltas", axes=plot_deltas(...), ...)

    FIGURES.register("fig06")(
        Figure("Figure 6", "changes of weights by layer", draw, needs="weight_deltas")
    )

`python -m analyses fig06` finds the artefacts, saves what `draw` yields, and puts it into the
gallery. Another package adds a figure through an entry point of the group `lse_interp.figures`.
"""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import tyro

from lse_interp.core.cli import ModelArgs
from lse_interp.core.kinds import Kinds

__all__ = ["FIGURES", "Figure", "Request"]


@dataclasses.dataclass(frozen=True)
class Request:
    """Which figure to draw, from what, and where to write it."""

    figure: tyro.conf.Positional[str]
    """A figure or table; `all`; `gallery`, the index of what was drawn; or `demo`."""
    files: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Files or folders to draw, instead of those of the run of `--model`."""
    model: str = ModelArgs.model
    """The model whose run is drawn: `embedded`, a local folder, or a hub id."""
    root: Path = Path("runs")
    """Folder of all runs."""
    source: str = ModelArgs.model
    """`embedded` (the run of `--model`), `published` (the numbers the paper prints), or a file or
    folder to draw."""
    masks: Path | None = None
    """A file of neurons saved with torch, such as the released `llama-3.1-5` and `nemo-5`, or the
    folder that holds these."""
    mask_languages: tuple[str, ...] = ()
    """The languages of `--masks` in their order, where the file does not name them."""
    mask_model: str | None = None
    """The model of `--masks`, a folder or hub id; by default that of a released file."""
    langs: tuple[str, ...] = ()
    """Languages that get a picture of their own (Figures 1, 4 and 7); by default Maltese."""
    layer: int | None = None
    """The layer that Figure 1 draws in full; by default that with most neurons."""
    method: str = "target"
    """The method of Figure 5: `target`, `random:layer`, `ffn`, `full`, `lora`, ..."""
    figures: Path = Path("figures")
    """Folder to write to."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """The requested files and folders."""
        if self.source in (ModelArgs.model, "published"):
            return self.files
        return (*self.files, Path(self.source))

    @property
    def published(self) -> bool:
        """Whether the published numbers are requested."""
        return self.source == "published"

    @property
    def command(self) -> str:
        """The command that draws the same again."""
        words = ["python -m analyses", self.figure, *map(str, self.files)]
        for field in dataclasses.fields(self)[2:]:
            value = getattr(self, field.name)
            if value != field.default:
                words.append(f"--{field.name.replace('_', '-')}")
                words += map(str, value if isinstance(value, tuple) else (value,))
        return " ".join(words)


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure or a family of tables."""

    paper: str
    """Its number in the paper, e.g. `Figure 6`; `addition` for what the paper does not have."""
    what: str
    """What it shows, in a few words."""
    draw: Callable[..., Iterator[Any]]
    """Takes what `needs` names, and the request; yields `Picture` and `Page`."""
    needs: str
    """What it is drawn from; see `analyses.artefacts.find`."""
    published: Callable[[], Iterator[Any]] | None = None
    """Draws the published numbers, if there are any."""
    model: Literal["first", "second"] = "first"
    """Which of the two models of the paper it is about."""
    stems: tuple[str, ...] = ()
    """How the names of its files begin, in the order of the gallery; by default its name."""
    inline: bool = True
    """Whether the gallery shows a table, or a link to it."""

    @property
    def module(self) -> str:
        """The module that draws it."""
        return getattr(self.draw, "func", self.draw).__module__

    @property
    def sources(self) -> str:
        """What it can be drawn from, in words."""
        words = ["embedded"] if self.model == "first" else []
        words += ["published"] if self.published is not None else []
        words += ["released"] if self.needs == "neuron_sets" else []
        return ", ".join([*words, "own run"])


FIGURES: Kinds[Figure] = Kinds("analyses", group="lse_interp.figures", what="figure")
"""Every figure and table."""
