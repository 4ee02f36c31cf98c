"""What tables of several models share: labels, checked once."""

from collections.abc import Sequence

from lse_interp.core.errors import LseError

__all__ = ["require_distinct"]


def require_distinct(labels: Sequence[str]) -> None:
    """Refuse one label for two models.

    Raises:
        LseError: a label twice.
    """
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise LseError(
            f"Every model needs a label of its own; {', '.join(twice)} stands for more than one. "
            "Name them as label=path."
        )
