"""OPUS-100: sentences to translate, 94 languages paired with English.

A configuration is a pair of two-letter codes in the order of the alphabet, `en-et`, `af-en`; the
test split is read. Source: paper, section 4.2 (split).
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from lse_interp.core.errors import CorpusError
from lse_interp.core.languages import Language, find_language, lookup
from lse_interp.data.local_files import has_files
from lse_interp.data.parallel import load_parallel
from lse_interp.tasks.benchmarks import BENCHMARKS, Benchmark, Reading, in_both_directions
from lse_interp.tasks.cells import Row, nested_cell, text_cell
from lse_interp.tasks.data_sets import DataSet
from lse_interp.tasks.kinds.translation import translation_documents
from lse_interp.tasks.task import Document, Task

__all__ = ["OPUS_100"]

_CODES = """
af am ar as az be bg bn br bs ca cs cy da de el eo es et eu fa fi fr fy ga gd gl gu ha he hi hr
hu id ig is it ja ka kk km kn ko ku ky li lt lv mg mk ml mr ms mt my nb ne nl nn no oc or pa pl
ps pt ro ru rw se sh si sk sl sq sr sv ta te tg th tk tr tt ug uk ur uz vi wa xh yi zh zu
"""
OPUS_100 = frozenset(_CODES.split())
"""The 94 languages with a test split; an, dz, hy, mn and yo have training text only."""

_UNPACKED = "opus-100-corpus/v1.0/supervised"


def _configs(language: Language) -> tuple[str, ...]:
    """Return the pair of a language and English: as the hub has it, then other spellings."""
    if language.iso639_1 not in OPUS_100:
        return ()
    names = ["-".join(sorted(("en", language.iso639_1)))]
    for code in language.spellings:
        english = "en" if len(code) == 2 else "eng"
        names += [f"{english}-{code}", f"{code}-{english}"]
    return tuple(dict.fromkeys(names))


_DATA = DataSet(
    "Helsinki-NLP/opus-100", split="test", columns=("translation",), configs_of=_configs
)


def _documents(task: Task, reading: Reading) -> Iterator[Document]:
    assert task.source is not None
    source, target = lookup(task.source), lookup(task.language)
    other = target if source.code == "eng" else source
    pairs = _plain(source, target, names=_DATA.configs(other), data_dir=reading.data_dir)
    if pairs is None:
        rows = _DATA.rows("opus100", other, data_dir=reading.data_dir)
        pairs = (
            (_text(row, source, where=where), _text(row, target, where=where))
            for where, row in rows
        )
    yield from translation_documents(task, pairs, style=reading.prompt_style)


def _plain(
    source: Language, target: Language, *, names: Sequence[str], data_dir: Path | None
) -> Iterable[tuple[str, str]] | None:
    """Read the owner's files, `en-mt/opus.en-mt-test.mt`, if there are any."""
    roots = [] if data_dir is None else [data_dir / folder for folder in ("opus100", _UNPACKED)]
    for root, name in itertools.product(roots, names):
        template = f"{root}/{name}/opus.{name}-test.{{lang}}"
        if has_files(template, language=target):
            text = load_parallel(template, languages=[source.code, target.code])
            return zip(text.sentences[source.code], text.sentences[target.code], strict=True)
    return None


def _text(row: Row, language: Language, *, where: str) -> str:
    """Return the text of a language, under any spelling of its code."""
    pair = nested_cell(row, "translation", kind=Mapping, where=where)
    key = next((code for code in pair if find_language(code) == language), None)
    if key is None:
        raise CorpusError(
            f"{where}: `translation` has no {language.name}; expected a key "
            f"{' or '.join(language.spellings)}, found {', '.join(pair)}."
        )
    return text_cell(pair, key, where=f"{where}, `translation`")


BENCHMARKS.register("opus100")(
    Benchmark(
        title="OPUS",
        kind="translation",
        tasks=in_both_directions,
        data=_DATA,
        documents=_documents,
    )
)
