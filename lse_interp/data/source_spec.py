"""How a text source is written down: a target, options after `?`, the language in braces.

`{lang}`, `{flores}`, `{glotcc}` and `{iso1}` stand for the language, `{split}` for the split. In
the path of a file each of the four matches any spelling that `core.languages.lookup` knows. On the
hub, which is asked for one name at a time, `{lang}` is each usual spelling, and the others are the
code in FLORES+, in GlotCC and in ISO 639-1.
"""

import re
from collections.abc import Iterable
from urllib.parse import parse_qsl

from lse_interp.core.errors import CorpusError, near_misses
from lse_interp.core.languages import Language

__all__ = ["expand", "names_language", "parse_options", "pattern_of", "spellings"]

_PLACEHOLDER = re.compile(r"\{(\w*)\}")
_LANGUAGE_KEYS = ("lang", "flores", "glotcc", "iso1")


def spellings(language: Language) -> tuple[str, ...]:
    """Return the usual spellings of a language, ours first: its codes without and with a script.

    >>> from lse_interp.core.languages import lookup
    >>> spellings(lookup("ekk"))
    ('ekk', 'est', 'et', 'ekk_Latn', 'ekk-Latn', 'est_Latn', 'est-Latn')
    """
    scripted = [f"{code}{dash}{language.script}" for code in _heads(language) for dash in "_-"]
    own = (*language.spellings, language.flores, language.glotcc)
    return tuple(dict.fromkeys((*own, *scripted)))


def names_language(template: str) -> bool:
    """Say whether a template has a placeholder that depends on the language."""
    return any(key in _LANGUAGE_KEYS for key in _PLACEHOLDER.findall(template))


def expand(template: str, *, language: Language, split: str | None = None) -> tuple[str, ...]:
    """Fill the placeholders of a template, once per spelling of the language.

    Args:
        template: text with `{lang}`, `{flores}`, `{glotcc}`, `{iso1}` or `{split}`.
        language: the language to spell.
        split: what `{split}` becomes.

    Returns:
        The distinct results, the preferred spelling first; one where nothing varies.

    Raises:
        CorpusError: a placeholder that is unknown or has no value.

    >>> from lse_interp.core.languages import lookup
    >>> expand("text/{lang}.txt", language=lookup("lvs"))[:2]
    ('text/lvs.txt', 'text/lav.txt')
    """
    rows = [{"flores": language.flores, "glotcc": language.glotcc, "lang": language.code}]
    rows += [
        {"flores": f"{code}_{language.script}", "glotcc": f"{code}-{language.script}", "lang": code}
        for code in _heads(language)
    ]
    rows += [{**rows[0], "lang": spelling} for spelling in spellings(language)]
    for row in rows:
        row |= {"iso1": language.iso639_1 or "", "split": split or ""}
    return tuple(dict.fromkeys(_fill(template, row, language) for row in rows))


def pattern_of(template: str, *, language: Language, split: str | None = None) -> str:
    """Fill in the split, and write every placeholder of the language as `{lang}`.

    Raises:
        CorpusError: a placeholder that is unknown, or a split that was not given.
    """
    row = dict.fromkeys(_LANGUAGE_KEYS, "{lang}") | {"split": split or ""}
    return _fill(template, row, language)


def parse_options(spec: str, *, known: Iterable[str]) -> tuple[str, dict[str, str]]:
    """Cut `target?key=value&key=value` into the target and its options.

    Raises:
        CorpusError: an option that this kind of source does not have, or one without a value.

    >>> parse_options("news.jsonl?field=body", known=["field"])
    ('news.jsonl', {'field': 'body'})
    """
    target, _, query = spec.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    for key, value in options.items():
        if key not in known:
            raise CorpusError(
                f"{spec!r} has an unknown option {key!r}. {near_misses(key, known)} "
                f"Write options as ?key=value&key=value."
            )
        if not value:
            raise CorpusError(f"{spec!r}: the option {key!r} has no value. Write {key}=value.")
    return target, options


def _heads(language: Language) -> list[str]:
    """List the codes of three letters that make a spelling with the script behind them."""
    if language.code.removeprefix(language.iso639_3) not in ("", f"-{language.script}"):
        return []
    return [head for code in language.spellings if len(head := code.split("-")[0]) == 3]


def _fill(template: str, row: dict[str, str], language: Language) -> str:
    def value(match: re.Match[str]) -> str:
        key = match[1]
        if key not in row:
            raise CorpusError(
                f"unknown placeholder {match[0]} in {template!r}. "
                f"Known: {', '.join('{' + name + '}' for name in sorted(row))}."
            )
        if not row[key]:
            reason = (
                "no split was given" if key == "split" else f"{language.name} has no ISO 639-1 code"
            )
            raise CorpusError(f"{template!r} needs {match[0]}, but {reason}.")
        return row[key]

    return _PLACEHOLDER.sub(value, template)
