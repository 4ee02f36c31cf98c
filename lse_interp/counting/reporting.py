"""What counting says of itself on the log."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lse_interp.artifacts.paths import RunPaths
from lse_interp.core.processes import Processes
from lse_interp.counting.counts import ActivationCounts

__all__ = ["report_language", "report_run", "warn_of_idle"]

logger = logging.getLogger(__name__)


def warn_of_idle(n_shards: int, ranks: Processes) -> None:
    """Say so where processes outnumber the shards."""
    if 0 < n_shards < ranks.world:
        logger.warning(
            "%d processes share %d shards: %d of them find no work. More --n-shards, or more "
            "--langs, give them some.",
            ranks.world,
            n_shards,
            ranks.world - n_shards,
        )


def report_run(
    written: Sequence[Mapping[str, Any]], paths: RunPaths, *, n_languages: int, seconds: float
) -> None:
    """Say how much was counted, and how fast.

    Args:
        written: The provenance of the counts that were written.
        paths: Where they are.
        n_languages: Languages asked for, finished ones among them.
        seconds: What it took.
    """
    n_counted = sum(about["n_tokens_counted"] for about in written)
    waited = sum(about["seconds_waiting"] for about in written)
    logger.info(
        "counts of %d languages are in %s (%s tokens counted now, %s tokens/s; waited for text "
        "%.1f %% of the time)",
        n_languages,
        paths.folder / "counts",
        f"{n_counted:,}",
        f"{n_counted / seconds:,.0f}",
        100 * waited / seconds,
    )


def report_language(counts: ActivationCounts, about: Mapping[str, Any], path: Path) -> None:
    """Say what was counted of one language; `about` is the provenance of its counts."""
    n_new, n_reused = about["n_tokens_counted"], about["n_shards_reused"]
    logger.info(
        "%s: %s tokens (%s tokens/s%s) in %s",
        counts.language,
        f"{counts.n_tokens:,}",
        f"{n_new / about['seconds']:,.0f}",
        f"; {n_reused} of {counts.n_shards} shards were there" if n_reused else "",
        path,
    )
