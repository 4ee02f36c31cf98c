"""CountSettings: how text is packed, run and counted, and what that is by default."""

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from lse_interp.core.errors import ActivationError, CorpusError, LseError, near_misses
from lse_interp.data.separators import BosAt, Separator

if TYPE_CHECKING:
    from lse_interp.models.hooked import HookedModel

__all__ = ["NEURON_SITES", "CountSettings"]

NEURON_SITES: tuple[str, ...] = (
    "mlp.hook_pre",
    "mlp.hook_pre_linear",
    "mlp.hook_act",
    "mlp.hook_post",
)
"""The sites whose last axis is neurons."""


@dataclass(frozen=True)
class CountSettings:
    """How text is packed, run and counted. `resolved` fills in what is None."""

    n_tokens: int | Literal["all"] | None = None
    """Text tokens per language, or `all` of the corpus; by default 20,000 of the embedded corpus,
    of others what the model's defaults say, usually 1,000,000. The paper reads 100 MB per
    language; as int64 ids, that is 13.1 million tokens."""
    site: str = "mlp.hook_act"
    """Values that are counted where > 0; LAPE's are those of the gate, `mlp.hook_act`."""
    block_size: int | None = None
    """Positions per sequence; by default what the model's defaults say, usually 512."""
    batch_size: int = 8
    """Sequences per forward pass; a pass never spans two shards."""
    n_shards: int = 8
    """Pieces that each language is counted in, for reliability. A piece is also the unit of
    resuming and of sharing the work between processes. None is smaller than a block."""
    bos_at: BosAt | None = None
    """Where the model reads what `--bos` names: before every block, or every document. By default
    what the model's defaults say, usually before every block."""
    separator: Separator = "eos"
    """Between two documents: EOS, or nothing."""
    prefix: Annotated[tuple[int, ...] | None, tyro.conf.Suppress] = None
    """That of the model."""

    def check(self) -> None:
        """Refuse values that no model can be counted with.

        Raises:
            ActivationError: The site is unknown, or its last axis is not neurons.
            CorpusError: `n_tokens` is below 1.
            LseError: Another number is below 1.
        """
        if self.site not in NEURON_SITES:
            raise ActivationError(
                f"`site` must be one whose last axis is neurons; got {self.site!r}. "
                f"{near_misses(self.site, NEURON_SITES)}"
            )
        if isinstance(self.n_tokens, int) and self.n_tokens < 1:
            raise CorpusError(
                f"`n_tokens` must be at least 1, or 'all' for all text; got {self.n_tokens}."
            )
        for name in ("block_size", "batch_size", "n_shards"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise LseError(f"`{name}` must be at least 1; got {value}.")

    def resolved(self, model: "HookedModel", *, corpus: str) -> "CountSettings":
        """Fill in the defaults of the corpus and the model, and check all against the model.

        Args:
            model: The model to count.
            corpus: The specification of the corpus.

        Raises:
            ActivationError: The model has no such site.
            LseError: See `check`; or the model has no tokenizer, or too few positions for a block.
        """
        from lse_interp.data.corpora import corpus_defaults
        from lse_interp.models.tokenization import check_block_size

        self.check()
        model.layout.locate(f"blocks.0.{self.site}")
        if model.tokenizer is None:
            raise LseError(
                f"{model.name} has no tokenizer, so text cannot be counted. Give "
                "HookedModel(hf, tokenizer) one."
            )
        block_size = model.defaults.block_size if self.block_size is None else self.block_size
        check_block_size(model, block_size)
        return replace(
            self,
            n_tokens=self.n_tokens or corpus_defaults(corpus).n_tokens or model.defaults.n_tokens,
            block_size=block_size,
            bos_at=self.bos_at or model.defaults.bos_at,
            prefix=model.prefix,
        )

    def statistic(self, model: "HookedModel", *, language: str, corpus: str) -> dict[str, Any]:
        """Return what defines the counts: model, text, and how the text is cut and read."""
        chosen = asdict(self)
        del chosen["batch_size"]
        chosen["prefix"] = list(self.prefix or ())
        return {
            "language": language,
            "model": model.info.fingerprint,
            "dtype": str(model.dtype),
            "corpus": corpus,
        } | chosen

    def numerics(self, model: "HookedModel") -> dict[str, Any]:
        """Return what decides the last bits of the same counts."""
        return {
            "batch_size": self.batch_size,
            "device": model.device.type,
            "backend": model.backend,
            "attention": getattr(model.hf.config, "_attn_implementation", None),
        }
