"""What a count depends on: checked, completed from the model, and written beside the numbers."""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from lse_interp.core.errors import ActivationError, CorpusError, LseError, near_misses
from lse_interp.counting.counter import NEURON_SITES
from lse_interp.data.separators import Bos, Separator
from lse_interp.models import HookedModel
from lse_interp.models.tokenization import auto_bos, check_block_size

__all__ = ["Settings"]


@dataclass(frozen=True)
class Settings:
    """How text is packed, run and counted.

    Raises:
        ActivationError: The site is unknown, or its last axis is not neurons.
        CorpusError: `n_tokens` is below 1.
        LseError: Another number is below 1.
    """

    site: str
    n_tokens: int | None
    block_size: int
    batch_size: int
    n_shards: int
    bos: Bos | Literal["auto"]
    separator: Separator

    def __post_init__(self) -> None:
        if self.site not in NEURON_SITES:
            raise ActivationError(
                f"`site` must be one whose last axis is neurons; got {self.site!r}. "
                f"{near_misses(self.site, NEURON_SITES)}"
            )
        if self.n_tokens is not None and self.n_tokens < 1:
            raise CorpusError(
                f"`n_tokens` must be at least 1, or None for all text; got {self.n_tokens}."
            )
        for name in ("block_size", "batch_size", "n_shards"):
            if getattr(self, name) < 1:
                raise LseError(f"`{name}` must be at least 1; got {getattr(self, name)}.")

    def fitted(self, model: HookedModel) -> "Settings":
        """Replace `auto` by what the tokenizer does, and check the block size against the model.

        Raises:
            ActivationError: The model has no such site.
            LseError: The model has no tokenizer, or positions for less than a block.
        """
        model.layout.locate(f"blocks.0.{self.site}")
        if model.tokenizer is None:
            raise LseError(
                f"{model.name} has no tokenizer, so text cannot be counted. Give "
                "HookedModel(hf, tokenizer) one."
            )
        check_block_size(model, self.block_size)
        return replace(self, bos=auto_bos(model)) if self.bos == "auto" else self

    def statistic(self, model: HookedModel, *, language: str, corpus: str) -> dict[str, Any]:
        """Return what defines the counts: model, text, and how the text is cut and read."""
        chosen = asdict(self)
        del chosen["batch_size"]
        return {
            "language": language,
            "model": model.info.fingerprint,
            "dtype": str(model.dtype),
            "corpus": corpus,
        } | chosen

    def numerics(self, model: HookedModel) -> dict[str, Any]:
        """Return what decides the last bits of the same counts."""
        return {
            "batch_size": self.batch_size,
            "device": model.device.type,
            "backend": model.backend,
            "attention": getattr(model.hf.config, "_attn_implementation", None),
        }
