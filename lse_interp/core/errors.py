"""The errors this package raises on purpose: what was expected, what was found, what to do."""

import difflib
from collections.abc import Iterable

__all__ = [
    "ActivationError",
    "ArtifactError",
    "CorpusError",
    "LanguageError",
    "LseError",
    "MismatchError",
    "UnsupportedModelError",
    "WriteError",
    "near_misses",
    "require_one_of",
]


class LseError(Exception):
    """Base of every error that names its own remedy."""


class LanguageError(LseError, LookupError):
    """A language code that the crosswalk or an artefact does not hold."""


class CorpusError(LseError):
    """Text that is missing, empty, unreadable or shorter than asked."""


class ArtifactError(LseError):
    """A file on disk that is truncated, of another type or of another version."""


class MismatchError(LseError):
    """Two things that must belong together (model, site, language set) and do not."""


class UnsupportedModelError(LseError):
    """A model whose activation sites this package does not define."""


class WriteError(LseError):
    """A file that could not be written; what was there before is still there."""


class ActivationError(LseError):
    """A site that did not fire exactly once, or fired with values that are not numbers."""


def near_misses(name: str, choices: Iterable[str], *, n: int = 3) -> str:
    """Say which of `choices` look like `name`, as the tail of an error message.

    >>> near_misses("mtl", ["mlt", "deu"])
    'Did you mean mlt?'
    >>> near_misses("zzz", ["mlt", "deu"])
    'Known: deu, mlt.'
    >>> near_misses("learning_rate", ["language", "lr"])
    'Did you mean lr, language?'
    """
    known = sorted(set(choices))
    close = difflib.get_close_matches(name, known, n=10 * n, cutoff=0.5)
    # Swapped letters are the likeliest slip in a three-letter code.
    close.sort(key=lambda choice: sorted(choice) != sorted(name))
    initials = "".join(word[:1] for word in name.split("_"))
    close = [choice for choice in known if choice == initials] + close
    if close:
        return f"Did you mean {', '.join(close[:n])}?"
    shown = ", ".join(known[:30]) + (", ..." if len(known) > 30 else "")
    return f"Known: {shown or '(none)'}."


def require_one_of(parameter: str, value: str, choices: Iterable[str]) -> None:
    """Refuse a value of a parameter that is none of its choices.

    Raises:
        LseError: `value` is not one of `choices`.
    """
    known = list(choices)
    if value not in known:
        raise LseError(
            f"`{parameter}` must be one of {', '.join(known)}; got {value!r}. "
            f"{near_misses(value, known)}"
        )
