"""Questions made of the embedded corpus: what they ask, and that nothing gives the answer away."""

from collections import Counter

import pytest

from lse_interp.core.errors import LanguageError, LseError
from lse_interp.core.languages import PAPER_LANGUAGES, lookup
from lse_interp.data.embedded import TOPICS, clause_ids, sentences
from lse_interp.tasks.benchmarks import Reading, load_documents, tasks_of
from lse_interp.tasks.kinds import require_documents
from lse_interp.tasks.task import digest


def embedded_tasks(language):
    return tasks_of(language, ["embedded"])


def embedded_documents(task, *, prompt_style="paper"):
    return load_documents(task, reading=Reading(prompt_style=prompt_style))


def task(language, name):
    (found,) = [t for t in embedded_tasks(language) if t.name == f"embedded_{name}"]
    return found


def test_embedded_tasks_are_of_the_language_and_of_english():
    names = [(t.name, t.group, t.language) for t in embedded_tasks("mlt")]
    assert names == [
        ("embedded_translation_mlt_eng", "target", "eng"),
        ("embedded_translation_eng_mlt", "target", "mlt"),
        ("embedded_topics_mlt", "target", "mlt"),
        ("embedded_endings_mlt", "target", "mlt"),
        ("embedded_topics_eng", "general", "eng"),
        ("embedded_endings_eng", "general", "eng"),
    ]


def test_embedded_tasks_of_english_are_general_alone():
    assert {t.group for t in embedded_tasks("eng")} == {"general"}


def test_embedded_tasks_refuse_what_they_do_not_know():
    with pytest.raises(LseError, match="Unknown task 'topic'. Did you mean topics"):
        tasks_of("mlt", ["topic"])
    with pytest.raises(LanguageError, match="no language 'fin'"):
        embedded_tasks("fin")


@pytest.mark.parametrize("language", PAPER_LANGUAGES)
def test_embedded_documents_are_fit_to_be_asked(language):
    for found in embedded_tasks(language):
        documents = embedded_documents(found)
        require_documents(found, documents)
        assert len(documents) == 168
        assert all(d.prompt == d.prompt.rstrip() for d in documents)
        assert len({(d.prompt, d.choices) for d in documents}) == 168


def test_translation_asks_for_the_parallel_sentence():
    document = embedded_documents(task("mlt", "translation_mlt_eng"))[3]
    source, target = (sentences(code, "devtest")[3].text for code in ("mlt", "eng"))
    assert document.prompt == f"Translate this sentence into English: {source}\nTranslation:"
    assert document.reference == target
    released = embedded_documents(task("mlt", "translation_mlt_eng"), prompt_style="released")[3]
    assert released.prompt == f"Translate this sentence into English: {source} Translation:"


def test_topics_asks_for_the_topic_of_the_sentence():
    document = embedded_documents(task("mlt", "topics_mlt"))[3]
    sentence = sentences("mlt", "devtest")[3]
    assert f"\n\nText: {sentence.text}\n\nAnswer:" in document.prompt
    assert document.choices[document.answer] == TOPICS[sentence.topic]


@pytest.mark.parametrize("language", ["eng", "mlt", "npi", "zho", "kat"])
def test_endings_complete_the_sentence_with_the_right_option_alone(language):
    asked = sentences(language, "devtest")
    documents = embedded_documents(task(language, f"endings_{language}"))
    for document, sentence in zip(documents, asked, strict=True):
        assert len(set(document.choices)) == 4
        fits = [_holds_main(document.prompt + c, sentence.text) for c in document.choices]
        assert [at for at, fit in enumerate(fits) if fit] == [document.answer]


def _holds_main(text, sentence):
    """Say whether `text` ends in a beginning of `sentence` that is cut where a clause ends."""
    longest = max(k for k in range(len(sentence) + 1) if text.endswith(sentence[:k]))
    return longest > 0 and sentence[longest:][:1] in {".", ",", "。", "।", "、", "，", " "}


@pytest.mark.parametrize("language", ["eng", "mlt", "jpn"])
def test_endings_have_no_option_that_is_likelier_by_itself(language):
    documents = embedded_documents(task(language, f"endings_{language}"))
    answers = Counter(d.answer for d in documents)
    assert set(answers.values()) == {42}
    right = Counter(d.choices[d.answer] for d in documents)
    wrong = Counter(c for d in documents for at, c in enumerate(d.choices) if at != d.answer)
    # Two clauses may end alike, and are then never offered together.
    assert all(abs(wrong[ending] - 3 * n) <= 8 for ending, n in right.items())


def test_endings_do_not_show_the_clauses_asked_about():
    main_ids, _ = clause_ids("devtest")
    documents = embedded_documents(task("eng", "endings_eng"))
    assert len(main_ids) == 21
    for document in documents:
        assert not any(choice in document.prompt for choice in document.choices)


def test_digest_tells_languages_and_prompts_apart():
    found = {
        digest(embedded_documents(t, prompt_style=style))
        for code in ("mlt", "isl")
        for t in embedded_tasks(code)
        for style in ("paper", "released")
    }
    # Of each language, two translations in two styles and two further tasks; English ones once.
    assert len(found) == 2 * (2 * 2 + 2) + 2
    assert lookup("mlt").name == "Maltese"
