"""Counts of several languages, one file each: reused, resumed, or counted by all processes."""

import copy
import functools
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lse_interp.artifacts.paths import RunPaths
from lse_interp.artifacts.provenance import jsonable
from lse_interp.core.cli import CorpusArgs
from lse_interp.core.errors import CorpusError
from lse_interp.core.languages import lookup
from lse_interp.core.processes import Processes
from lse_interp.counting.claims import Claims
from lse_interp.counting.count import count_texts
from lse_interp.counting.count_settings import CountSettings
from lse_interp.counting.counts import ActivationCounts
from lse_interp.counting.packed_text import PackedText
from lse_interp.data.corpora import load_corpus
from lse_interp.models.hooked import HookedModel

__all__ = ["count_languages"]

logger = logging.getLogger(__name__)


def count_languages(
    model: HookedModel,
    languages: Sequence[str],
    *,
    corpus: CorpusArgs,
    settings: CountSettings,
    paths: RunPaths,
    processes: Processes,
    overwrite: bool = False,
    config: Any = None,
) -> dict[str, Path]:
    """Count every language and write its counts; reuse finished ones.

    Args:
        model: The model, run on its own device and in its own dtype.
        languages: ISO 639-3, each once.
        corpus: Which text.
        settings: How it is packed, run and counted.
        paths: Where counts are written.
        processes: The processes that share the work.
        overwrite: Whether to count finished languages again.
        config: The configuration of the command, for the provenance.

    Returns:
        Language -> file.

    Raises:
        LseError: See `count_activations`; also for finished counts with other settings.
    """
    settings = settings.resolved(model, corpus=corpus.corpus)
    processes.require_one_folder(paths.folder / "counts")
    split = {} if corpus.split is None else {"split": corpus.split}
    asked = {
        language: settings.statistic(model, language=language, corpus=corpus.corpus) | split
        for language in languages
    }
    written = []
    with Claims(asked, paths, overwrite=overwrite) as claims:
        todo = processes.decide(claims.take)
        _warn_of_idle(len(todo) * settings.n_shards, processes)
        began = time.monotonic()
        for count in count_texts(
            model,
            todo,
            # A copy, as a tokenizer serves one thread.
            functools.partial(_read, corpus, settings, copy.deepcopy(model.tokenizer)),
            settings=settings,
            folder=claims.shards,
            processes=processes,
            overwrite=overwrite,
            show_progress=True,
        ):
            if not processes.is_main:
                continue
            counts, path = count.merged(), paths.counts(count.language)
            counts = replace(counts, provenance={**counts.provenance, "config": jsonable(config)})
            counts.save(path)
            claims.release(count.language)
            _report_language(counts, path)
            written.append(counts)
        processes.wait()
        seconds = time.monotonic() - began
    _report_run(written, paths, n_languages=len(languages), seconds=seconds)
    return {language: paths.counts(language) for language in languages}


def _read(corpus: CorpusArgs, settings: CountSettings, tokenizer: Any, language: str) -> PackedText:
    found = load_corpus(corpus.corpus, language=language, split=corpus.split)
    try:
        return PackedText.pack(found, tokenizer, settings)
    except CorpusError as error:
        error.add_note(
            f"This is {lookup(language).name} ({found.source}). --n-tokens takes less, or `all`."
        )
        raise


def _warn_of_idle(n_shards: int, processes: Processes) -> None:
    """Warn if there are more processes than shards."""
    if 0 < n_shards < processes.world:
        logger.warning(
            "%d processes share %d shards: %d of them find no work. More --n-shards, or more "
            "--langs, give them some.",
            processes.world,
            n_shards,
            processes.world - n_shards,
        )


def _report_language(counts: ActivationCounts, path: Path) -> None:
    """Say what was counted of one language."""
    about = counts.provenance
    n_new, n_reused = about["n_tokens_counted"], about["n_shards_reused"]
    logger.info(
        "%s: %s tokens (%s tokens/s%s) in %s",
        counts.language,
        f"{counts.n_tokens:,}",
        f"{n_new / about['seconds']:,.0f}",
        f"; {n_reused} of {counts.n_shards} shards were finished before" if n_reused else "",
        path,
    )


def _report_run(
    written: Sequence[ActivationCounts], paths: RunPaths, *, n_languages: int, seconds: float
) -> None:
    """Say how much was counted, and how fast."""
    n_counted = sum(counts.provenance["n_tokens_counted"] for counts in written)
    waited = sum(counts.provenance["seconds_waiting"] for counts in written)
    logger.info(
        "counts of %d languages are in %s (%s tokens counted now, %s tokens/s; waited for text "
        "%.1f %% of the time)",
        n_languages,
        paths.folder / "counts",
        f"{n_counted:,}",
        f"{n_counted / seconds:,.0f}",
        100 * waited / seconds,
    )
