"""How text is packed into blocks: the choices, for a `Config` that must not wait for torch."""

from typing import Literal

__all__ = ["BosAt", "Separator"]

BosAt = Literal["block", "document"]
"""Where the prefix of a model is put: before every block, or before every document."""

Separator = Literal["eos", "none"]
"""What is put between two documents."""
