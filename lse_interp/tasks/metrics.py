r"""Score one answer: sentence BLEU and chrF of a translation, the letter a text answers with.

BLEU is sacrebleu's sentence BLEU with effective order, so that a sentence of fewer than four tokens
can score, and with the tokenizer that `bleu_tokenizer` names:

| script                                       | tokenizer | why                                  |
|----------------------------------------------|-----------|--------------------------------------|
| Chinese                                      | `zh`      | 13a takes a clause for one token     |
| Japanese, Thai, Lao, Khmer, Burmese, Tibetan | `char`    | the same; no further package needed  |
| any other                                    | `13a`     | sacrebleu's default                  |

The paper says sentence BLEU and names no tokenizer. Source: paper, section 4.2.

A letter is the answer of a text if it is the first thing in it (`B`, ` B)`, `(B)`, `**B**`, `b.`,
`B: text`, `B because ...`) or follows `answer`, `option`, `choice` or `letter` (`The answer is B`,
`Answer: (B)`). It must stand alone:

- not part of a word or a name: `Banana`, `B-52`, `B's`, `B.C.`, `B2` name no option;
- before a space and a word it must be a capital, and `A` and `I` must be followed by `is`,
  `because` or `since`: `A dog` is an article and a noun;
- not one of several: `A or B`, `B, C` answer nothing.

The first letter that stands alone counts, and if it is the letter of no option there is no answer.
A text that names an option only by its words has no letter. Log-likelihoods do not depend on any of
these rules.
"""

import re
from functools import cache
from typing import TYPE_CHECKING

from lse_interp.core.errors import LseError
from lse_interp.core.languages import lookup

if TYPE_CHECKING:
    from sacrebleu.metrics import BLEU, CHRF

__all__ = ["bleu_tokenizer", "chrf", "extract_letter", "sentence_bleu"]

_CHINESE = ("Hans", "Hant")
_UNSPACED = ("Jpan", "Thai", "Laoo", "Khmr", "Mymr", "Tibt")

_START = re.compile(r"[\s*_`\"'“‘«(\[{<（【「]*(?P<letter>[A-Za-z])(?P<rest>.*)", re.DOTALL)
_PHRASE = re.compile(
    r"\b(?i:answer|option|choice|letter)\b\s*(?i:\bis\b)?[\s:=]*(?=[*_`\"'“‘«(\[{<（【「A-Za-z])"
)
_AFTER = re.compile(r"[\s*_`\"'”’».,:;!?)\]}>\-–—=。，：；！？、）】」]")
_IN_A_WORD = re.compile(r"['’\-–]\w|\.\w+\.")
_ANOTHER = re.compile(
    r"[\s*_`.)\]]*(?:,|/|&|and\b|or\b)\s*[*_`(\[]*"
    r"(?P<other>[B-HJ-Z]|[AI](?=\s+(?:and|or)\b|[^\w\s]|\s*$))(?!\w)"
)
_WORDS = re.compile(r"\s+(?P<word>\w+)")
_ALSO_WORDS = "AI"
_VERBS = ("is", "because", "since")


def sentence_bleu(hypothesis: str, reference: str, *, language: str) -> float:
    """Score a translation by sentence BLEU, from 0 to 100.

    Args:
        hypothesis: the translation; an empty one scores 0.
        reference: the right translation.
        language: language of both, by any spelling.

    Raises:
        LanguageError: unknown language.
        LseError: sacrebleu is not installed.
    """
    score = _bleu(bleu_tokenizer(language)).sentence_score(hypothesis, [reference]).score
    # A perfect sentence comes out some 1e-14 above 100.
    return min(float(score), 100.0)


def chrf(hypothesis: str, reference: str) -> float:
    """Score a translation by chrF, sacrebleu's default (chrF2, six characters), from 0 to 100.

    Raises:
        LseError: sacrebleu is not installed.
    """
    return min(float(_chrf().sentence_score(hypothesis, [reference]).score), 100.0)


def bleu_tokenizer(language: str) -> str:
    """Name sacrebleu's tokenizer for a language.

    >>> bleu_tokenizer("zho"), bleu_tokenizer("jpn"), bleu_tokenizer("mlt")
    ('zh', 'char', '13a')
    """
    script = lookup(language).script
    if script in _CHINESE:
        return "zh"
    return "char" if script in _UNSPACED else "13a"


def extract_letter(text: str, letters: str) -> str | None:
    """Find the letter a text answers with, by the rules above.

    Args:
        text: the generated text.
        letters: letters of the options, capitals, e.g. `ABCD`.

    Returns:
        One of `letters`, or None without an answer.

    >>> extract_letter(" B) Travel", "ABCD"), extract_letter("The answer is c.", "ABCD")
    ('B', 'C')
    >>> extract_letter("A dog", "ABCD"), extract_letter("G", "ABCD")
    (None, None)
    """
    starts = [0, *(match.end() for match in _PHRASE.finditer(text))]
    for start in starts:
        found = _START.match(text, start)
        if found and _stands_alone(found["letter"], found["rest"]):
            letter = found["letter"].upper()
            return letter if letter in letters else None
    return None


def _stands_alone(letter: str, rest: str) -> bool:
    if not rest.strip():
        return True
    if not _AFTER.match(rest) or _IN_A_WORD.match(rest):
        return False
    if (other := _ANOTHER.match(rest)) and other["other"] != letter.upper():
        return False
    if words := _WORDS.match(rest):
        return letter.isupper() and (letter not in _ALSO_WORDS or words["word"] in _VERBS)
    return True


@cache
def _bleu(tokenizer: str) -> "BLEU":
    _require_sacrebleu()
    from sacrebleu.metrics import BLEU

    return BLEU(effective_order=True, tokenize=tokenizer)


@cache
def _chrf() -> "CHRF":
    _require_sacrebleu()
    from sacrebleu.metrics import CHRF

    return CHRF()


def _require_sacrebleu() -> None:
    try:
        import sacrebleu  # noqa: F401
    except ImportError as error:
        raise LseError(
            "scoring translations needs sacrebleu, which is not installed. Run "
            "pip install 'lse-interp[eval]'."
        ) from error
