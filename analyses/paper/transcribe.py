"""Turn the text of the paper into the tidy tables of this folder.

    python -m analyses.paper.transcribe --text paper.txt

The text is not part of this repository: it is the paper as plain text or markdown, one table row
per line, cells between tabs, the caption below. Numbers are kept as printed, to the digit. Labels
are normalised (`FLORES afr Latn→en` is the row `FLORES TG→EN`); the printed label is kept too.
Every table is checked for its columns, rows and languages; printed averages that do not follow from
the rows above them are kept and listed, see also `python -m analyses.paper.checks`.

Writes table01.csv, figure11.csv (neurons and parameters), table02.csv (averages), tables03_14.csv
and tables15_26.csv (languages), tables27_38.csv (alignment).
"""

import dataclasses
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from lse_interp.artifacts.atomic import write_atomic
from lse_interp.core.cli import main_for
from lse_interp.core.errors import ArtifactError
from lse_interp.core.languages import PAPER_TARGETS, lookup

__all__ = ["BENCHMARKS", "COLUMNS", "Config", "main", "read_tables", "run", "transcribe"]

logger = logging.getLogger(__name__)

Table = list[list[str]]

COLUMNS: Mapping[str, str] = {
    "Base": "base",
    "Base Model": "base",
    "Baseline": "base",
    "Full": "full",
    "Full FT": "full",
    "MLP": "ffn",
    "FFN-Only FT": "ffn",
    "LoRA": "lora",
    "Adapter": "lora",
    "Random": "random:size",
    "Random Neurons": "random:size",
    "Target": "target",
    "Target Neurons": "target",
}
"""Column as printed -> method. The paper's random neurons are as many as the language's own."""

BENCHMARKS: Mapping[str, tuple[str, str]] = {
    "FLORES TG→EN": ("flores", "target"),
    "FLORES EN→TG": ("flores", "target"),
    "BELEBELE": ("belebele", "target"),
    "SIB200": ("sib200", "target"),
    "OPUS TG→EN": ("opus100", "target"),
    "OPUS EN→TG": ("opus100", "target"),
    "ARC CHALLENGE": ("arc_challenge", "general"),
    "ARC EASY": ("arc_easy", "general"),
    "HELLASWAG": ("hellaswag", "general"),
    "PIQA": ("piqa", "general"),
    "WINOGRANDE": ("winogrande", "general"),
    "MMLU": ("mmlu", "general"),
}
"""Row of Table 2 -> benchmark and group, in the order of Table 2."""

NOTES: Mapping[str, str] = {
    "hellawag": "HELLASWAG",
    "pqa": "PIQA",
}
"""Row labels that cannot be read by rule -> the row meant. They are misspelt in 17 and 4 tables;
everything else, every number included, is read mechanically."""

_GROUPS = {
    "Monolingual Capabilities": "target",
    "Target Language Performance": "target",
    "General Performance": "general",
    "General Capabilities": "general",
}
_AVERAGE = "Avg."
_LLAMA = ("Base", "Full", "MLP", "LoRA", "Random", "Target")
_NEMO = ("Base", "Random", "Target")
_AVERAGED = (*("Base Model", "Full FT", "FFN-Only FT", "LoRA", "Random Neurons", "Target Neurons"),)
_ALIGNED = ("Baseline", "Full", "MLP", "Adapter", "Random", "Target")
_AGAINST = ("ar", "de", "en", "es", "fr", "it", "ja", "ru", "zh")
# Belebele has no Welsh.
_MISSING = {"cym": {"BELEBELE"}}
_CAPTION = re.compile(r"((?:Table|Figure) \d+): (.*)")


@dataclasses.dataclass(frozen=True)
class Config:
    """Transcribe the paper's tables."""

    text: Path
    """The paper as text."""
    folder: Path = Path(__file__).parent
    """Folder to write to."""


def read_tables(text: str) -> dict[str, tuple[str, Table]]:
    r"""Find the tables in a text: name, e.g. `Table 3`, to caption and rows of cells.

    >>> read_tables("a\tb\n1\t2\n\nTable 7: Of two.\n")
    {'Table 7': ('Of two.', [['a', 'b'], ['1', '2']])}
    """
    found: dict[str, tuple[str, Table]] = {}
    rows: Table = []
    ended = False
    for line in text.splitlines():
        if "\t" in line:
            rows = [] if ended else rows
            ended = False
            rows.append([cell.strip() for cell in line.split("\t")])
            continue
        ended = bool(rows)
        if not line.strip():
            continue
        caption = _CAPTION.match(line)
        if rows and caption:
            found[caption[1]] = (caption[2], rows)
        rows = []
    return found


def transcribe(text: str) -> dict[str, pd.DataFrame]:
    """Make the tidy tables, all cells as text: file name to frame.

    Raises:
        ArtifactError: a table is missing, or has other columns, rows or languages than expected.
    """
    tables = read_tables(text)
    return {
        "table01.csv": _subnetworks(tables, "Table 1"),
        "figure11.csv": _subnetworks(tables, "Figure 11"),
        "table02.csv": _scores(tables, 2, _AVERAGED).drop(columns="language"),
        "tables03_14.csv": pd.concat([_scores(tables, at, _LLAMA) for at in range(3, 15)]),
        "tables15_26.csv": pd.concat([_scores(tables, at, _NEMO) for at in range(15, 27)]),
        "tables27_38.csv": pd.concat([_alignment(tables, at) for at in range(27, 39)]),
    }


def run(config: Config) -> list[Path]:
    """Write the tables and return the files written.

    Raises:
        ArtifactError: no such text, or one whose tables cannot be read.
    """
    if not config.text.is_file():
        raise ArtifactError(f"{config.text} does not exist; give the paper as text.")
    written = []
    for name, frame in transcribe(config.text.read_text(encoding="utf-8")).items():
        path = config.folder / name
        write_atomic(path, lambda path, frame=frame: frame.to_csv(path, index=False))
        logger.info("wrote %s (%d rows)", path, len(frame))
        written.append(path)
    return written


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script from the command line."""
    return main_for(Config, run, argv, description=__doc__)


def _table(tables: Mapping[str, tuple[str, Table]], name: str, n_cells: int) -> tuple[str, Table]:
    if name not in tables:
        raise ArtifactError(f"The text has no {name}; found {', '.join(tables) or 'no table'}.")
    caption, rows = tables[name]
    for row in rows:
        if len(row) != n_cells:
            raise ArtifactError(f"{name}: expected {n_cells} cells in a row, found {row}.")
    return caption, rows


def _require(name: str, what: str, *, expected: Sequence[str], found: Sequence[str]) -> None:
    if list(expected) != list(found):
        raise ArtifactError(f"{name}: expected the {what} {list(expected)}, found {list(found)}.")


def _number(name: str, cell: str, pattern: str = r"\d+\.\d\d") -> str:
    if not re.fullmatch(pattern, cell):
        raise ArtifactError(f"{name}: {cell!r} is not a number as the paper prints them.")
    return cell


def _subnetworks(tables: Mapping[str, tuple[str, Table]], name: str) -> pd.DataFrame:
    _, (head, *rows) = _table(tables, name, 4)
    expected = ("Lang.", "# Neurons", "# Trainable Param-s", "%")
    _require(name, "columns", expected=expected, found=head)
    frame = pd.DataFrame(
        {
            "language": [lookup(row[0]).code for row in rows],
            "n_neurons": [_number(name, row[1], r"\d+") for row in rows],
            "trainable_millions": [_number(name, row[2], r"\d+\.\dM")[:-1] for row in rows],
            "percent": [_number(name, row[3]) for row in rows],
        }
    )
    _require(name, "languages", expected=PAPER_TARGETS, found=frame["language"])
    return frame


def _language(name: str, caption: str) -> str:
    found = re.search(r"(?:tasks for |\()([A-Z]\w+)(?:\)| for LLAMA|\.)", caption)
    if found is None:
        raise ArtifactError(f"{name} does not say its language: {caption!r}.")
    return lookup(found[1]).code


def _row(name: str, printed: str, language: str | None) -> str:
    """Name the row of Table 2 that a printed label means, and check its language."""
    if printed in NOTES:
        return NOTES[printed]
    if printed.upper() in BENCHMARKS:
        return printed.upper()
    match = re.fullmatch(r"(FLORES|OPUS|BELEBELE|SIB200) (en→)?(\w{3}) (\w{4,5})(→en)?", printed)
    if match is None or lookup(match[3]).code != language or (match[2] and match[5]):
        raise ArtifactError(f"{name}: no row of {language} is labelled {printed!r}.")
    direction = " EN→TG" if match[2] else " TG→EN" if match[5] else ""
    if match[1] + direction not in BENCHMARKS:
        raise ArtifactError(f"{name}: no row of {language} is labelled {printed!r}.")
    return match[1] + direction


def _scores(
    tables: Mapping[str, tuple[str, Table]], at: int, columns: Sequence[str]
) -> pd.DataFrame:
    name = f"Table {at}"
    caption, (head, *rows) = _table(tables, name, 1 + len(columns))
    _require(name, "columns", expected=("Metric", *columns), found=head)
    language = None if at == 2 else _language(name, caption)
    tidy, seen, group = [], [], ""
    for printed, *cells in rows:
        if printed in _GROUPS:
            group = _GROUPS[printed]
            continue
        is_average = printed == _AVERAGE
        row = _AVERAGE if is_average else _row(name, printed, language)
        benchmark, expected = ("", group) if is_average else BENCHMARKS[row]
        _require(name, f"group of {printed}", expected=[expected], found=[group])
        seen.append((group, row))
        label = {"group": group, "benchmark": benchmark, "row": row, "printed": printed}
        for column, cell in zip(columns, cells, strict=True):
            tidy.append(
                {"table": at, "language": language, "method": COLUMNS[column], "column": column}
                | label
                | {"score": _number(name, cell), "is_average": is_average}
            )
    _require_rows(name, seen, language)
    return pd.DataFrame(tidy)


def _require_rows(name: str, seen: Sequence[tuple[str, str]], language: str | None) -> None:
    """Each benchmark once, translations in either order, the average of a group at its end."""
    missing = _MISSING.get(language or "", set())
    expected = []
    for group in ("target", "general"):
        rows = [row for row, (_, own) in BENCHMARKS.items() if own == group and row not in missing]
        expected += [(group, row) for row in sorted(rows)] + [(group, _AVERAGE)]
    found = []
    for group in ("target", "general"):
        rows = [row for own, row in seen if own == group]
        found += [(group, row) for row in sorted(rows[:-1]) + rows[-1:]]
    _require(name, "rows", expected=map(str, expected), found=map(str, found))


def _alignment(tables: Mapping[str, tuple[str, Table]], at: int) -> pd.DataFrame:
    name = f"Table {at}"
    caption, (head, *rows) = _table(tables, name, 1 + len(_AGAINST))
    _require(name, "columns", expected=("", *_AGAINST), found=head)
    _require(name, "rows", expected=_ALIGNED, found=[row[0] for row in rows])
    language = _language(name, caption)
    tidy = [
        (at, language, model, lookup(against).code, _number(name, cell))
        for model, *cells in rows
        for against, cell in zip(_AGAINST, cells, strict=True)
    ]
    return pd.DataFrame(tidy, columns=["table", "language", "model", "against", "cosine"])


if __name__ == "__main__":
    raise SystemExit(main())
