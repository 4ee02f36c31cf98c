"""Find fine-tuning runs and other models by the names that a command line gives them."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from lse_interp.artifacts.model_table import require_distinct
from lse_interp.artifacts.paths import RunPaths
from lse_interp.core.cli import ModelArgs
from lse_interp.core.errors import ArtifactError, MismatchError, near_misses
from lse_interp.models.hooked import HookedModel
from lse_interp.models.info import ModelInfo
from lse_interp.models.loading import check_model, load_from_args
from lse_interp.subnetworks.finetune_run import FinetuneRun, RunRecord
from lse_interp.subnetworks.load_tuned import load_tuned
from lse_interp.training.methods import METHODS
from lse_interp.training.token_blocks import hashes

__all__ = [
    "ModelChoice",
    "default_name",
    "find_run",
    "finished_runs",
    "load_run",
    "model_choices",
    "require_runs_of",
]


def default_name(method: str, *, profile: str, n_tokens: int | None, seed: int) -> str:
    """Name the folder of a run by what was trained and how: `random-size-20000-seed1`.

    Args:
        method: The method as the run names it: `random:size`.
        profile: Of the hyper-parameters; `fixed` is left out.
        n_tokens: The requested token budget, if there is one.
        seed: Of the training; 0 is left out.
    """
    parts = [*method.split(":"), "" if profile == "fixed" else profile]
    parts += [str(n_tokens or ""), f"seed{seed}" if seed else ""]
    return "-".join(filter(None, parts))


def finished_runs(paths: RunPaths, language: str) -> dict[str, Path]:
    """Return name -> folder of every finished run of a language: target, random, baselines."""
    folder = paths.finetune(language, "")
    names = [path.name for path in folder.glob("*") if FinetuneRun.exists(path)]
    return {name: folder / name for name in sorted(names, key=_place)}


def find_run(paths: RunPaths, language: str, run: str | Path) -> Path:
    """Return the folder of a finished run.

    Args:
        paths: the run folder of the base model.
        language: ISO 639-3; names are looked up among its runs.
        run: a name under `paths.finetune(language, ...)`, or else a folder.

    Raises:
        ArtifactError: no finished run of that name or in that folder.
    """
    known = finished_runs(paths, language)
    if str(run) in known:
        return known[str(run)]
    if FinetuneRun.exists(run):
        return Path(run)
    looked_up = near_misses(str(run), known) if known else "There is no run yet."
    raise ArtifactError(
        f"There is no finished run {str(run)!r} of {language} in {paths.finetune(language, '')}, "
        f"nor a folder of that name that holds one. {looked_up} Make it with "
        f"`python -m lse_interp.finetune{paths.model_flag} --lang {language}{_flags(str(run))}`."
    )


def load_run(paths: RunPaths, language: str | None, run: str | Path) -> FinetuneRun:
    """Read a finished run: of a language by name, or any run by its folder.

    Raises:
        ArtifactError: no such run, or one that cannot be read.
        MismatchError: a folder with a run of another language.
    """
    if language is None:
        return FinetuneRun.load(run)
    found = FinetuneRun.load(find_run(paths, language, run))
    if found.language != language:
        raise MismatchError(f"{run} trained {found.language}, not {language}. Leave out --lang.")
    return found


def _flags(name: str) -> str:
    """Spell the flags of the method in a default name."""
    method, *rest = name.split("-")
    if method not in METHODS:
        return ""
    variants = [f" --random-match {part}" for part in rest if part in METHODS[method].variants]
    return f" --method {method}{''.join(variants)}"


def _place(name: str) -> tuple[float, str]:
    method = name.split("-")[0]
    return (float(METHODS[method].rank) if method in METHODS else math.inf, name)


@dataclasses.dataclass(frozen=True)
class ModelChoice:
    """A model to measure: its location and its label."""

    label: str
    args: ModelArgs
    """The model; with `run`, its base."""
    run: RunRecord | None = None
    """The fine-tuning run that is put into it."""

    @property
    def method(self) -> str:
        """How the model was trained; `base` if it is no run."""
        return "base" if self.run is None else self.run.method

    @property
    def seed(self) -> int:
        """Seed of the training."""
        return 0 if self.run is None else self.run.seed

    def n_chosen_by(self, sentences: Sequence[str]) -> int:
        """Count the sentences that are in the text which chose the weights of the run."""
        chosen_by = set() if self.run is None else {*self.run.chosen_by}
        return sum(not chosen_by.isdisjoint(hashes([sentence])) for sentence in sentences)

    def load(self) -> HookedModel:
        """Load the model; see `load_model` and `load_tuned`."""
        if self.run is None:
            return load_from_args(self.args)
        return load_tuned(self.run.folder, self.args)


def model_choices(
    base: ModelArgs,
    *,
    runs: Sequence[str] = (),
    models: Sequence[str] = (),
    paths: RunPaths,
    language: str,
) -> tuple[ModelChoice, ...]:
    """Return the models named on a command line, the base model first.

    Args:
        base: the base model; labelled `base` if there are runs, else by the last part of its name.
        runs: fine-tuning runs of the base, as names or folders, each `path` or `label=path`;
            `all` means every finished run of the language.
        models: other models, as folders or hub ids, each `path` or `label=path`.
        paths: the run folder of the base model.
        language: the language whose runs are found by name, ISO 639-3.

    Raises:
        ArtifactError: no such run; or no finished run, with `all`.
        LseError: no such model.
        MismatchError: a label twice.
    """
    choices = [ModelChoice("base" if runs else Path(base.model).name or base.model, base)]
    for item in runs:
        if item == "all":
            found = finished_runs(paths, language)
            if not found:
                raise ArtifactError(
                    f"{paths.finetune(language, '')} holds no finished run, so `all` names none. "
                    f"Make one with `python -m lse_interp.finetune{paths.model_flag} --lang "
                    f"{language}`."
                )
        else:
            label, path = _labelled(item)
            found = {label: find_run(paths, language, path)}
        choices += [ModelChoice(name, base, RunRecord.read(at)) for name, at in found.items()]
    for item in models:
        label, path = _labelled(item)
        # A revision belongs to the hub id of the base model.
        choices.append(ModelChoice(label, dataclasses.replace(base, model=path, revision=None)))
    require_distinct([choice.label for choice in choices])
    for args in {choice.args for choice in choices}:
        check_model(args)
    return tuple(choices)


def require_runs_of(base: ModelInfo, choices: Iterable[ModelChoice]) -> None:
    """Refuse runs of another model or dtype than the base, before work begins.

    Raises:
        MismatchError: a run of another model or dtype.
    """
    for choice in choices:
        if choice.run is not None:
            base.require_same(choice.run.model, what=f"{choice.run.folder}", exact=True)


def require_same_base(choices: Iterable[ModelChoice]) -> None:
    """Refuse runs of several base models, before any model is loaded.

    Raises:
        MismatchError: A run of another model than the first run.
    """
    runs = [choice for choice in choices if choice.run is not None]
    if runs and runs[0].run is not None:
        require_runs_of(runs[0].run.model, runs)


def _labelled(item: str) -> tuple[str, str]:
    """Split `label=path`; a path alone is labelled by its last part."""
    label, _, path = item.partition("=") if "=" in item else ("", "", item)
    return label or Path(path).name or path, path
