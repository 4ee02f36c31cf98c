"""Measure whether parallel sentences lie close together inside a model, layer by layer.

A sentence is the mean over its text tokens of a site's values (BOS and padding are left out). Per
layer and language: the mean cosine of sentences with their translations, with a bootstrap
interval over sentences; the same for sentences that do not match (`shuffled`), their difference
(`gap`), and how often a translation is the nearest neighbour (`retrieval`).

Raw cosines are inflated: hidden states share a few large directions, so that unrelated sentences
are close too, and fine-tuning can raise the cosine of matching and other pairs alike. Read the
gap and retrieval beside the cosine before speaking of alignment.

Source: paper, section 6.2, Figure 7, appendix D. The text says post-layer hidden states (the
default here, `hook_resid_post`, before the final norm) and the caption post-FFN activations
(`hook_mlp_out` or `mlp.hook_post`); pooling is not stated. Control, gap, retrieval and intervals
are additions.

    python -m lse_interp.alignment --lang mlt
    python -m lse_interp.alignment --lang mlt --runs target random-size lora
    python -m lse_interp.alignment --lang mlt --models other=out/some-model

writes `runs/<model>/alignment/<lang>.safetensors`, in which models measured before, on the same
text, stay, and, under `figures/`, the curves of the models asked for as
`fig07_alignment_<lang>`, their layer average as `fig07c_layer_average_<lang>` where there are
several models, and the table `table_alignment_<lang>` in the form of Tables 27 to 38.
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lse_interp.core.cli import CONFIG_FLAT, ModelArgs, answer_at_once, main_for


@dataclasses.dataclass(frozen=True)
class Config:
    """Measure how close parallel sentences lie inside one model or several."""

    lang: str
    """The language to compare, e.g. `mlt`."""
    model: CONFIG_FLAT[ModelArgs] = ModelArgs()
    runs: tuple[str, ...] = ()
    """Fine-tuning runs of `--model` beside it: names under `root/<model>/finetune/<lang>/`, or
    folders, each as `path` or `label=path`; `all` for every finished run of the language."""
    models: tuple[str, ...] = ()
    """More models beside `--model`: folders or hub ids, each as `path` or `label=path`; the label
    is the last part of the path by default."""
    against: tuple[str, ...] = ()
    """Languages to compare with; by default those of the paper's nine that the sentences are in,
    without `--lang`."""
    parallel: str = "embedded"
    """`embedded`, `flores`, `ntrex:<folder>`, or a folder with one file per language."""
    split: str | None = None
    """Split of the sentences; each source has its own default (`devtest`)."""
    n_sentences: int | None = None
    """Take the first so many sentences; by default all."""
    site: Literal["hook_resid_post", "hook_mlp_out", "mlp.hook_post"] = "hook_resid_post"
    """Where in each block a sentence is read."""
    pooling: Literal["mean", "last"] = "mean"
    """Mean over the text tokens, or the last of them."""
    batch_size: int = 32
    """Sentences per forward pass; does not change the result."""
    n_bootstrap: int = 1000
    """Resamples behind the intervals."""
    seed: int = 0
    """Seed of the resamples."""
    root: Path = Path("runs")
    """Folder of all runs; this stage writes `root/<model>/alignment/`."""
    figures: Path = Path("figures")
    """Folder of figures and table."""
    overwrite: bool = False
    """Measure again even if the numbers are there, or of other text or settings; the file is made
    anew."""


if __name__ == "__main__":
    # Before the imports below, which take seconds.
    answer_at_once(Config, description=__doc__)

import pandas as pd

from lse_interp.analysis.alignment import AlignmentCurves, _codes, measure_alignment
from lse_interp.analysis.sentence_vectors import check_options
from lse_interp.artifacts.locks import locked
from lse_interp.artifacts.model_table import find_by_weights, of_same_base, union
from lse_interp.artifacts.paths import RunPaths
from lse_interp.artifacts.provenance import provenance
from lse_interp.artifacts.reuse import require_same_settings
from lse_interp.core.errors import LanguageError
from lse_interp.core.languages import PAPER_REFERENCE, lookup
from lse_interp.data.parallel import ParallelText, load_parallel
from lse_interp.subnetworks.find import model_sources, require_runs_of

__all__ = ["Config", "main", "run"]

logger = logging.getLogger(__name__)


def run(config: Config) -> AlignmentCurves:
    """Measure every model, one in memory at a time; write the artefact, figures and table.

    Models whose numbers are already in the artefact, for the same text and settings, are not
    measured again, and those not asked for stay in it. Where the base model was trained again, it
    is made anew.

    Returns:
        Curves of the models asked for.

    Raises:
        LseError: see `measure_alignment`, `load_model` and `load_tuned`; labels that are not
            distinct.
        LanguageError: no language to compare with; see also `measure_alignment`.
        MismatchError: a run of another base model; or an earlier artefact of other text or
            settings.
        ArtifactError: no such run, or an earlier artefact that cannot be read.
    """
    lang = lookup(config.lang).code
    check_options(site=config.site, pooling=config.pooling, batch_size=config.batch_size)
    paths = RunPaths(config.root, config.model.model)
    sources = model_sources(
        config.model, runs=config.runs, models=config.models, paths=paths, language=lang
    )
    parallel, against = _texts(config, lang)
    options: dict[str, Any] = {
        "lang": lang,
        "against": against,
        "site": config.site,
        "pooling": config.pooling,
        "n_bootstrap": config.n_bootstrap,
        "seed": config.seed,
    }
    out = paths.alignment(lang)
    with locked(out, what=f"the alignment curves of {lang}"):
        earlier = _earlier(config, out, parallel, options)
        parts: list[AlignmentCurves] = []
        for label, source in sources.items():
            model = source.load()
            if not parts:
                require_runs_of(model, sources)
                earlier = of_same_base(earlier, model.info.fingerprint, path=out, config=config)
            known = find_by_weights(earlier, model.info.fingerprint, label=label)
            if known is None:
                known = measure_alignment(
                    {label: model}, parallel, batch_size=config.batch_size, **options
                )
            else:
                logger.info("%s is measured already; --overwrite measures it again", label)
            parts.append(known)
            # Two large models need not fit side by side.
            del model
        curves = AlignmentCurves.concat(parts)
        _with_config(union(earlier, curves), config).save(out)
    curves = _with_config(curves, config)
    _report(curves)
    logger.info("wrote %s", out)
    for path in _write(curves, config, split=parallel.split):
        logger.info("wrote %s", path)
    return curves


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage from the command line."""
    return main_for(Config, run, argv, description=__doc__)


def _texts(config: Config, lang: str) -> tuple[ParallelText, tuple[str, ...]]:
    """Read the sentences, and say which languages are compared with."""
    against = tuple(lookup(code).code for code in config.against)
    parallel = load_parallel(
        config.parallel,
        languages=tuple(dict.fromkeys((lang, *against))),
        optional=() if against else tuple(code for code in PAPER_REFERENCE if code != lang),
        split=config.split,
        n_sentences=config.n_sentences,
    )
    against = against or parallel.languages[1:]
    if not against:
        raise LanguageError(
            f"{config.parallel} has sentences in {lang}, but in none of the languages that the "
            f"paper compares with ({', '.join(PAPER_REFERENCE)}). Name others with --against."
        )
    _codes(parallel, lang=lang, against=against)
    return parallel, against


def _earlier(
    config: Config, out: Path, parallel: ParallelText, options: Mapping[str, Any]
) -> AlignmentCurves | None:
    """Return what was measured before, None for nothing; refuse what was measured otherwise."""
    if config.overwrite or not out.exists():
        return None
    earlier = AlignmentCurves.load(out)
    setup = {"language" if name == "lang" else name: value for name, value in options.items()}
    text = parallel.digest((options["lang"], *options["against"]))
    setup |= {"n_sentences": len(parallel), "text": text}
    require_same_settings(out, earlier.setup, setup, provenance=earlier.provenance, config=config)
    return earlier


def _with_config(curves: AlignmentCurves, config: Config) -> AlignmentCurves:
    about = provenance(config, measured=curves.provenance["measured"])
    return dataclasses.replace(curves, provenance=about)


def _report(curves: AlignmentCurves) -> None:
    logger.info(
        "Cosine of %d %s sentences with their translations, in percent, averaged over %d layers "
        "(%s, %s pooling):\n%s",
        curves.n_sentences,
        lookup(curves.language).name,
        len(curves.layers),
        curves.site,
        curves.pooling,
        _text(curves.layer_average().T),
    )
    logger.info(
        "Gap: the same less the cosine of sentences that do not match, which training can move as "
        "well:\n%s",
        _text(curves.layer_average("gap").T),
    )
    means = {value: curves.layer_average(value)["mean"] for value in ("shuffled", "retrieval")}
    logger.info("Mean over languages beside it:\n%s", _text(pd.DataFrame(means)))


def _text(table: pd.DataFrame) -> str:
    return table.rename_axis(None, axis=1).to_string(float_format="{:.2f}".format)


def _write(curves: AlignmentCurves, config: Config, *, split: str | None) -> list[Path]:
    from lse_interp.plotting.alignment_report import write_alignment

    return write_alignment(
        curves,
        config.figures,
        text=f"{config.parallel}{f' {split}' if split else ''}",
        command=_command(config),
    )


def _command(config: Config) -> str:
    words = ["python -m lse_interp.alignment", "--lang", config.lang]
    words += ["--model", config.model.model] if config.model.model != "embedded" else []
    words += ["--parallel", config.parallel] if config.parallel != "embedded" else []
    for name in ("against", "runs", "models"):
        values = getattr(config, name)
        words += [f"--{name}", *values] if values else []
    return " ".join(words)


if __name__ == "__main__":
    raise SystemExit(main())
