"""Measure whether parallel sentences lie close together inside a model, layer by layer.

A sentence is the mean over its text tokens of a site's values. Per layer and language: the mean
cosine of sentences with their translations, that of sentences that do not match (`shuffled`), their
difference (`gap`), and how often a translation is the nearest neighbour (`retrieval`), each with a
bootstrap interval over sentences.

Hidden states share a few large directions, so unrelated sentences are close too, and fine-tuning
can raise the raw cosine of all pairs alike. So the leading numbers are `centred`: the mean of each
language is taken out first. The `raw` ones are those of the paper.

Attention sinks are no part of a sentence. The first position that a model reads is never pooled;
other positions of massive norm are counted, and left out unless `--sinks keep`.

Source: paper, section 6.2, Figure 7, appendix D. The text says post-layer hidden states (the
default here, `hook_resid_post`, before the final norm) and the caption post-FFN activations
(`hook_mlp_out` or `mlp.hook_post`); pooling is not stated. All but the raw cosine are additions.

    python -m lse_interp.alignment --lang mlt
    python -m lse_interp.alignment --lang mlt --runs target random-size lora
    python -m lse_interp.alignment --lang mlt --models other=out/some-model

writes `runs/<model>/alignment/<lang>.safetensors`, which keeps the models measured before on the
same text, and, under `figures/`, the curves `fig07_alignment_<lang>`, their layer average
`fig07c_layer_average_<lang>` if there are several models, and `table_alignment_<lang>`.
"""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from lse_interp.analysis.constants import N_BOOTSTRAP, POOLING, SINKS, SITE
from lse_interp.core.cli import CONFIG_FLAT, ModelArgs, SentenceArgs, main_for
from lse_interp.core.languages import lookup

__all__ = ["Config", "main", "run"]

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Config(SentenceArgs):
    """Measure how close parallel sentences lie inside one model or several."""

    lang: str
    """The language to compare, e.g. `mlt`."""
    model: CONFIG_FLAT[ModelArgs] = ModelArgs()
    runs: tuple[str, ...] = ()
    """Fine-tuning runs of `--model` to measure too: names under `root/<model>/finetune/<lang>/`, or
    folders, each as `path` or `label=path`; `all` for every finished run of the language."""
    models: tuple[str, ...] = ()
    """More models: folders or hub ids, each as `path` or `label=path`; the label
    is the last part of the path by default."""
    against: tuple[str, ...] = ()
    """Languages to compare with; by default those of the paper's nine that the sentences are in,
    without `--lang`."""
    site: Literal["hook_resid_post", "hook_mlp_out", "mlp.hook_post"] = SITE
    """Where in each block a sentence is read."""
    pooling: Literal["mean", "last"] = POOLING
    """Mean over the text tokens, or the last of them."""
    sinks: Literal["drop", "keep"] = SINKS
    """Leave positions of massive norm out of the pooling, or keep them."""
    n_bootstrap: int = N_BOOTSTRAP
    """Resamples behind the intervals."""
    seed: int = 0
    """Seed of the resamples."""
    root: Path = Path("runs")
    """Folder of all runs; this command writes `root/<model>/alignment/`."""
    figures: Path | None = Path("figures")
    """Folder of figures and table; none are written for `None`."""
    overwrite: bool = False
    """Measure again, and replace a file of any text and settings."""


def run(config: Config) -> Any:
    """Measure every model, one in memory at a time; write the artefact, figures and table.

    Returns:
        Curves of the models asked for.

    Raises:
        LseError: see `measure_alignment`, `measure_each`, `model_choices` and `load_parallel`.
    """
    from lse_interp.analysis import alignment as analysis
    from lse_interp.analysis.sentence_vectors import check_options
    from lse_interp.artifacts.model_table import load_same_settings
    from lse_interp.artifacts.paths import RunPaths
    from lse_interp.data.parallel import load_with_reference
    from lse_interp.plotting.alignment_report import write_alignment
    from lse_interp.subnetworks.find import model_choices
    from lse_interp.subnetworks.measure_each import measure_each

    lang, paths = lookup(config.lang).code, RunPaths(config.root, config.model.model)
    settings = {name: getattr(config, name) for name in ("site", "pooling", "sinks")}
    check_options(**settings, batch_size=config.batch_size)
    settings |= {"n_bootstrap": config.n_bootstrap, "seed": config.seed}
    choices = model_choices(
        config.model, runs=config.runs, models=config.models, paths=paths, language=lang
    )
    parallel = load_with_reference(
        config.parallel, lang, config.against, split=config.split, n_sentences=config.n_sentences
    )
    pair: dict[str, Any] = {"lang": lang, "against": config.against}
    setup = analysis.alignment_setup(parallel, **pair, settings=settings)
    curves = measure_each(
        choices,
        paths.alignment(lang),
        what=f"the alignment curves of {lang}",
        load=lambda path: load_same_settings(analysis.AlignmentCurves, path, setup, config=config),
        measure=lambda choice, model: analysis.measure_alignment(
            {choice.label: model}, parallel, batch_size=config.batch_size, **pair, **settings
        ),
        config=config,
        sentences=parallel.sentences[lang],
    )
    logger.info("%s", analysis.alignment_report(curves))
    text = " ".join(filter(None, (config.parallel, parallel.split)))
    command = f"python -m lse_interp.alignment --lang {lang} --model {config.model.model}"
    if config.figures is not None:
        for path in write_alignment(curves, config.figures, text=text, command=command):
            logger.info("wrote %s", path)
    return curves


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    return main_for(Config, run, argv, description=__doc__)


if __name__ == "__main__":
    raise SystemExit(main())
