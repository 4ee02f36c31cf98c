"""How long a command takes to answer.

    python benchmarks/startup.py --write

starts every stage in a process of its own, several times: with `--help`, with a flag that does not
exist, and as far as its imports, which a run makes before it begins. Prints a markdown table of
medians; `--write` puts it into docs/benchmarks.md.
"""

import dataclasses
import logging
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

from common import DOCS, machine, write_section

from lse_interp.__main__ import commands
from lse_interp.core.cli import main_for
from lse_interp.core.errors import LseError

logger = logging.getLogger(__name__)

MARKER = "<!-- startup -->"
_WRONG_FLAG = "--no-such-flag"
_REFUSED = 2


@dataclasses.dataclass(frozen=True)
class Config:
    """Time the start of every command."""

    n: int = 5
    """Starts of each, of which the median is taken; one more before them warms the disk cache."""
    write: bool = False
    """Put the table into docs/benchmarks.md."""


@dataclasses.dataclass(frozen=True)
class Row:
    """Median seconds of a stage."""

    name: str
    help: float
    refusal: float
    imports: float


def median_seconds(words: Sequence[str], *, n: int, status: int = 0) -> float:
    """Start Python with these arguments so many times, after one that does not count.

    Raises:
        LseError: It ended with another status than expected.
    """
    seconds = []
    for _ in range(n + 1):
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, *words],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        seconds.append(time.perf_counter() - start)
        if done.returncode != status:
            raise LseError(
                f"`python {' '.join(words)}` should end with status {status}; it ended with "
                f"{done.returncode}: {done.stderr[-2000:]}"
            )
    return statistics.median(seconds[1:])


def measure(stage: str, *, n: int) -> Row:
    """Time one stage."""
    module = f"lse_interp.{stage}"
    return Row(
        stage,
        help=median_seconds(["-m", module, "--help"], n=n),
        refusal=median_seconds(["-m", module, _WRONG_FLAG], n=n, status=_REFUSED),
        imports=median_seconds(["-c", f"import {module}"], n=n),
    )


def to_markdown(rows: Sequence[Row]) -> str:
    """Lay the measurements out, a line per stage."""
    lines = [
        "| stage | `--help`: s | wrong flag: s | imports of a run: s |",
        "|---|---:|---:|---:|",
    ]
    lines += [f"| {r.name} | {r.help:.2f} | {r.refusal:.2f} | {r.imports:.2f} |" for r in rows]
    return "\n".join(lines)


def run(config: Config) -> None:
    """Time every stage, print the table, and write it where asked."""
    base = {
        "Python alone": ["-c", "pass"],
        "`import lse_interp`": ["-c", "import lse_interp"],
        "`python -m lse_interp`": ["-m", "lse_interp"],
        "`import torch`": ["-c", "import torch"],
    }
    found = {name: median_seconds(words, n=config.n) for name, words in base.items()}
    rows = []
    for stage in commands():
        rows.append(measure(stage, n=config.n))
        logger.info("%s", rows[-1])
    beside = "; ".join(f"{name} {seconds:.2f} s" for name, seconds in found.items())
    section = (
        f"## Start-up\n\n`python benchmarks/startup.py --write` on {machine('cpu')}; medians of "
        f"{config.n} processes. A stage reads its command line before it imports torch, so that "
        f"help and refusals do not wait.\n\n{to_markdown(rows)}\n\nBeside them: {beside}."
    )
    sys.stdout.write(f"{section}\n")
    if config.write:
        write_section(DOCS, section, marker=MARKER)


if __name__ == "__main__":
    raise SystemExit(main_for(Config, run, description=__doc__))
