"""Which local files hold a language, or a split."""

import glob
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from lse_interp.core.errors import CorpusError, near_misses
from lse_interp.core.languages import Language
from lse_interp.data.readers import SUFFIXES, kind_of
from lse_interp.data.source_spec import expand, names_language, spellings

__all__ = ["find_files", "find_split", "has_files", "listing"]

_SPLITS = ("train", "dev", "devtest", "test", "val", "valid", "validation")
_SHARD = re.compile(r"(.+)-\d+-of-(\d+)")
# What owners and `Dataset.save_to_disk` put next to the data.
_NO_DATA = re.compile(
    r"(readme|licen[cs]e|copying|notice|changelog)\b.*|(dataset_dict|dataset_info|state)\.json",
    re.IGNORECASE,
)
_KINDS = f"{', '.join(SUFFIXES)}, packed (.gz, .bz2, .xz, .zst) or not"


def find_files(template: str, *, language: Language, split: str | None = None) -> list[Path]:
    """Find the files that hold a language.

    A template with `{lang}` is tried with every spelling of the language. A folder that is not
    spelt by language must hold a file (`mlt.txt`, `mlt_Latn.devtest`) or a folder (`mlt/`) named by
    one of the spellings; inside a folder of the language every readable file counts, sorted by
    path. If a split is asked for and the template has no `{split}`, the folder must hold it in one
    of the forms `mlt/dev.tsv`, `dev/mlt.txt`, `mlt.dev`, `dev.mlt`.

    Args:
        template: path of a file or folder, with placeholders or without.
        language: the language wanted.
        split: what `{split}` becomes, or the split to take from a folder.

    Raises:
        CorpusError: nothing there, nothing of that language, nothing readable, an empty file, or
            several splits and none asked for.
    """
    candidates = [Path(t).expanduser() for t in expand(template, language=language, split=split)]
    found = next((path for path in candidates if path.exists()), None)
    inside = split if split and "{split}" not in template else None
    if inside and not (found or candidates[0]).is_dir():
        raise CorpusError(
            f"split {split!r} was asked for, but {template!r} has no {{split}} and is no folder "
            "of splits. Write the split into the path as {split}, or leave it out."
        )
    if found is None:
        raise CorpusError(_missing(candidates, language))
    codes = spellings(language)
    of_language = names_language(template) or _stem(found, codes) in codes
    if inside:
        names = [inside] if of_language else _of_split(codes, inside)
        return find_split(found, names=names, language=language)
    if found.is_dir():
        return _inside(found) if of_language else _named_by(found, language)
    if not _is_data(found, codes):
        raise CorpusError(f"{found}: cannot read this kind of file. Expected {_KINDS}.")
    return _checked([found], codes)


def has_files(template: str, *, language: Language, split: str | None = None) -> bool:
    """Say whether there is a file of a language, readable or not."""
    paths = [Path(t).expanduser() for t in expand(template, language=language, split=split)]
    if names_language(template):
        return any(path.exists() for path in paths)
    codes = spellings(language)
    names = _of_split(codes, split) if split and "{split}" not in template else codes
    return any(_named(path, name, codes) for path in paths for name in names)


def find_split(root: Path, *, names: Sequence[str], language: Language | None = None) -> list[Path]:
    """Find the file of a split, its shards in their order, or the files of its folder.

    Args:
        root: folder of the data.
        names: paths below it that may hold the split, with or without suffix; the first that does
            is taken.
        language: the language wanted, whose code may be a suffix.

    Raises:
        CorpusError: no such file, several of them, an empty one, or a shard that is missing.
    """
    codes = spellings(language) if language else ()
    for name in names:
        if found := _named(root, name, codes):
            return _one(found, codes, what=f"the split {Path(name).name}")
    raise CorpusError(_no_split(root, names))


def listing(folder: Path, *, limit: int = 12) -> str:
    """Say what a folder holds, for an error message."""
    names = sorted(
        entry.name + "/" * entry.is_dir()
        for entry in folder.iterdir()
        if not entry.name.startswith(".")
    )
    shown = ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
    return f"{folder} holds: {shown or '(nothing)'}."


def _of_split(codes: Iterable[str], split: str) -> list[str]:
    forms = ("{code}/{split}", "{split}/{code}", "{code}.{split}", "{split}.{code}")
    return [form.format(code=code, split=split) for code in codes for form in forms]


def _kind(path: Path, codes: Iterable[str]) -> str:
    """Return the suffix that makes a file readable; a split or a language can be one."""
    return kind_of(path, also=[f".{name}" for name in (*_SPLITS, *codes)])


def _stem(path: Path, codes: Iterable[str] = ()) -> str:
    kind = _kind(path, codes)
    return path.name[: path.name.lower().rindex(kind.lower())] if kind else path.name


def _is_data(path: Path, codes: Iterable[str] = ()) -> bool:
    return bool(_kind(path, codes)) and not _NO_DATA.fullmatch(path.name)


def _named(root: Path, name: str, codes: Sequence[str]) -> list[Path]:
    """List the file of a name, its shards and its folder, as far as they exist."""
    folder, last = (root / name).parent, Path(name).name

    def fits(path: Path) -> bool:
        if path.is_dir():
            return path.name == last
        stem = _stem(path, codes)
        shard = _SHARD.fullmatch(stem)
        names = (path.name, stem, shard[1] if shard else stem)
        return _is_data(path, codes) and last in names

    return sorted(filter(fits, folder.iterdir())) if folder.is_dir() else []


def _named_by(folder: Path, language: Language) -> list[Path]:
    codes = spellings(language)
    if found := {path for name in codes for path in _named(folder, name, codes)}:
        return _one(sorted(found), codes, what=language.name)
    raise CorpusError(
        f"{folder} has no file or folder for {language.name}: looked for the names "
        f"{', '.join(codes)} with {_KINDS}. {listing(folder)} "
        f"Put the language into the path as {{lang}}, e.g. {folder}/corpus-{{lang}}.txt, or the "
        f"files of the language into a folder {language.code}/. Folders of splits need --split."
    )


def _one(found: list[Path], codes: Sequence[str], *, what: str) -> list[Path]:
    """Return the files of one name, if there is one file, one folder or one list of shards."""
    shards = [path for path in found if _SHARD.fullmatch(_stem(path, codes))]
    if len(found) > 1 and len(shards) < len(found):
        raise CorpusError(
            f"{found[0].parent} holds {what} more than once: "
            f"{', '.join(path.name for path in found)}. Keep one, or name the one to read."
        )
    return _inside(found[0]) if found[0].is_dir() else _checked(found, codes)


def _inside(folder: Path) -> list[Path]:
    """List the data in a folder of a language or a split."""
    # Path.glob follows links to folders from Python 3.13 on.
    below = map(Path, glob.glob("**", root_dir=folder, recursive=True))  # noqa: PTH207
    files = sorted(folder / path for path in below if _is_data(path))
    files = [path for path in files if not path.is_dir()]
    if not files:
        raise CorpusError(f"no file to read in {folder}: expected {_KINDS}. {listing(folder)}")
    tops = {_stem(Path(path.relative_to(folder).parts[0])) for path in files}
    splits = sorted({_SHARD.sub(r"\1", top) for top in tops} & set(_SPLITS))
    if len(splits) > 1:
        raise CorpusError(
            f"{folder} holds the splits {', '.join(splits)}. Name one of them: with --split, or "
            "with its path."
        )
    return _checked(files, ())


def _checked(files: list[Path], codes: Sequence[str]) -> list[Path]:
    """Return files that exist, hold something and lack no shard."""
    n_shards: Counter[tuple[Path, str, str]] = Counter()
    for path in files:
        if not path.exists():
            raise CorpusError(f"{path} is a link to {path.readlink()}, which does not exist.")
        if path.stat().st_size == 0:
            raise CorpusError(f"{path} is empty: expected text, found 0 bytes.")
        if shard := _SHARD.fullmatch(_stem(path, codes)):
            n_shards[path.parent, shard[1], shard[2]] += 1
    for (folder, name, expected), n in n_shards.items():
        if n != int(expected):
            raise CorpusError(
                f"{folder} should hold {int(expected)} shards of {name}; found "
                f"{', '.join(path.name for path in files)}."
            )
    return files


def _missing(candidates: list[Path], language: Language) -> str:
    wanted = candidates[0]
    folder = next(parent for parent in wanted.absolute().parents if parent.is_dir())
    tried = ", ".join(map(str, candidates))
    names = [entry.name for entry in folder.iterdir()]
    missing_part = wanted.absolute().relative_to(folder).parts[0]
    close = near_misses(missing_part, names)
    hint = f" {close}" if close.startswith("Did you mean") else ""
    return f"no text for {language.name} ({language.code}) at {tried}. {listing(folder)}{hint}"


def _no_split(root: Path, names: Sequence[str]) -> str:
    existing = list(dict.fromkeys((root / name).parent for name in names))
    existing = [folder for folder in existing if folder.is_dir()] or [
        next(folder for folder in (root, *root.absolute().parents) if folder.is_dir())
    ]
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return (
        f"no file {shown} in {root}, with {_KINDS}. "
        f"{' '.join(listing(folder) for folder in existing[:3])}"
    )
