"""Figure 5: what more training text brings, from runs with several token budgets.

python -m lse_interp.finetune --lang mlt --n-tokens 10000 20000 40000
python -m analyses fig05
python -m analyses fig05_scores

The paper shows task scores; the validation loss is an addition.
"""

from collections.abc import Iterator

from analyses.artefacts import Table
from analyses.finetune_runs import describe_runs
from analyses.registry import FIGURES, Figure, Request
from lse_interp.core.errors import ArtifactError
from lse_interp.plotting.data_size import (
    data_size_frame,
    data_size_scores_frame,
    plot_data_size_panels,
)
from lse_interp.plotting.picture import Picture
from lse_interp.plotting.style import method_label
from lse_interp.subnetworks.finetune_run import FinetuneRun


def draw(found: dict[str, FinetuneRun], request: Request) -> Iterator[Picture]:
    """Draw the validation loss of the runs.

    Raises:
        ArtifactError: no run of that method.
        LseError: an unknown method, or runs of several base models.
    """
    label = method_label(request.method)
    runs = {name: run for name, run in found.items() if run.method == request.method}
    if not runs:
        raise ArtifactError(
            f"None of the {len(found)} runs with a token budget is of method {request.method}."
        )
    frame = data_size_frame(runs)
    yield Picture(
        name=_name("fig05_data_size", request),
        axes=plot_data_size_panels(frame)[0],
        frame=frame,
        source=f"{describe_runs(runs)}; {label}",
        title="What more training text brings",
        caption=(
            "Fall in validation loss against the base model over the tokens of training text, in "
            "the language trained; lines are means over seeds. Form of Figure 5, which shows task "
            "scores."
        ),
        model=next(iter(runs.values())).model,
    )


def draw_scores(scores: Table, request: Request) -> Iterator[Picture]:
    """Draw task scores.

    Raises:
        ArtifactError: no scores of that method.
        LseError: an unknown method.
    """
    label = method_label(request.method)
    own = scores.frame[scores.frame["method"] == request.method]
    if own.empty:
        raise ArtifactError(f"{scores.path} has no scores of method {request.method}.")
    frame, n_seeds = data_size_scores_frame(own), own["seed"].nunique()
    yield Picture(
        name=_name("fig05_data_size_scores", request),
        axes=plot_data_size_panels(frame)[0],
        frame=frame,
        source=(
            f"{scores.path}; {frame['language'].nunique()} languages; "
            f"{n_seeds} seed{'s' * (n_seeds > 1)}; {label}"
        ),
        title="What more training text brings, in task scores",
        caption=(
            "Change of the score against the base model over the tokens of training text, averaged "
            "over tasks; light lines are 95 % intervals, paired over questions, that take tasks as "
            "independent. Form of Figure 5."
        ),
    )


def _name(name: str, request: Request) -> str:
    return name if request.method == "target" else f"{name}_{request.method.replace(':', '-')}"


FIGURES.register("fig05")(
    Figure("Figure 5", "effect of the amount of text, in loss", draw, needs="token_budgets")
)

FIGURES.register("fig05_scores")(
    Figure(
        "Figure 5",
        "effect of the amount of text, in task scores",
        draw_scores,
        needs="score_sizes",
        stems=("fig05_data_size_scores",),
    )
)
