"""The crosswalk of language codes."""

import re

import pytest

from lse_interp.core.errors import LanguageError
from lse_interp.core.languages import (
    LANGUAGES,
    PAPER_LANGUAGES,
    PAPER_REFERENCE,
    PAPER_TARGETS,
    family_order,
    lookup,
)


@pytest.mark.parametrize(
    ("spelling", "code"),
    [
        ("mlt", "mlt"),
        ("mt", "mlt"),
        ("Maltese", "mlt"),
        ("mlt_Latn", "mlt"),
        ("mlt-Latn", "mlt"),
        (" MLT ", "mlt"),
        ("est", "ekk"),
        ("lav", "lvs"),
        ("nep", "npi"),
        ("npi_Deva", "npi"),
        ("cmn", "zho"),
        ("zh", "zho"),
        ("ara", "arb"),
        ("no", "nob"),
        ("nor", "nob"),
        ("iw", "heb"),
    ],
)
def test_lookup_finds_every_spelling(spelling, code):
    assert lookup(spelling).code == code


def test_lookup_finds_every_language_by_each_of_its_own_codes():
    for code, language in LANGUAGES.items():
        assert language.code == code
        spellings = (*language.spellings, language.name, language.flores, language.glotcc)
        assert {lookup(spelling).code for spelling in spellings} == {code}


@pytest.mark.parametrize(
    ("spelling", "message"),
    [
        ("maltes", "unknown language 'maltes'.*Did you mean maltese"),
        ("q#", "unknown language 'q#'; expected an ISO 639-3 code such as mlt"),
        ("mlt_Arab", r"'mlt_Arab' asks for Maltese in script Arab; known here in Latn"),
    ],
)
def test_lookup_refuses_what_it_does_not_know(spelling, message):
    with pytest.raises(LanguageError, match=message):
        lookup(spelling)


def test_the_table_is_well_formed():
    assert len(LANGUAGES) > 100
    assert len({language.name for language in LANGUAGES.values()}) == len(LANGUAGES)
    for language in LANGUAGES.values():
        assert re.fullmatch("[a-z]{3}(-[A-Z]{2}|-[A-Z][a-z]{3})?", language.code)
        assert language.iso639_3 in LANGUAGES
        assert re.fullmatch("[A-Z][a-z]{3}", language.script)
        assert language.family
        assert language.branch
        assert language.iso639_1 is None or re.fullmatch("[a-z]{2}", language.iso639_1)


@pytest.mark.parametrize(
    ("spelling", "code", "flores"),
    [
        ("zho-TW", "zho-TW", "cmn_Hant"),
        ("cmn_Hant", "zho-TW", "cmn_Hant"),
        ("zh_Hant", "zho-TW", "cmn_Hant"),
        ("zho-CN", "zho", "cmn_Hans"),
        ("srp-Latn", "srp-Latn", "srp_Latn"),
        ("sr_latn", "srp-Latn", "srp_Latn"),
        ("srp-Cyrl", "srp", "srp_Cyrl"),
        ("pt-br", "por-BR", "por-BR_Latn"),
        ("deu-AT", "deu", "deu_Latn"),
    ],
)
def test_lookup_tells_varieties_from_their_language(spelling, code, flores):
    assert (lookup(spelling).code, lookup(spelling).flores) == (code, flores)


def test_a_variety_stands_beside_its_language():
    assert lookup("zho-TW").iso639_3 == "zho"
    assert family_order(["por-BR", "spa", "fra", "por"]) == ["fra", "por", "por-BR", "spa"]


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


def test_family_order_does_not_depend_on_the_order_given():
    assert family_order(PAPER_TARGETS) == family_order(reversed(PAPER_TARGETS))


def test_family_order_puts_codes_it_does_not_know_last():
    assert family_order(["xxx", "slk", "mlt"]) == ["mlt", "slk", "xxx"]
