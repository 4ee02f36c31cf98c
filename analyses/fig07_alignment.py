"""Figure 7: how close parallel sentences lie in each layer, and averaged over the layers.

Centred cosines come first; the raw ones are those of the paper.

python -m analyses fig07
python -m analyses fig07 --langs isl slk
python -m analyses fig07 runs/my-model/alignment/mlt.safetensors
python -m analyses fig07 --source published

An artefact of several models (`python -m lse_interp.alignment --runs ...`) is also drawn averaged
over the layers, as in Figure 7c, and artefacts of several languages with the same models averaged
over the languages too. A table in the form of Tables 27 to 38 is written with each. `--source
published` draws Figure 7c from the tables of the paper, which prints no curves.
"""

from collections.abc import Iterator, Sequence

import pandas as pd

from analyses.published import alignment_averages
from analyses.registry import FIGURES, Figure, Request
from lse_interp.analysis.alignment import AlignmentCurves
from lse_interp.core.errors import ArtifactError
from lse_interp.core.languages import lookup
from lse_interp.plotting.alignment_curves import (
    alignment_frame,
    layer_average_frame,
    plot_layer_average,
    plot_layer_average_panels,
)
from lse_interp.plotting.alignment_report import alignment_pictures, measured_at
from lse_interp.plotting.picture import Page, Picture


def draw(parts: Sequence[AlignmentCurves], request: Request) -> Iterator[Picture | Page]:
    """Draw the requested languages, and the average over all.

    By default every file that was named, and Maltese (or the first language) of a run.

    Raises:
        ArtifactError: a language that was not measured.
    """
    known = {part.language: part for part in parts}
    asked = [lookup(language).code for language in request.langs]
    if missing := [code for code in asked if code not in known]:
        raise ArtifactError(
            f"There is no alignment of {', '.join(missing)}; there is {', '.join(known)}. "
            f"`python -m lse_interp.alignment --lang {missing[0]}` measures it."
        )
    if asked:
        singles = [known[code] for code in asked]
    else:
        singles = list(parts) if request.paths else [known.get("mlt", parts[0])]
    for curves in singles:
        yield from alignment_pictures(curves)
    yield from _all_languages([part for part in parts if len(part.models) > 1])


def draw_published() -> Iterator[Picture]:
    """Draw Figure 7c from the tables of the paper."""
    frame = alignment_averages()
    yield Picture(
        name="fig07c_published",
        axes=plot_layer_average(frame),
        frame=frame,
        source="published numbers: paper, Tables 27 to 38 (Llama-3.1-8B, FLORES-200)",
        title="Alignment averaged over the layers, as published",
        caption=(
            "Raw cosines. One dot per target language, averaged over the nine languages it is "
            "compared with; the bar is the mean over the twelve. Figure 7c, redrawn from the "
            "paper's tables."
        ),
    )


def _all_languages(parts: Sequence[AlignmentCurves]) -> Iterator[Picture]:
    """Average over languages too, where several were measured in the same models."""
    if len(parts) < 2 or len({(part.models, measured_at(part)) for part in parts}) > 1:
        return
    first = parts[0]
    averages = pd.concat([layer_average_frame(alignment_frame(part)) for part in parts])
    yield Picture(
        name="fig07c_layer_average",
        axes=plot_layer_average_panels(averages)[0],
        frame=averages,
        source=(
            f"{', '.join(first.models)} of {first.infos[0].name}, in {len(parts)} languages; "
            f"{measured_at(first)}"
        ),
        title="Sentences and their translations, averaged over layers and languages",
        caption=(
            "One dot per language, whose runs are compared with the base model and averaged over "
            "the languages it is compared with; the bar is the mean. Cosine of sentences with "
            "their translations: left, after the mean of each language is taken out; right, raw, "
            "as in Figure 7c. The left half is an addition."
        ),
        model=first.infos[0],
    )


FIGURES.register("fig07")(
    Figure(
        "Figure 7",
        "cosine of parallel sentences",
        draw,
        needs="alignment_curves",
        published=draw_published,
    )
)
