"""Settings that a result depends on, compared."""

from collections.abc import Mapping
from typing import Any

__all__ = ["differences", "readable"]


def differences(found: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """Say in which entries two sets of settings differ; empty where they agree.

    >>> differences({"n_tokens": 10, "bos": "block"}, {"n_tokens": 20, "bos": "block"})
    'n_tokens was 10, now 20'
    """
    return ", ".join(
        f"{name} was {found.get(name)}, now {asked.get(name)}"
        for name in sorted({*found, *asked})
        if _plain(found.get(name)) != _plain(asked.get(name))
    )


def readable(text: str) -> str:
    r"""Give a path its letters back, which Python spells in surrogates under an ASCII locale.

    >>> readable("runs/\udcc4\udca7obz")
    'runs/ħobz'
    """
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _plain(value: Any) -> Any:
    return readable(value) if isinstance(value, str) else value
