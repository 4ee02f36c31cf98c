"""Draw every figure and table whose artefacts exist: what `make figures` runs.

python -m analyses.all_figures
python -m analyses.all_figures --model meta-llama/Llama-3.1-8B --masks released_masks

Writes figures/*.{png,pdf,csv}, figures/table*.md and the gallery figures/README.md.
"""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from analyses import (
    fig01_schematic,
    fig02_neurons_by_layer,
    fig03_improvements,
    fig04_training_dynamics,
    fig05_data_size,
    fig06_weight_deltas,
    fig07_alignment,
    fig08_overlap,
    fig09_overlap_nemo,
    fig10_neurons_by_layer_nemo,
    fig11_subnetworks_nemo,
    fig12_small_multiples,
    fig13_small_multiples_nemo,
    fig_ablation,
    fig_methods,
    fig_scores,
    table01_subnetworks,
    table02_averages,
    tables03_14_languages,
    tables15_26_languages,
    tables27_38_alignment,
)
from analyses.gallery import write_gallery
from analyses.scores import EVALUATION, EVALUATION_SIZES
from analyses.sources import NeuronArgs, require_artifact
from lse_interp.artifacts.paths import RunPaths
from lse_interp.core.cli import main_for
from lse_interp.core.errors import ArtifactError
from lse_interp.neurons.formats.masks_pth import RELEASED_MODELS

__all__ = ["Config", "main", "run"]

logger = logging.getLogger(__name__)

_SECOND = "nemo-5"


@dataclasses.dataclass(frozen=True)
class Config:
    """Draw what there is to draw."""

    model: str = "embedded"
    """The model whose run is drawn: `embedded`, a local folder, or a hub id."""
    root: Path = Path("runs")
    """Folder of all runs."""
    masks: Path | None = None
    """Folder of released neurons (`llama-3.1-5`, `nemo-5`), drawn too."""
    results: Path = Path("docs/results.csv")
    """Table of all methods on all languages, of the embedded model."""
    evaluation: Path = EVALUATION
    """Task scores of all methods on all languages, of the embedded model."""
    sizes: Path = EVALUATION_SIZES
    """Task scores after training on several amounts of text, of the embedded model."""
    figures: Path = Path("figures")
    """Folder to write to."""


def run(config: Config) -> list[Path]:
    """Draw, write the gallery, and return the files written.

    A stage that has not run yet is named and left out.

    Raises:
        ArtifactError: `masks` holds no released file; or an artefact cannot be read.
    """
    paths = RunPaths(config.root, config.model)
    written = []
    if _exists(paths.neurons, stage="lse_interp.lape"):
        written += _about_neurons(NeuronArgs(neurons=paths.neurons, figures=config.figures))
    curves = tuple(sorted(paths.alignment("any").parent.glob("*.safetensors")))
    if curves or _exists(paths.alignment("mlt"), stage="lse_interp.alignment"):
        codes = [path.stem for path in curves]
        single = ("mlt",) if "mlt" in codes else tuple(codes[:1])
        written += fig07_alignment.run(
            fig07_alignment.Config(curves=curves, lang=single, figures=config.figures)
        )
    ablation = paths.folder / "ablation.safetensors"
    if _exists(ablation, stage="lse_interp.ablation"):
        written += fig_ablation.run(fig_ablation.Config(ablation=ablation, figures=config.figures))
    written += _about_training(config, paths)
    for args in _mask_args(config):
        second = args.masks is not None and args.masks.name == _SECOND
        written += (_about_second_model if second else _about_neurons)(args)
    written += _published(config.figures)
    if config.model == "embedded":
        written += _about_scores(config)
    page = write_gallery(config.figures)
    logger.info("wrote %s", page)
    return [*written, page]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script from the command line."""
    return main_for(Config, run, argv, description=__doc__)


def _exists(path: Path, *, stage: str) -> bool:
    return bool(_drawn(lambda: [require_artifact(path, stage=stage)]))


def _about_training(config: Config, paths: RunPaths) -> list[Path]:
    """Draw fine-tuning runs, their weight changes, and the table of all methods."""
    where = {"model": config.model, "root": config.root, "figures": config.figures}
    runs = [
        lambda: fig04_training_dynamics.run(fig04_training_dynamics.Config(**where)),
        lambda: fig05_data_size.run(fig05_data_size.Config(**where)),
    ]
    deltas = tuple(sorted((paths.folder / "deltas").glob("*/target.safetensors")))
    if deltas or _exists(paths.deltas("mlt", "target"), stage="lse_interp.deltas"):
        drawn = fig06_weight_deltas.Config(deltas=deltas, figures=config.figures)
        runs.append(lambda: fig06_weight_deltas.run(drawn))
    if config.model == "embedded":
        methods = fig_methods.Config(results=config.results, figures=config.figures)
        runs.append(lambda: fig_methods.run(methods))
    return [path for draw in runs for path in _drawn(draw)]


def _drawn(draw: Callable[[], list[Path]]) -> list[Path]:
    try:
        return draw()
    except ArtifactError as error:
        logger.info("left out: %s", error)
        return []


def _published(folder: Path) -> list[Path]:
    """Draw the numbers that stand in analyses/paper, which needs nothing else."""
    where = {"source": "published", "figures": folder}
    return [
        *fig03_improvements.run(fig03_improvements.Config(**where)),
        *fig07_alignment.run(fig07_alignment.Config(**where)),
        *fig11_subnetworks_nemo.run(NeuronArgs(figures=folder)),
        *fig_scores.run(fig_scores.Config(**where)),
        *table02_averages.run(table02_averages.Config(**where)),
        *table02_averages.run(table02_averages.Config(model="nemo", **where)),
        *tables03_14_languages.run(tables03_14_languages.Config(**where)),
        *tables15_26_languages.run(tables15_26_languages.Config(**where)),
        *tables27_38_alignment.run(tables27_38_alignment.Config(**where)),
    ]


def _about_scores(config: Config) -> list[Path]:
    """Draw task scores of the embedded model, where there are some."""
    folder, scores = config.figures, config.evaluation
    sizes = fig05_data_size.Config(metric="score", scores=config.sizes, figures=folder)
    alignment = tables27_38_alignment.Config(root=config.root, figures=folder)
    where = {"evaluation": scores, "figures": folder}
    runs = (
        lambda: fig03_improvements.run(fig03_improvements.Config(**where)),
        lambda: fig_scores.run(fig_scores.Config(**where)),
        lambda: fig05_data_size.run(sizes),
        lambda: table02_averages.run(table02_averages.Config(**where)),
        lambda: tables03_14_languages.run(tables03_14_languages.Config(**where)),
    )
    written = [path for draw in runs for path in _drawn(draw)]
    # One language has a table of its own, which `fig07_alignment` writes.
    n_languages = len(list(RunPaths(config.root, config.model).alignment("").parent.glob("*.json")))
    return written + (
        _drawn(lambda: tables27_38_alignment.run(alignment)) if n_languages > 1 else []
    )


def _about_second_model(args: NeuronArgs) -> list[Path]:
    scripts = (
        fig09_overlap_nemo,
        fig10_neurons_by_layer_nemo,
        fig11_subnetworks_nemo,
        fig13_small_multiples_nemo,
    )
    return [path for script in scripts for path in script.run(args)]


def _about_neurons(args: NeuronArgs) -> list[Path]:
    draw: tuple[Callable[[NeuronArgs], list[Path]], ...] = (
        lambda args: fig01_schematic.run(fig01_schematic.Config(source=args)),
        fig02_neurons_by_layer.run,
        fig08_overlap.run,
        fig12_small_multiples.run,
        lambda args: table01_subnetworks.run(table01_subnetworks.Config(source=args)),
    )
    return [path for one in draw for path in one(args)]


def _mask_args(config: Config) -> Iterator[NeuronArgs]:
    if config.masks is None:
        return
    found = [config.masks / name for name in RELEASED_MODELS if (config.masks / name).is_file()]
    if not found:
        raise ArtifactError(
            f"{config.masks} holds no released neurons; expected {' or '.join(RELEASED_MODELS)}."
        )
    for path in found:
        yield NeuronArgs(masks=path, figures=config.figures)


if __name__ == "__main__":
    raise SystemExit(main())
