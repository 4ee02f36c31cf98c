"""What training a language cost in English, with intervals for questions that share clauses.

python -m analyses.forgetting

Every model is asked the same 168 English questions, made of 21 main clauses, so the models' changes
against the base are not independent, over questions of one clause or over languages. So the
bootstrap draws both languages and clauses. Reads `runs/embedded/evaluation/`, writes
docs/forgetting.csv and the table in docs/results.md.
"""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from analyses.evaluation_results import read_tables
from analyses.markdown import put_between
from lse_interp.artifacts.atomic import write_atomic
from lse_interp.artifacts.paths import RunPaths
from lse_interp.core.cli import main_for
from lse_interp.data.embedded import sentences
from lse_interp.plotting.picture import markdown_table
from lse_interp.plotting.style import method_label, method_order
from lse_interp.tasks.results import EvaluationTable

__all__ = ["Config", "clustered_interval", "main", "run"]

logger = logging.getLogger(__name__)

_MEASURES = {
    ("embedded_endings_eng", "loglikelihood_accuracy"): "Endings (points)",
    ("embedded_endings_eng", "normalised_accuracy"): "Endings, per byte (points)",
    ("embedded_topics_eng", "letter_accuracy"): "Topics (points)",
    ("loss_eng", "loss"): "Loss (nats)",
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Tabulate what English lost."""

    results: Path = Path("docs/forgetting.csv")
    """The table."""
    page: Path = Path("docs/results.md")
    """The page that shows it, if it exists."""
    n_bootstrap: int = 4000
    """Resamples."""
    root: Path = Path("runs")
    """Folder of all runs."""


def clustered_interval(
    changes: np.ndarray, clusters: Sequence[str], *, n_bootstrap: int = 4000, seed: int = 0
) -> tuple[float, float]:
    """Bound a mean over languages and questions by a 95 % bootstrap over both.

    Args:
        changes: [language question].
        clusters: What each question belongs to; questions of one cluster are drawn together, and
            every cluster weighs as much.
        n_bootstrap: Number of resamples.
        seed: Of the resampling.
    """
    names = sorted(set(clusters))
    member = np.array([names.index(name) for name in clusters])
    per_cluster = np.stack([changes[:, member == at].mean(axis=1) for at in range(len(names))])
    rng = np.random.default_rng(seed)
    n_clusters, n_languages = per_cluster.shape
    means = [
        per_cluster[rng.integers(n_clusters, size=n_clusters)][
            :, rng.integers(n_languages, size=n_languages)
        ].mean()
        for _ in range(n_bootstrap)
    ]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def run(config: Config) -> pd.DataFrame:
    """Write the table.

    Raises:
        ArtifactError: nothing was evaluated yet.
    """
    paths = RunPaths(config.root, "embedded")
    tables = read_tables(paths.evaluation("").parent)
    clusters = [sentence.main for sentence in sentences("eng", "devtest")]
    methods = method_order({method for table in tables for method in table.methods} - {"base"})
    frame = pd.DataFrame(
        [
            _row(tables, measure, method, clusters, n_bootstrap=config.n_bootstrap)
            for measure in _MEASURES
            for method in methods
        ]
    )
    write_atomic(config.results, lambda path: frame.to_csv(path, index=False))
    if config.page.is_file():
        put_between(config.page, {"forgetting": _markdown(frame)})
    logger.info("wrote %s", config.results)
    return frame


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script from the command line."""
    return main_for(Config, run, argv, description=__doc__)


def _row(
    tables: Sequence[EvaluationTable],
    measure: tuple[str, str],
    method: str,
    clusters: Sequence[str],
    *,
    n_bootstrap: int,
) -> dict[str, object]:
    changes = np.stack([_change(table, measure, method) for table in tables])
    low, high = clustered_interval(changes, clusters, n_bootstrap=n_bootstrap)
    return {
        "task": measure[0],
        "metric": measure[1],
        "method": method,
        "change": changes.mean(),
        "low": low,
        "high": high,
        "n_languages": len(tables),
        "n_below_0": int((changes.mean(axis=1) < 0).sum()),
    }


def _change(table: EvaluationTable, measure: tuple[str, str], method: str) -> np.ndarray:
    """Return the change of each question against the base, averaged over seeds."""
    scores = table.of(*measure).numpy()
    seeds = [at for at, found in enumerate(table.methods) if found == method]
    return scores[seeds].mean(axis=0) - scores[0]


def _markdown(frame: pd.DataFrame) -> str:
    methods = list(dict.fromkeys(frame["method"]))
    lines = []
    for measure, name in _MEASURES.items():
        rows = frame[(frame["task"] == measure[0]) & (frame["metric"] == measure[1])]
        cells = [f"{r.change:+.2f} ({r.low:+.2f} to {r.high:+.2f})" for r in rows.itertuples()]
        lines.append([name, *cells])
    return (
        f"Change in English, mean over {frame['n_languages'].max()} languages trained, with 95 % "
        "intervals over languages and clauses\n\n"
        + markdown_table(["", *map(method_label, methods)], lines)
    )


if __name__ == "__main__":
    raise SystemExit(main())
