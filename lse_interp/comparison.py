"""Compare fine-tuned models on held-out sentences: what they gained, and what they forgot.

For each model, language and sentence, the loss in nats, - sum_t log p(token_t | tokens before);
a sentence's losses under two models are compared with each other, so that what makes the sentence
hard cancels. Forgetting is a rise in the loss of a language that was not trained.

Source: paper, sections 4.2 and 5.2, asks the same of benchmark scores; loss needs no benchmark.

    python -m lse_interp.comparison --lang mlt
    python -m lse_interp.comparison --lang mlt --runs target random-layer --against eng deu

writes `runs/<model>/comparison/<lang>.safetensors`. Models measured before, on the same
sentences, stay in it.
"""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lse_interp.analysis.constants import AGAINST
from lse_interp.core.cli import CONFIG_FLAT, ModelArgs, SentenceArgs, main_for

__all__ = ["Config", "main", "run"]

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Config(SentenceArgs):
    """Measure the loss of fine-tuned models on sentences that none of them has seen."""

    lang: str
    """The language trained, e.g. `mlt`."""
    model: CONFIG_FLAT[ModelArgs] = ModelArgs()
    runs: tuple[str, ...] = ("all",)
    """Runs: names under `root/<model>/finetune/<lang>/` or folders, each `path` or `label=path`;
    `all` for every finished one."""
    against: tuple[str, ...] = AGAINST
    """More languages to measure."""
    root: Path = Path("runs")
    """Folder of all runs; this command writes `root/<model>/comparison/`."""
    overwrite: bool = False
    """Measure again, and replace a file of any sentences."""


def run(config: Config) -> Any:
    """Measure every model, one in memory at a time; write the artefact and report.

    Models measured before, on the same sentences, are not measured again; see `measure_each`.

    Returns:
        The losses of the models asked for.

    Raises:
        LseError: See `compare_losses`, `measure_each`, `model_choices` and `load_parallel`.
    """
    from lse_interp.analysis import losses
    from lse_interp.artifacts.model_table import load_same_settings
    from lse_interp.artifacts.paths import RunPaths
    from lse_interp.data.parallel import load_parallel
    from lse_interp.subnetworks.find import model_choices
    from lse_interp.subnetworks.measure_each import measure_each

    measured = losses.measured_languages(config.lang, config.against)
    language = measured[0]
    paths = RunPaths(config.root, config.model.model)
    choices = model_choices(config.model, runs=config.runs, paths=paths, language=language)
    parallel = load_parallel(
        config.parallel, languages=measured, split=config.split, n_sentences=config.n_sentences
    )
    setup = losses.comparison_setup(parallel, language=language, against=config.against)
    comparison = measure_each(
        choices,
        paths.comparison(language),
        what=f"the loss comparison of {language}",
        load=lambda path: load_same_settings(losses.LossComparison, path, setup, config=config),
        measure=lambda choice, model: losses.compare_losses(
            {choice.label: model},
            parallel,
            language=language,
            against=config.against,
            batch_size=config.batch_size,
        ),
        config=config,
        sentences=parallel.sentences[language],
    )
    logger.info("%s", losses.comparison_report(comparison))
    return comparison


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    return main_for(Config, run, argv, description=__doc__)


if __name__ == "__main__":
    raise SystemExit(main())
