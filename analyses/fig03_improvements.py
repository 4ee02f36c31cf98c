"""Figure 3: what target fine-tuning gains on average, language by language.

python -m analyses fig03
python -m analyses fig03 --source published
python -m analyses fig03 runs/my-model/evaluation
"""

from collections.abc import Iterator

import pandas as pd

from analyses.published import MODELS
from analyses.registry import FIGURES, Figure, Request
from analyses.scores import Scores, published_scores
from lse_interp.plotting.picture import Picture
from lse_interp.plotting.scores import improvements_frame, plot_improvements_panels
from lse_interp.plotting.style import language_label

__all__ = ["describe_decreases", "draw", "draw_published", "published_improvements"]

_PUBLISHED = (
    "Change of the score against the base model by target fine-tuning, averaged over tasks; one "
    "dot per language and model. Figure 3, recomputed from the tables of single languages. The "
    "paper says that it averages all tasks, and that only Georgian (Llama-3.1-8B), Slovenian and "
    "Nepali (Mistral-Nemo-12B) decrease. Below 0 in the tables are: {decreases}. The text fits "
    "target-language tasks better."
)
_MEASURED = (
    "Change of the score against the base model by target fine-tuning, averaged over tasks; lines "
    "are 95 % intervals, paired over questions, that take tasks as independent. Small dots: the "
    "other methods. Form of Figure 3."
)


def draw(scores: Scores, _: Request) -> Iterator[Picture]:
    """Draw the average improvement that was measured."""
    frame = improvements_frame(scores.single)
    yield Picture(
        name=f"fig03_improvements{scores.suffix}",
        axes=plot_improvements_panels(frame, others=frame["method"].nunique() > 1)[0],
        frame=frame,
        source=scores.about,
        title="What target fine-tuning gains in every language",
        caption=_MEASURED,
    )


def draw_published() -> Iterator[Picture]:
    """Draw both models of the paper."""
    frame = published_improvements()
    yield Picture(
        name="fig03_improvements_published",
        axes=plot_improvements_panels(frame.assign(low=float("nan")))[0],
        frame=frame,
        source="published numbers: paper, Tables 3 to 26",
        title="What target fine-tuning gains, as published",
        caption=_PUBLISHED.format(decreases=describe_decreases(frame)),
    )


def published_improvements() -> pd.DataFrame:
    """Return what target fine-tuning gains in both models of the paper, in the published tables."""
    parts = [
        improvements_frame(published_scores(key).single).assign(model=MODELS[key]) for key in MODELS
    ]
    frame = pd.concat(parts, ignore_index=True)
    return frame[frame["method"] == "target"].drop(columns=["low", "high", "n_seeds"])


def describe_decreases(frame: pd.DataFrame) -> str:
    """List the averages below 0 in the published tables, over either kind of tasks."""
    parts = []
    for tasks, words in (("target", "target-language tasks"), ("all", "all tasks")):
        falling = frame[(frame["tasks"] == tasks) & (frame["improvement"] < 0)]
        named = [
            f"{', '.join(map(language_label, rows['language']))} ({model})"
            for model, rows in falling.groupby("model", sort=False)
        ]
        parts.append(f"over {words}, {', '.join(named)}")
    return "; ".join(parts)


FIGURES.register("fig03")(
    Figure(
        "Figure 3",
        "average improvement by language",
        draw,
        needs="scores",
        published=draw_published,
    )
)
