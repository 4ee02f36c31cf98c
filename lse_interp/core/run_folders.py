"""Where fine-tuning runs lie: by name under the run folder of their model, or anywhere."""

from pathlib import Path

from lse_interp.core.artifacts import RunPaths
from lse_interp.core.errors import ArtifactError, near_misses
from lse_interp.core.finetune_runs import FinetuneRun

__all__ = ["find_run", "finished_runs"]

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
