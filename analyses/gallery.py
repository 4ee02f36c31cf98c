"""The index page of figures/: every picture with its caption, source and command.

A picture holds its caption, source and command in the text chunks of its png; see
`lse_interp.plotting.style.save_figure`.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from analyses.registry import FIGURES, Figure
from lse_interp.artifacts.atomic import write_atomic

__all__ = ["write_gallery"]

_OPENING = """\
# Figures

Every picture is a png, a pdf and the csv of its numbers. `make figures` draws them again from the
finished artefacts in `runs/`, which `make demo` writes, and from the published numbers in
`analyses/paper`, and rewrites this page. Sources: *embedded* is the small model of this
repository, *published* are the numbers the paper prints, *released* are the paper's neuron
masks, and *own run* is any other model.

"""
_SECTIONS = ("Figure", "Appendix", "Table", "Tables")
_NEMO = "--masks released_masks/nemo-5"


def write_gallery(folder: Path) -> Path:
    """Write `folder/README.md`: an index in the paper's order, and every figure and table.

    Pictures that name no command are left out: they are not from here.
    """
    pictures = [png for png in sorted(folder.glob("*.png")) if _about(png).get("Comment")]
    files = [*pictures, *sorted(path for path in folder.glob("*.md") if path.name != "README.md")]
    figures = {name: FIGURES[name] for name in sorted(FIGURES, key=_place)}
    home = {path: _home(path, figures) for path in files}
    of_figure = {name: _in_order(figures[name], name, home) for name in figures}
    entries = [_section(figures[name], path) for name, paths in of_figure.items() for path in paths]
    entries += [_entry(png) for png in pictures if home[png] is None]
    page = folder / "README.md"
    text = _OPENING + _index(figures, of_figure) + "\n" + "\n".join(filter(None, entries))
    write_atomic(page, lambda path: path.write_text(text, encoding="utf-8"))
    return page


def _place(name: str) -> tuple[int, int]:
    """Return the place of a figure in the paper; additions come last."""
    section, _, number = FIGURES[name].paper.partition(" ")
    rank = _SECTIONS.index(section) if section in _SECTIONS else len(_SECTIONS)
    found = re.match(r"\d+", number)
    return rank, int(found[0]) if found else 0


def _stems(figure: Figure, name: str) -> tuple[str, ...]:
    return figure.stems or (name,)


def _home(path: Path, figures: dict[str, Figure]) -> str | None:
    """Return the figure that a file belongs to: that with the longest fitting stem."""
    fitting = [
        (len(stem), name)
        for name, figure in figures.items()
        for stem in _stems(figure, name)
        if path.stem.startswith(stem)
    ]
    return max(fitting)[1] if fitting else None


def _in_order(figure: Figure, name: str, home: dict[Path, str | None]) -> list[Path]:
    """Return the files of a figure, in the order of its stems."""
    stems = _stems(figure, name)
    own = [path for path, owner in home.items() if owner == name]
    return sorted(own, key=lambda path: [not path.stem.startswith(stem) for stem in stems])


def _index(figures: dict[str, Figure], of_figure: dict[str, list[Path]]) -> str:
    lines = ["| Paper | What | Here | Script | Sources |", "| --- | --- | --- | --- | --- |"]
    for name, figure in figures.items():
        package, _, module = figure.module.rpartition(".")
        script = f"[{name}](../analyses/{module}.py)" if package == "analyses" else name
        links = _links(name, figure, of_figure[name])
        lines.append(f"| {figure.paper} | {figure.what} | {links} | {script} | {figure.sources} |")
    return "\n".join(lines) + "\n"


def _links(name: str, figure: Figure, paths: Iterable[Path]) -> str:
    links = [f"[{path.stem}]({path.name})" for path in paths]
    hint = f" {_NEMO}" if figure.model == "second" and figure.published is None else ""
    return ", ".join(links) or f"not drawn here; `python -m analyses {name}{hint}`"


def _section(figure: Figure, path: Path) -> str:
    if path.suffix == ".png":
        return _entry(path, prefix=f"{figure.paper}: " if figure.paper != "addition" else "")
    if not figure.inline:
        return ""
    text = path.read_text(encoding="utf-8")
    return f"## {figure.paper}: {figure.what} ({path.stem})\n\n{text}"


def _about(png: Path) -> dict[str, str]:
    with Image.open(png) as image:
        return {key: value for key, value in image.info.items() if isinstance(value, str)}


def _entry(png: Path, *, prefix: str = "") -> str:
    about = _about(png)
    links = ", ".join(f"[{suffix}]({png.stem}.{suffix})" for suffix in ("pdf", "csv"))
    return (
        f"## {prefix}{about['Title']}\n\n![{about['Title']}]({png.name})\n\n"
        f"{about['Description']}\n\n"
        f"Source: {about['Source']}. Files: {links}. Command: `{about['Comment']}`\n"
    )
