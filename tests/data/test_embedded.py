import unicodedata
from collections import Counter, defaultdict
from itertools import product

import pytest

from lse_interp.core.errors import CorpusError, LanguageError
from lse_interp.core.languages import LANGUAGES, PAPER_LANGUAGES, PAPER_TARGETS
from lse_interp.data.embedded import SPLITS, TOPICS, clauses, documents, sentences

pytestmark = pytest.mark.slow

HELD_OUT = ("dev", "devtest")
TRAINING = ("pretrain", "adapt")
SCRIPTS = {
    "Latn": ("LATIN",),
    "Cyrl": ("CYRILLIC",),
    "Geor": ("GEORGIAN",),
    "Deva": ("DEVANAGARI",),
    "Arab": ("ARABIC",),
    "Hans": ("CJK UNIFIED",),
    "Jpan": ("CJK UNIFIED", "HIRAGANA", "KATAKANA"),
}
# `enne kui` (before) ends in `kui` (when), so these two held-out clauses stand inside another.
CONTAINED = {("ekk", "when.01", "before.02"), ("ekk", "when.02", "before.05")}


def splits_of(language):
    return [s for s in SPLITS if s != "adapt" or language in PAPER_TARGETS]


def clause_ids(language, splits):
    found = set()
    for split in splits:
        for sentence in sentences(language, split):
            found |= {sentence.main, sentence.subordinate}
    return found


def training_and_held_out(language):
    training = clause_ids("afr", TRAINING)
    held_out = clause_ids(language, HELD_OUT)
    texts = clauses(language).main | clauses(language).subordinate
    return {i: texts[i] for i in training}, {i: texts[i] for i in held_out}


@pytest.mark.parametrize("language", PAPER_LANGUAGES)
def test_clauses_are_enough_distinct_and_the_same_in_every_language(language):
    text = clauses(language)

    assert len(text.main) >= 200
    assert len(text.subordinate) >= 60
    assert list(text.main) == list(clauses("eng").main)
    assert list(text.subordinate) == list(clauses("eng").subordinate)
    together = [*text.main.values(), *text.subordinate.values()]
    assert len(set(together)) == len(together)


@pytest.mark.parametrize("language", PAPER_LANGUAGES)
def test_clauses_are_normalised_and_bare(language):
    text = clauses(language)

    for clause in (*text.main.values(), *text.subordinate.values()):
        assert clause == unicodedata.normalize("NFC", clause).strip()
        assert clause[-1] not in ".。।,،、，"
        assert "  " not in clause
    assert text.template.count("{main}") == text.template.count("{sub}") == 1
    assert text.template[-1] in ".。।"


@pytest.mark.parametrize("language", PAPER_LANGUAGES)
def test_sentences_are_written_in_the_script_of_the_language(language):
    allowed = SCRIPTS[LANGUAGES[language].script]

    for split in splits_of(language):
        letters = {c for s in sentences(language, split) for c in s.text if c.isalpha()}
        # The long vowel mark of Japanese is named after both of its scripts.
        foreign = {c for c in letters - {"ー"} if not unicodedata.name(c).startswith(allowed)}
        assert not foreign
        assert len(letters) > 15


def test_sentences_of_japanese_mix_its_scripts():
    text = "".join(s.text for s in sentences("jpn", "devtest"))

    for script in SCRIPTS["Jpan"]:
        assert any(unicodedata.name(c).startswith(script) for c in text)


@pytest.mark.parametrize("language", PAPER_LANGUAGES)
def test_sentences_are_parallel_index_by_index(language):
    for split in splits_of(language):
        reference = "afr" if split == "adapt" else "eng"
        ours = [(s.topic, s.main, s.subordinate) for s in sentences(language, split)]
        assert ours == [(s.topic, s.main, s.subordinate) for s in sentences(reference, split)]


@pytest.mark.parametrize("language", PAPER_LANGUAGES)
def test_sentences_are_all_pairs_of_the_clauses_of_a_split(language):
    for split in splits_of(language):
        pairs = [(s.main, s.subordinate) for s in sentences(language, split)]
        mains, subordinates = (sorted(set(column)) for column in zip(*pairs, strict=True))
        assert sorted(pairs) == list(product(mains, subordinates))


@pytest.mark.parametrize("language", PAPER_LANGUAGES)
def test_sentences_begin_with_a_capital_and_hold_their_clauses(language):
    text = clauses(language)

    for split in splits_of(language):
        for sentence in sentences(language, split):
            first = sentence.text[0]
            assert first == first.title()
            assert "GEORGIAN MTAVRULI" not in unicodedata.name(first)
            for clause in (text.main[sentence.main], text.subordinate[sentence.subordinate]):
                assert clause[1:] in sentence.text


@pytest.mark.parametrize("split", SPLITS)
def test_sentences_cover_the_seven_topics_evenly(split):
    counts = Counter(s.topic for s in sentences("mlt", split))

    assert set(counts) == set(TOPICS)
    assert len(TOPICS) == 7
    assert len(set(counts.values())) == 1


@pytest.mark.parametrize("language", PAPER_LANGUAGES)
def test_splits_share_no_clause(language):
    found = [clause_ids(language, [split]) for split in splits_of(language)]

    assert sum(map(len, found)) == len(set().union(*found))


@pytest.mark.parametrize("language", PAPER_LANGUAGES)
def test_held_out_clauses_never_occur_in_training_clauses(language):
    training, held_out = training_and_held_out(language)

    assert len(held_out) == 58
    assert not set(training.values()) & set(held_out.values())
    contained = {
        (language, inner, outer)
        for inner, text in held_out.items()
        for outer, other in training.items()
        if text in other
    }
    assert contained <= CONTAINED


def test_sentences_are_never_shared_between_languages_or_splits():
    places = defaultdict(list)
    for language in PAPER_LANGUAGES:
        for split in splits_of(language):
            for sentence in sentences(language, split):
                places[sentence.text].append((language, split))

    assert not {text: where for text, where in places.items() if len(where) > 1}


def test_clauses_are_never_shared_between_languages():
    places = defaultdict(list)
    for language in PAPER_LANGUAGES:
        text = clauses(language)
        for clause in (*text.main.values(), *text.subordinate.values()):
            places[clause].append(language)

    assert not {text: where for text, where in places.items() if len(where) > 1}


@pytest.mark.parametrize("language", PAPER_LANGUAGES)
def test_sentences_of_adapt_exist_for_the_twelve_alone(language):
    if language in PAPER_TARGETS:
        assert len(sentences(language, "adapt")) > 1000
    else:
        with pytest.raises(CorpusError, match=rf"the split `adapt` has no {language}.*Use split"):
            sentences(language, "adapt")


def test_sentences_refuses_an_unknown_split_and_language():
    with pytest.raises(CorpusError, match="unknown split 'test'.*devtest"):
        sentences("mlt", "test")
    with pytest.raises(LanguageError, match="no language 'mtl'. Did you mean mlt"):
        sentences("mtl", "dev")


@pytest.mark.parametrize(("language", "join"), [("eng", " "), ("jpn", ""), ("zho", "")])
def test_documents_join_consecutive_sentences(language, join):
    texts = [s.text for s in sentences(language, "dev")]

    found = documents(language, "dev", n_sentences=5)

    assert found[0] == join.join(texts[:5])
    assert found[-1] == join.join(texts[165:])
    assert len(found) == 34
