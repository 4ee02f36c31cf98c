"""The crosswalk of languages."""

import re
import subprocess
import sys

import pytest

from lse_interp.core.errors import LanguageError
from lse_interp.core.languages import (
    LANGUAGES,
    PAPER_LANGUAGES,
    PAPER_REFERENCE,
    PAPER_TARGETS,
    UNKNOWN,
    family_order,
    find_language,
    lookup,
)
from lse_interp.tasks.benchmarks.belebele import BELEBELE
from lse_interp.tasks.benchmarks.flores import FLORES_200
from lse_interp.tasks.benchmarks.opus100 import OPUS_100
from lse_interp.tasks.benchmarks.sib200 import SIB_200

_FLORES_PLUS = """
apc_Arab_nort3139 apc_Arab_sout3123 arg_Latn brx_Deva cat_Latn_vale1252 chv_Cyrl cmn_Hans cmn_Hant
dar_Cyrl dgo_Deva ekk_Latn fil_Latn gom_Deva gug_Latn kaa_Latn khk_Mong kjh_Cyrl ktu_Latn lld_Latn
lld_Latn_gard1241 mfe_Latn mhr_Cyrl mni_Mtei myv_Cyrl nob_Latn_radical nqo_Nkoo oci_Latn_aran1260
snd_Deva twi_Latn_akua1239 twi_Latn_asan1239 udm_Cyrl uzs_Arab wuu_Hans zgh_Tfng
"""
_NTREX = """
afr amh arb aze-Latn bak bel bem ben bod bos bul cat ces ckb-Arab cym dan deu div dzo ell eng eng-GB
eng-IN eng-US est eus ewe fao fas fij fil fin fra fra-CA fuc gle glg guj gsw-BE gsw-ZH hau heb hin
hmn hrv hun hye ibo ind isl ita jpn kan kat kaz khm kin kir kmr kor lao lav lit ltz mal mar mey mkd
mlg mlt mon mri msa mya nde nep nld nno nob nso nya orm pan pol por por-BR prs pus ron rus shi sin
slk slv smo sna-Latn snd-Arab som spa spa-MX sqi srp-Cyrl srp-Latn ssw swa swe tah tam tat tel
tgk-Cyrl tha tir ton tsn tuk tur uig ukr urd uzb ven vie wol xho yor yue zho-CN zho-TW zul
"""
FLORES_PLUS, NTREX = _FLORES_PLUS.split(), _NTREX.split()


@pytest.mark.parametrize(
    ("code", "spellings"),
    {
        "mlt": "mt Maltese mlt_Latn mlt-Latn MLT maltese mt-MT",
        "ekk": "est et est_Latn ekk_Latn Estonian et_EE",
        "lvs": "lav lv lav_Latn lvs_Latn Latvian",
        "npi": "nep ne nep_Deva npi-Deva",
        "zho": "cmn zh zh-Hans cmn_Hans zho_Hans zho-CN zh_cn cmn-Hani zho_Simpl",
        "zho-Hant": "zho_Hant cmn_Hant zh-Hant zh-TW zho-TW zh_HK zho_Trad",
        "arb": "ara ar arb_Arab ar_EG",
        "msa": "zsm ms zsm_Latn may",
        "nob": "nor no nb nob_Latn",
        "fas": "pes fa farsi pes_Arab per",
        "swa": "swh sw",
        "aze": "azj az aze-Latn",
        "sqi": "als sq",
        "orm": "gaz om",
        "ydd": "yid yi ji",
        "kmr": "kur ku kurmanji",
        "fuc": "ful ff",
        "quy": "que qu",
        "grn": "gug gn",
        "dik": "din",
        "kon": "kg kng",
        "ayr": "aym ay",
        "fil": "tgl tl Tagalog fil_PH",
        "heb": "iw he",
        "ron": "mo mol ro",
        "ind": "in id",
        "jav": "jw jv Javanese",
        "cym": "cy wel Welsh WELSH Cymraeg cy_GB",
        "gla": "scottish_gaelic scottish-gaelic gd",
        "srp": "srp-Cyrl sr scc",
        "srp-Latn": "sr_latn srp_Latn sr-ME sh",
        "por-BR": "pt-br pt_BR por_BR",
        "deu": "deu-AT de_CH German ger",
        "kor": "kor_Hang kor_Kore ko",
        "urd": "urd_Aran ur",
        "sat": "sat_Olck sat_Beng",
        "apc": "apc_Arab apc_Arab_nort3139",
        "ajp": "ajp_Arab apc_Arab_sout3123",
        "aka": "ak twi_Latn_asan1239",
        "twi": "tw twi_Latn_akua1239",
        "cat-valencia": "ca-valencia",
        "kas-Deva": "kas_Deva ks-Deva",
        "pnb": "lah",
    }.items(),
)
def test_lookup_finds_every_spelling(code, spellings):
    found = {
        spelling: lookup(spelling).code for spelling in (code, f" {code} ", *spellings.split())
    }
    assert set(found.values()) == {code}, found


def test_lookup_finds_every_language_by_each_of_its_own_spellings():
    for code in (*LANGUAGES, "kas-Deva", "lah", "cat-valencia", "tlh", "qaa"):
        language = lookup(code)
        names = [language.flores, language.code.upper()]
        names += [language.name] if len(language.name) > 3 else []
        found = {spelling: lookup(spelling).code for spelling in (*language.spellings, *names)}
        assert set(found.values()) == {language.code}, found
        assert len(set(language.spellings)) == len(language.spellings)


@pytest.mark.parametrize(
    "codes", [FLORES_200, SIB_200, BELEBELE, OPUS_100 - {"no"}, FLORES_PLUS, NTREX]
)
def test_lookup_tells_all_languages_of_a_data_set_apart_and_knows_their_families(codes):
    languages = {code: lookup(code) for code in codes}
    assert len({language.code for language in languages.values()}) == len(codes)
    assert [code for code, found in languages.items() if found.family == UNKNOWN] == []


def test_flores_gives_back_the_codes_of_flores_200():
    renamed = {
        *("ajp_Arab", "aka_Latn", "apc_Arab", "est_Latn", "grn_Latn", "tgl_Latn", "twi_Latn"),
        *("zho_Hans", "zho_Hant"),
    }
    assert {code for code in FLORES_200 if lookup(code).flores != code} == renamed
    assert all(lookup(code).flores == code for code in FLORES_PLUS)


def test_lookup_takes_any_language_of_iso_639():
    klingon = lookup("tlh")
    assert (klingon.name, klingon.family, klingon.script) == ("Klingon", UNKNOWN, "Latn")
    assert lookup("che_Cyrl").iso639_1 == "ce"
    assert lookup("rsk").name == "Ruthenian"


def test_lookup_takes_the_codes_that_iso_639_keeps_for_private_use():
    assert (lookup("qaa").name, lookup("QTZ").code) == ("qaa", "qtz")


@pytest.mark.parametrize(
    ("spelling", "message"),
    [
        ("maltessse", "unknown language 'maltessse'.*Did you mean maltese"),
        ("q#", "unknown language 'q#'; expected an ISO 639-3 code such as mlt"),
        ("toki", "unknown language 'toki'.*private use: qaa to qtz"),
        ("mlt_Foob", "unknown language 'mlt_Foob'"),
        ("xxx", "unknown language 'xxx'"),
        ("mul", "unknown language 'mul'"),
        ("mlt-law", "unknown language 'mlt-law'"),
        ("", "unknown language ''"),
    ],
)
def test_lookup_refuses_what_it_does_not_know(spelling, message):
    assert find_language(spelling) is None
    with pytest.raises(LanguageError, match=message):
        lookup(spelling)


def test_the_table_is_well_formed():
    assert len({language.name for language in LANGUAGES.values()}) == len(LANGUAGES)
    for language in LANGUAGES.values():
        assert re.fullmatch("[a-z]{3}(-[A-Z]{2}|-[A-Z][a-z]{3}|-[a-z]+)?", language.code)
        assert language.iso639_3 in LANGUAGES
        assert re.fullmatch("[A-Z][a-z]{3}", language.script)
        assert (language.family == UNKNOWN) == (language.branch == UNKNOWN)
        assert language.iso639_1 is None or re.fullmatch("[a-z]{2}", language.iso639_1)


def test_scripts_and_families_of_a_variety():
    kashmiri = lookup("kas_Deva")
    assert (kashmiri.name, kashmiri.family) == ("Kashmiri (Devanagari)", "Indo-European")
    assert (lookup("zho-Hant").iso639_3, lookup("zho-Hant").flores) == ("zho", "cmn_Hant")
    assert lookup("cat_Latn_vale1252").flores == "cat_Latn_vale1252"
    assert lookup("Serbian (Latin)").code == "srp-Latn"


def test_data_set_spellings_of_the_paper_languages():
    assert lookup("mlt").flores == "mlt_Latn"
    assert lookup("kat").flores == "kat_Geor"
    assert (lookup("zho").flores, lookup("zho").glotcc) == ("cmn_Hans", "cmn-Hani")
    assert (lookup("npi").flores, lookup("npi").glotcc) == ("npi_Deva", "npi-Deva")
    assert lookup("ekk").flores == "ekk_Latn"


def test_the_paper_has_twelve_targets_and_nine_references():
    assert (len(PAPER_TARGETS), len(PAPER_REFERENCE)) == (12, 9)
    assert PAPER_LANGUAGES == PAPER_TARGETS + PAPER_REFERENCE
    assert len(set(PAPER_LANGUAGES)) == 21
    assert set(PAPER_LANGUAGES) <= set(LANGUAGES)


def test_family_order_puts_relatives_side_by_side():
    order = family_order(PAPER_TARGETS)
    assert sorted(order) == sorted(PAPER_TARGETS)
    branches = [(lookup(code).family, lookup(code).branch) for code in order]
    changes = sum(a != b for a, b in zip(branches, branches[1:], strict=False))
    assert changes == len(set(branches)) - 1
    assert family_order(["por-BR", "spa", "fra", "por"]) == ["fra", "por", "por-BR", "spa"]


def test_family_order_does_not_depend_on_the_order_given():
    assert family_order(PAPER_TARGETS) == family_order(reversed(PAPER_TARGETS))


def test_family_order_puts_unknown_families_and_other_labels_last():
    assert family_order(["xxx", "tlh", "slk", "mlt"]) == ["mlt", "slk", "tlh", "xxx"]


def test_languages_are_imported_without_their_library():
    code = "import sys, lse_interp.core.languages; print('langcodes' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
