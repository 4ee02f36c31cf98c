"""Keeping other libraries' logs out of ours."""

import contextlib
import logging
from collections.abc import Iterator

__all__ = ["quiet"]


@contextlib.contextmanager
def quiet(name: str, *, level: int = logging.WARNING) -> Iterator[None]:
    """Hide what a library logs below a level; its logger is afterwards as before.

    Args:
        name: of the logger, e.g. `fontTools`.
        level: the lowest level that is shown.
    """
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)
