"""Which local files hold a language, or a split."""

import re
from collections.abc import Sequence
from pathlib import Path

from lse_interp.core.errors import CorpusError, near_misses
from lse_interp.core.languages import Language
from lse_interp.data.readers import SUFFIXES, suffix_of
from lse_interp.data.source_spec import expand, names_language, spellings

__all__ = ["find_files", "find_split", "listing"]

_TABLES = tuple(suffix for suffix in SUFFIXES if suffix != ".txt")


def find_files(template: str, *, language: Language, split: str | None = None) -> list[Path]:
    """Find the files that hold a language.

    A template with `{lang}` is tried with every spelling of the language. A folder that is not
    spelt by language must hold a file (`mlt.txt`) or a folder (`mlt/`) named by one of the
    spellings; inside a folder of the language every readable file counts, sorted by path.

    Args:
        template: path of a file or folder, with placeholders or without.
        language: the language wanted.
        split: what `{split}` becomes.

    Raises:
        CorpusError: nothing there, nothing of that language, nothing readable, or an empty file.
    """
    candidates = [Path(t).expanduser() for t in expand(template, language=language, split=split)]
    found = next((path for path in candidates if path.exists()), None)
    if found is None:
        raise CorpusError(_missing(candidates, language))
    of_language = names_language(template) or _stem(found) in spellings(language)
    if found.is_dir() and not of_language:
        found = _named_by(found, language)
    files = _readable_files(found) if found.is_dir() else [found]
    for path in files:
        suffix_of(path)
        if path.stat().st_size == 0:
            raise CorpusError(f"{path} is empty: expected text, found 0 bytes.")
    return files


def find_split(root: Path, *, folders: Sequence[str], split: str) -> list[Path]:
    """Find the file of a split, or its parquet shards in their order.

    Args:
        root: folder of the benchmark.
        folders: folders below it that may hold the split, the first that does is taken; `.` is
            `root` itself.
        split: `test`, `validation`, ...

    Raises:
        CorpusError: no such file, several of them, or a shard that is missing.
    """
    for name in folders:
        folder = root / name
        files = sorted(folder.iterdir()) if folder.is_dir() else []
        shards = [path for path in files if _n_shards(path, split)]
        whole = [path for path in files if path.name in {split + suffix for suffix in _TABLES}]
        found = whole + shards
        if len(whole) > 1 or (whole and shards):
            raise CorpusError(
                f"{folder} holds the split {split} more than once: "
                f"{', '.join(path.name for path in found)}. Keep one."
            )
        if shards and len(shards) != _n_shards(shards[0], split):
            raise CorpusError(
                f"{folder} should hold {_n_shards(shards[0], split)} shards of {split}; found "
                f"{', '.join(path.name for path in shards)}."
            )
        if found:
            return found
    raise CorpusError(_no_split(root, folders=folders, split=split))


def listing(folder: Path, *, limit: int = 12) -> str:
    """Say what a folder holds, for an error message."""
    names = sorted(
        entry.name + "/" * entry.is_dir()
        for entry in folder.iterdir()
        if not entry.name.startswith(".")
    )
    shown = ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
    return f"{folder} holds: {shown or '(nothing)'}."


def _stem(path: Path) -> str:
    suffix = next((suffix for suffix in SUFFIXES if path.name.endswith(suffix)), "")
    return path.name.removesuffix(suffix)


def _readable_files(folder: Path) -> list[Path]:
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and path.name.endswith(SUFFIXES)
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not files:
        raise CorpusError(
            f"no file to read in {folder}: expected {', '.join(SUFFIXES)}. {listing(folder)}"
        )
    return files


def _named_by(folder: Path, language: Language) -> Path:
    entries = [p for p in sorted(folder.iterdir()) if p.is_dir() or p.name.endswith(SUFFIXES)]
    matches = [entry for entry in entries if _stem(entry) in spellings(language)]
    if len(matches) > 1:
        raise CorpusError(
            f"{folder} holds {language.name} more than once: "
            f"{', '.join(match.name for match in matches)}. Name the one to read."
        )
    if matches:
        return matches[0]
    raise CorpusError(
        f"{folder} has no file or folder for {language.name}: looked for the names "
        f"{', '.join(spellings(language))} with {', '.join(SUFFIXES)}. {listing(folder)} "
        f"Put the language into the path as {{lang}}, e.g. {folder}/corpus-{{lang}}.txt, or the "
        f"files of the language into a folder {language.code}/."
    )


def _missing(candidates: list[Path], language: Language) -> str:
    wanted = candidates[0]
    folder = next(parent for parent in wanted.absolute().parents if parent.is_dir())
    tried = ", ".join(map(str, candidates))
    names = [entry.name for entry in folder.iterdir()]
    missing_part = wanted.absolute().relative_to(folder).parts[0]
    close = near_misses(missing_part, names)
    hint = f" {close}" if close.startswith("Did you mean") else ""
    return f"no text for {language.name} ({language.code}) at {tried}. {listing(folder)}{hint}"


def _n_shards(path: Path, split: str) -> int:
    """Return the number of shards that a shard's name says, 0 for another file."""
    match = re.fullmatch(rf"{re.escape(split)}-\d+-of-(\d+)\.parquet", path.name)
    return int(match[1]) if match else 0


def _no_split(root: Path, *, folders: Sequence[str], split: str) -> str:
    existing = [root / name for name in folders if (root / name).is_dir()]
    if not existing:
        existing = [next(folder for folder in root.absolute().parents if folder.is_dir())]
        if root.is_dir():
            existing = [root]
    below = [name for name in folders if name != "."]
    place = f"{root}/{{{','.join(below)}}}" if below else str(root)
    return (
        f"no file {split} ({', '.join(_TABLES)}) in {place}"
        f"{f' or {root}' if below and '.' in folders else ''}. "
        f"{' '.join(listing(folder) for folder in existing)}"
    )
