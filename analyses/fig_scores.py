"""A picture of Table 2: every method on every task, averaged over languages.

python -m analyses fig_scores
python -m analyses fig_scores --source published
python -m analyses fig_scores runs/my-model/evaluation
"""

from collections.abc import Iterator

from analyses.published import MODELS
from analyses.registry import FIGURES, Figure, Request
from analyses.scores import Scores, published_scores
from lse_interp.plotting.picture import Picture
from lse_interp.plotting.scores import plot_scores_panels, scores_frame


def draw(scores: Scores, _: Request) -> Iterator[Picture]:
    """Draw the scores that were measured."""
    frame = scores_frame(scores.single)
    yield Picture(
        name=f"fig_scores{scores.suffix}",
        axes=plot_scores_panels(frame)[0],
        frame=frame,
        source=scores.about,
        title="Every method on every task",
        caption=(
            "Means over languages and seeds; light lines are one standard error to each side, by "
            "the choice of questions; the line through a row is the base model. Form of Table 2."
        ),
    )


def draw_published() -> Iterator[Picture]:
    """Draw one picture per model of the paper."""
    for model, name in MODELS.items():
        scores = published_scores(model)
        frame = scores_frame(scores.single).drop(columns="n_seeds")
        yield Picture(
            name="fig_scores_published" + ("_nemo" if model == "nemo" else ""),
            axes=plot_scores_panels(frame)[0],
            frame=frame,
            source=scores.about,
            title=f"Every method on every task, as published for {name}",
            caption=(
                "Means over the languages; the line is the base model. The numbers of Table 2, "
                "recomputed from the tables of single languages."
                if model == "llama"
                else "Means over the languages; the line is the base model. The form of Table 2, "
                "which the paper does not print for this model, from the tables of single "
                "languages."
            ),
        )


FIGURES.register("fig_scores")(
    Figure("Table 2", "the same as a picture", draw, needs="scores", published=draw_published)
)
