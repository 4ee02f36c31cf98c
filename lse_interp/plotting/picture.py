"""Pictures and pages with what they say about themselves, ready to be saved."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes

from lse_interp.artifacts.atomic import write_together
from lse_interp.models.info import ModelInfo
from lse_interp.plotting.style import figure_stem, save_figure

__all__ = ["COMMAND", "Page", "Picture", "markdown_table"]

COMMAND = "<command>"
"""Placeholder in the text of a page for the command that writes it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure that was drawn."""

    name: str
    """Name of the files, without the model's name and the suffix."""
    axes: Axes
    """Any Axes of the figure."""
    frame: pd.DataFrame
    """Every number drawn."""
    source: str
    """Source of the numbers: model, data, settings."""
    title: str
    """One line."""
    caption: str
    """A sentence or two."""
    model: ModelInfo | None = None
    """The model that names the files; see `figure_stem`."""
    printed: str = ""
    """What a terminal shows."""

    def save(self, folder: Path, *, command: str) -> list[Path]:
        """Write png, pdf and csv; return them."""
        return save_figure(
            self.axes.figure,
            figure_stem(folder, self.name, self.model),
            frame=self.frame,
            source=self.source,
            title=self.title,
            caption=self.caption,
            command=command,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Page:
    """A table, or several on one page."""

    name: str
    """Name of the files, without the model's name and the suffix."""
    frame: pd.DataFrame
    """Every number of the page."""
    markdown: str
    """The page, with `COMMAND` in place of the command that writes it."""
    model: ModelInfo | None = None
    """The model that names the files; see `figure_stem`."""
    printed: str = ""
    """What a terminal shows."""

    def save(self, folder: Path, *, command: str) -> list[Path]:
        """Write the page as markdown and its numbers as csv; return them."""
        stem = figure_stem(folder, self.name, self.model)
        page, csv = (stem.with_name(f"{stem.name}.{suffix}") for suffix in ("md", "csv"))
        text = self.markdown.replace(COMMAND, command)
        write_together(
            {
                page: lambda path: path.write_text(text, encoding="utf-8"),
                csv: lambda path: self.frame.to_csv(path, index=False),
            }
        )
        return [page, csv]


def markdown_table(head: Sequence[str], lines: Sequence[Sequence[str]], *, n_left: int = 1) -> str:
    """Write a markdown table, the first `n_left` columns left, the others right.

    >>> print(markdown_table(["a", "b"], [["x", "1"]]), end="")
    | a | b |
    | --- | ---: |
    | x | 1 |
    """
    rules = ["---" if place < n_left else "---:" for place in range(len(head))]
    rows = [list(head), rules, *map(list, lines)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
