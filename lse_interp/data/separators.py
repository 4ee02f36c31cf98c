"""How text is packed into blocks: the choices, for a `Config` that must not wait for torch."""

from typing import Literal

__all__ = ["Bos", "Separator"]

Bos = Literal["block", "document", "none"]
"""Where the token for the beginning of a text is put."""

Separator = Literal["eos", "none"]
"""What is put between two documents."""
