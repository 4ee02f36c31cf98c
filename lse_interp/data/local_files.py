"""Which local files hold a language, or a split."""

import glob
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from lse_interp.core.errors import CorpusError, near_misses
from lse_interp.core.languages import Language, find_language
from lse_interp.data.readers import SUFFIXES, kind_of
from lse_interp.data.source_spec import names_language, pattern_of, spellings

__all__ = ["find_files", "find_split", "has_files", "listing", "match_paths"]

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

    A template with `{lang}` matches every spelling that `core.languages.lookup` knows, in any case
    (`ekk`, `est_Latn`, `Estonian`). A folder that is not spelt by language must hold a file
    (`mlt.txt`, `mlt_Latn.devtest`) or a folder (`mlt/`) named by such a spelling; inside a folder
    of the language every readable file counts, sorted by path. If a split is asked for and the
    template has no `{split}`, the folder must hold it in one of the forms `mlt/dev.tsv`,
    `dev/mlt.txt`, `mlt.dev`, `dev.mlt`.

    Args:
        template: path of a file or folder, with placeholders or without.
        language: the language wanted.
        split: what `{split}` becomes, or the split to take from a folder.

    Raises:
        CorpusError: nothing there, nothing of that language, nothing readable, an empty file, or
            several files of the language, or several splits and none asked for.
    """
    pattern = str(Path(pattern_of(template, language=language, split=split)).expanduser())
    matches = match_paths(Path(), pattern, language=language)
    found = matches[0] if matches else Path(pattern)
    inside = split if split and "{split}" not in template else None
    if inside and not found.is_dir():
        raise CorpusError(
            f"split {split!r} was asked for, but {template!r} has no {{split}} and is no folder "
            "of splits. Write the split into the path as {split}, or leave it out."
        )
    if not matches:
        raise CorpusError(_missing(pattern, language))
    if len(matches) > 1:
        raise CorpusError(_more_than_once(matches, language.name))
    of_language = names_language(template) or _means(_stem(found, language), language)
    if inside:
        names = [inside] if of_language else _of_split(inside)
        return find_split(found, names=names, language=language)
    if found.is_dir():
        return _inside(found) if of_language else _named_by(found, language)
    if not _is_data(found, language):
        raise CorpusError(f"{found}: cannot read this kind of file. Expected {_KINDS}.")
    return _checked([found], language)


def has_files(template: str, *, language: Language, split: str | None = None) -> bool:
    """Say whether there is a file of a language, readable or not."""
    path = Path(pattern_of(template, language=language, split=split)).expanduser()
    if names_language(template):
        return bool(match_paths(Path(), str(path), language=language))
    names = _of_split(split) if split and "{split}" not in template else ["{lang}"]
    return any(_named(path, name, language) for name in names)


def match_paths(root: Path, pattern: str, *, language: Language | None) -> list[Path]:
    """List the paths below a folder that fit a pattern; `{lang}` is any spelling of a language."""
    found = [root]
    for part in Path(pattern).parts:
        if "{lang}" in part:
            entries = [entry for path in found if path.is_dir() for entry in path.iterdir()]
            found = [entry for entry in entries if _fits(entry.name, part, language)]
        else:
            found = [path / part for path in found if (path / part).exists()]
    return sorted(found)


def find_split(root: Path, *, names: Sequence[str], language: Language | None = None) -> list[Path]:
    """Find the file of a split, its shards in their order, or the files of its folder.

    Args:
        root: folder of the data.
        names: paths below it that may hold the split, with or without suffix, `{lang}` for the
            language; the first that does is taken.
        language: the language wanted, whose code may be a suffix.

    Raises:
        CorpusError: no such file, several of them, an empty one, or a shard that is missing.
    """
    for name in names:
        if found := _named(root, name, language):
            return _one(found, language, what=f"the split {Path(name).name}")
    code = language.code if language else ""
    raise CorpusError(_no_split(root, [name.replace("{lang}", code) for name in names]))


def listing(folder: Path, *, limit: int = 12) -> str:
    """Say what a folder holds, for an error message."""
    names = sorted(
        entry.name + "/" * entry.is_dir()
        for entry in folder.iterdir()
        if not entry.name.startswith(".")
    )
    shown = ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
    return f"{folder} holds: {shown or '(nothing)'}."


def _of_split(split: str) -> list[str]:
    return [f"{{lang}}/{split}", f"{split}/{{lang}}", f"{{lang}}.{split}", f"{split}.{{lang}}"]


def _means(spelling: str, language: Language | None) -> bool:
    return language is not None and find_language(spelling) == language


def _fits(name: str, part: str, language: Language | None) -> bool:
    """Say whether a name is that of a pattern, `{lang}` being any spelling of the language."""
    if "{lang}" not in part:
        return name == part
    form = "(.+)".join(map(re.escape, part.split("{lang}")))
    match = re.fullmatch(form, name, re.IGNORECASE)
    return match is not None and all(_means(group, language) for group in match.groups())


def _kind(path: Path, language: Language | None) -> str:
    """Return the suffix that makes a file readable; a split or a language can be one."""
    codes = [suffix for suffix in path.suffixes[-2:] if _means(suffix[1:], language)]
    return kind_of(path, also=[*codes, *(f".{name}" for name in _SPLITS)])


def _stem(path: Path, language: Language | None = None) -> str:
    kind = _kind(path, language)
    return path.name[: path.name.lower().rindex(kind.lower())] if kind else path.name


def _is_data(path: Path, language: Language | None = None) -> bool:
    return bool(_kind(path, language)) and not _NO_DATA.fullmatch(path.name)


def _named(root: Path, name: str, language: Language | None) -> list[Path]:
    """List the file of a name, its shards and its folder, as far as they exist."""
    *above, last = Path(name).parts

    def fits(path: Path) -> bool:
        if path.is_dir():
            return _fits(path.name, last, language)
        stem = _stem(path, language)
        shard = _SHARD.fullmatch(stem)
        names = {path.name, stem, shard[1] if shard else stem}
        return _is_data(path, language) and any(_fits(name, last, language) for name in names)

    folders = match_paths(root, "/".join(above), language=language)
    entries = [entry for folder in folders if folder.is_dir() for entry in folder.iterdir()]
    return sorted(filter(fits, entries))


def _named_by(folder: Path, language: Language) -> list[Path]:
    if found := _named(folder, "{lang}", language):
        return _one(found, language, what=language.name)
    raise CorpusError(
        f"{folder} has no file or folder for {language.name}: looked for the names "
        f"{_names(language)} with {_KINDS}. {_nearest('{lang}', folder, language)} "
        f"Put the language into the path as {{lang}}, e.g. {folder}/corpus-{{lang}}.txt, or the "
        f"files of the language into a folder {language.code}/. Folders of splits need --split."
    )


def _names(language: Language) -> str:
    return ", ".join((*spellings(language), language.name))


def _more_than_once(found: list[Path], what: str) -> str:
    folders = {path.parent for path in found}
    names = ", ".join(path.name if len(folders) == 1 else str(path) for path in found)
    return (
        f"{found[0].parent} holds {what} more than once: {names}. "
        "Keep one, or name the one to read."
    )


def _one(found: list[Path], language: Language | None, *, what: str) -> list[Path]:
    """Return the files of one name, if there is one file, one folder or one list of shards."""
    shards = [_SHARD.fullmatch(_stem(path, language)) for path in found]
    if len(found) > 1 and not (all(shards) and len({shard[1] for shard in shards if shard}) == 1):
        raise CorpusError(_more_than_once(found, what))
    return _inside(found[0]) if found[0].is_dir() else _checked(found, language)


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
    return _checked(files)


def _checked(files: list[Path], language: Language | None = None) -> list[Path]:
    """Return files that exist, hold something and lack no shard."""
    n_shards: Counter[tuple[Path, str, str]] = Counter()
    for path in files:
        if not path.exists():
            raise CorpusError(f"{path} is a link to {path.readlink()}, which does not exist.")
        if path.stat().st_size == 0:
            raise CorpusError(f"{path} is empty: expected text, found 0 bytes.")
        if shard := _SHARD.fullmatch(_stem(path, language)):
            n_shards[path.parent, shard[1], shard[2]] += 1
    for (folder, name, expected), n in n_shards.items():
        if n != int(expected):
            raise CorpusError(
                f"{folder} should hold {int(expected)} shards of {name}; found "
                f"{', '.join(path.name for path in files)}."
            )
    return files


def _missing(pattern: str, language: Language) -> str:
    wanted = Path(pattern).absolute()
    folder = next(parent for parent in wanted.parents if parent.is_dir())
    tried = f" with {_names(language)} for the language" if "{lang}" in pattern else ""
    near = _nearest(wanted.relative_to(folder).parts[0], folder, language)
    return f"no text for {language.name} ({language.code}) at {pattern}{tried}. {near}"


def _nearest(name: str, folder: Path, language: Language) -> str:
    """Name the entries of a folder that look like a name, before all the others."""
    names = {_stem(entry): entry.name for entry in folder.iterdir()}
    wanted = [name.replace("{lang}", spelling) for spelling in (language.code, language.name)]
    close = [near_misses(_stem(Path(word)).lower(), names, n=1) for word in wanted]
    found = [names[hint[13:-1]] for hint in close if hint.startswith("Did you mean ")]
    hint = f"Did you mean {' or '.join(dict.fromkeys(found))}? " if found else ""
    return hint + listing(folder)


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
