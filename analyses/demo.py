"""The main job, end to end: what `make demo` runs.

Counts FFN activations in 21 languages, finds the language neurons by LAPE, measures their overlap
and what breaks without them. Trains the neurons of one language, then random neurons and whole
matrices for comparison. Measures what that gained, what it changed, how close parallel sentences
lie in each layer before and after, and what the models answer. Draws the figures. Every step writes
an artefact under `runs/` and reuses it the next time.

    python -m analyses demo
    python -m analyses demo --model meta-llama/Llama-3.1-8B --corpus glotcc --parallel flores
"""

import dataclasses
import logging
import time
from collections.abc import Sequence
from pathlib import Path

from analyses.drawing import draw_all
from analyses.finetune_runs import finetune_config
from analyses.gallery import write_gallery
from analyses.registry import Request
from lse_interp import (
    ablation,
    activations,
    alignment,
    comparison,
    deltas,
    evaluation,
    finetune,
    lape,
    overlap,
)
from lse_interp.core.cli import CONFIG_FLAT, CorpusArgs, ModelArgs, main_for
from lse_interp.core.errors import LseError, MismatchError
from lse_interp.core.languages import PAPER_LANGUAGES
from lse_interp.counting.count_settings import CountSettings
from lse_interp.tasks.harness import require_harness
from lse_interp.training.methods import method_looks

__all__ = ["Config", "main", "run"]

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Config:
    """From text to language neurons and figures, for one model."""

    model: CONFIG_FLAT[ModelArgs] = ModelArgs()
    text: CONFIG_FLAT[CorpusArgs] = CorpusArgs()
    parallel: str = "embedded"
    """Parallel sentences: `embedded`, `flores`, `ntrex:<folder>`, or a folder."""
    langs: tuple[str, ...] = PAPER_LANGUAGES
    """Languages to tell apart."""
    lang: str = "mlt"
    """The language to train, and whose alignment is measured."""
    methods: tuple[str, ...] | None = None
    """How it is trained, what random neurons match behind a colon; by default all six ways on the
    embedded corpus, and the first two on any other: `target` and `random:layer`."""
    n_tokens: int | None = None
    """Text tokens per language; see `python -m lse_interp.activations --help`."""
    n_questions: int = 42
    """Questions per evaluation task."""
    root: Path = Path("runs")
    """Folder of the artefacts."""
    figures: Path = Path("figures")
    """Folder of the figures."""


def run(config: Config) -> list[Path]:
    """Run every command in order and return the figures written."""
    start = time.monotonic()
    # A corpus of minutes allows what takes days on another.
    small = config.text.corpus == CorpusArgs.corpus
    where = {"root": config.root}
    _say(1, "count activations of every FFN neuron, language by language")
    activations.run(
        activations.Config(
            model=config.model,
            text=config.text,
            langs=config.langs,
            counting=CountSettings(n_tokens=config.n_tokens),
            **where,
        )
    )
    _say(2, "find the language neurons (LAPE)")
    lape.run(lape.Config(model=config.model, langs=config.langs, parquet=True, **where))
    _say(3, "measure which languages share neurons")
    overlap.run(overlap.Config(model=config.model, **where))
    _say(4, "switch each language's neurons off and measure the loss in every language")
    ablation.run(ablation.Config(model=config.model, parallel=config.parallel, **where))
    compared = [label for label, look in method_looks().items() if look.compared]
    methods = config.methods or (compared if small else compared[:2])
    _say(5, f"train {config.lang}: {', '.join(methods)}")
    for method in methods:
        settings = {"lang": config.lang, "model": config.model, "text": config.text}
        finetune.run(finetune_config(method, **settings, **where))
    _say(6, "compare what they gained and what they forgot")
    comparison.run(
        comparison.Config(lang=config.lang, model=config.model, parallel=config.parallel, **where)
    )
    # Figures are drawn at the end, once.
    _say(7, "measure what changed in the weights")
    deltas.run(deltas.Config(lang=config.lang, model=config.model, figures=None, **where))
    _say(8, f"measure how close {config.lang} lies to other languages, before and after")
    alignment.run(
        alignment.Config(
            lang=config.lang,
            model=config.model,
            runs=("all",),
            parallel=config.parallel,
            figures=None,
            **where,
        )
    )
    _say(9, f"ask base and trained models questions in {config.lang} and English")
    _evaluate(config)
    _say(10, "draw the figures")
    request = Request("all", model=config.model.model, root=config.root, figures=config.figures)
    written = [*draw_all(request), write_gallery(config.figures)]
    logger.info("done in %.0f s; artefacts in %s", time.monotonic() - start, config.root)
    return written


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo from the command line."""
    return main_for(Config, run, argv, description=__doc__)


def _evaluate(config: Config) -> None:
    try:
        require_harness()
    except LseError as error:
        logger.info("left out: %s", error)
        return
    try:
        evaluation.run(
            evaluation.Config(
                langs=(config.lang,), model=config.model, limit=config.n_questions, root=config.root
            )
        )
    except MismatchError as error:
        # A table of more questions than the demo asks is the better one.
        logger.info("left as it is: %s", error)


def _say(step: int, what: str) -> None:
    logger.info("\n[%d/10] %s", step, what)


if __name__ == "__main__":
    raise SystemExit(main())
