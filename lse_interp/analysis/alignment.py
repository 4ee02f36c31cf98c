"""AlignmentCurves: how close parallel sentences lie inside models, per layer and language."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pandas as pd
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from lse_interp.analysis.constants import BATCH_SIZE, N_BOOTSTRAP, POOLING, SINKS, SITE
from lse_interp.analysis.cosine import STATISTICS, VECTORS, compare_sentences
from lse_interp.analysis.sentence_vectors import check_options, embed_counting_sinks
from lse_interp.artifacts.model_table import ModelTable
from lse_interp.artifacts.provenance import provenance
from lse_interp.core.errors import CorpusError, LanguageError, LseError, MismatchError
from lse_interp.core.languages import PAPER_REFERENCE, codes_of, lookup
from lse_interp.core.progress import progress
from lse_interp.core.statistics import bootstrap_interval
from lse_interp.data.parallel import ParallelText, Sentences, as_parallel, with_reference
from lse_interp.models.hooked import HookedModel
from lse_interp.models.info import ModelInfo

__all__ = ["AlignmentCurves", "alignment_report", "alignment_setup", "measure_alignment"]


_AXES = ("model", "vectors", "statistic", "lang", "layer")
_LIMITS = {"cosine": (-1, 1), "shuffled": (-1, 1), "gap": (-2, 2), "retrieval": (0, 1)}
_SETUP = (
    *("language", "against", "site", "pooling", "sinks"),
    *("n_sentences", "text", "n_bootstrap", "seed"),
)


@dataclasses.dataclass(frozen=True, eq=False)
class AlignmentCurves(ModelTable):
    """How close sentences of one language lie to their translations, per model and layer.

    Values at `[m, v, s, k, l]` belong to `models[m]`, `VECTORS[v]` (centred, raw), `STATISTICS[s]`
    (cosine, shuffled, gap, retrieval), `against[k]` and layer l, 0 at the input. Select by label:
    `curves.select(["target"])`, `curves.curve("gap", vectors="raw")`.

    Raises:
        MismatchError: shapes that disagree, values out of range, or models of unequal depth.
    """

    KIND = "alignment_curves"
    AXES: ClassVar = {
        **dict.fromkeys(("estimate", "low", "high"), _AXES),
        "n_sinks": ("model", "lang", "layer"),
    }
    META = ("models", "infos", *_SETUP, "provenance")
    READ: ClassVar = {"infos": ModelInfo.from_dict}
    LABELS = ("models", "infos")
    VALUES = ("estimate", "low", "high", "n_sinks")
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
    sinks: str
    """What happened to positions of massive norm: `drop` or `keep`."""
    n_sentences: int
    text: str
    """Hash of the sentences in all languages."""
    n_bootstrap: int
    seed: int
    estimate: Float64[Tensor, "model vectors statistic lang layer"]
    """Means over sentences; see `cosine.compare_sentences`."""
    low: Float64[Tensor, "model vectors statistic lang layer"]
    """Lower ends of the 95 % bootstrap intervals over sentences."""
    high: Float64[Tensor, "model vectors statistic lang layer"]
    """Upper ends of those intervals."""
    n_sinks: Int64[Tensor, "model lang layer"]
    """Positions of massive norm in the sentences of both languages."""
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_curves(self)

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers, 0 at the input."""
        return tuple(range(self.estimate.shape[-1]))

    @property
    def fingerprints(self) -> tuple[str | None, ...]:
        """Hash of the weights of each model."""
        return tuple(info.fingerprint for info in self.infos)

    def curve(
        self, statistic: str, *, vectors: str = "centred"
    ) -> Float64[Tensor, "model lang layer"]:
        """Select a statistic of centred or raw vectors.

        Raises:
            LseError: another name.
        """
        for name, known in ((statistic, STATISTICS), (vectors, VECTORS)):
            if name not in known:
                raise LseError(f"Curves are {', '.join(known)}; got {name!r}.")
        return self.estimate[:, VECTORS.index(vectors), STATISTICS.index(statistic)]

    def to_frame(self) -> pd.DataFrame:
        """List every value: one row per model, kind of vectors, language and layer.

        Columns: model, language, against, vectors, layer, and each statistic with its interval
        (cosine, cosine_low, cosine_high, ...).
        """
        index = pd.MultiIndex.from_product(
            [self.models, [self.language], VECTORS, self.against, self.layers],
            names=["model", "language", "vectors", "against", "layer"],
        )
        ends = {"": self.estimate, "_low": self.low, "_high": self.high}
        values = {
            f"{name}{end}": tensor[:, :, place].flatten().numpy()
            for place, name in enumerate(STATISTICS)
            for end, tensor in ends.items()
        }
        return pd.DataFrame(values, index=index).reset_index()

    def layer_average(self, statistic: str = "cosine", *, vectors: str = "centred") -> pd.DataFrame:
        """Average over layers, in percent: a row per model, a column per language, and `mean`.

        Raises:
            LseError: see `curve`.

        Source: paper, appendix D, Tables 27 to 38 (`cosine` of `raw` vectors).
        """
        percent = 100 * self.curve(statistic, vectors=vectors).mean(dim=-1).numpy()
        table = pd.DataFrame(percent, index=list(self.models), columns=list(self.against))
        return table.assign(mean=table.mean(axis=1)).rename_axis("model")


def measure_alignment(
    models: HookedModel | Mapping[str, HookedModel],
    parallel: Sentences,
    *,
    lang: str,
    against: Sequence[str] = (),
    site: str = SITE,
    pooling: str = POOLING,
    sinks: str = SINKS,
    batch_size: int = BATCH_SIZE,
    n_bootstrap: int = N_BOOTSTRAP,
    seed: int = 0,
) -> AlignmentCurves:
    """Measure how close sentences of one language lie to their translations, layer by layer.

    Args:
        models: one model, labelled by its name, or label -> model; all of one depth.
        parallel: sentences in `lang` and every language of `against`, at least two: parallel text,
            a dictionary of language -> sentences, or a specification for `load_parallel`.
        lang: the language, in any spelling that `lookup` knows.
        against: the languages to compare with, each once, without `lang`; by default those of
            the paper's nine that `parallel` has.
        site: `hook_resid_post`, `hook_mlp_out` or `mlp.hook_post`, read in every layer.
        pooling: `mean` over the text tokens, or `last`.
        sinks: `drop` leaves positions of massive norm out, `keep` pools them; see `embed`.
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
    settings: dict[str, Any] = {"site": site, "pooling": pooling, "sinks": sinks}
    check_options(**settings, batch_size=batch_size)
    settings |= {"n_bootstrap": n_bootstrap, "seed": seed}
    parallel = as_parallel(parallel, **with_reference(lang, against))
    setup = alignment_setup(parallel, lang=lang, against=against, settings=settings)
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
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Check a request, and return everything besides the model that the numbers depend on.

    Args:
        parallel: See `measure_alignment`, as for `lang` and `against`.
        lang: The language.
        against: The languages to compare with.
        settings: Site, pooling, sinks, n_bootstrap and seed.

    Raises:
        LanguageError: See `measure_alignment`.
        CorpusError: Fewer than two sentences.
    """
    lang = lookup(lang).code
    others = codes_of(against) or tuple(
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
        "n_sentences": len(parallel),
        "text": parallel.digest((lang, *others)),
        **settings,
    }


def alignment_report(curves: AlignmentCurves) -> str:
    """Write the centred cosine of every language, the means of all statistics, and the sinks."""
    kinds = [(vectors, name) for vectors in VECTORS for name in STATISTICS]
    means = {kind: curves.layer_average(kind[1], vectors=kind[0])["mean"] for kind in kinds}
    return "\n".join(
        [
            f"Centred cosine of {curves.n_sentences} {lookup(curves.language).name} sentences with "
            f"their translations, in percent, averaged over {len(curves.layers)} layers "
            f"({curves.site}, {curves.pooling} pooling):",
            _text(curves.layer_average().T),
            "Means over languages. Centred: without the mean of each language. Shuffled: of "
            "sentences that do not match. Gap: cosine less shuffled. By chance retrieval is "
            f"{100 / curves.n_sentences:.2f}.",
            _text(pd.DataFrame(means).T),
            _sinks(curves),
            *filter(None, [curves.caution]),
        ]
    )


def _sinks(curves: AlignmentCurves) -> str:
    """Say how many positions of massive norm there are, and in which layers."""
    found = []
    for model, counts in zip(curves.models, curves.n_sinks, strict=True):
        if layers := counts.any(dim=0).nonzero().flatten().tolist():
            found.append(f"{model} up to {counts.max()}, in layers {', '.join(map(str, layers))}")
    return (
        "Positions of massive norm in the sentences of two languages "
        f"({'left out' if curves.sinks == 'drop' else 'pooled'}): {'; '.join(found) or 'none'}."
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
    options = {name: setup[name] for name in ("site", "pooling", "sinks")}
    codes = (setup["language"], *setup["against"])
    embedded = (
        embed_counting_sinks(model, parallel.sentences[code], batch_size=batch_size, **options)
        for code in progress(codes, f"alignment of {label}", unit="language")
    )
    own, rows = next(embedded), []
    for other in embedded:
        values = compare_sentences(own.vectors, other.vectors)
        interval = bootstrap_interval(values, n_bootstrap=setup["n_bootstrap"], seed=setup["seed"])
        rows.append((values.mean(dim=-1), *interval, own.n_sinks + other.n_sinks))
    # The language is the last axis but one.
    stacked = [torch.stack(parts, dim=-2)[None] for parts in zip(*rows, strict=True)]
    return dict(zip(AlignmentCurves.VALUES, stacked, strict=True))


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
    # Without the sign of a zero.
    table = table.rename_axis(None, axis=1).round(2) + 0.0
    return table.to_string(float_format="{:.2f}".format)


def _check_curves(curves: AlignmentCurves) -> None:
    n_models, n_layers = len(curves.models), curves.estimate.shape[-1]
    sizes = {
        "model": n_models,
        "vectors": len(VECTORS),
        "statistic": len(STATISTICS),
        "lang": len(curves.against),
        "layer": n_layers,
    }
    for name, axes in curves.AXES.items():
        shape, found = [sizes[axis] for axis in axes], list(getattr(curves, name).shape)
        if found != shape or 0 in shape:
            raise MismatchError(
                f"`{name}` should be [{' '.join(axes)}] = {shape}, none of them 0; got {found}."
            )
    for statistic, (lowest, highest) in _LIMITS.items():
        values = curves.estimate[:, :, STATISTICS.index(statistic)]
        if not bool(((values >= lowest - 1e-9) & (values <= highest + 1e-9)).all()):
            raise MismatchError(
                f"`{statistic}` must be in [{lowest}, {highest}]; got {values.min():g} to "
                f"{values.max():g}."
            )
    if not bool((curves.low <= curves.high).all()):
        raise MismatchError("`low` must not lie above `high`.")
    curves.check_models()
    depths = [info.n_layers for info in curves.infos]
    if depths != [n_layers] * n_models:
        raise MismatchError(
            f"Curves of {n_layers} layers need {n_models} models of that depth; got depths "
            f"{depths}. Compare models of one depth."
        )
