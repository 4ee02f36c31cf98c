r"""Count how often each FFN neuron is active on text of a language.

For neuron i of layer l and the T text tokens of a language,

    p[l, i] = 1/T * sum over tokens t of [act(gate(x_t))[i] > 0],

and likewise the sum of the values themselves. Only text is counted: BOS and document separators
are read by the model and left out. Source: paper, section 3.1.

    python -m lse_interp.activations --langs mlt eng --n-tokens 100000
    accelerate launch --multi_gpu --num_processes 4 -m lse_interp.activations \
        --model meta-llama/Llama-3.1-8B --corpus glotcc --n-tokens 10000000

writes `runs/<model>/counts/<language>.safetensors`. The corpus is counted in shards, each kept in
`<language>.safetensors.shards/` once it is finished: a run that was killed goes on from there,
and several processes share the shards, first come, first served, across languages. Either way the
counts are those of one uninterrupted process (with as many threads, which decide the last bits of
a matrix product).
"""

import contextlib
import copy
import functools
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lse_interp.core.cli import CONFIG_FLAT, CorpusArgs, ModelArgs, answer_at_once, main_for
from lse_interp.core.languages import PAPER_LANGUAGES, lookup
from lse_interp.data.separators import Bos, Separator


@dataclass(frozen=True)
class Config:
    """Count activations of one model on text of several languages."""

    model: CONFIG_FLAT[ModelArgs] = ModelArgs()
    text: CONFIG_FLAT[CorpusArgs] = CorpusArgs()
    langs: tuple[str, ...] = PAPER_LANGUAGES
    """Languages, by any of their codes."""
    n_tokens: int | Literal["all"] | None = None
    """Text tokens per language, or `all` there are; by default 20,000 of the embedded corpus,
    1,000,000 of any other. The paper reads 100 MB per language; as int64 ids, that is 13.1 million
    tokens."""
    site: str = "mlp.hook_act"
    """Values that are counted where > 0; LAPE's are those of the gate, `mlp.hook_act`."""
    block_size: int | None = None
    """Positions per sequence; by default 512, and 128 for the embedded model, as in training."""
    batch_size: int = 8
    """Sequences per forward pass."""
    n_shards: int = 8
    """Pieces that each language is counted in, for reliability: the unit of resuming, and of
    sharing the work between processes."""
    bos: Bos | Literal["auto"] = "auto"
    """BOS before every block, every document or nowhere; `auto`: every block if the tokenizer
    adds BOS itself, else nowhere, and every document for the embedded model, as in training."""
    separator: Separator = "eos"
    """Between two documents: EOS, or nothing."""
    root: Path = Path("runs")
    """Folder of all runs; this stage writes `root/<model>/counts/`."""
    overwrite: bool = False
    """Count again what is already there; killed, the same command goes on."""


if __name__ == "__main__":
    # Before the imports below, which take seconds.
    answer_at_once(Config, description=__doc__)

from tqdm.auto import tqdm

from lse_interp.artifacts.atomic import remove_folder
from lse_interp.artifacts.paths import RunPaths
from lse_interp.artifacts.provenance import provenance
from lse_interp.core.errors import CorpusError, MismatchError
from lse_interp.core.processes import Processes
from lse_interp.counting.count import SharedCount, shard_blocks, text_digest
from lse_interp.counting.count_settings import Settings
from lse_interp.counting.counts import ActivationCounts, merge
from lse_interp.counting.folder import shards_of, take
from lse_interp.counting.overwriting import recorded
from lse_interp.counting.reporting import report_language, report_run, warn_of_idle
from lse_interp.counting.shard_store import ShardStore
from lse_interp.counting.texts import PackedText, pack_corpus, packed_texts, text_is_over
from lse_interp.data import Corpus, load_corpus
from lse_interp.data.corpora import require_text_of_each
from lse_interp.data.separators import Bos, Separator
from lse_interp.models import HookedModel, load_from_args

__all__ = ["ActivationCounts", "Config", "count_activations", "main", "merge", "run"]


def count_activations(
    model: HookedModel,
    corpus: Corpus | Iterable[str],
    *,
    language: str,
    n_tokens: int | None,
    site: str = "mlp.hook_act",
    block_size: int = 512,
    batch_size: int = 8,
    n_shards: int = 8,
    bos: Bos | Literal["auto"] = "auto",
    separator: Separator = "eos",
    workdir: str | Path | None = None,
    overwrite: bool = False,
    show_progress: bool = False,
) -> ActivationCounts:
    """Count at how many text tokens each neuron is active, and sum its values.

    Counts are exact; sums are float32 within a batch and float64 over batches. The
    language-model head is not run.

    Args:
        model: The model, run on its own device and in its own dtype.
        corpus: A corpus, or documents.
        language: ISO 639-3, or any spelling that `lookup` knows.
        n_tokens: Text tokens to count, at least 1; None counts the whole corpus.
        site: A kind of site whose last axis is neurons.
        block_size: Positions per sequence, at most what the model was made for.
        batch_size: Sequences per forward pass.
        n_shards: Pieces of the corpus that are counted apart. None is smaller than a block, so
            short text gives fewer.
        bos: Where the model reads BOS; `auto`: before every block if the tokenizer adds BOS
            itself, else nowhere.
        separator: What the model reads between two documents.
        workdir: Folder that keeps finished shards. Called again with the same arguments, the
            function goes on from there and gives the same counts bit by bit. Processes that
            `accelerate launch` or `torchrun` started together need one. It is left behind.
        overwrite: Whether to delete what `workdir` holds first.
        show_progress: Whether to draw a progress bar on stderr.

    Returns:
        The counts of all shards, in every process.

    Raises:
        LanguageError: Unknown language.
        CorpusError: Less text than `n_tokens`, or none.
        ActivationError: Unknown site, or values that are not finite (names the first layer).
        MismatchError: `workdir` belongs to a run with other settings, or `corpus` to another
            language.
        LseError: An argument is out of range.
    """
    with Processes.find().joined() as ranks:
        pass
    language = _same_language(corpus, language)
    settings = Settings(site, n_tokens, block_size, batch_size, n_shards, bos, separator)
    settings = settings.fitted(model)
    if workdir is not None:
        ranks.require_one_folder(workdir)
        if overwrite:
            if ranks.is_main:
                remove_folder(workdir)
            ranks.wait()
    began = time.monotonic()
    counted = _count_text(
        model,
        pack_corpus(corpus, model.tokenizer, settings),
        language=language,
        settings=settings,
        workdir=workdir,
        ranks=ranks,
        show_progress=show_progress,
        seconds_waiting=time.monotonic() - began,
    )
    ranks.wait()
    counts = counted.merged()
    # Nobody may clear the folder while another still reads.
    ranks.wait()
    return counts


def run(config: Config) -> dict[str, Path]:
    """Count every language and write its counts; reuse those that are there.

    Returns:
        Language -> file.

    Raises:
        LseError: See `count_activations`; also for finished counts with other settings.
    """
    with Processes.find().joined() as ranks:
        pass
    if not ranks.is_main:
        logging.disable(logging.WARNING)
    with ranks.together(), _locks() as locks:
        languages = tuple(dict.fromkeys(lookup(code).code for code in config.langs))
        require_text_of_each(config.text.corpus, languages)
        settings = _settings(config)
        chosen = config.model
        model = load_from_args(replace(chosen, device=ranks.device(chosen.device)))
        settings = settings.fitted(model)
        paths = RunPaths(config.root, chosen.model)
        ranks.require_one_folder(paths.folder / "counts")
        asked = {language: _asked(config, settings, model, language) for language in languages}
        unfinished = ranks.decide(
            lambda: take(asked, paths, overwrite=config.overwrite, locks=locks)
        )
        warn_of_idle(len(unfinished) * settings.n_shards, ranks)
        began = time.monotonic()
        with recorded(asked, paths, is_on=config.overwrite and ranks.is_main):
            written = _run_languages(
                config, settings, model, unfinished, ranks=ranks, paths=paths, locks=locks
            )
        report_run(written, paths, n_languages=len(languages), seconds=time.monotonic() - began)
    return {language: paths.counts(language) for language in languages}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage from the command line."""
    return main_for(Config, run, argv, description=__doc__)


@contextlib.contextmanager
def _locks() -> Iterator[dict[str, contextlib.ExitStack]]:
    """Keep the lock of each language until its counts are written, or this run ends."""
    locks: dict[str, contextlib.ExitStack] = {}
    try:
        yield locks
    finally:
        for lock in locks.values():
            lock.close()


def _settings(config: Config) -> Settings:
    embedded_model = config.model.model == "embedded"
    block_size = 128 if embedded_model else 512
    n_tokens: int | None = 20_000 if config.text.corpus == "embedded" else 1_000_000
    if config.n_tokens is not None:
        n_tokens = None if config.n_tokens == "all" else config.n_tokens
    return Settings(
        site=config.site,
        n_tokens=n_tokens,
        block_size=block_size if config.block_size is None else config.block_size,
        batch_size=config.batch_size,
        n_shards=config.n_shards,
        bos="document" if embedded_model and config.bos == "auto" else config.bos,
        separator=config.separator,
    )


def _asked(config: Config, settings: Settings, model: HookedModel, language: str) -> dict[str, Any]:
    """Return what the counts of a language should have been made with."""
    asked = settings.statistic(model, language=language, corpus=config.text.corpus)
    if config.text.split is not None:
        asked["split"] = config.text.split
    return asked


def _read(config: Config, settings: Settings, tokenizer: Any, language: str) -> PackedText:
    corpus = load_corpus(config.text.corpus, language=language, split=config.text.split)
    try:
        return pack_corpus(corpus, tokenizer, settings)
    except CorpusError as error:
        error.add_note(
            f"This is {lookup(language).name} ({corpus.source}). --n-tokens takes less, or `all`."
        )
        raise


def _run_languages(
    config: Config,
    settings: Settings,
    model: HookedModel,
    languages: Sequence[str],
    *,
    ranks: Processes,
    paths: RunPaths,
    locks: Mapping[str, contextlib.ExitStack],
) -> list[Mapping[str, Any]]:
    """Count languages; in the main process, write them and return their provenance."""
    # A copy, as a tokenizer serves one thread.
    tokenizer = copy.deepcopy(model.tokenizer)
    texts = packed_texts(
        languages,
        functools.partial(_read, config, settings, tokenizer),
        ranks=ranks,
        folder=lambda language: shards_of(paths.counts(language)),
    )
    begun: list[SharedCount] = []
    written: list[Mapping[str, Any]] = []
    for language, text, seconds_waiting in texts:
        if text is None:
            continue
        counted = _count_text(
            model,
            text,
            language=language,
            settings=settings,
            workdir=shards_of(paths.counts(language)),
            ranks=ranks,
            show_progress=True,
            seconds_waiting=seconds_waiting,
        )
        # Before another one is there.
        del text
        if ranks.is_main:
            begun.append(counted)
        # Another process may still be at its last shard of a language: nobody waits for it.
        complete = [counted for counted in begun if counted.is_complete]
        begun = [counted for counted in begun if counted not in complete]
        written += [_write(config, counted, paths, locks, ranks) for counted in complete]
    ranks.wait()
    written += [_write(config, counted, paths, locks, ranks) for counted in begun]
    ranks.wait()
    return written


def _write(
    config: Config,
    counted: SharedCount,
    paths: RunPaths,
    locks: Mapping[str, contextlib.ExitStack],
    ranks: Processes,
) -> Mapping[str, Any]:
    """Merge the shards of a language, write its counts, delete the shards and let go of it."""
    counts, path = counted.merged(), paths.counts(counted.language)
    about = {**counts.provenance, "config": provenance(config)["config"]}
    replace(counts, provenance=about).save(path)
    text_is_over(counted.language, ranks)
    remove_folder(shards_of(path))
    locks[counted.language].close()
    report_language(counts, about, path)
    return about


def _count_text(
    model: HookedModel,
    text: PackedText,
    *,
    language: str,
    settings: Settings,
    workdir: str | Path | None,
    ranks: Processes,
    show_progress: bool,
    seconds_waiting: float,
) -> SharedCount:
    """Count this process's part of a text, for which the model has waited."""
    described = _describe(text, settings, model=model, language=language)
    counted = SharedCount(
        model,
        language=language,
        site=settings.site,
        batch_size=settings.batch_size,
        settings=described,
        source=text.source,
        ranks=ranks,
        store=None if workdir is None else ShardStore(Path(workdir), described),
    )
    blocks = text.blocks
    total = blocks[-1].start + blocks[-1].n_text
    with _bar(language, total, show=show_progress and ranks.is_main) as bar:
        counted.count(
            shard_blocks(blocks, n_shards=settings.n_shards, block_size=settings.block_size),
            advance=bar.update,
            seconds_waiting=seconds_waiting,
        )
    return counted


def _same_language(corpus: Corpus | Iterable[str], language: str) -> str:
    code = lookup(language).code
    if isinstance(corpus, Corpus) and corpus.language != code:
        raise MismatchError(
            f"The corpus {corpus.spec} was opened for {corpus.language}; asked for {code}. Open it "
            "with load_corpus(..., language=...) of the language to count."
        )
    return code


def _describe(
    text: PackedText, settings: Settings, *, model: HookedModel, language: str
) -> dict[str, Any]:
    """Return everything that the counts depend on."""
    return {
        **settings.statistic(model, language=language, corpus=text.spec),
        "split": text.split,
        "text": text_digest(text.blocks),
        **settings.numerics(model),
    }


def _bar(language: str, total: int, *, show: bool) -> tqdm:
    # None: silent where stderr is not a terminal.
    disable = None if show else True
    return tqdm(
        total=total, desc=language, unit="tok", unit_scale=True, leave=False, disable=disable
    )


if __name__ == "__main__":
    raise SystemExit(main())
