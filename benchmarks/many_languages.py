"""Memory, time and disk of the stages against the number of languages.

    python benchmarks/many_languages.py --parallel ntrex:path/to/ntrex --n-languages 8 32 128

writes the sentences of the parallel text to one file per language, then runs activations, lape
(with its release folder) and overlap as commands on the first so many of them, each in a process
of its own and each number in a folder of its own. The last language of every number is counted by
a second command, which must find the others done. Prints a markdown table.
"""

import dataclasses
import itertools
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from common import machine

from lse_interp.artifacts.paths import RunPaths
from lse_interp.core.cli import main_for
from lse_interp.core.errors import CorpusError, LanguageError, LseError
from lse_interp.core.languages import LANGUAGES
from lse_interp.counting.counts import ActivationCounts
from lse_interp.data.parallel import load_parallel

logger = logging.getLogger(__name__)

# The process reads its own peak: what `wait4` returns is at least the parent's at the fork.
_STAGE = """
import importlib, re, sys
from pathlib import Path
code = importlib.import_module(f"lse_interp.{sys.argv[1]}").main(sys.argv[2:])
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
raise SystemExit(code)
"""


@dataclasses.dataclass(frozen=True)
class Config:
    """Run the stages on more and more languages."""

    model: str = "embedded"
    parallel: str = "embedded"
    """Where the text is from, as `load_parallel` takes it; `ntrex:<folder>` has 128 languages."""
    n_languages: tuple[int, ...] = (8, 21)
    """How many, each at least 2."""
    n_tokens: int = 2000
    """Text tokens counted per language."""
    threads: int = 1
    """CPU threads of every command."""
    root: Path | None = None
    """Where the runs are left; by default a folder that is deleted."""


@dataclasses.dataclass(frozen=True)
class Command:
    """What a command took."""

    seconds: float
    peak_mb: float


@dataclasses.dataclass(frozen=True)
class Row:
    """What was measured with so many languages."""

    n_languages: int
    count: Command
    """All languages but one."""
    one_more: Command
    n_counted_again: int
    """Counts that the second command wrote again, apart from the one asked for."""
    seconds_per_language: float
    """Median over languages, of counting alone."""
    lape: Command
    overlap: Command
    counts_mb: float
    neurons_mb: float
    release_mb: float


def available(parallel: str) -> dict[str, tuple[str, ...]]:
    """Read the sentences of every language that the text has.

    Raises:
        LseError: it has fewer than two of the languages known here.
    """
    found = {}
    for code in LANGUAGES:
        try:
            found |= load_parallel(parallel, languages=(code,)).sentences
        except (CorpusError, LanguageError) as error:
            logger.debug("%s", error)
    if len(found) < 2:
        raise LseError(f"{parallel} has {len(found)} languages; at least 2 are needed.")
    return found


def measure(config: Config, languages: Sequence[str], *, text: Path, root: Path) -> Row:
    """Run every stage on these languages in an empty folder."""
    paths = RunPaths(root, config.model)
    where = ["--model", config.model, "--root", str(root)]
    count = ["activations", *where, "--corpus", str(text), "--n-tokens", str(config.n_tokens)]
    first = _command([*count, "--langs", *languages[:-1]], threads=config.threads)
    written = {code: paths.counts(code).stat().st_mtime_ns for code in languages[:-1]}
    one_more = _command([*count, "--langs", *languages], threads=config.threads)
    again = sum(paths.counts(code).stat().st_mtime_ns != at for code, at in written.items())
    lape = _command(["lape", *where, "--parquet"], threads=config.threads)
    overlap = _command(["overlap", *where], threads=config.threads)
    counts = [ActivationCounts.load(paths.counts(code), totals=True) for code in languages]
    return Row(
        n_languages=len(languages),
        count=first,
        one_more=one_more,
        n_counted_again=again,
        seconds_per_language=statistics.median(c.provenance["seconds"] for c in counts),
        lape=lape,
        overlap=overlap,
        counts_mb=_megabytes(paths.counts("*").parent),
        neurons_mb=_megabytes(paths.neurons),
        release_mb=_megabytes(paths.neurons.with_name("lape-release")),
    )


def to_markdown(rows: Sequence[Row]) -> str:
    """Lay the measurements out, a column per number of languages."""
    lines = {
        "languages": [str(row.n_languages) for row in rows],
        "counting all but one: peak MB": [f"{row.count.peak_mb:,.0f}" for row in rows],
        "counting all but one: seconds": [f"{row.count.seconds:.1f}" for row in rows],
        "seconds per language": [f"{row.seconds_per_language:.2f}" for row in rows],
        "one more language: seconds": [f"{row.one_more.seconds:.1f}" for row in rows],
        "counted again": [str(row.n_counted_again) for row in rows],
        "lape: seconds": [f"{row.lape.seconds:.1f}" for row in rows],
        "lape: peak MB": [f"{row.lape.peak_mb:,.0f}" for row in rows],
        "overlap: seconds": [f"{row.overlap.seconds:.1f}" for row in rows],
        "overlap: peak MB": [f"{row.overlap.peak_mb:,.0f}" for row in rows],
        "counts on disk: MB": [f"{row.counts_mb:.1f}" for row in rows],
        "neurons.safetensors: MB": [f"{row.neurons_mb:.1f}" for row in rows],
        "release folder: MB": [f"{row.release_mb:.2f}" for row in rows],
    }
    header, *body = ([name, *cells] for name, cells in lines.items())
    rule = ["---", *["---:"] * len(rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in [header, rule, *body])


def run(config: Config) -> None:
    """Write the text, measure every number of languages, print the table.

    Raises:
        LseError: more languages asked for than there are, or fewer than two.
    """
    sentences = available(config.parallel)
    for n in config.n_languages:
        if not 2 <= n <= len(sentences):
            raise LseError(f"`n_languages` must be 2 to {len(sentences)} here; got {n}.")
    with tempfile.TemporaryDirectory() as scratch:
        root = config.root or Path(scratch)
        text = root / "text"
        text.mkdir(parents=True, exist_ok=True)
        for code, lines in sentences.items():
            (text / f"{code}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        rows = []
        for n in config.n_languages:
            languages = list(itertools.islice(sentences, n))
            rows.append(measure(config, languages, text=text, root=root / f"languages-{n}"))
            logger.info("%s", rows[-1])
    sys.stdout.write(
        f"{machine('cpu')}; commands with {config.threads} thread(s), {config.model}, "
        f"{config.n_tokens:,} tokens per language of {config.parallel}\n\n{to_markdown(rows)}"
    )


def _command(words: Sequence[str], *, threads: int) -> Command:
    """Run a stage in a process of its own, to its end."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", _STAGE, *words],
        env=os.environ | {"OMP_NUM_THREADS": str(threads), "CI": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise LseError(f"{' '.join(words[:6])} ... failed: {done.stderr[-2000:]}")
    return Command(time.perf_counter() - start, int(done.stdout.split()[-1]) / 1e3)


def _megabytes(path: Path) -> float:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files) / 1e6


if __name__ == "__main__":
    raise SystemExit(main_for(Config, run, description=__doc__))
