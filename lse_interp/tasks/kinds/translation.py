r"""Translation: a text is generated and compared with a reference.

The paper prints `Translation:` on a new line; the code its authors released has it after a space.
`bleu_other` is a control: the BLEU of each output against the reference of another question. The
part of `bleu` that is not above it is no translation. Source: paper, section 4.2, appendix C.2.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from lse_interp.core.errors import LseError, near_misses
from lse_interp.core.languages import lookup
from lse_interp.tasks.kinds import KINDS, Metric, TaskKind, Text
from lse_interp.tasks.task import Document, Task

__all__ = ["STYLES", "Style", "translation_documents", "translation_prompt"]

Style = Literal["paper", "released"]
STYLES: tuple[Style, ...] = ("paper", "released")
"""What is before `Translation:`: a line break, as the paper prints it, or a space, as in the
released code."""


def translation_prompt(source_text: str, *, target_name: str, style: Style = "paper") -> str:
    r"""Ask for a translation.

    Args:
        source_text: The sentence to translate.
        target_name: English name of the language wanted, `Language.name`.
        style: One of `STYLES`.

    Raises:
        LseError: No name, or an unknown style.

    >>> translation_prompt("Wieħed.", target_name="English")
    'Translate this sentence into English: Wieħed.\nTranslation:'
    """
    if not target_name.strip():
        raise LseError("A translation prompt names the language wanted; got an empty name.")
    if style not in STYLES:
        raise LseError(f"Unknown prompt style {style!r}. {near_misses(style, STYLES)}")
    gap = "\n" if style == "paper" else " "
    return f"Translate this sentence into {target_name}: {source_text}{gap}Translation:"


def translation_documents(
    task: Task, pairs: Iterable[tuple[str, str]], *, style: Style
) -> Iterator[Document]:
    """Write one question per pair of a text and its translation."""
    name = lookup(task.language).name
    for text, reference in pairs:
        prompt = translation_prompt(text, target_name=name, style=style)
        yield Document(prompt=prompt, reference=reference)


def _score(task: Task, document: Document, output: str) -> dict[str, float]:
    """Score a translation; an empty one is a format failure."""
    from lse_interp.tasks.metrics import chrf, sentence_bleu

    text = output.strip()
    if not text:
        return {"bleu": 0.0, "chrf": 0.0, "format_failure": 100.0}
    assert document.reference is not None
    return {
        "bleu": sentence_bleu(text, document.reference, language=task.language),
        "chrf": chrf(text, document.reference),
        "format_failure": 0.0,
    }


def _score_others(
    task: Task, documents: Sequence[Document], outputs: Sequence[str]
) -> dict[str, list[float]]:
    from lse_interp.tasks.metrics import sentence_bleu

    # Half the questions away, so that neighbours from one passage do not meet.
    other, n = len(documents) // 2, len(documents)
    references = [documents[(at + other) % n].reference or "" for at in range(n)]
    return {
        "bleu_other": [
            sentence_bleu(text, reference, language=task.language)
            for text, reference in zip(outputs, references, strict=True)
        ]
    }


KINDS.register("translation")(
    TaskKind(
        metrics={
            "bleu": Metric("BLEU", headline=True),
            "chrf": Metric("chrF"),
            "format_failure": Metric(higher_is_better=False),
        },
        text=Text("A translation is generated; sentence BLEU and chrF, in percent.", _score),
        has_reference=True,
        controls={"bleu_other": Metric("BLEU")},
        score_controls=_score_others,
    )
)
