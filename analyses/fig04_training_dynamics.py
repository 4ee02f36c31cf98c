"""Figure 4 and appendix B: the validation loss of all methods over the tokens seen.

python -m analyses fig04
python -m analyses fig04 --langs slk afr
python -m analyses fig04 runs/embedded/finetune/mlt/*
python -m analyses figB

Figure 4 is about Maltese (or, without it, the language with most methods); appendix B shows all
languages with finished runs of two methods or more. Runs with a token budget, a name of their own
or another profile are left out; name their folders.
"""

from collections.abc import Iterator, Mapping

import pandas as pd

from analyses.finetune_runs import describe_runs
from analyses.registry import FIGURES, Figure, Request
from lse_interp.core.errors import ArtifactError
from lse_interp.core.languages import family_order, lookup
from lse_interp.plotting.loss_curves import (
    dynamics_frame,
    plot_dynamics_panels,
    plot_small_dynamics,
)
from lse_interp.plotting.picture import Picture
from lse_interp.plotting.style import language_label
from lse_interp.subnetworks.finetune_run import FinetuneRun

_Runs = Mapping[str, FinetuneRun]


def draw(found: _Runs, request: Request) -> Iterator[Picture]:
    """Draw one picture per requested language.

    Raises:
        ArtifactError: no run of a requested language, or nothing to compare.
        LseError: runs of several base models, or validated on different text.
    """
    asked = [lookup(name).code for name in request.langs]
    languages = {run.language for run in found.values()}
    if missing := sorted(set(asked) - languages):
        raise ArtifactError(
            f"No finished fine-tuning run of {', '.join(missing)}; there are runs of "
            f"{', '.join(family_order(languages)) or 'no language'}."
        )
    runs = found if asked or request.paths else _comparable(found)
    for language in asked or [_first(dynamics_frame(runs))]:
        own = {name: run for name, run in runs.items() if run.language == language}
        frame = dynamics_frame(own)
        yield Picture(
            name=f"fig04_training_dynamics_{language}",
            axes=plot_dynamics_panels(frame)[0],
            frame=frame,
            source=describe_runs(own),
            title=(
                f"Training the model on {language_label(language)}: every method's validation loss"
            ),
            caption=(
                "Validation loss over the tokens seen; dotted, the base model; a dot marks the "
                "lowest point in the language trained. Thick lines are means over seeds, thin "
                "lines single seeds. Form of Figure 4; further panels, on a scale of the same "
                "span, show languages that were not trained."
            ),
            model=next(iter(own.values())).model,
        )


def draw_all_languages(found: _Runs, request: Request) -> Iterator[Picture]:
    """Draw one small panel per language, if there are several.

    Raises:
        ArtifactError: fewer than two languages have runs to compare.
        LseError: runs of several base models, or validated on different text.
    """
    runs = found if request.paths else _comparable(found)
    if len({run.language for run in runs.values()}) < 2:
        raise ArtifactError("Only one language has runs of two methods; Figure 4 shows it.")
    frame = dynamics_frame(runs)
    yield Picture(
        name="figB_training_dynamics",
        axes=plot_small_dynamics(frame)[0],
        frame=frame,
        source=describe_runs(runs),
        title="Training the model on each language: every method's validation loss",
        caption=(
            "Validation loss in the language trained over the tokens seen, each panel on its own "
            "scale; dotted, the base model; a dot marks the lowest point. Form of appendix B."
        ),
        model=next(iter(runs.values())).model,
    )


def _comparable(found: _Runs) -> _Runs:
    """Return the runs of languages with two methods or more."""
    methods: dict[str, set[str]] = {}
    for run in found.values():
        methods.setdefault(run.language, set()).add(run.method)
    runs = {name: run for name, run in found.items() if len(methods[run.language]) > 1}
    if not runs:
        raise ArtifactError(
            "No language has finished runs of two methods to compare. Train another: "
            "`python -m lse_interp.finetune --lang mlt --method random`."
        )
    return runs


def _first(frame: pd.DataFrame) -> str:
    n_methods = frame.groupby("language")["method"].nunique()
    return "mlt" if "mlt" in n_methods else str(n_methods.idxmax())


FIGURES.register("fig04")(
    Figure("Figure 4", "validation loss, one language", draw, needs="finetune_runs")
)

FIGURES.register("figB")(
    Figure(
        "Appendix B", "validation loss, all languages", draw_all_languages, needs="finetune_runs"
    )
)
