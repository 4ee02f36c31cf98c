"""Counts of several languages, one file each: reused, resumed, or counted by all processes."""

import copy
import functools
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
from lse_interp.counting.claims import Claims, shards_of
from lse_interp.counting.count import SharedCount, new_launch
from lse_interp.counting.count_settings import CountSettings
from lse_interp.counting.counts import ActivationCounts
from lse_interp.counting.packed_text import PackedText, texts_ahead
from lse_interp.counting.reporting import report_language, report_run, warn_of_idle
from lse_interp.data.corpora import load_corpus
from lse_interp.models.hooked import HookedModel

__all__ = ["count_languages"]


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
    unwritten: list[SharedCount] = []
    written: list[ActivationCounts] = []
    with Claims(asked, paths, overwrite=overwrite) as claims:
        todo = processes.decide(claims.take)
        warn_of_idle(len(todo) * settings.n_shards, processes)
        began = time.monotonic()
        launch, n_before = new_launch(processes), 0

        def write(count: SharedCount) -> None:
            counts, path = count.merged(), paths.counts(count.language)
            counts = replace(counts, provenance={**counts.provenance, "config": jsonable(config)})
            counts.save(path)
            claims.release(count.language)
            report_language(counts, path)
            written.append(counts)

        for language, text, seconds_waiting in texts_ahead(
            todo,
            # A copy, as a tokenizer serves one thread.
            functools.partial(_read, corpus, settings, copy.deepcopy(model.tokenizer)),
            processes=processes,
            folder=lambda language: shards_of(paths.counts(language)),
        ):
            count = SharedCount(
                model,
                text,
                language=language,
                settings=settings,
                folder=shards_of(paths.counts(language)),
                processes=processes,
                n_before=n_before,
                launch=launch,
            )
            count.count(text, show_progress=True, seconds_waiting=seconds_waiting)
            n_before += len(count.shards)
            # Before another one is held too.
            del text
            if processes.is_main:
                unwritten.append(count)
                # Another process may still be at its part of a language: nobody waits for it.
                for complete in [count for count in unwritten if count.is_complete]:
                    write(complete)
                    unwritten.remove(complete)
        processes.wait()
        for complete in unwritten:
            write(complete)
        processes.wait()
        seconds = time.monotonic() - began
    report_run(written, paths, n_languages=len(languages), seconds=seconds)
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
