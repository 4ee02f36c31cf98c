import pytest

from lse_interp.core.errors import LseError
from lse_interp.core.languages import LANGUAGES
from lse_interp.data.embedded import TOPICS
from lse_interp.tasks.benchmarks import BENCHMARKS
from lse_interp.tasks.generation import generation_settings
from lse_interp.tasks.kinds.choice import format_options
from lse_interp.tasks.kinds.translation import translation_prompt

FOUR = ["one", "two", "three", "four"]
# Benchmark -> a row, and the prompt of its question.
EXPECTED = {
    "sib200": (
        {"text": "Il-baħar.", "category": "travel"},
        """Classify the following text into one of these topics:
A) Science/Technology
B) Travel
C) Politics
D) Sports
E) Health
F) Entertainment
G) Geography

Text: Il-baħar.

Answer:""",
    ),
    "belebele": (
        {
            "flores_passage": "It rains.",
            "question": "What does it do?",
            **{f"mc_answer{at}": text for at, text in enumerate(FOUR, start=1)},
            "correct_answer_num": 1,
        },
        """Read the following passage and pick the right answer.

Passage: It rains.

Question: What does it do?

A) one
B) two
C) three
D) four

Answer:""",
    ),
    "mmlu": (
        {"question": "What is 1 + 1?", "choices": FOUR, "answer": 0},
        """Answer the following multiple choice question:

What is 1 + 1?

A) one
B) two
C) three
D) four

Answer:""",
    ),
    "hellaswag": (
        {"ctx": "A man sits. He", "endings": FOUR, "label": 0},
        """Complete the following scenario by choosing the most likely continuation:

A man sits. He

A) one
B) two
C) three
D) four

Answer:""",
    ),
    "piqa": (
        {"goal": "Boil an egg.", "sol1": "In water.", "sol2": "In sand.", "label": 0},
        """Choose the most appropriate solution for the following goal:

Goal: Boil an egg.

A) In water.
B) In sand.

Answer:""",
    ),
    "winogrande": (
        {
            "sentence": "The cup did not fit the box, as _ was big.",
            "option1": "cup",
            "option2": "box",
            "answer": 1,
        },
        """Complete the sentence by choosing the correct option:

The cup did not fit the box, as _ was big.

A) cup
B) box

Answer:""",
    ),
    "arc_easy": (
        {
            "question": "What is ice?",
            "choices": {"text": FOUR[:3], "label": ["A", "B", "C"]},
            "answerKey": "A",
        },
        """Answer the following question:

What is ice?

A) one
B) two
C) three

Answer:""",
    ),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_prompt_is_the_text_of_the_paper(name):
    row, expected = EXPECTED[name]

    assert BENCHMARKS[name].question(row, where="").prompt == expected


def test_translation_is_the_text_of_the_paper():
    text = translation_prompt("Il-qattus jorqod.", target_name="English")

    assert text == "Translate this sentence into English: Il-qattus jorqod.\nTranslation:"


def test_translation_of_the_released_code_has_a_space_for_the_line_break():
    text = translation_prompt("It rains.", target_name="Maltese", style="released")

    assert text == "Translate this sentence into Maltese: It rains. Translation:"


def test_translation_refuses_a_missing_name_and_an_unknown_style():
    with pytest.raises(LseError, match="names the language wanted; got an empty name"):
        translation_prompt("text", target_name=" ")
    # As for data from a command line, which no annotation checks.
    with pytest.raises(LseError, match="Unknown prompt style 'papers'. Did you mean paper?"):
        translation_prompt.__wrapped__("text", target_name="Maltese", style="papers")


def test_every_language_of_the_crosswalk_has_a_name():
    names = [language.name for language in LANGUAGES.values()]

    assert all(name.strip() == name and name for name in names)
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("n_options", [0, 11])
def test_format_options_refuses_too_few_and_too_many(n_options):
    with pytest.raises(LseError, match=f"has 1 to 10 options; got {n_options}"):
        format_options(["x"] * n_options)


def test_generation_is_that_of_the_paper():
    settings = generation_settings()
    stops = settings.pop("until")

    assert settings == {
        "do_sample": False,
        "temperature": 0.0,
        "max_gen_toks": 128,
        "repetition_penalty": 1.1,
    }
    assert (len(stops), len(set(stops))) == (29, 29)
    assert stops[:6] == ["\n", "\n\n", "Question:", "Q:", "Answer:", "A:"]
    assert stops[-6:] == [
        "\n\nQuestion",
        "\n\nAnswer",
        "</s>",
        "<|endoftext|>",
        "Human:",
        "Assistant:",
    ]
    assert not [stop for stop in stops if "  " in stop]


def test_topics_have_seven_letters():
    assert len(TOPICS) == 7
