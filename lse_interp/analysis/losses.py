"""LossComparison: how well several models predict the same sentences, paired by sentence."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float64
from torch import Tensor
from torch.nn import functional

from lse_interp.analysis.constants import AGAINST, BATCH_SIZE
from lse_interp.artifacts.model_table import ModelTable
from lse_interp.artifacts.provenance import provenance
from lse_interp.core.errors import (
    ActivationError,
    CorpusError,
    LseError,
    MismatchError,
    near_misses,
)
from lse_interp.core.languages import codes_of, lookup
from lse_interp.core.progress import Progress
from lse_interp.core.statistics import bootstrap_interval
from lse_interp.data.parallel import ParallelText, Sentences, as_parallel
from lse_interp.models.hooked import HookedModel
from lse_interp.models.tokenization import pad, token_ids

__all__ = [
    "LossComparison",
    "compare_losses",
    "comparison_report",
    "comparison_setup",
    "measured_languages",
    "perplexity",
    "sentence_losses",
]


_NOT_PREDICTED = -100
_LABELS = ("models", "methods", "seeds", "fingerprints")


@dataclasses.dataclass(frozen=True, eq=False)
class LossComparison(ModelTable):
    """Losses of several models on held-out sentences, all in nats per sentence.

    Raises:
        MismatchError: labels that do not fit the losses or are not distinct; losses that are not
            finite.
    """

    KIND = "loss_comparison"
    TENSORS = VALUES = ("losses",)
    META = (*_LABELS, "language", "measured", "text", "provenance")
    LABELS = _LABELS
    SETUP = ("language", "measured", "text", "n_sentences")

    models: tuple[str, ...]
    """A label per model; the first is the base model."""
    methods: tuple[str, ...]
    """How each was trained: `base`, `target`, `random:layer`, ..."""
    seeds: tuple[int, ...]
    """Seed of each training."""
    fingerprints: tuple[str, ...]
    """Hash of the weights of each."""
    language: str
    """The language trained, ISO 639-3."""
    measured: tuple[str, ...]
    """Languages of the sentences."""
    losses: Float64[Tensor, "model measured sentence"]
    text: str
    """Hash of the sentences."""
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self.check_models()
        if self.losses.shape[1] != len(self.measured):
            raise MismatchError(
                f"Losses should be [model measured sentence] = [{len(self.models)}, "
                f"{len(self.measured)}, ...]; got {list(self.losses.shape)}."
            )
        if not bool(torch.isfinite(self.losses).all()):
            raise MismatchError("Losses must be finite numbers.")

    @property
    def n_sentences(self) -> int:
        """Sentences per language."""
        return self.losses.shape[-1]

    def of(self, model: str) -> Float64[Tensor, "measured sentence"]:
        """Select the losses of one model.

        Raises:
            LseError: no such model.
        """
        return self.losses[self.position(model)]

    def difference(
        self, model: str, against: str, *, n_bootstrap: int = 1000, seed: int = 0
    ) -> pd.DataFrame:
        """Compare two models sentence by sentence.

        Columns: measured, loss, reference, difference (loss - reference), low, high (its 95 %
        bootstrap interval over sentences). Sentences are taken to be independent; those of the
        embedded corpus share clauses, and their intervals are too narrow.

        Raises:
            LseError: no such model.
        """
        ours, theirs = self.of(model), self.of(against)
        low, high = bootstrap_interval(ours - theirs, n_bootstrap=n_bootstrap, seed=seed)
        return pd.DataFrame(
            {
                "measured": self.measured,
                "loss": ours.mean(dim=-1),
                "reference": theirs.mean(dim=-1),
                "difference": (ours - theirs).mean(dim=-1),
                "low": low,
                "high": high,
            }
        )

    def to_frame(self, *, against: Sequence[str] = ("base",)) -> pd.DataFrame:
        """List every model's change against others of the same seed.

        Columns: language, model, method, seed, measured, against, loss, base (the loss of
        `against`), difference, low, high, n_sentences. If `against` names a method other than
        `base`, only `target` is compared with it.

        Raises:
            LseError: no model of a method in `against`, or none to compare with it.
        """
        for reference in against:
            if reference not in self.methods:
                raise LseError(
                    f"There is no model of method {reference!r} to compare with. "
                    f"{near_misses(reference, self.methods)}"
                )
        frames = [
            self.difference(model, self._find(reference, seed)).assign(
                language=self.language, model=model, method=method, seed=seed, against=reference
            )
            for reference in against
            for model, method, seed in zip(self.models, self.methods, self.seeds, strict=True)
            if self._is_compared(method, seed, reference)
        ]
        if not frames:
            raise LseError(f"No target has the seed of a model of {', '.join(against)}.")
        frame = pd.concat(frames, ignore_index=True).rename(columns={"reference": "base"})
        frame["n_sentences"] = self.n_sentences
        first = ["language", "model", "method", "seed", "measured", "against", "loss", "base"]
        return frame[[*first, "difference", "low", "high", "n_sentences"]]

    def _find(self, method: str, seed: int) -> str:
        """Return the model of a method and seed; the base fits every seed."""
        for label, found, of_seed in zip(self.models, self.methods, self.seeds, strict=True):
            if found == method and (method == "base" or of_seed == seed):
                return label
        raise LseError(
            f"There is no model of method {method!r} and seed {seed} to compare with. "
            f"{near_misses(method, self.methods)}"
        )

    def _is_compared(self, method: str, seed: int, against: str) -> bool:
        if against == "base":
            return method != "base"
        pairs = zip(self.methods, self.seeds, strict=True)
        return method == "target" and (against, seed) in pairs


def compare_losses(
    models: Mapping[str, HookedModel],
    parallel: Sentences,
    *,
    language: str,
    against: Sequence[str] = AGAINST,
    methods: Mapping[str, tuple[str, int]] | None = None,
    batch_size: int = BATCH_SIZE,
) -> LossComparison:
    """Measure the loss of several models on the same sentences.

    Args:
        models: Label -> model; the first is the base.
        parallel: Sentences in every language measured: parallel text, a dictionary of language ->
            sentences, or a specification for `load_parallel`.
        language: The language that the models were trained on, in any spelling that `lookup`
            knows.
        against: More languages to measure.
        methods: Label -> method and seed; by default the label and 0.
        batch_size: Sentences per forward pass; changes results only by rounding.

    Raises:
        LanguageError: A language that is unknown or not in `parallel`.
        CorpusError: See `sentence_losses`.
    """
    measured = measured_languages(language, against)
    parallel = as_parallel(parallel, languages=measured)
    setup = comparison_setup(parallel, language=language, against=against)
    sentences = [sentence for code in measured for sentence in parallel.sentences[code]]
    named = {label: (methods or {}).get(label, (label, 0)) for label in models}
    losses = [sentence_losses(model, sentences, batch_size=batch_size) for model in models.values()]
    return LossComparison(
        models=tuple(models),
        methods=tuple(method for method, _ in named.values()),
        seeds=tuple(seed for _, seed in named.values()),
        fingerprints=tuple(str(model.info.fingerprint) for model in models.values()),
        losses=torch.stack(losses).view(len(models), len(measured), len(parallel)),
        provenance=provenance(parallel=parallel.spec, split=parallel.split),
        **{name: setup[name] for name in ("language", "measured", "text")},
    )


def measured_languages(language: str, against: Sequence[str]) -> tuple[str, ...]:
    """Return the codes of a language and of those it is compared with, each once."""
    return codes_of((language, *against))


def comparison_setup(
    parallel: ParallelText, *, language: str, against: Sequence[str]
) -> dict[str, Any]:
    """Return everything besides the models that the losses depend on.

    Raises:
        LanguageError: A language that is not in `parallel`.
    """
    measured = measured_languages(language, against)
    parallel.require(measured)
    return {
        "language": measured[0],
        "measured": measured,
        "text": parallel.digest(measured),
        "n_sentences": len(parallel),
    }


def comparison_report(comparison: LossComparison) -> str:
    """Write the loss of every model, and its change against the base."""
    columns = ["model", "measured", "loss", "base", "difference", "low", "high"]
    table = comparison.to_frame()[columns]
    return (
        f"Nats per sentence after training {lookup(comparison.language).name} "
        f"({comparison.n_sentences} sentences, 95 % intervals of the change):\n"
        f"{table.to_string(index=False, float_format='{:.3f}'.format)}\n{comparison.caution}"
    ).rstrip()


def sentence_losses(
    model: HookedModel,
    sentences: Sequence[str],
    *,
    batch_size: int = BATCH_SIZE,
    advance: Callable[[int], object] | None = None,
) -> Float64[Tensor, " sentence"]:
    """Sum the negative log-likelihood of each sentence's text tokens, in nats.

    loss[s] = - sum_t log p(token_t | BOS, token_1 ... token_{t-1}).

    BOS is given to the model and not predicted; padding is neither. If the tokenizer puts no BOS
    before a text, the first token cannot be predicted and is left out. Open edits (`model.edits`,
    `ablate`) apply. Token losses are taken in float32 (float64 for a float64 model) and summed in
    float64. Sentences run in batches of similar length.

    Args:
        model: The model, with its tokenizer.
        sentences: Texts, at least one.
        batch_size: Sentences per forward pass; changes results only by rounding.
        advance: Is told the sentences of each batch, once done; by default they are shown.

    Returns:
        Nats per sentence, on the CPU, in the order of `sentences`.

    Raises:
        CorpusError: No sentence, one without a token to predict, or one longer than the model's
            context.
        ActivationError: Losses that are not finite.
        LseError: A batch size below 1, or a model without a tokenizer.
    """
    if batch_size < 1:
        raise LseError(f"`batch_size` must be at least 1; got {batch_size}.")
    if not sentences:
        raise CorpusError("There is no sentence to predict; give at least one.")
    ids = token_ids(model, sentences)
    _require_targets(ids, n_prefix=len(model.prefix))
    losses = torch.empty(len(ids), dtype=torch.float64)
    longest_first = sorted(range(len(ids)), key=lambda i: len(ids[i]), reverse=True)
    what = f"loss of {model.name}"
    shown, total = advance is None, len(ids)
    with Progress(what, total=total, unit="sentence", shown=shown, announced=False) as bar:
        for start in range(0, total, batch_size):
            members = longest_first[start : start + batch_size]
            losses[members] = _batch_losses(model, [ids[i] for i in members])
            (advance or bar.advance)(len(members))
    if not bool(torch.isfinite(losses).all()):
        at = int((~torch.isfinite(losses)).nonzero()[0])
        raise ActivationError(
            f"The loss of {model.name} on sentence {at + 1} is {losses[at]}. The weights may be "
            f"broken, or {model.dtype} too narrow: try bfloat16 or float32."
        )
    return losses


def perplexity(
    model: HookedModel, sentences: Sequence[str], *, batch_size: int = BATCH_SIZE
) -> float:
    """Return the perplexity per token: exp(loss of all sentences / tokens predicted).

    Compare models with the same tokenizer alone. Across languages, too, the number depends on how
    many tokens the tokenizer makes of a text: `sentence_losses` on parallel sentences does not.

    Args:
        model: The model, with its tokenizer.
        sentences: Texts, at least one; each is read alone.
        batch_size: Sentences per forward pass; changes the result only by rounding.

    Raises:
        LseError: See `sentence_losses`.
    """
    total = sentence_losses(model, sentences, batch_size=batch_size).sum()
    without_bos = 0 if model.prefix else len(sentences)
    n_predicted = sum(map(len, token_ids(model, sentences))) - without_bos
    return float(torch.exp(total / n_predicted))


def _batch_losses(model: HookedModel, ids: Sequence[list[int]]) -> Float64[Tensor, " batch"]:
    batch, is_text = pad(ids, prefix=model.prefix, left=False)
    logits = model.run_with_hooks(batch, {}, logits=True)
    assert logits is not None
    # Position t predicts token t + 1; the last predicts none. Shifting the targets and not the
    # logits spares a copy of the largest tensor here.
    targets = batch["input_ids"].masked_fill(~is_text, _NOT_PREDICTED).roll(-1, dims=1)
    targets[:, -1] = _NOT_PREDICTED
    nats = functional.cross_entropy(
        logits.to(torch.promote_types(logits.dtype, torch.float32)).flatten(0, 1),
        targets.to(logits.device).flatten(),
        ignore_index=_NOT_PREDICTED,
        reduction="none",
    )
    return nats.double().view(targets.shape).sum(dim=-1).cpu()


def _require_targets(ids: Sequence[list[int]], *, n_prefix: int) -> None:
    for position, sentence in enumerate(ids, start=1):
        if n_prefix + len(sentence) < 2:
            raise CorpusError(
                f"Sentence {position} is one token, and this tokenizer puts no BOS before it: "
                "there is nothing to predict it from. Remove it, or make it longer."
            )
