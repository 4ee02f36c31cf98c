import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lse_interp.core.errors import LanguageError, LseError
from lse_interp.tasks.metrics import (
    bleu_tokenizer,
    chrf,
    extract_letter,
    sentence_bleu,
)

sacrebleu = pytest.importorskip("sacrebleu")

ANSWERED = {
    "B": "B",
    " B": "B",
    " B)": "B",
    "(B)": "B",
    "[B]": "B",
    "{B}": "B",
    "**B**": "B",
    "**B) Travel**": "B",
    "`B`": "B",
    '"B"': "B",
    "（B）": "B",
    "B.": "B",
    "B. because": "B",
    "B.because": "B",
    "B because it rains": "B",
    "B, because it rains": "B",
    "B) Travel": "B",
    "B)Travel": "B",
    "B: Travel": "B",
    "B - Travel": "B",
    "B – Travel": "B",
    "B\nC": "B",
    "B。": "B",
    "b)": "B",
    "b": "B",
    "b.": "B",
    " d\n\n": "D",
    "A": "A",
    "A)": "A",
    "A) A dog": "A",
    "A.": "A",
    "A. dog": "A",
    "A is correct": "A",
    "A because it rains": "A",
    "C is correct": "C",
    "The answer is B": "B",
    "The answer is B.": "B",
    "The answer is b": "B",
    "The correct answer is (C) because": "C",
    "The correct option is **D**": "D",
    "Answer: B": "B",
    "Answer: **B**": "B",
    "answer = c": "C",
    "Option B": "B",
    "Choice: (A)": "A",
    "I think the answer is B": "B",
    "In short, the answer is: D.": "D",
    "A dog. The answer is C.": "C",
    "B, B": "B",
    "B, I think": "B",
    "B, A dog": "B",
}
UNANSWERED = (
    "",
    " ",
    "\n",
    ")",
    "1",
    "1) B",
    "Afternoon",
    "Banana",
    "Banana. B",
    "A dog",
    "A dog barks",
    "An apple",
    "I think so",
    "b because",
    "e vero",
    "E",
    "G)",
    "The answer is E",
    "E. Or else the answer is B.",
    "B-52",
    "B's",
    "B’s",
    "B2",
    "B.C.",
    "B+",
    "A/B",
    "B or C",
    "A or B",
    "B, C",
    "A) or B)",
    "A, B and C",
    "C, A or B",
    "B and A",
    "(B) or (A)",
    "Both B and C",
    "Science/Technology",
    "Travel (B)",
    "The answer is not A but B",
    "The answer is a dog",
    "The answer is A dog",
    "The answers are B",
    "Bé",
    "B\u0301",
    "Ċ",
    "Б",
    "B是",
)


@pytest.mark.parametrize(("text", "letter"), ANSWERED.items())
def test_extract_letter_finds_the_answer(text, letter):
    assert extract_letter(text, "ABCD") == letter


@pytest.mark.parametrize("text", UNANSWERED)
def test_extract_letter_finds_none(text):
    assert extract_letter(text, "ABCD") is None


@given(
    letter=st.sampled_from("ABCDEFG"),
    form=st.sampled_from(
        ["{}", "({})", "{})", "{}.", "**{}**", "Answer: {}", "Option {}.", "{} is"]
    ),
    before=st.sampled_from(["", " ", "\n", "\t"]),
    after=st.sampled_from(["", " ", "\n", ", I think"]),
    small=st.booleans(),
)
def test_extract_letter_finds_every_letter_in_every_form(letter, form, before, after, small):
    shown = letter.lower() if small and form != "{} is" else letter
    text = before + form.format(shown) + after

    assert extract_letter(text, "ABCDEFG") == letter


@given(st.text())
def test_extract_letter_is_an_option_or_nothing_and_knows_no_outer_space(text):
    found = extract_letter(text, "ABCD")

    assert found in (None, "A", "B", "C", "D")
    assert extract_letter(f"  {text}", "ABCD") == found


@given(st.text("abcdefgABCDEFG", min_size=2, max_size=8), st.sampled_from(["", ".", " is", ")"]))
def test_extract_letter_takes_no_letter_out_of_a_word(word, after):
    assert extract_letter(word + after, "ABCDEFG") is None


@given(st.text(), st.sampled_from(["AB", "ABC", "ABCD", "ABCDEFG"]))
def test_extract_letter_has_an_answer_with_more_options_if_with_fewer(text, letters):
    found = extract_letter(text, letters)

    if found is not None:
        assert extract_letter(text, "ABCDEFGHIJ") == found


@pytest.mark.parametrize("text", ["the cat sat on the mat", "the cat sat", "cat", "Il-qattus."])
def test_sentence_bleu_of_the_reference_is_100(text):
    assert sentence_bleu(text, text, language="mlt") == 100.0


def test_sentence_bleu_by_hand():
    # One to four words match in all n-grams there are; exp(1 - 6/3) for being half as long.
    score = sentence_bleu("the cat sat", "the cat sat on the mat", language="eng")

    assert score == pytest.approx(100 * 2.718281828459045**-1)
    # 3 of 4 words, 2 of 3 pairs, 1 of 2 triples, and half a match, by smoothing, of 1 quadruple.
    score = sentence_bleu("a b c x", "a b c d", language="eng")
    assert score == pytest.approx(100 * (3 / 4 * 2 / 3 * 1 / 2 * 1 / 2) ** 0.25)


@pytest.mark.parametrize(("hypothesis", "language"), [("x y z", "eng"), ("", "eng"), ("猫", "zho")])
def test_sentence_bleu_without_a_common_token_is_0(hypothesis, language):
    assert sentence_bleu(hypothesis, "我喜欢你", language=language) == 0.0


@pytest.mark.parametrize("language", ["zho", "jpn"])
def test_sentence_bleu_sees_parts_of_unspaced_sentences(language):
    score = sentence_bleu("我喜欢他", "我喜欢你", language=language)

    assert 20 < score < 100
    assert sentence_bleu("我喜欢他", "我喜欢你", language="eng") == 0.0


@given(
    st.lists(st.sampled_from("abcde"), max_size=8), st.lists(st.sampled_from("abcde"), max_size=8)
)
def test_scores_are_percentages_and_agree_with_sacrebleu(hypothesis, reference):
    hypothesis, reference = " ".join(hypothesis), " ".join(reference)
    bleu = sentence_bleu(hypothesis, reference, language="mlt")

    expected = sacrebleu.sentence_bleu(hypothesis, [reference], use_effective_order=True).score
    assert 0.0 <= bleu <= 100.0
    assert bleu == pytest.approx(expected)
    assert 0.0 <= chrf(hypothesis, reference) <= 100.0
    assert chrf(hypothesis, reference) == pytest.approx(
        sacrebleu.sentence_chrf(hypothesis, [reference]).score
    )


def test_chrf_by_hand():
    assert chrf("abc", "abc") == 100.0
    assert chrf("xyz", "abc") == 0.0
    # One letter of two, no pair: precision and recall are 1/2 and 0, their F means 1/2 and 0.
    assert chrf("ab", "ac") == pytest.approx(25.0)


@pytest.mark.parametrize(
    ("language", "tokenizer"),
    [("zho", "zh"), ("yue", "zh"), ("jpn", "char"), ("tha", "char"), ("mya", "char")]
    + [("kat", "13a"), ("npi", "13a"), ("arb", "13a"), ("kor", "13a"), ("mt", "13a")],
)
def test_bleu_tokenizer_follows_the_script(language, tokenizer):
    assert bleu_tokenizer(language) == tokenizer


def test_sentence_bleu_refuses_an_unknown_language():
    with pytest.raises(LanguageError, match="unknown language 'nlt'"):
        sentence_bleu("a", "a", language="nlt")


def test_scores_name_the_extra_when_sacrebleu_is_missing(monkeypatch):
    from lse_interp.tasks import metrics as scoring

    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    for cached in (scoring._bleu, scoring._chrf):
        cached.cache_clear()
    with pytest.raises(LseError, match=r"sacrebleu, which is not installed. Run pip install 'lse-"):
        sentence_bleu("a", "a", language="eng")
    with pytest.raises(LseError, match=r"pip install 'lse-interp\[eval\]'"):
        chrf("a", "a")


def test_prompts_and_scoring_import_nothing_heavy():
    code = (
        "import sys, lse_interp.tasks.metrics\n"
        "from lse_interp.tasks.benchmarks import BENCHMARKS\n"
        "BENCHMARKS['belebele'], BENCHMARKS['piqa']\n"
        "print([name for name in ('torch', 'lm_eval', 'sacrebleu') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert out.stdout.strip() == "[]"
