"""The index page of figures/: every picture with its caption, source and command.

What a picture says about itself stands in the text chunks of its png; see
`lse_interp.plotting.style.save_figure`.
"""

from pathlib import Path

from PIL import Image

from lse_interp.core.artifacts import write_atomic

__all__ = ["write_gallery"]

_OPENING = """\
# Figures

Every picture is a png, a pdf and the csv of its numbers. `make figures` draws them again from the
finished artefacts in `runs/`, which `make demo` writes, and rewrites this page.
"""


def write_gallery(folder: Path) -> Path:
    """Write `folder/README.md` about every figure and table there.

    Pictures that name no command are left out: they are not from here.
    """
    entries = [_entry(png) for png in sorted(folder.glob("*.png")) if _about(png).get("Comment")]
    tables = [_table(path) for path in sorted(folder.glob("table*.md"))]
    page = folder / "README.md"
    text = "\n".join([_OPENING, *entries, *tables])
    write_atomic(page, lambda path: path.write_text(text, encoding="utf-8"))
    return page


def _about(png: Path) -> dict[str, str]:
    with Image.open(png) as image:
        return {key: value for key, value in image.info.items() if isinstance(value, str)}


def _entry(png: Path) -> str:
    about = _about(png)
    links = ", ".join(f"[{suffix}]({png.stem}.{suffix})" for suffix in ("pdf", "csv"))
    return (
        f"## {about['Title']}\n\n![{about['Title']}]({png.name})\n\n{about['Description']}\n\n"
        f"Source: {about['Source']}. Files: {links}. Command: `{about['Comment']}`\n"
    )


def _table(path: Path) -> str:
    kind = "Alignment" if path.stem.startswith("table_alignment") else "Sizes of the subnetworks"
    return f"## {kind}: {path.stem}\n\n{path.read_text(encoding='utf-8')}"
