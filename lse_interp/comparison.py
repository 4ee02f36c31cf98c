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

from lse_interp.core.cli import CONFIG_FLAT, ModelArgs, answer_at_once, main_for, progress


@dataclasses.dataclass(frozen=True)
class Config:
    """Measure the loss of fine-tuned models on sentences that none of them has seen."""

    lang: str
    """The language trained, e.g. `mlt`."""
    model: CONFIG_FLAT[ModelArgs] = ModelArgs()
    runs: tuple[str, ...] = ("all",)
    """Runs: names under `root/<model>/finetune/<lang>/` or folders, each `path` or `label=path`;
    `all` for every finished one."""
    against: tuple[str, ...] = ("eng",)
    """Languages measured beside `--lang`."""
    parallel: str = "embedded"
    """`embedded`, `flores`, `ntrex:<folder>`, or a folder with one file per language."""
    split: str | None = None
    """Split of the sentences; each source has its own default (`devtest`)."""
    n_sentences: int | None = None
    """Take the first so many sentences; by default all."""
    batch_size: int = 32
    """Sentences per forward pass; does not change the result."""
    root: Path = Path("runs")
    """Folder of all runs; this stage writes `root/<model>/comparison/`."""
    overwrite: bool = False
    """Measure again even if the numbers are there, or of other sentences; the file is made anew."""


if __name__ == "__main__":
    # Before the imports below, which take seconds.
    answer_at_once(Config, description=__doc__)


from lse_interp.analysis.losses import LossComparison, compare_losses
from lse_interp.artifacts.locks import locked
from lse_interp.artifacts.model_table import find_by_weights, of_same_base, union
from lse_interp.artifacts.paths import RunPaths
from lse_interp.artifacts.provenance import provenance
from lse_interp.artifacts.reuse import require_same_settings
from lse_interp.core.languages import lookup
from lse_interp.data.parallel import ParallelText, load_parallel
from lse_interp.subnetworks.find import model_sources, require_runs_of

__all__ = ["Config", "main", "run"]

logger = logging.getLogger(__name__)


def run(config: Config) -> LossComparison:
    """Measure every model, one in memory at a time; write the artefact and report.

    Models measured before, on the same sentences, are not measured again, and those not asked for
    stay in the artefact. Where the base model was trained again, it is made anew.

    Returns:
        The losses of the models asked for.

    Raises:
        LseError: See `compare_losses`, `load_parallel` and `load_model`.
        ArtifactError: No such run, or an earlier artefact that cannot be read.
        MismatchError: A run of another base model; or an earlier artefact of other sentences, or
            of the model under other settings.
    """
    language = lookup(config.lang).code
    others = [lookup(code).code for code in config.against]
    measured = tuple(dict.fromkeys((language, *others)))
    paths = RunPaths(config.root, config.model.model)
    sources = model_sources(config.model, runs=config.runs, paths=paths, language=language)
    parallel = load_parallel(
        config.parallel, languages=measured, split=config.split, n_sentences=config.n_sentences
    )
    out = paths.comparison(language)
    with locked(out, what=f"the loss comparison of {language}"):
        earlier = _earlier(config, out, language=language, measured=measured, parallel=parallel)
        parts: list[LossComparison] = []
        for label, source in progress(sources.items(), desc=language, unit="model"):
            model = source.load()
            if not parts:
                require_runs_of(model, sources)
                earlier = of_same_base(earlier, model.info.fingerprint, path=out, config=config)
            method, seed = source.method()
            known = find_by_weights(earlier, model.info.fingerprint, label=label)
            if known is None:
                known = compare_losses(
                    {label: model},
                    parallel,
                    language=language,
                    measured=measured,
                    batch_size=config.batch_size,
                )
            parts.append(dataclasses.replace(known, methods=(method,), seeds=(seed,)))
            # Two large models need not fit side by side.
            del model
        about = provenance(config)
        comparison = dataclasses.replace(LossComparison.concat(parts), provenance=about)
        dataclasses.replace(union(earlier, comparison), provenance=about).save(out)
    _report(comparison)
    logger.info("wrote %s", out)
    return comparison


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage from the command line."""
    return main_for(Config, run, argv, description=__doc__)


def _earlier(
    config: Config,
    out: Path,
    *,
    language: str,
    measured: tuple[str, ...],
    parallel: ParallelText,
) -> LossComparison | None:
    """Return what was measured before, None for nothing; refuse what was measured otherwise."""
    if config.overwrite or not out.exists():
        return None
    earlier = LossComparison.load(out)
    setup = {
        "language": language,
        "measured": measured,
        "text": parallel.digest(measured),
        "n_sentences": len(parallel),
    }
    require_same_settings(out, earlier.setup, setup, provenance=earlier.provenance, config=config)
    return earlier


def _report(comparison: LossComparison) -> None:
    frame = comparison.to_frame()
    columns = ["model", "measured", "loss", "base", "difference", "low", "high"]
    logger.info(
        "Nats per sentence after training %s (%d sentences, 95 %% intervals of the change):\n%s",
        lookup(comparison.language).name,
        comparison.losses.shape[-1],
        frame[columns].to_string(index=False, float_format="{:.3f}".format),
    )


if __name__ == "__main__":
    raise SystemExit(main())
