"""What breaks without a language's neurons: the rise in loss of every language; and by chance.

python -m analyses fig_ablation
python -m analyses fig_ablation runs/my-model/ablation.safetensors
"""

from collections.abc import Iterator

from analyses.registry import FIGURES, Figure, Request
from lse_interp.analysis.ablation_matrix import AblationMatrix
from lse_interp.plotting.ablation_heatmap import ablation_frame, plot_ablation_panels
from lse_interp.plotting.picture import Picture


def draw(matrix: AblationMatrix, _: Request) -> Iterator[Picture]:
    """Draw the language's own neurons, and random ones if there are any."""
    frame = ablation_frame(matrix)
    yield Picture(
        name="fig_ablation",
        axes=plot_ablation_panels(frame)[0],
        frame=frame,
        source=_describe(matrix),
        title=f"What breaks in {matrix.model.name} without a language's neurons",
        caption=(
            "Rise in loss on parallel sentences, as a share of the intact loss: rows are the "
            "language whose neurons are silenced, columns the language measured; framed, the "
            "language itself. Beside it, as many random neurons. An addition to the paper, after "
            "arXiv:2402.16438."
        ),
        model=matrix.model,
    )


def _describe(matrix: AblationMatrix) -> str:
    parts = [matrix.model.name, f"neurons by {matrix.method}"]
    parts.append(f"{matrix.intact.shape[-1]} sentences per language")
    parts.append(f"{matrix.site} set to zero")
    if matrix.control is not None:
        parts.append(f"control matched by {matrix.control}, mean of {matrix.n_controls}")
    return "; ".join(parts)


FIGURES.register("fig_ablation")(
    Figure("addition", "switching neurons off", draw, needs="ablation_matrix")
)
