"""One crosswalk for languages: any spelling in, one record out, with every data set's spelling.

Spellings differ per data set (Estonian is `ekk_Latn` in FLORES+, `est_Latn` in FLORES-200, `est`
in NTREX, `et` in BCP 47). Everything in this package is keyed by one code per language, ISO 639-3
as in the paper; other spellings are looked up here and nowhere else.

A variety has the code of its language, a hyphen, and what tells it apart: a script (`srp-Latn`,
`zho-Hant`, `kas-Deva`), a region that a data set has a text of (`por-BR`), a dialect
(`cat-valencia`, `cat-vale1252`). A region that only implies a script gives the script (`zh-TW` is
`zho-Hant`); any other region is left out (`deu-AT` is `deu`).

`languages.tsv` holds name, script, family and branch of the languages of FLORES-200, FLORES+,
NTREX-128, SIB-200 and OPUS-100, and the code of FLORES+ where it is another. Families and branches
are those in common use, as in the World Atlas of Language Structures; a creole has those of the
language of its words. Any other language of ISO 639 is as welcome, with the family `unknown`.

ISO 639, BCP 47, names in many languages, macrolanguages, retired codes and usual scripts come from
langcodes and language_data. iso639-lang, the other library that is kept up to date, is smaller but
has no scripts, no BCP 47 and no name beside the official ones.
"""

import contextlib
import dataclasses
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TypeVar

from lse_interp.core.errors import LanguageError, near_misses

__all__ = [
    "LANGUAGES",
    "PAPER_LANGUAGES",
    "PAPER_REFERENCE",
    "PAPER_TARGETS",
    "RELEASED_LANGUAGES",
    "UNKNOWN",
    "Language",
    "by_code",
    "codes_of",
    "describe",
    "family_order",
    "find_language",
    "lookup",
]

_T = TypeVar("_T")

UNKNOWN = "unknown"
"""Family and branch of a language that `languages.tsv` does not list."""


@dataclasses.dataclass(frozen=True)
class Language:
    """A language: its code here, its name, its script, its place in the family tree."""

    code: str
    """ISO 639-3, as in the paper; of a variety, with a script or region: `zho-Hant`."""
    name: str
    """English name, as prompts spell it."""
    script: str
    """ISO 15924."""
    family: str = UNKNOWN
    branch: str = UNKNOWN
    flores_code: str = ""
    """Language and dialect in FLORES+, where they are not those of `code`."""
    aliases: tuple[str, ...] = ()
    """Codes that mean the same in data sets, besides those that ISO 639 itself connects."""

    @property
    def iso639_3(self) -> str:
        """The language alone, without the script or region of a variety."""
        return self.code.partition("-")[0]

    @property
    def iso639_1(self) -> str | None:
        """The code of two letters, if ISO 639-1 has one; a variety has none of its own."""
        codes = (code for code in self.spellings if len(code) == 2)
        return next(codes, None)

    @property
    def flores(self) -> str:
        """Code in FLORES+, e.g. `mlt_Latn`; SIB-200 and Belebele use this form too."""
        language, *more = (self.flores_code or self.code).split("-")
        return "_".join([language, self.script, *(part for part in more if part != self.script)])

    @property
    def glotcc(self) -> str:
        """Configuration name in GlotCC, e.g. `mlt-Latn`."""
        return "cmn-Hani" if self.code == "zho" else f"{self.iso639_3}-{self.script}"

    @property
    def spellings(self) -> tuple[str, ...]:
        """Every code that means this language, its own first; with a script only for a variety."""
        variety = self.code.removeprefix(self.iso639_3)
        codes = [f"{code}{variety}" for code in _equivalents(self.iso639_3)]
        return (*codes, *(alias for alias in self.aliases if "-" in alias))


def _read_table() -> Iterator[Language]:
    lines = Path(__file__).with_suffix(".tsv").read_text(encoding="utf-8").splitlines()
    for line in lines[1:]:
        code, name, script, *more = line.split("\t")
        family, branch, flores, aliases = (*more, *[""] * (4 - len(more)))
        place = (family or UNKNOWN, branch or UNKNOWN)
        yield Language(code, name, script, *place, flores, tuple(aliases.split()))


LANGUAGES: dict[str, Language] = {language.code: language for language in _read_table()}
"""The languages of `languages.tsv`; `lookup` knows all of ISO 639."""

PAPER_TARGETS: tuple[str, ...] = (
    "afr",
    "cym",
    "ekk",
    "isl",
    "kat",
    "lit",
    "lvs",
    "mkd",
    "mlt",
    "npi",
    "slk",
    "slv",
)
"""The 12 underrepresented languages. Source: paper, Table 1."""

PAPER_REFERENCE: tuple[str, ...] = ("arb", "deu", "eng", "spa", "fra", "ita", "jpn", "rus", "zho")
"""The 9 high-resource languages of the alignment analysis. Source: paper, section 6.2."""

PAPER_LANGUAGES: tuple[str, ...] = PAPER_TARGETS + PAPER_REFERENCE

RELEASED_LANGUAGES: tuple[str, ...] = (
    "mlt",
    "afr",
    "isl",
    "cym",
    "mkd",
    "lvs",
    "lit",
    "slv",
    "slk",
    "ekk",
    "kat",
    "npi",
)
"""Order of the languages in the paper's released masks, which carry no names."""


def lookup(code: str) -> Language:
    """Find a language by any of its codes or by its name.

    Accepts ISO 639-3 (`mlt`), macrolanguages and retired codes (`est`, `iw`), ISO 639-1 (`mt`),
    BCP 47 (`zh-Hans`, `pt-BR`), the codes of FLORES, NTREX and other data sets (`est_Latn`,
    `zho-CN`), and names (`Maltese`, `scottish_gaelic`), in any case. `qaa` to `qtz`, which ISO 639
    sets aside for private use, name a language of one's own.

    Raises:
        LanguageError: unknown; the message lists near misses.

    >>> lookup("est").code, lookup("nep_Deva").code, lookup("Maltese").flores
    ('ekk', 'npi', 'mlt_Latn')
    >>> lookup("zh-TW").code, lookup("kas_Deva").name, lookup("tlh").family
    ('zho-Hant', 'Kashmiri (Devanagari)', 'unknown')
    """
    found = find_language(code)
    if found is not None:
        return found
    close = near_misses(_key(code), [key for key in _table() if len(key) >= 3])
    hint = f" {close}" if close.startswith("Did you mean") else ""
    raise LanguageError(
        f"unknown language {code!r}; expected an ISO 639-3 code such as mlt, with a script where "
        f"it matters (srp-Latn), or a name such as Maltese.{hint} For a language that has no code, "
        f"take one that ISO 639 keeps free for private use: qaa to qtz."
    )


@cache
def find_language(spelling: str) -> Language | None:
    """Find a language as `lookup` does; None where the spelling means none.

    >>> find_language("README") is None
    True
    """
    key = _key(spelling)
    known = _table().get(key)
    if known or not key:
        return known
    name, _, detail = key.rstrip(")").partition("-(")
    if detail:
        return _named_variety(name, detail)
    found = _from_tag(key) if _TAG.match(key) else None
    return found if found or len(key) <= 3 else _from_name(spelling)


def codes_of(spellings: Iterable[str]) -> tuple[str, ...]:
    """Return the codes of languages in any spelling, each once, in their order.

    Raises:
        LanguageError: an unknown language.

    >>> codes_of(["welsh", "est_Latn", "cy"])
    ('cym', 'ekk')
    """
    return tuple(dict.fromkeys(lookup(spelling).code for spelling in spellings))


def by_code(values: Mapping[str, _T]) -> dict[str, _T]:
    """File the values of languages in any spelling under their codes.

    Raises:
        LanguageError: an unknown language, or one under two spellings.

    >>> by_code({"welsh": 1, "et": 2})
    {'cym': 1, 'ekk': 2}
    """
    found: dict[str, tuple[str, _T]] = {}
    for spelling, value in values.items():
        code = lookup(spelling).code
        if code in found:
            raise LanguageError(
                f"{found[code][0]!r} and {spelling!r} are the same language ({code}). Give each "
                "language once."
            )
        found[code] = (spelling, value)
    return {code: value for code, (_, value) in found.items()}


def describe(label: str) -> Language:
    """Find a language as `lookup` does, or describe a label that is none: an unknown family.

    >>> describe("Maltese").family, describe("random").name, describe("random").family
    ('Afro-Asiatic', 'random', 'unknown')
    """
    return find_language(label) or Language(label, label, "Zyyy")


def family_order(codes: Iterable[str]) -> list[str]:
    """Sort codes so that relatives are next to each other (family, branch, name), as in Figure 8.

    Languages of an unknown family, and labels that are no language, come last.

    >>> family_order(["slv", "lit", "slk", "lvs"])
    ['lvs', 'lit', 'slk', 'slv']
    """

    def key(code: str) -> tuple[bool, str, str, str]:
        language = describe(code)
        return (language.family == UNKNOWN, language.family, language.branch, language.name)

    return sorted(codes, key=key)


_TAG = re.compile(r"[a-z]{2,3}(-|$)")
_DIALECT = re.compile(r"[a-z]{4}\d{4}|radical")  # codes of Glottolog, and the other in FLORES+
_NOT_ONE_LANGUAGE = ("mis", "mul", "und", "zxx")
_SAME_SCRIPT = {"Aran": "Arab", "Kore": "Hang", "Hani": None}


def _key(spelling: str) -> str:
    """Fold case, accents and separators."""
    letters = unicodedata.normalize("NFKD", spelling.strip().lower())
    plain = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return re.sub(r"[\s_-]+", "-", plain)


@cache
def _table() -> dict[str, Language]:
    table: dict[str, Language] = {}
    for language in LANGUAGES.values():
        # A name as short as a code (Goo) may be the code of another language.
        name = (language.name,) if len(language.name) > 3 else ()
        codes = filter(None, (language.code, language.flores_code, *language.aliases))
        for key in map(_key, (*codes, *name)):
            table.setdefault(key, language)
    return table


def _from_tag(key: str) -> Language | None:
    """Read a tag of BCP 47, with codes of two or three letters."""
    from langcodes import Language as Tag
    from langcodes import LanguageTagError

    subtags = key.split("-")
    dialects = [subtag for subtag in subtags[1:] if _DIALECT.fullmatch(subtag)]
    try:
        tag = Tag.get("-".join(subtag for subtag in subtags if subtag not in dialects))
    except LanguageTagError:
        return None
    code = _our_code(subtags[0]) if subtags[0] in LANGUAGES else _our_code(str(tag.language))
    rest = Tag.make(script=tag.script, territory=tag.territory, variants=tag.variants)
    if code is None or tag.extlangs or not rest.is_valid():
        return None
    language = _language(code)
    usual, implied = Tag.make(language=tag.language).maximize().script, tag.maximize().script
    script = tag.script or (implied if implied != usual else None)
    script = _SAME_SCRIPT.get(script or "", script) or language.script
    return _variety(language, script, [tag.territory or "", *(tag.variants or ()), *dialects])


def _variety(language: Language, script: str, more: list[str]) -> Language:
    from langcodes import Language as Tag

    parts = [script] if script != language.script else []
    # A region counts where a data set has a text of it, which the table says.
    parts += [part for part in more if len(part) > 3 or _key(f"{language.code}-{part}") in _table()]
    if not parts:
        return language
    code = "-".join([language.code, *parts])
    if known := _table().get(_key(code)):
        return known
    shown = [Tag.make(script=script).script_name() if part == script else part for part in parts]
    name = f"{language.name} ({', '.join(shown)})"
    return dataclasses.replace(language, code=code, name=name, script=script, aliases=())


def _from_name(name: str) -> Language | None:
    from language_data.names import TRIES, name_to_code, normalize_name

    for spelling in (_key(name).replace("-", " "), name):
        code = name_to_code("language", spelling)
        # The library also finds a name by its first letters: "English creole" is English there.
        if code and normalize_name(spelling) in TRIES["und/name_to_language"]:
            return find_language(code)
    return None


def _named_variety(name: str, detail: str) -> Language | None:
    """Read `Serbian (Latin)`."""
    from langcodes import Language as Tag

    language = find_language(name)
    for kind in ("script", "territory"):
        with contextlib.suppress(LookupError):
            detail = str(Tag.find_name(kind, detail.replace("-", " "), "en")).split("-")[-1]
    return language and find_language(f"{language.code}-{detail}")


@cache
def _language(code: str) -> Language:
    """Describe a language of ISO 639-3, from the table or from the library."""
    if code in LANGUAGES:
        return LANGUAGES[code]
    from langcodes import Language as Tag

    tag = Tag.get(code)
    private = "qaa" <= code <= "qtz"
    name = code if private else tag.display_name().removesuffix(" (individual language)")
    return Language(code, name, str(tag.maximize().script))


@cache
def _our_code(code: str) -> str | None:
    """Return the code of this package for a code of ISO 639; None where it is no language."""
    if code in LANGUAGES:
        return code
    if known := _table().get(code):
        return known.code
    group = _group(code)
    if not group or group[0] in _NOT_ONE_LANGUAGE:
        return None
    if known := _table().get(group[0]):
        return known.code
    # A macrolanguage and the language that it stands for by default are one.
    return next((member for member in group if member in LANGUAGES), group[-1])


def _group(code: str) -> list[str]:
    """List, in ISO 639-3, a language, its macrolanguage, and the one that stands for that."""
    from langcodes import Language as Tag
    from langcodes.data_dicts import NORMALIZED_MACROLANGUAGES as MACROLANGUAGES

    tag = Tag.get(code)
    if not tag.is_valid():
        return []
    own = str(tag.language)
    macro = MACROLANGUAGES.get(own, own)
    members = [member for member, whole in MACROLANGUAGES.items() if whole == macro]
    return [Tag.make(language=member).to_alpha3() for member in (own, macro, *members)]


@cache
def _equivalents(code: str) -> tuple[str, ...]:
    """List the codes of ISO 639 that mean one of our languages, its own first."""
    from langcodes import Language as Tag

    own, codes = _language(code), [code]
    for member in (*_group(code), own.flores_code, *own.aliases):
        if member and "-" not in member:
            codes += [member, str(Tag.get(member).language)]
    return tuple(dict.fromkeys(c for c in codes if _our_code(c) == code))
