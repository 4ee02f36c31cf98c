"""One crosswalk for language codes: ISO 639-3 in, records with every data set's spelling out.

Codes differ per data set (Estonian is `ekk` in FLORES+ and `est` in NTREX, Chinese `cmn` or
`zho`). Everything in this package is keyed by the codes of the paper; other spellings are looked
up here and nowhere else. A variety with a text of its own (`zho-TW`, `srp-Latn`) has the code of
its language, a hyphen, and the region or script.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from lse_interp.core.errors import LanguageError, near_misses

__all__ = [
    "LANGUAGES",
    "PAPER_LANGUAGES",
    "PAPER_REFERENCE",
    "PAPER_TARGETS",
    "RELEASED_LANGUAGES",
    "Language",
    "family_order",
    "lookup",
]


@dataclass(frozen=True)
class Language:
    """A language: its code here, its name, its script, its place in the family tree."""

    code: str
    """ISO 639-3, as in the paper; of a variety, with a region or script: `zho-TW`."""
    name: str
    """English name, as prompts spell it."""
    script: str
    """ISO 15924."""
    family: str
    branch: str
    iso639_1: str | None = None
    aliases: tuple[str, ...] = ()
    """Other spellings: macrolanguages, individual languages, with a region or script."""

    @property
    def iso639_3(self) -> str:
        """The language alone, without the region or script of a variety."""
        return self.code.partition("-")[0]

    @property
    def flores(self) -> str:
        """Code in FLORES+ and SIB-200, e.g. `mlt_Latn`."""
        return f"{_FLORES.get(self.code, self.code)}_{self.script}"

    @property
    def glotcc(self) -> str:
        """Configuration name in GlotCC, e.g. `mlt-Latn`."""
        return _GLOTCC.get(self.code, f"{self.code}-{self.script}")

    @property
    def spellings(self) -> tuple[str, ...]:
        """Every code that means this language, its own first."""
        extra = (self.iso639_1,) if self.iso639_1 else ()
        return (self.code, *self.aliases, *extra)


# Where a data set names an individual language and this table its macrolanguage.
_FLORES = {
    "aze": "azj",
    "fas": "pes",
    "mlg": "plt",
    "mon": "khk",
    "msa": "zsm",
    "orm": "gaz",
    "pus": "pbt",
    "sqi": "als",
    "swa": "swh",
    "srp-Latn": "srp",
    "uzb": "uzn",
    "zho": "cmn",
    "zho-TW": "cmn",
}
_GLOTCC = {"zho": "cmn-Hani"}

# code | name | script | family | branch | ISO 639-1 | aliases
_TABLE = """
afr | Afrikaans | Latn | Indo-European | Germanic | af |
sqi | Albanian | Latn | Indo-European | Albanian | sq | als
amh | Amharic | Ethi | Afro-Asiatic | Semitic | am |
arb | Arabic | Arab | Afro-Asiatic | Semitic | ar | ara
hye | Armenian | Armn | Indo-European | Armenian | hy |
aze | Azerbaijani | Latn | Turkic | Oghuz | az | azj
bak | Bashkir | Cyrl | Turkic | Kipchak | ba |
eus | Basque | Latn | Isolate | Basque | eu |
bel | Belarusian | Cyrl | Indo-European | Slavic | be |
bem | Bemba | Latn | Niger-Congo | Bantu | |
ben | Bengali | Beng | Indo-European | Indo-Aryan | bn |
bod | Tibetan | Tibt | Sino-Tibetan | Tibetic | bo |
bos | Bosnian | Latn | Indo-European | Slavic | bs |
bul | Bulgarian | Cyrl | Indo-European | Slavic | bg |
cat | Catalan | Latn | Indo-European | Romance | ca |
ces | Czech | Latn | Indo-European | Slavic | cs |
ckb | Central Kurdish | Arab | Indo-European | Iranian | |
cym | Welsh | Latn | Indo-European | Celtic | cy |
dan | Danish | Latn | Indo-European | Germanic | da |
deu | German | Latn | Indo-European | Germanic | de |
div | Divehi | Thaa | Indo-European | Indo-Aryan | dv |
dzo | Dzongkha | Tibt | Sino-Tibetan | Tibetic | dz |
ell | Greek | Grek | Indo-European | Hellenic | el |
eng | English | Latn | Indo-European | Germanic | en |
eng-GB | English (Britain) | Latn | Indo-European | Germanic | | en-GB
eng-IN | English (India) | Latn | Indo-European | Germanic | | en-IN
eng-US | English (US) | Latn | Indo-European | Germanic | | en-US
ekk | Estonian | Latn | Uralic | Finnic | et | est
ewe | Ewe | Latn | Niger-Congo | Gbe | ee |
fao | Faroese | Latn | Indo-European | Germanic | fo |
fas | Persian | Arab | Indo-European | Iranian | fa | pes
fij | Fijian | Latn | Austronesian | Oceanic | fj |
fil | Filipino | Latn | Austronesian | Philippine | tl | tgl
fin | Finnish | Latn | Uralic | Finnic | fi |
fra | French | Latn | Indo-European | Romance | fr |
fra-CA | French (Canada) | Latn | Indo-European | Romance | | fr-CA
fuc | Pulaar | Latn | Niger-Congo | Atlantic | ff |
gle | Irish | Latn | Indo-European | Celtic | ga |
glg | Galician | Latn | Indo-European | Romance | gl |
gsw | Swiss German | Latn | Indo-European | Germanic | |
guj | Gujarati | Gujr | Indo-European | Indo-Aryan | gu |
hau | Hausa | Latn | Afro-Asiatic | Chadic | ha |
heb | Hebrew | Hebr | Afro-Asiatic | Semitic | he | iw
hin | Hindi | Deva | Indo-European | Indo-Aryan | hi |
hmn | Hmong | Latn | Hmong-Mien | Hmongic | |
hrv | Croatian | Latn | Indo-European | Slavic | hr |
hun | Hungarian | Latn | Uralic | Ugric | hu |
ibo | Igbo | Latn | Niger-Congo | Igboid | ig |
ind | Indonesian | Latn | Austronesian | Malayic | id |
isl | Icelandic | Latn | Indo-European | Germanic | is |
ita | Italian | Latn | Indo-European | Romance | it |
jpn | Japanese | Jpan | Japonic | Japonic | ja |
kan | Kannada | Knda | Dravidian | South Dravidian | kn |
kat | Georgian | Geor | Kartvelian | Kartvelian | ka |
kaz | Kazakh | Cyrl | Turkic | Kipchak | kk |
khm | Khmer | Khmr | Austroasiatic | Khmer | km |
kin | Kinyarwanda | Latn | Niger-Congo | Bantu | rw |
kir | Kyrgyz | Cyrl | Turkic | Kipchak | ky |
kmr | Northern Kurdish | Latn | Indo-European | Iranian | ku |
kor | Korean | Hang | Koreanic | Koreanic | ko |
lao | Lao | Laoo | Kra-Dai | Tai | lo |
lvs | Latvian | Latn | Indo-European | Baltic | lv | lav
lit | Lithuanian | Latn | Indo-European | Baltic | lt |
ltz | Luxembourgish | Latn | Indo-European | Germanic | lb |
mal | Malayalam | Mlym | Dravidian | South Dravidian | ml |
mar | Marathi | Deva | Indo-European | Indo-Aryan | mr |
mey | Hassaniya Arabic | Arab | Afro-Asiatic | Semitic | |
mkd | Macedonian | Cyrl | Indo-European | Slavic | mk |
mlg | Malagasy | Latn | Austronesian | Barito | mg | plt
mlt | Maltese | Latn | Afro-Asiatic | Semitic | mt |
mon | Mongolian | Cyrl | Mongolic | Mongolic | mn | khk
mri | Maori | Latn | Austronesian | Oceanic | mi |
msa | Malay | Latn | Austronesian | Malayic | ms | zsm
mya | Burmese | Mymr | Sino-Tibetan | Burmish | my |
nde | Northern Ndebele | Latn | Niger-Congo | Bantu | nd |
npi | Nepali | Deva | Indo-European | Indo-Aryan | ne | nep
nld | Dutch | Latn | Indo-European | Germanic | nl |
nno | Norwegian Nynorsk | Latn | Indo-European | Germanic | nn |
nob | Norwegian Bokmål | Latn | Indo-European | Germanic | nb | nor no
nso | Northern Sotho | Latn | Niger-Congo | Bantu | |
nya | Nyanja | Latn | Niger-Congo | Bantu | ny |
orm | Oromo | Latn | Afro-Asiatic | Cushitic | om | gaz
pan | Punjabi | Guru | Indo-European | Indo-Aryan | pa |
pol | Polish | Latn | Indo-European | Slavic | pl |
por | Portuguese | Latn | Indo-European | Romance | pt |
por-BR | Portuguese (Brazil) | Latn | Indo-European | Romance | | pt-BR
prs | Dari | Arab | Indo-European | Iranian | |
pus | Pashto | Arab | Indo-European | Iranian | ps | pbt
ron | Romanian | Latn | Indo-European | Romance | ro |
rus | Russian | Cyrl | Indo-European | Slavic | ru |
shi | Tachelhit | Latn | Afro-Asiatic | Berber | |
sin | Sinhala | Sinh | Indo-European | Indo-Aryan | si |
slk | Slovak | Latn | Indo-European | Slavic | sk |
slv | Slovenian | Latn | Indo-European | Slavic | sl |
smo | Samoan | Latn | Austronesian | Oceanic | sm |
sna | Shona | Latn | Niger-Congo | Bantu | sn |
snd | Sindhi | Arab | Indo-European | Indo-Aryan | sd |
som | Somali | Latn | Afro-Asiatic | Cushitic | so |
spa | Spanish | Latn | Indo-European | Romance | es |
spa-MX | Spanish (Mexico) | Latn | Indo-European | Romance | | es-MX
srp | Serbian | Cyrl | Indo-European | Slavic | sr |
srp-Latn | Serbian (Latin) | Latn | Indo-European | Slavic | | sr-Latn
ssw | Swati | Latn | Niger-Congo | Bantu | ss |
swa | Swahili | Latn | Niger-Congo | Bantu | sw | swh
swe | Swedish | Latn | Indo-European | Germanic | sv |
tah | Tahitian | Latn | Austronesian | Oceanic | ty |
tam | Tamil | Taml | Dravidian | South Dravidian | ta |
tat | Tatar | Cyrl | Turkic | Kipchak | tt |
tel | Telugu | Telu | Dravidian | South-Central Dravidian | te |
tgk | Tajik | Cyrl | Indo-European | Iranian | tg |
tha | Thai | Thai | Kra-Dai | Tai | th |
tir | Tigrinya | Ethi | Afro-Asiatic | Semitic | ti |
ton | Tongan | Latn | Austronesian | Oceanic | to |
tsn | Tswana | Latn | Niger-Congo | Bantu | tn |
tuk | Turkmen | Latn | Turkic | Oghuz | tk |
tur | Turkish | Latn | Turkic | Oghuz | tr |
uig | Uyghur | Arab | Turkic | Karluk | ug |
ukr | Ukrainian | Cyrl | Indo-European | Slavic | uk |
urd | Urdu | Arab | Indo-European | Indo-Aryan | ur |
uzb | Uzbek | Latn | Turkic | Karluk | uz | uzn
ven | Venda | Latn | Niger-Congo | Bantu | ve |
vie | Vietnamese | Latn | Austroasiatic | Vietic | vi |
wol | Wolof | Latn | Niger-Congo | Atlantic | wo |
xho | Xhosa | Latn | Niger-Congo | Bantu | xh |
yor | Yoruba | Latn | Niger-Congo | Yoruboid | yo |
yue | Cantonese | Hant | Sino-Tibetan | Sinitic | |
zho | Chinese | Hans | Sino-Tibetan | Sinitic | zh | cmn zho-CN zh-CN
zho-TW | Chinese (Taiwan) | Hant | Sino-Tibetan | Sinitic | | zh-TW zho-Hant zh-Hant
zul | Zulu | Latn | Niger-Congo | Bantu | zu |
"""


def _parse_row(row: str) -> Language:
    code, name, script, family, branch, two, aliases = (cell.strip() for cell in row.split("|"))
    return Language(code, name, script, family, branch, two or None, tuple(aliases.split()))


LANGUAGES: dict[str, Language] = {
    language.code: language for language in map(_parse_row, _TABLE.strip().splitlines())
}

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
    """Find a language by any of its codes or by its English name.

    Accepts ISO 639-3 (`mlt`, and macrolanguages: `est`), ISO 639-1 (`mt`), a code with a script
    (`mlt_Latn`, `mlt-Latn`; the script must agree) and the name (`Maltese`). A region that is no
    variety of its own here (`deu-AT`) is left out.

    Raises:
        LanguageError: unknown; the message lists near misses.

    >>> lookup("est").code, lookup("nep_Deva").code, lookup("Maltese").flores
    ('ekk', 'npi', 'mlt_Latn')
    """
    spellings = _spellings()
    key = _key(code)
    if key in spellings:
        return spellings[key]
    stem, _, script = key.partition("_")
    found = spellings.get(stem)
    if found is None:
        hint = near_misses(key, [s for s in spellings if len(s) >= 3])
        raise LanguageError(
            f"unknown language {code!r}; expected an ISO 639-3 code such as mlt. {hint}"
        )
    if len(script) == 4 and script != found.script.lower():
        raise LanguageError(
            f"{code!r} asks for {found.name} in script {script.title()}; "
            f"known here in {found.script} ({found.flores})."
        )
    return found


def family_order(codes: Iterable[str]) -> list[str]:
    """Sort codes so that relatives stand together (family, branch, name), as in Figure 8.

    >>> family_order(["slv", "lit", "slk", "lvs"])
    ['lvs', 'lit', 'slk', 'slv']
    """

    def key(code: str) -> tuple[str, str, str]:
        language = LANGUAGES.get(code)
        if language is None:
            return ("~", "~", code)
        return (language.family, language.branch, language.name)

    return sorted(codes, key=key)


@cache
def _spellings() -> dict[str, Language]:
    table: dict[str, Language] = {}
    for language in LANGUAGES.values():
        whole = (language.name, language.flores, language.glotcc)
        for spelling in map(_key, (*language.spellings, *whole)):
            if table.setdefault(spelling, language) is not language:
                raise AssertionError(f"{spelling} is ambiguous")
    return table


def _key(spelling: str) -> str:
    return spelling.strip().lower().replace("-", "_")
