"""The index page of figures/: every picture with its caption, source and command.

What a picture says about itself stands in the text chunks of its png; see
`lse_interp.plotting.style.save_figure`.
"""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

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


@dataclasses.dataclass(frozen=True)
class _Item:
    """A figure or a family of tables of the paper, and what draws it here."""

    paper: str
    what: str
    stems: tuple[str, ...]
    """How the names of its files begin."""
    script: str
    sources: str
    hint: str = ""
    """Flags of the command, where nothing is drawn without."""
    inline: bool = True
    """Whether a table stands on the page, or is a link only."""


_NEMO = "--masks released_masks/nemo-5"
_ITEMS = (
    _Item("Figure 1", "the method", ("fig01",), "fig01_schematic", "embedded, released, own run"),
    _Item(
        *("Figure 2", "neurons over the layers", ("fig02",), "fig02_neurons_by_layer"),
        "embedded, released, own run",
    ),
    _Item(
        *("Figure 3", "average improvement by language", ("fig03",), "fig03_improvements"),
        "embedded, published, own run",
    ),
    _Item(
        *("Figure 4", "validation loss, one language", ("fig04",), "fig04_training_dynamics"),
        "embedded, own run",
    ),
    _Item(
        *("Figure 5", "effect of the amount of text", ("fig05",), "fig05_data_size"),
        "embedded, own run",
    ),
    _Item(
        *(
            "Figure 6",
            "changes of weights by layer",
            ("fig06_weight_deltas_mlt", "fig06"),
            "fig06_weight_deltas",
        ),
        "embedded, own run",
    ),
    _Item(
        *("Figure 7", "cosine of parallel sentences", ("fig07",), "fig07_alignment"),
        "embedded, published (7c), own run",
    ),
    _Item(
        *("Figure 8", "overlap of languages", ("fig08",), "fig08_overlap"),
        "embedded, released, own run",
    ),
    _Item(
        *("Figure 9", "Figure 8 of a second model", ("fig09",), "fig09_overlap_nemo"),
        *("released, own run", _NEMO),
    ),
    _Item(
        *("Figure 10", "Figure 2 of a second model", ("fig10",), "fig10_neurons_by_layer_nemo"),
        *("released, own run", _NEMO),
    ),
    _Item(
        *("Figure 11", "Table 1 of a second model", ("fig11",), "fig11_subnetworks_nemo"),
        *("published, released, own run", ""),
        inline=False,
    ),
    _Item(
        *("Figure 12", "neurons by language", ("fig12",), "fig12_small_multiples"),
        "embedded, released, own run",
    ),
    _Item(
        *("Figure 13", "Figure 12 of a second model", ("fig13",), "fig13_small_multiples_nemo"),
        *("released, own run", _NEMO),
    ),
    _Item(
        *("Appendix B", "validation loss, all languages", ("figB",), "fig04_training_dynamics"),
        "embedded, own run",
    ),
    _Item(
        *("Table 1", "sizes of the subnetworks", ("table01",), "table01_subnetworks"),
        "embedded, released, own run",
    ),
    _Item(
        *("Table 2", "average scores of all methods", ("table02",), "table02_averages"),
        "embedded, published, own run",
    ),
    _Item(
        *("Table 2", "the same as a picture", ("fig_scores",), "fig_scores"),
        "embedded, published, own run",
    ),
    _Item(
        *("Tables 3-14", "scores by language", ("tables03",), "tables03_14_languages"),
        "embedded, published, own run",
        inline=False,
    ),
    _Item(
        *("Tables 15-26", "scores, second model", ("tables15",), "tables15_26_languages"),
        "published, own run",
        inline=False,
    ),
    _Item(
        *("Tables 27-38", "cosine averaged over layers"),
        *(("tables27", "table_alignment"), "tables27_38_alignment"),
        "embedded, published, own run",
        inline=False,
    ),
    _Item(
        *("addition", "gains and costs of all methods", ("fig_methods",), "fig_methods"),
        "embedded, own run",
    ),
    _Item(
        *("addition", "switching neurons off", ("fig_ablation",), "fig_ablation"),
        "embedded, own run",
    ),
)


def write_gallery(folder: Path) -> Path:
    """Write `folder/README.md`: an index in the paper's order, and every figure and table.

    Pictures that name no command are left out: they are not from here.
    """
    pictures = [png for png in sorted(folder.glob("*.png")) if _about(png).get("Comment")]
    files = [*pictures, *sorted(path for path in folder.glob("*.md") if path.name != "README.md")]
    of_item = {item: _files_of(item, files) for item in _ITEMS}
    entries = [_section(item, path) for item, paths in of_item.items() for path in paths]
    known = {path for paths in of_item.values() for path in paths}
    entries += [_entry(png) for png in pictures if png not in known]
    page = folder / "README.md"
    text = _OPENING + _index(of_item) + "\n" + "\n".join(filter(None, entries))
    write_atomic(page, lambda path: path.write_text(text, encoding="utf-8"))
    return page


def _files_of(item: _Item, files: Iterable[Path]) -> list[Path]:
    """Return its files, in the order of `stems`."""
    return [
        path
        for at, stem in enumerate(item.stems)
        for path in files
        if path.stem.startswith(stem) and not path.stem.startswith(item.stems[:at])
    ]


def _index(of_item: dict[_Item, list[Path]]) -> str:
    lines = ["| Paper | What | Here | Script | Sources |", "| --- | --- | --- | --- | --- |"]
    for item, paths in of_item.items():
        script = f"[{item.script}](../analyses/{item.script}.py)"
        lines.append(
            f"| {item.paper} | {item.what} | {_links(item, paths)} | {script} | {item.sources} |"
        )
    return "\n".join(lines) + "\n"


def _links(item: _Item, paths: Iterable[Path]) -> str:
    links = [f"[{path.stem}]({path.name})" for path in paths]
    command = f"python -m analyses.{item.script} {item.hint}".strip()
    return ", ".join(links) or f"not drawn here; `{command}`"


def _section(item: _Item, path: Path) -> str:
    if path.suffix == ".png":
        return _entry(path, prefix=f"{item.paper}: " if item.paper != "addition" else "")
    if not item.inline:
        return ""
    text = path.read_text(encoding="utf-8")
    return f"## {item.paper}: {item.what} ({path.stem})\n\n{text}"


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
