"""Where fine-tuning runs lie: by name under the run folder of their model, or anywhere."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from lse_interp.artifacts.model_table import require_distinct
from lse_interp.artifacts.paths import RunPaths
from lse_interp.core.cli import ModelArgs
from lse_interp.core.errors import ArtifactError, near_misses
from lse_interp.models.hooked import HookedModel
from lse_interp.models.loading import load_from_args
from lse_interp.subnetworks.finetune_run import FinetuneRun
from lse_interp.subnetworks.load_tuned import load_tuned

__all__ = ["ModelSource", "find_run", "finished_runs", "model_sources", "require_runs_of"]


_ORDER = ("target", "random", "lora", "ffn", "full")


def finished_runs(paths: RunPaths, language: str) -> dict[str, Path]:
    """Return name -> folder of every finished run of a language: target, random, baselines."""
    folder = paths.finetune(language, "")
    names = [path.name for path in folder.glob("*") if FinetuneRun.exists(path)]
    return {name: folder / name for name in sorted(names, key=_place)}


def find_run(paths: RunPaths, language: str, run: str | Path) -> Path:
    """Return the folder of a finished run.

    Args:
        paths: the run folder of the base model.
        language: ISO 639-3; where names are looked up.
        run: a name under `paths.finetune(language, ...)`, or else a folder.

    Raises:
        ArtifactError: no finished run of that name or in that folder.
    """
    known = finished_runs(paths, language)
    if str(run) in known:
        return known[str(run)]
    if FinetuneRun.exists(run):
        return Path(run)
    looked_up = near_misses(str(run), known) if known else "No run is there."
    raise ArtifactError(
        f"There is no finished run {str(run)!r} of {language} in {paths.finetune(language, '')}, "
        f"nor a folder of that name that holds one. {looked_up} Make it with "
        f"`python -m lse_interp.finetune{paths.model_flag} --lang {language}{_flags(str(run))}`."
    )


def _flags(name: str) -> str:
    """Spell the flags that give a run its default name; none for other names."""
    method, _, match = name.partition("-")
    if method not in _ORDER:
        return ""
    return f" --method {method}" + (f" --random-match {match}" if method == "random" else "")


def _place(name: str) -> tuple[int, str]:
    method = name.split("-")[0]
    return (_ORDER.index(method) if method in _ORDER else len(_ORDER), name)


@dataclasses.dataclass(frozen=True)
class ModelSource:
    """Where a model comes from."""

    args: ModelArgs
    """The model; with `run`, its base."""
    run: Path | None = None
    """Folder of a fine-tuning run."""

    def load(self) -> HookedModel:
        """Load the model; see `load_model` and `load_tuned`."""
        return load_from_args(self.args) if self.run is None else load_tuned(self.run, self.args)

    def method(self) -> tuple[str, int]:
        """Return how the model was trained, and the seed; `base` where it is no run.

        Raises:
            ArtifactError: a run that cannot be read.
        """
        if self.run is None:
            return "base", 0
        found = FinetuneRun.load(self.run)
        return found.method, int(found.settings.get("seed", 0))


def model_sources(
    base: ModelArgs,
    *,
    runs: Sequence[str] = (),
    models: Sequence[str] = (),
    paths: RunPaths,
    language: str,
) -> dict[str, ModelSource]:
    """Return label -> where to load from, the base model first.

    Args:
        base: the base model; labelled `base` beside runs, by the last part of its name elsewhere.
        runs: fine-tuning runs of the base, as names or folders, each `path` or `label=path`;
            `all` stands for every finished run of the language.
        models: other models, as folders or hub ids, each `path` or `label=path`.
        paths: the run folder of the base model.
        language: the language whose runs are found by name, ISO 639-3.

    Raises:
        ArtifactError: no such run, or none at all for `all`.
        LseError: a label twice.
    """
    name = "base" if runs else Path(base.model).name or base.model
    pairs = [(name, ModelSource(base))]
    for item in runs:
        if item == "all":
            pairs += [(n, ModelSource(base, run=f)) for n, f in _every(paths, language).items()]
        else:
            label, path = _labelled(item)
            pairs.append((label, ModelSource(base, run=find_run(paths, language, path))))
    for item in models:
        label, path = _labelled(item)
        # A revision belongs to the hub id of the base model.
        other = dataclasses.replace(base, model=path, revision=None)
        pairs.append((label, ModelSource(other)))
    require_distinct([label for label, _ in pairs])
    return dict(pairs)


def require_runs_of(base: HookedModel, sources: Mapping[str, ModelSource]) -> None:
    """Refuse runs of another model than the base, before work begins.

    Raises:
        MismatchError: a run of another model.
    """
    for source in sources.values():
        if source.run is not None:
            FinetuneRun.load(source.run, model=base.info)


def _labelled(item: str) -> tuple[str, str]:
    """Split `label=path`; a path alone is labelled by its last part."""
    label, _, path = item.partition("=") if "=" in item else ("", "", item)
    return label or Path(path).name or path, path


def _every(paths: RunPaths, language: str) -> dict[str, Path]:
    found = finished_runs(paths, language)
    if not found:
        raise ArtifactError(
            f"{paths.finetune(language, '')} holds no finished run, so `all` names none. Make one "
            f"with `python -m lse_interp.finetune{paths.model_flag} --lang {language}`."
        )
    return found
