"""AlignmentCurves: how close parallel sentences lie inside models, per layer and language."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pandas as pd
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from lse_interp.analysis.constants import BATCH_SIZE, N_BOOTSTRAP, POOLING, SITE
from lse_interp.analysis.cosine import pair_cosine, retrieval_at_1, shuffled_cosine
from lse_interp.analysis.sentence_vectors import check_options, embed
from lse_interp.artifacts.model_table import ModelTable
from lse_interp.artifacts.provenance import provenance
from lse_interp.core.cli import progress
from lse_interp.core.errors import CorpusError, LanguageError, LseError, MismatchError, near_misses
from lse_interp.core.languages import PAPER_REFERENCE, lookup
from lse_interp.core.statistics import bootstrap_interval
from lse_interp.data.parallel import ParallelText
from lse_interp.models.hooked import HookedModel
from lse_interp.models.info import ModelInfo

__all__ = ["AlignmentCurves", "alignment_report", "alignment_setup", "measure_alignment"]


_CURVES = ("cosine", "low", "high", "shuffled", "retrieval")
_AVERAGED = ("cosine", "shuffled", "gap", "retrieval")
_SETUP = ("language", "against", "site", "pooling", "n_sentences", "text", "n_bootstrap", "seed")


@dataclasses.dataclass(frozen=True, eq=False)
class AlignmentCurves(ModelTable):
    """How close sentences of one language lie to their translations, per model and layer.

    Values at `[m, k, l]` belong to `models[m]`, `against[k]` and layer l, 0 at the input. Select
    models by label: `curves.select(["target"])`.

    Raises:
        MismatchError: shapes that disagree, values out of range, or models of unequal depth.
    """

    KIND = "alignment_curves"
    AXES: ClassVar = dict.fromkeys(_CURVES, ("model", "lang", "layer"))
    META = ("models", "infos", *_SETUP, "provenance")
    READ: ClassVar = {"infos": ModelInfo.from_dict}
    LABELS = ("models", "infos")
    VALUES = _CURVES
    SETUP = _SETUP

    models: tuple[str, ...]
    """Labels of the models."""
    infos: tuple[ModelInfo, ...]
    """The models behind the labels."""
    language: str
    """ISO 639-3."""
    against: tuple[str, ...]
    """ISO 639-3 codes of the languages compared with."""
    site: str
    pooling: str
    n_sentences: int
    text: str
    """Hash of the sentences in all languages."""
    n_bootstrap: int
    seed: int
    cosine: Float64[Tensor, "model lang layer"]
    """Mean cosine of matching sentences, in [-1, 1]."""
    low: Float64[Tensor, "model lang layer"]
    """Lower end of the 95 % bootstrap interval of `cosine`."""
    high: Float64[Tensor, "model lang layer"]
    """Upper end of that interval."""
    shuffled: Float64[Tensor, "model lang layer"]
    """Mean cosine of sentences that do not match; see `shuffled_cosine`."""
    retrieval: Float64[Tensor, "model lang layer"]
    """Share of sentences whose translation is the nearest neighbour, in [0, 1]."""
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_curves(self)

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers, 0 at the input."""
        return tuple(range(self.cosine.shape[-1]))

    @property
    def gap(self) -> Float64[Tensor, "model lang layer"]:
        """What matching sentences have in common beyond others: `cosine` - `shuffled`."""
        return self.cosine - self.shuffled

    @property
    def fingerprints(self) -> tuple[str | None, ...]:
        """Hash of the weights of each model."""
        return tuple(info.fingerprint for info in self.infos)

    def to_frame(self) -> pd.DataFrame:
        """List every value: one row per model, language and layer.

        Columns: model, language, against, layer, cosine, low, high, shuffled, gap, retrieval.
        """
        index = pd.MultiIndex.from_product(
            [self.models, [self.language], self.against, self.layers],
            names=["model", "language", "against", "layer"],
        )
        names = ("cosine", "low", "high", "shuffled", "gap", "retrieval")
        values = {name: getattr(self, name).flatten().numpy() for name in names}
        return pd.DataFrame(values, index=index).reset_index()

    def layer_average(self, value: str = "cosine") -> pd.DataFrame:
        """Average over layers, in percent: a row per model, a column per language, and `mean`.

        Args:
            value: `cosine`, `shuffled`, `gap` or `retrieval`.

        Raises:
            LseError: another value.

        Source: paper, appendix D, Tables 27 to 38 (`cosine`).
        """
        if value not in _AVERAGED:
            raise LseError(
                f"`value` must be one of {', '.join(_AVERAGED)}; got {value!r}. "
                f"{near_misses(value, _AVERAGED)}"
            )
        percent = 100 * getattr(self, value).mean(dim=-1).numpy()
        table = pd.DataFrame(percent, index=list(self.models), columns=list(self.against))
        return table.assign(mean=table.mean(axis=1)).rename_axis("model")


def measure_alignment(
    models: HookedModel | Mapping[str, HookedModel],
    parallel: ParallelText,
    *,
    lang: str,
    against: Sequence[str] = (),
    site: str = SITE,
    pooling: str = POOLING,
    batch_size: int = BATCH_SIZE,
    n_bootstrap: int = N_BOOTSTRAP,
    seed: int = 0,
) -> AlignmentCurves:
    """Measure how close sentences of one language lie to their translations, layer by layer.

    Args:
        models: one model, labelled by its name, or label -> model; all of one depth.
        parallel: sentences in `lang` and every language of `against`; at least two.
        lang: the language, in any spelling that `lookup` knows.
        against: the languages to compare with, each once, without `lang`; by default those of
            the paper's nine that `parallel` has.
        site: `hook_resid_post`, `hook_mlp_out` or `mlp.hook_post`, read in every layer.
        pooling: `mean` over the text tokens, or `last`.
        batch_size: sentences per forward pass; changes results only by rounding.
        n_bootstrap: resamples behind the intervals, at least 1.
        seed: seed of the resamples.

    Returns:
        Curves of every model.

    Raises:
        LanguageError: a language that is unknown or not in `parallel`, or none to compare with.
        CorpusError: fewer than two sentences, or see `embed`.
        ActivationError: another site, or values that are not finite.
        MismatchError: models of unequal depth.
        LseError: any other argument out of range.

    Source: paper, section 6.2.
    """
    if isinstance(models, HookedModel):
        models = {models.name: models}
    if not models:
        raise LseError("Nothing to measure; give at least one model.")
    check_options(site=site, pooling=pooling, batch_size=batch_size)
    setup = alignment_setup(
        parallel,
        lang=lang,
        against=against,
        site=site,
        pooling=pooling,
        n_bootstrap=n_bootstrap,
        seed=seed,
    )
    parts = [
        AlignmentCurves(
            models=(label,),
            infos=(model.info,),
            provenance=provenance(measured={label: _about(model, parallel)}),
            **setup,
            **_measure(label, model, parallel, setup, batch_size=batch_size),
        )
        for label, model in models.items()
    ]
    return AlignmentCurves.concat(parts)


def alignment_setup(
    parallel: ParallelText,
    *,
    lang: str,
    against: Sequence[str],
    site: str,
    pooling: str,
    n_bootstrap: int,
    seed: int,
) -> dict[str, Any]:
    """Check a request, and return everything besides the model that the numbers depend on.

    Raises:
        LanguageError: See `measure_alignment`.
        CorpusError: Fewer than two sentences.
    """
    lang = lookup(lang).code
    others = tuple(lookup(code).code for code in against) or tuple(
        code for code in PAPER_REFERENCE if code != lang and code in parallel.languages
    )
    if not others:
        raise LanguageError(
            f"{parallel.spec} has sentences in {lang}, but in none of the languages that the "
            f"paper compares with ({', '.join(PAPER_REFERENCE)}). Name others with --against."
        )
    if len({lang, *others}) < 1 + len(others):
        raise LanguageError(
            f"Alignment compares a language with others, each named once; got {lang} against "
            f"{', '.join(others)}."
        )
    parallel.require((lang, *others))
    if len(parallel) < 2:
        raise CorpusError(
            "Alignment needs at least 2 sentences, as the control compares those that do not "
            f"match; {parallel.spec} has {len(parallel)}."
        )
    return {
        "language": lang,
        "against": others,
        "site": site,
        "pooling": pooling,
        "n_sentences": len(parallel),
        "text": parallel.digest((lang, *others)),
        "n_bootstrap": n_bootstrap,
        "seed": seed,
    }


def alignment_report(curves: AlignmentCurves) -> str:
    """Write the cosine, the gap, and the means of control and retrieval, in percent."""
    means = {value: curves.layer_average(value)["mean"] for value in ("shuffled", "retrieval")}
    return "\n".join(
        [
            f"Cosine of {curves.n_sentences} {lookup(curves.language).name} sentences with their "
            f"translations, in percent, averaged over {len(curves.layers)} layers ({curves.site}, "
            f"{curves.pooling} pooling):",
            _text(curves.layer_average().T),
            "Gap: the same less the cosine of sentences that do not match, which training can "
            "move as well:",
            _text(curves.layer_average("gap").T),
            "Means over languages:",
            _text(pd.DataFrame(means)),
        ]
    )


def _measure(
    label: str,
    model: HookedModel,
    parallel: ParallelText,
    setup: Mapping[str, Any],
    *,
    batch_size: int,
) -> dict[str, Any]:
    """Compare the vectors of one language with those of others; one model, so `model` is 1."""

    def vectors(code: str) -> Float[Tensor, "layer sentence d_model"]:
        options = {"site": setup["site"], "pooling": setup["pooling"], "batch_size": batch_size}
        return embed(model, parallel.sentences[code], **options)

    own = vectors(setup["language"])
    rows: dict[str, list[Tensor]] = {name: [] for name in _CURVES}
    for code in progress(setup["against"], desc=label, unit="language"):
        other = vectors(code)
        pairs = pair_cosine(own, other)
        low, high = bootstrap_interval(pairs, n_bootstrap=setup["n_bootstrap"], seed=setup["seed"])
        control, retrieval = shuffled_cosine(own, other), retrieval_at_1(own, other)
        values = (pairs.mean(dim=-1), low, high, control, retrieval)
        for name, value in zip(_CURVES, values, strict=True):
            rows[name].append(value)
    return {name: torch.stack(values)[None] for name, values in rows.items()}


def _about(model: HookedModel, parallel: ParallelText) -> dict[str, Any]:
    return provenance(
        parallel=parallel.spec,
        split=parallel.split,
        backend=model.backend,
        dtype=model.dtype,
        prefix=model.prefix,
        device=model.device,
    )


def _text(table: pd.DataFrame) -> str:
    return table.rename_axis(None, axis=1).to_string(float_format="{:.2f}".format)


def _check_curves(curves: AlignmentCurves) -> None:
    shape = (len(curves.models), len(curves.against), curves.cosine.shape[-1])
    for name in _CURVES:
        found = getattr(curves, name)
        if tuple(found.shape) != shape or 0 in shape:
            raise MismatchError(
                f"`{name}` should be [model lang layer] = {list(shape)}, none of them 0; got "
                f"{list(found.shape)}."
            )
        lowest, tolerance = (0.0 if name == "retrieval" else -1.0), 1e-9
        if not bool(((found >= lowest - tolerance) & (found <= 1 + tolerance)).all()):
            raise MismatchError(
                f"`{name}` must be in [{lowest:g}, 1]; got {found.min():g} to {found.max():g}."
            )
    if bool((curves.low > curves.high).any()):
        raise MismatchError("`low` must not lie above `high`.")
    curves.check_models()
    depths = [info.n_layers for info in curves.infos]
    if depths != [shape[-1]] * shape[0]:
        raise MismatchError(
            f"Curves of {shape[-1]} layers need {shape[0]} models of that depth; got depths "
            f"{depths}. Compare models of one depth."
        )
