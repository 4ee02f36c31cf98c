"""Check the paper's printed numbers against each other, and write the tables of the page on them.

    python -m analyses.published_numbers

Rewrites the text between the markers of docs/published_numbers.md; every number there is computed
from analyses/paper.
"""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from analyses import published
from analyses.markdown import put_between
from analyses.paper import checks
from analyses.paper.claims import claims
from analyses.paper_tables import column_label
from lse_interp.core.cli import main_for
from lse_interp.plotting.picture import markdown_table

__all__ = ["Config", "main", "run", "sections"]

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Config:
    """Check the published numbers."""

    page: Path = Path("docs/published_numbers.md")
    """The page whose tables are rewritten."""


def sections() -> dict[str, str]:
    """Write every section of the page: name of its markers to markdown."""
    return {name: write() for name, write in _SECTIONS.items()}


def run(config: Config) -> list[Path]:
    """Rewrite the tables of the page and return it.

    Raises:
        ArtifactError: there is no such page, or it lacks markers.
    """
    put_between(config.page, sections())
    logger.info("wrote %s", config.page)
    return [config.page]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script from the command line."""
    return main_for(Config, run, argv, description=__doc__)


def _claims() -> str:
    lines = [[claim.place, claim.text, claim.found, claim.verdict] for claim in claims()]
    head = ["Section", "The text says", "The tables give", "Verdict"]
    return markdown_table(head, lines, n_left=4)


def _averages() -> str:
    frames = [checks.table_averages(model) for model in published.MODELS]
    whole = pd.concat(frames, ignore_index=True)
    lines = [
        [
            f"{row.table} ({row.language})",
            column_label(row.method),
            row.group,
            str(row.n),
            f"{row.printed:.2f}",
            f"{row.recomputed:.4f}",
        ]
        for row in whole[~whole["agrees"]].itertuples()
    ]
    head = ["Table", "Method", "Group", "Rows", "Printed", "Recomputed"]
    return f"{len(lines)} of {len(whole)} differ.\n\n{markdown_table(head, lines, n_left=3)}"


def _summary() -> str:
    found = checks.summary_rows()
    differing = found[~found["agrees"]]
    lines = [
        [
            row.row,
            column_label(row.method),
            f"{row.printed:.2f}",
            f"{row.recomputed:.4f}",
            f"{row.printed - row.recomputed:+.2f}".replace("-", "\N{MINUS SIGN}"),
        ]
        for row in differing.itertuples()
    ]
    groups = found.groupby("group", sort=False)["agrees"].agg(["sum", "size"])
    opening = "; ".join(
        f"{name}: {row['sum']} of {row['size']} agree" for name, row in groups.iterrows()
    )
    head = ["Row", "Method", "Printed", "Mean of Tables 3 to 14", "Difference"]
    return f"Rows of Table 2, {opening}.\n\n{markdown_table(head, lines, n_left=2)}"


def _summary_averages() -> str:
    lines = [
        [
            row.group,
            column_label(row.method),
            f"{row.printed:.2f}",
            f"{row.of_rows:.3f}",
            f"{row.of_languages:.3f}",
        ]
        for row in checks.summary_averages().itertuples()
    ]
    head = ["Group", "Method", "Printed", "Mean of the rows above", "Mean of Tables 3 to 14"]
    return markdown_table(head, lines, n_left=2)


def _sizes() -> str:
    lines = []
    for model, table in (("llama", "Table 1"), ("nemo", "Figure 11")):
        found = checks.sizes(model)
        d_model = checks.MODEL_INFOS[model].d_model
        lines.append([f"{table}, {len(found)} rows", f"{int(found['agrees'].sum())} agree", "", ""])
        lines += [
            [
                f"{table}, {row.language}",
                f"3 x {row.n_neurons} x {d_model} = {row.n_trainable:,}",
                f"{row.trainable_millions:.1f}M",
                f"{row.recomputed_millions:.1f}M",
            ]
            for row in found[~found["agrees"]].itertuples()
        ]
    return markdown_table(["", "", "Printed", "Recomputed"], lines, n_left=2)


def _lora() -> str:
    info = checks.MODEL_INFOS["llama"]
    lines = []
    for rank, n_matrices, what in (
        (62, 2, "gate and up, as the text says"),
        (48, 2, "gate and up, rank 48"),
        (32, 3, "gate, up and down, rank 32, as in the released code"),
    ):
        n = checks.lora_parameters("llama", rank=rank, n_matrices=n_matrices)
        sum_ = f"{info.n_layers} x {n_matrices} x {rank} x ({info.d_model} + {info.d_mlp})"
        lines.append(
            [what, f"{sum_} = {n:,}", f"{n / 1e6:.1f}M", f"{100 * n / info.n_parameters:.2f}"]
        )
    head = ["LoRA on", "Layers x matrices x rank x (d_model + d_mlp)", "", "%"]
    return markdown_table(head, lines, n_left=2)


def _fractions() -> str:
    parts = {model: checks.fractions(model) for model in published.MODELS}
    lines = [
        [
            row.row,
            row.split,
            str(row.n_questions),
            f"{row.n_fitting} of {row.n_printed}",
            f"{other.n_fitting} of {other.n_printed}",
            f"{100 * row.chance:.0f} %",
        ]
        for row, other in zip(parts["llama"].itertuples(), parts["nemo"].itertuples(), strict=True)
    ]
    head = ["Benchmark", "Split", "Questions", *published.MODELS.values(), "By chance"]
    return markdown_table(head, lines, n_left=2)


def _base() -> str:
    lines = [
        [f"{published.MODELS[model]}, {row.row}", f"{row.score:.2f}", row.languages]
        for model in published.MODELS
        for row in checks.base_scores(model).itertuples()
    ]
    return markdown_table(["Base model", "Score", "In the tables of"], lines, n_left=3)


def _repeats() -> str:
    lines = []
    for model, name in published.MODELS.items():
        found = checks.shared_cells(model)
        top = found[found["n_shared"] == found["n_shared"].max()]
        pairs = ", ".join(f"{row.one} and {row.other}" for row in top.itertuples())
        n_shared, total = int(found["n_shared"].max()), int(found["n_cells"].max())
        lines.append([name, pairs, f"{n_shared} of {total}"])
    return markdown_table(["Model", "Most alike", "Equal cells"], lines, n_left=2)


_SECTIONS: Mapping[str, Callable[[], str]] = {
    "claims": _claims,
    "lora": _lora,
    "sizes": _sizes,
    "summary": _summary,
    "summary-averages": _summary_averages,
    "averages": _averages,
    "base": _base,
    "fractions": _fractions,
    "repeats": _repeats,
}


if __name__ == "__main__":
    raise SystemExit(main())
