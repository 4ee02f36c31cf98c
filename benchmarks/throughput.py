"""Whether text keeps up with the model: time spent waiting for tokens, and padding of sentences.

    python benchmarks/throughput.py
    python benchmarks/throughput.py --model meta-llama/Llama-3.1-8B --device cuda --corpus glotcc

Counts the languages one by one, each read and packed before it is counted, and with the next
language read meanwhile, as the stage does; the two take turns. Then puts a clock in the place of
the model, which takes as long as a model of so many tokens per second would and leaves the CPU
alone, as a GPU does. Then times the batches of a training, and embeds parallel sentences in batches
of similar length and in batches as they come. Two processes with a core each then take the text of
all languages, each packing all of it, or sharing. The result replaces the section between the
`<!-- throughput -->` markers of `docs/benchmarks.md`.
"""

import dataclasses
import functools
import itertools
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from common import DOCS, machine, write_section
from torch.distributed import TCPStore
from torch.utils.data import DataLoader
from transformers import default_data_collator

from lse_interp.activations import Config as CountConfig
from lse_interp.activations import run as count
from lse_interp.analysis.sentence_vectors import embed
from lse_interp.core.cli import CorpusArgs, ModelArgs, main_for
from lse_interp.core.processes import Processes
from lse_interp.counting.count import count_activations
from lse_interp.counting.count_settings import CountSettings
from lse_interp.counting.counts import ActivationCounts
from lse_interp.counting.packed_text import PackedText, texts_ahead
from lse_interp.data.corpora import load_corpus
from lse_interp.data.parallel import load_parallel
from lse_interp.models.hooked import HookedModel
from lse_interp.models.loading import load_model
from lse_interp.models.tokenization import token_ids
from lse_interp.training.token_blocks import Packing, token_blocks

logger = logging.getLogger(__name__)

MARKER = "<!-- throughput -->"
_WORLD = 2


@dataclasses.dataclass(frozen=True)
class Config:
    """Measure how long the model waits for text."""

    model: str = "embedded"
    device: str = "cpu"
    dtype: str | None = None
    corpus: str = "embedded"
    langs: tuple[str, ...] = ("mlt", "eng", "jpn", "kat", "npi", "arb")
    """Languages counted, one after the other."""
    n_tokens: int = 4000
    """Text tokens per language."""
    parallel: str = "embedded"
    split: str | None = "devtest"
    """Split of the parallel text."""
    n_sentences: int | None = None
    """Sentences of the parallel text; all of them by default."""
    rounds: int = 3
    """How often the comparisons take turns."""
    speeds: tuple[int, ...] = (20_000, 200_000)
    """Tokens per second of the clocks that stand in for a model."""
    clock_tokens: int = 100_000
    """Text tokens per language for a clock; the corpus is repeated as often as that takes."""
    out: Path = DOCS


@dataclasses.dataclass(frozen=True)
class Waiting:
    """What became of the time of one way to read text."""

    seconds: float
    waited: float

    @property
    def share(self) -> float:
        """Part of the time spent waiting for text."""
        return self.waited / self.seconds


def run(config: Config) -> None:
    """Measure all of it, and put the tables where they belong."""
    model = load_model(config.model, device=config.device, dtype=config.dtype)
    parts = [
        "## Text against model",
        f"`python benchmarks/throughput.py` on {machine(config.device)}, torch "
        f"{torch.__version__}; {config.rounds} rounds in turns, medians.",
        packing_speed(model, config),
        _table("counting", {model.name: counting(model, config)}, config.langs, config.n_tokens),
        _table(
            "clock instead of a model",
            {f"{speed:,} tokens/s": clock(model, config, speed=speed) for speed in config.speeds},
            config.langs,
            config.clock_tokens,
        ),
        processes(model, config),
        training_batches(model, config),
        sentences(model, config),
    ]
    section = "\n\n".join(parts)
    logger.info("%s", section)
    write_section(config.out, section, marker=MARKER)
    logger.info("wrote %s", config.out)


def packing_speed(model: HookedModel, config: Config) -> str:
    """Time tokenising and packing alone."""
    seconds = []
    for _ in range(config.rounds):
        began = time.perf_counter()
        _pack(model.tokenizer, config, config.langs[0])
        seconds.append(time.perf_counter() - began)
    return (
        f"Tokenising and packing: {config.clock_tokens / statistics.median(seconds):,.0f} tokens/s "
        f"({os.cpu_count()} cores; tokenizer of {model.name})."
    )


def counting(model: HookedModel, config: Config) -> dict[str, list[Waiting]]:
    """Count every language with and without reading ahead, in turns."""
    ways = {"one after the other": _count_plainly, "next language read ahead": _count_ahead}
    return _in_turns(
        {name: functools.partial(way, model, config) for name, way in ways.items()}, config
    )


def clock(model: HookedModel, config: Config, *, speed: int) -> dict[str, list[Waiting]]:
    """Put a clock in the place of the model."""

    def read(language: str) -> PackedText:
        return _pack(model.tokenizer, config, language)

    def plainly() -> Waiting:
        return _consume((_timed(read, language) for language in config.langs), speed)

    def ahead() -> Waiting:
        texts = texts_ahead(config.langs, read, processes=Processes(), folder=Path)
        return _consume(((text.n_tokens, seconds) for _, text, seconds in texts), speed)

    return _in_turns({"one after the other": plainly, "next language read ahead": ahead}, config)


def processes(model: HookedModel, config: Config) -> str:
    """Time how soon several processes, with a core each, have the text of all languages."""
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(config.rounds):
        for shares, found in seconds.items():
            found.append(_together(model.tokenizer, config, shares=shares))
    alone, shared = (statistics.median(seconds[shares]) for shares in (False, True))
    return (
        f"{_WORLD} processes with a core each have read {len(config.langs)} languages x "
        f"{config.clock_tokens:,} tokens in {alone:.1f} s where each packs all of it, and in "
        f"{shared:.1f} s where each text is packed once for both, as counting does: "
        f"{shared / alone:.2f} of the time."
    )


def training_batches(model: HookedModel, config: Config) -> str:
    """Time what lies between two training steps: taking a batch from the packed text."""
    documents = load_corpus(config.corpus, language=config.langs[0]).documents()
    blocks = token_blocks(documents, model.tokenizer, Packing(512, model.prefix, "document"))
    loader = DataLoader(blocks, batch_size=2, shuffle=True, collate_fn=default_data_collator)
    per_batch = [_seconds(lambda: list(loader)) / len(loader) for _ in range(config.rounds)]
    return (
        f"Training: a batch of 2 x 512 tokens is taken from the packed text in "
        f"{1e3 * statistics.median(per_batch):.2f} ms."
    )


def sentences(model: HookedModel, config: Config, *, batch_size: int = 32) -> str:
    """Compare batches of sentences of similar length with batches as they come."""
    parallel = load_parallel(
        config.parallel,
        languages=config.langs[:2],
        split=config.split,
        n_sentences=config.n_sentences,
    )
    texts = list(parallel.sentences[config.langs[0]])

    def bucketed() -> None:
        embed(model, texts, batch_size=batch_size)

    def as_they_come() -> None:
        for group in _groups(texts, batch_size):
            embed(model, group, batch_size=batch_size)

    ratios = []
    for i in range(2 * config.rounds):
        # Whichever comes second finds warmer caches.
        ways = (bucketed, as_they_come)[:: 1 if i % 2 else -1]
        times = {way: _seconds(way) for way in ways}
        ratios.append(times[bucketed] / times[as_they_come])
    n_prefix = len(model.prefix)
    lengths = [n_prefix + len(ids) for ids in token_ids(model, texts)]
    rows = {
        "similar length": _padding(sorted(lengths, reverse=True), batch_size),
        "as they come": _padding(lengths, batch_size),
    }
    lines = [f"| {name} | {100 * share:.1f} % |" for name, share in rows.items()]
    return "\n".join(
        [
            f"{len(texts):,} {config.langs[0]} sentences of {parallel.spec} in batches of "
            f"{batch_size}, {model.name}: batches of similar length take "
            f"{statistics.median(ratios):.2f} of the time.",
            "",
            "| sentences of a batch | positions that are padding |",
            "|---|---:|",
            *lines,
        ]
    )


def _together(tokenizer: Any, config: Config, *, shares: bool) -> float:
    """Return the seconds until the slower of the processes has all of the text."""
    os.environ["RAYON_NUM_THREADS"] = "1"
    context = torch.multiprocessing.get_context("spawn")
    counters = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    times = context.SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        started = [
            context.Process(
                target=_process,
                args=(rank, counters.port, tokenizer, config, Path(folder), shares, times),
            )
            for rank in range(_WORLD)
        ]
        for process in started:
            process.start()
        for process in started:
            process.join()
    del os.environ["RAYON_NUM_THREADS"]
    return max(times.get() for _ in started)


def _process(
    rank: int, port: int, tokenizer: Any, config: Config, folder: Path, shares: bool, times: Any
) -> None:
    both = Processes(rank, _WORLD, counters=TCPStore("127.0.0.1", port, is_master=False))
    both.add("here", 1)
    while both.add("here", 0) < _WORLD:
        time.sleep(0.01)
    began = time.perf_counter()
    texts = texts_ahead(
        config.langs,
        functools.partial(_pack, tokenizer, config),
        processes=both if shares else Processes(),
        folder=lambda language: folder / language,
    )
    assert all(text.n_tokens for _, text, _ in texts), "nothing was read"
    times.put(time.perf_counter() - began)


def _pack(tokenizer: Any, config: Config, language: str) -> PackedText:
    corpus = load_corpus(config.corpus, language=language)
    documents = itertools.chain.from_iterable(corpus.documents() for _ in itertools.count())
    settings = CountSettings(n_tokens=config.clock_tokens, block_size=512, bos_at="document")
    return PackedText.pack(documents, tokenizer, settings)


def _count_plainly(model: HookedModel, config: Config) -> Waiting:
    began, waited = time.perf_counter(), 0.0
    for language in config.langs:
        counts = count_activations(
            model,
            load_corpus(config.corpus, language=language),
            language=language,
            n_tokens=config.n_tokens,
            block_size=128,
        )
        waited += counts.provenance["seconds_waiting"]
    return Waiting(time.perf_counter() - began, waited)


def _count_ahead(model: HookedModel, config: Config) -> Waiting:
    with tempfile.TemporaryDirectory() as folder:
        written = count(
            CountConfig(
                model=ModelArgs(model=config.model, device=config.device, dtype=config.dtype),
                text=CorpusArgs(corpus=config.corpus),
                langs=config.langs,
                counting=CountSettings(n_tokens=config.n_tokens, block_size=128),
                root=Path(folder),
            )
        )
        about = [ActivationCounts.load(path, totals=True).provenance for path in written.values()]
    # Loading the model, which the other way does not do, is in neither sum.
    return Waiting(sum(a["seconds"] for a in about), sum(a["seconds_waiting"] for a in about))


def _consume(texts: Iterable[tuple[int, float]], speed: int) -> Waiting:
    began, waited = time.perf_counter(), 0.0
    for n_tokens, seconds in texts:
        waited += seconds
        time.sleep(n_tokens / speed)
    return Waiting(time.perf_counter() - began, waited)


def _timed(read: Callable[[str], PackedText], language: str) -> tuple[int, float]:
    began = time.perf_counter()
    return read(language).n_tokens, time.perf_counter() - began


def _seconds(do: Callable[[], Any]) -> float:
    began = time.perf_counter()
    do()
    return time.perf_counter() - began


def _in_turns(ways: dict[str, Callable[[], Waiting]], config: Config) -> dict[str, list[Waiting]]:
    measured: dict[str, list[Waiting]] = {name: [] for name in ways}
    for _ in range(config.rounds):
        for name, way in ways.items():
            measured[name].append(way())
    return measured


def _table(
    what: str,
    measured: dict[str, dict[str, list[Waiting]]],
    languages: Sequence[str],
    n_tokens: int,
) -> str:
    lines = [
        f"{len(languages)} languages x {n_tokens:,} tokens, {what}:",
        "",
        "| model | text | seconds | waiting for text |",
        "|---|---|---:|---:|",
    ]
    for model, ways in measured.items():
        for name, rounds in ways.items():
            seconds = statistics.median(found.seconds for found in rounds)
            share = statistics.median(found.share for found in rounds)
            lines.append(f"| {model} | {name} | {seconds:.1f} | {100 * share:.1f} % |")
    return "\n".join(lines)


def _groups(texts: Sequence[str], size: int) -> list[Sequence[str]]:
    return [texts[start : start + size] for start in range(0, len(texts), size)]


def _padding(lengths: Sequence[int], batch_size: int) -> float:
    groups = [lengths[start : start + batch_size] for start in range(0, len(lengths), batch_size)]
    positions = sum(len(group) * max(group) for group in groups)
    return 1 - sum(lengths) / positions


if __name__ == "__main__":
    raise SystemExit(main_for(Config, run, description=__doc__))
