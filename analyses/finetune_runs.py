"""Which fine-tuning runs the pictures show."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lse_interp import finetune
from lse_interp.artifacts.paths import RunPaths
from lse_interp.core.errors import ArtifactError
from lse_interp.subnetworks.find import default_name, finished_runs
from lse_interp.subnetworks.finetune_run import FinetuneRun, RunRecord

__all__ = ["default_runs", "describe_runs", "finetune_config", "read_runs"]


def default_runs(paths: RunPaths, *, swept: bool) -> dict[str, FinetuneRun]:
    """Read the finished runs of a model that have a default name: `<language>/<name>` -> run.

    Runs that were named by hand, or follow another profile, have to be asked for by folder.

    Args:
        paths: where the runs are.
        swept: those with a token budget; else those without.

    Raises:
        ArtifactError: there is none, or one cannot be read.
    """
    root = paths.folder / "finetune"
    chosen = []
    for language in sorted(path.name for path in root.glob("*")):
        for name, folder in finished_runs(paths, language).items():
            run = RunRecord.read(folder)
            n_tokens = run.settings["tokens"]
            default = default_name(run.method, profile="fixed", n_tokens=n_tokens, seed=run.seed)
            if name == default and (n_tokens is not None) == swept:
                chosen.append(folder)
    if not chosen:
        flags = "--lang mlt --n-tokens 10000 20000 40000" if swept else "--lang mlt"
        raise ArtifactError(
            f"{root} holds no finished fine-tuning run {'with' if swept else 'without'} a token "
            f"budget. `python -m lse_interp.finetune {flags}` makes some."
        )
    return {str(folder.relative_to(root)): FinetuneRun.load(folder) for folder in chosen}


def read_runs(folders: Iterable[Path]) -> dict[str, FinetuneRun]:
    """Read the runs in some folders: folder -> run.

    Raises:
        ArtifactError: a folder without a finished run, or one that cannot be read.
    """
    return {str(folder): FinetuneRun.load(folder) for folder in folders}


def finetune_config(label: str, **settings: Any) -> finetune.Config:
    """Return how to train a method by its label, e.g. `random:layer`.

    Args:
        label: the method, and what random neurons match behind a colon.
        settings: other fields of the config.
    """
    method, _, match = label.partition(":")
    return finetune.Config(method=method, random_match=match or None, **settings)


def describe_runs(runs: Mapping[str, FinetuneRun]) -> str:
    """Say in one line what was trained."""
    first, *_ = runs.values()
    languages = {run.language for run in runs.values()}
    seeds = {run.settings["seed"] for run in runs.values()}
    parts = [first.model.name, f"{len(runs)} fine-tuning runs"]
    parts.append(f"{len(languages)} languages" if len(languages) > 1 else next(iter(languages)))
    parts.append(f"{len(seeds)} seeds" if len(seeds) > 1 else f"seed {next(iter(seeds))}")
    return "; ".join(parts)
