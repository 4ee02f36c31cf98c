"""Find and read what a figure is drawn from."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from analyses.finetune_runs import default_runs, read_runs
from analyses.neuron_source import read_neurons, require_artifact
from analyses.registry import Figure, Request
from analyses.scores import EVALUATION, EVALUATION_SIZES, read_scores, size_scores
from lse_interp.analysis.ablation_matrix import AblationMatrix
from lse_interp.analysis.alignment import AlignmentCurves
from lse_interp.analysis.weights.deltas import WeightDeltas
from lse_interp.artifacts.paths import RunPaths
from lse_interp.core.cli import ModelArgs
from lse_interp.core.errors import ArtifactError, LseError, near_misses

__all__ = ["RESULTS", "Table", "find"]

RESULTS = Path("docs/results.csv")
"""Losses of all methods on all languages, of the embedded model."""


class Table(NamedTuple):
    """A csv and its path."""

    path: Path
    frame: pd.DataFrame


def find(figure: Figure, request: Request) -> Iterator[Any]:
    """Yield what a figure is drawn from: each is one call of its `draw`.

    `neuron_sets`, `weight_deltas`, `ablation_matrix`: one artefact. `alignment_curves`: a list of
    them. `finetune_runs`, `token_budgets`: name -> run, without and with a token budget. `scores`:
    `analyses.scores.Scores`. `results`, `score_sizes`: a `Table`.

    Raises:
        ArtifactError: nothing to draw, or a file that cannot be read.
        LseError: the figure needs something else; or two sources were given.
    """
    if figure.needs not in _READERS:
        raise LseError(
            f"Nothing is known to read for a figure that needs {figure.needs!r}. "
            f"{near_misses(figure.needs, _READERS)}"
        )
    if request.masks is not None and figure.needs != "neuron_sets":
        raise LseError(f"`--masks` holds neurons; {request.figure} is drawn from {figure.needs}.")
    return _READERS[figure.needs](figure, request)


def _neuron_sets(figure: Figure, request: Request) -> Iterator[Any]:
    yield from read_neurons(request, second=figure.model == "second")


def _weight_deltas(_: Figure, request: Request) -> Iterator[Any]:
    run = RunPaths(request.root, request.model)
    # Every run that was measured would be many pictures; the others are drawn when they are named.
    known = sorted((run.folder / "deltas").glob("*/target.safetensors"))
    for path in _files(request) or known or [run.deltas("mlt", "target")]:
        yield WeightDeltas.load(require_artifact(path, stage="deltas"))


def _alignment_curves(_: Figure, request: Request) -> Iterator[Any]:
    run = RunPaths(request.root, request.model)
    known = sorted(run.alignment("").parent.glob("*.safetensors"))
    files = _files(request) or known or [run.alignment("mlt")]
    yield [AlignmentCurves.load(require_artifact(path, stage="alignment")) for path in files]


def _ablation_matrix(_: Figure, request: Request) -> Iterator[Any]:
    default = RunPaths(request.root, request.model).folder / "ablation.safetensors"
    for path in _files(request) or [default]:
        yield AblationMatrix.load(require_artifact(path, stage="ablation"))


def _finetune_runs(figure: Figure, request: Request) -> Iterator[Any]:
    if request.paths:
        yield read_runs(request.paths)
    else:
        run = RunPaths(request.root, request.model)
        yield default_runs(run, swept=figure.needs == "token_budgets")


def _results(_: Figure, request: Request) -> Iterator[Any]:
    for path in request.paths or [_of_default_model(request, RESULTS)]:
        if not path.is_file():
            raise ArtifactError(f"{path} does not exist; give a table of results.")
        yield Table(path, pd.read_csv(path))


def _scores(figure: Figure, request: Request) -> Iterator[Any]:
    evaluation = RunPaths(request.root, request.model).evaluation("").parent
    own = EVALUATION if request.model == ModelArgs.model else evaluation
    for path in request.paths or [own]:
        yield read_scores(path)


def _score_sizes(_: Figure, request: Request) -> Iterator[Any]:
    for path in request.paths or [_of_default_model(request, EVALUATION_SIZES)]:
        yield Table(path, size_scores(path))


_READERS: Mapping[str, Callable[[Figure, Request], Iterator[Any]]] = {
    "neuron_sets": _neuron_sets,
    "weight_deltas": _weight_deltas,
    "alignment_curves": _alignment_curves,
    "ablation_matrix": _ablation_matrix,
    "finetune_runs": _finetune_runs,
    "token_budgets": _finetune_runs,
    "results": _results,
    "scores": _scores,
    "score_sizes": _score_sizes,
}


def _files(request: Request) -> list[Path]:
    """Return the requested files; a folder means all artefacts in it."""
    found = []
    for path in request.paths:
        found += sorted(path.glob("*.safetensors")) or [path] if path.is_dir() else [path]
    return found


def _of_default_model(request: Request, path: Path) -> Path:
    if request.model != ModelArgs.model:
        raise ArtifactError(f"{path} is about {ModelArgs.model}; name a table of {request.model}.")
    return path
