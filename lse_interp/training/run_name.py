"""The default name of a run's folder: what was trained, and how, joined by dashes.

target    random-layer    full-authors    target-20000    random-size-20000-seed1
"""

import dataclasses
import re

from lse_interp.core.errors import LseError
from lse_interp.training.hyperparameters import PROFILES
from lse_interp.training.methods import METHODS, Method

__all__ = ["RunName"]

_PART = re.compile(r"(?P<n_tokens>\d+)|seed(?P<seed>\d+)|(?P<word>[a-z]\w*)")


@dataclasses.dataclass(frozen=True)
class RunName:
    """The settings that a default name shows."""

    method: Method
    variant: str | None = None
    """Variant of the method, e.g. `layer` of random neurons."""
    profile: str = "fixed"
    n_tokens: int | None = None
    seed: int = 0

    def __str__(self) -> str:
        parts = self.method.label(self.variant).split(":")
        if self.profile != "fixed":
            parts.append(self.profile)
        if self.n_tokens is not None:
            parts.append(str(self.n_tokens))
        if self.seed:
            parts.append(f"seed{self.seed}")
        return "-".join(parts)

    @property
    def flags(self) -> str:
        """Spell the flags of `lse_interp.finetune` that give a run this name."""
        words = [f"--method {self.method.name}"]
        words += [f"--random-match {self.variant}"] if self.variant else []
        words += [f"--profile {self.profile}"] if self.profile != "fixed" else []
        words += [f"--n-tokens {self.n_tokens}"] if self.n_tokens is not None else []
        return " ".join([*words, *([f"--seed {self.seed}"] if self.seed else [])])

    @classmethod
    def parse(cls, name: str) -> "RunName | None":
        """Read a default name; None for a name that was given by hand.

        >>> name = RunName.parse("random-size-20000-seed1")
        >>> name.variant, name.n_tokens, name.seed
        ('size', 20000, 1)
        """
        first, *rest = name.split("-")
        try:
            method = METHODS[first]
        except LseError:
            return None
        found: dict[str, str] = {}
        for text in rest:
            if (match := _PART.fullmatch(text)) is None:
                return None
            kind, value = next((k, v) for k, v in match.groupdict().items() if v is not None)
            if kind == "word":
                kind = "variant" if value in method.variants else "profile"
            if kind == "profile" and value not in PROFILES:
                return None
            found[kind] = value
        numbers = {key: int(found[key]) for key in ("n_tokens", "seed") if key in found}
        parsed = cls(method, **(found | numbers))  # type: ignore[arg-type]
        # Only what `str` would write: every part once, in its order.
        return parsed if str(parsed) == name else None
