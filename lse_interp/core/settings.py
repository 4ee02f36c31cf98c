"""Settings that a result depends on, compared."""

from collections.abc import Mapping
from typing import Any

__all__ = ["differences"]


def differences(found: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """Say in which entries two sets of settings differ; empty where they agree.

    >>> differences({"n_tokens": 10, "bos": "block"}, {"n_tokens": 20, "bos": "block"})
    'n_tokens was 10, now 20'
    """
    return ", ".join(
        f"{name} was {found.get(name)}, now {asked.get(name)}"
        for name in sorted({*found, *asked})
        if found.get(name) != asked.get(name)
    )
