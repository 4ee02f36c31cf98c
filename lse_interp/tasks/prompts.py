"""The prompts of the paper, and the settings its answers are generated with.

Every function returns a prompt that ends in `Answer:` or `Translation:`, without a space after it:
the answer a model is scored on starts with one. Source: paper, appendices C.2 and C.3.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lse_interp.core.errors import LseError, near_misses
from lse_interp.tasks.base import LETTERS

__all__ = [
    "GENERATION",
    "STOPS",
    "STYLES",
    "Generation",
    "Style",
    "arc",
    "classification",
    "comprehension",
    "format_options",
    "hellaswag",
    "mmlu",
    "piqa",
    "translation",
    "winogrande",
]

Style = Literal["paper", "released"]
STYLES: tuple[Style, ...] = ("paper", "released")
"""`paper`: `Translation:` stands on a line of its own, as printed. `released`: after a space, as in
the code the authors released. Only the translation prompt differs."""

STOPS: tuple[str, ...] = (
    "\n",
    "\n\n",
    "Question:",
    "Q:",
    "Answer:",
    "A:",
    "Translation:",
    "The translation",
    "Translate:",
    "Summary:",
    "The summary",
    "Summarize:",
    "Passage:",
    "The passage",
    "Text:",
    "Options:",
    "The options",
    "The choices",
    "Choices:",
    "Context:",
    "The context",
    "The problem",
    "Problem:",
    "\n\nQuestion",
    "\n\nAnswer",
    "</s>",
    "<|endoftext|>",
    "Human:",
    "Assistant:",
)
"""What ends an answer, in the paper's order; the answer is what stands before. An answer that
begins with a newline is therefore empty, and so is one that begins with `A:`."""


@dataclass(frozen=True)
class Generation:
    """How answers are generated. Source: paper, appendix C.3."""

    max_tokens: int = 128
    repetition_penalty: float = 1.1
    temperature: float = 0.0
    """0: the likeliest token is taken, nothing is drawn."""
    stops: tuple[str, ...] = STOPS


GENERATION = Generation()
"""The settings of the paper."""


def translation(source_text: str, *, target_name: str, style: Style = "paper") -> str:
    r"""Ask for a translation.

    Args:
        source_text: the sentence to translate.
        target_name: English name of the language wanted, `Language.name` of the crosswalk.
        style: one of `STYLES`.

    Raises:
        LseError: no name, or an unknown style.

    >>> translation("Wieħed.", target_name="English")
    'Translate this sentence into English: Wieħed.\nTranslation:'
    """
    if not target_name.strip():
        raise LseError("a translation prompt names the language wanted; got an empty name.")
    if style not in STYLES:
        raise LseError(f"unknown prompt style {style!r}. {near_misses(style, STYLES)}")
    gap = "\n" if style == "paper" else " "
    return f"Translate this sentence into {target_name}: {source_text}{gap}Translation:"


def classification(text: str) -> str:
    """Ask for the topic of a text, one of the seven of SIB-200."""
    # Templates alone should not wait for torch, which the data package imports.
    from lse_interp.data.embedded import TOPICS

    return (
        "Classify the following text into one of these topics:\n"
        f"{format_options(tuple(TOPICS.values()))}\n\nText: {text}\n\nAnswer:"
    )


def comprehension(passage: str, *, question: str, options: Sequence[str]) -> str:
    """Ask a question about a passage."""
    return (
        "Read the following passage and pick the right answer.\n\n"
        f"Passage: {passage}\n\nQuestion: {question}\n\n{format_options(options)}\n\nAnswer:"
    )


def mmlu(question: str, options: Sequence[str]) -> str:
    """Ask a question of MMLU."""
    return (
        "Answer the following multiple choice question:\n\n"
        f"{question}\n\n{format_options(options)}\n\nAnswer:"
    )


def hellaswag(context: str, options: Sequence[str]) -> str:
    """Ask how a scene of HellaSwag goes on."""
    return (
        "Complete the following scenario by choosing the most likely continuation:\n\n"
        f"{context}\n\n{format_options(options)}\n\nAnswer:"
    )


def piqa(goal: str, options: Sequence[str]) -> str:
    """Ask for the better of two solutions."""
    return (
        "Choose the most appropriate solution for the following goal:\n\n"
        f"Goal: {goal}\n\n{format_options(options)}\n\nAnswer:"
    )


def winogrande(sentence: str, options: Sequence[str]) -> str:
    """Ask which of two words belongs where the sentence has `_`."""
    return (
        "Complete the sentence by choosing the correct option:\n\n"
        f"{sentence}\n\n{format_options(options)}\n\nAnswer:"
    )


def arc(question: str, options: Sequence[str]) -> str:
    """Ask a question of ARC."""
    return f"Answer the following question:\n\n{question}\n\n{format_options(options)}\n\nAnswer:"


def format_options(options: Sequence[str]) -> str:
    r"""Write the options one a line, as `A) text`.

    The paper prints this form for PIQA, Winogrande and the topics; it is taken for its `{options}`
    too.

    Raises:
        LseError: no option, or more than there are letters.

    >>> format_options(["yes", "no"])
    'A) yes\nB) no'
    """
    if not 1 <= len(options) <= len(LETTERS):
        raise LseError(f"a question has 1 to {len(LETTERS)} options; got {len(options)}.")
    return "\n".join(f"{letter}) {text}" for letter, text in zip(LETTERS, options, strict=False))
