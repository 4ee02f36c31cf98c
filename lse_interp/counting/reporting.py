"""What counting says on the log."""

import logging
from collections.abc import Sequence
from pathlib import Path

from lse_interp.artifacts.paths import RunPaths
from lse_interp.core.processes import Processes
from lse_interp.counting.counts import ActivationCounts

__all__ = ["report_language", "report_run", "warn_of_idle"]

logger = logging.getLogger(__name__)


def warn_of_idle(n_shards: int, processes: Processes) -> None:
    """Warn if there are more processes than shards."""
    if 0 < n_shards < processes.world:
        logger.warning(
            "%d processes share %d shards: %d of them find no work. More --n-shards, or more "
            "--langs, give them some.",
            processes.world,
            n_shards,
            processes.world - n_shards,
        )


def report_run(
    written: Sequence[ActivationCounts], paths: RunPaths, *, n_languages: int, seconds: float
) -> None:
    """Say how much was counted, and how fast.

    Args:
        written: The counts that this run wrote.
        paths: Where they are.
        n_languages: Languages asked for, finished ones among them.
        seconds: What it took.
    """
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


def report_language(counts: ActivationCounts, path: Path) -> None:
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
