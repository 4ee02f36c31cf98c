"""Put trained subnetworks into a model, several at once, and take them out again to the bit.

With runs applied, a neuron of one run has that run's trained weights. A neuron of several runs
has the weights that the rule `shared` gives. All other neurons keep their own weights.

    sum    base + sum over the runs r that hold the neuron of (rows_r - base)
    mean   base + mean over these runs of (rows_r - base)
    last   the rows of the run applied last

    run = FinetuneRun.load("runs/embedded/finetune/mlt/target")
    with with_subnetworks(model, run):
        ...

Source: stacking several languages is an addition to the paper.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from weakref import WeakKeyDictionary

import pandas as pd
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from lse_interp.core.errors import LseError, MismatchError, near_misses
from lse_interp.models.hooked import HookedModel
from lse_interp.models.info import ModelInfo
from lse_interp.models.mlp_weights import read_rows, write_rows
from lse_interp.subnetworks.finetune_run import FinetuneRun

__all__ = ["applied", "apply_subnetwork", "remove_subnetwork", "shared_neurons", "with_subnetworks"]

_RULES = {
    "sum": "`sum` adds their changes",
    "mean": "`mean` averages them",
    "last": "`last` takes those of the run applied last",
}


@dataclasses.dataclass(frozen=True)
class _Record:
    info: ModelInfo
    """The model before any run was applied."""
    runs: tuple[FinetuneRun, ...]
    rule: str | None
    """The rule for neurons of several runs; None while there are none."""


_RECORDS: WeakKeyDictionary[nn.Module, _Record] = WeakKeyDictionary()


def apply_subnetwork(model: HookedModel, run: FinetuneRun, *, shared: str = "error") -> None:
    """Put the trained neurons of a run into its base model, in place.

    Several runs may be applied one after the other. Everything is checked before any weight is
    written.

    Args:
        model: The base model of the run, or this model with other runs applied.
        run: A run that trained chosen neurons.
        shared: What to do with neurons that an applied run holds too: `error`, `sum`, `mean` or
            `last`; one rule for all runs of a model.

    Raises:
        MismatchError: The run was made from another model, weights or dtype; it shares neurons
            with an applied run and `shared` is `error`; or weights of an applied run were changed
            since.
        LseError: The run has no rows or is applied already; an unknown or second rule.
    """
    if shared not in ("error", *_RULES):
        raise LseError(
            f"`shared` must be one of error, {', '.join(_RULES)}; got {shared!r}. "
            f"{near_misses(shared, ('error', *_RULES))}"
        )
    record = _RECORDS.get(model.hf)
    if record is not None:
        _require_untouched(model, record)
    require_base(model, run)
    if record is None:
        record = _Record(info=model.info, runs=(), rule=None)
    after = dataclasses.replace(
        record, runs=(*record.runs, run), rule=_rule(record, run, shared=shared)
    )
    _write(model, run, after)
    _RECORDS[model.hf] = after


def remove_subnetwork(model: HookedModel, run: FinetuneRun) -> None:
    """Take a run out again: its neurons have the same bits as if it had never been applied.

    Runs may be removed in any order. The run may be another copy of the one that was applied.

    Raises:
        LseError: The run is not applied to this model.
        MismatchError: Weights of an applied run were changed since it was applied.
    """
    record = _RECORDS.get(model.hf)
    kept = tuple(other for other in applied(model) if not _same(other, run))
    if record is None or len(kept) == len(record.runs):
        names = ", ".join(label(other) for other in applied(model)) or "none"
        raise LseError(f"{label(run)} is not applied to {model.name}. Applied: {names}.")
    _require_untouched(model, record)
    rule = None if shared_neurons(kept).empty else record.rule
    after = dataclasses.replace(record, runs=kept, rule=rule)
    _write(model, run, after)
    if kept:
        _RECORDS[model.hf] = after
    else:
        del _RECORDS[model.hf]


@contextlib.contextmanager
def with_subnetworks(
    model: HookedModel, *runs: FinetuneRun, shared: str = "error"
) -> Iterator[HookedModel]:
    """Apply runs inside a `with` block; remove them at its end, also after an exception.

    Args:
        model: The base model of the runs.
        *runs: Runs that trained chosen neurons.
        shared: As in `apply_subnetwork`.

    Yields:
        The model.

    Raises:
        LseError: See `apply_subnetwork` and `remove_subnetwork`.
    """
    with contextlib.ExitStack() as stack:
        for run in runs:
            apply_subnetwork(model, run, shared=shared)
            stack.callback(remove_subnetwork, model, run)
        yield model


def applied(model: HookedModel) -> tuple[FinetuneRun, ...]:
    """Return the runs applied to a model, in the order of their application."""
    record = _RECORDS.get(model.hf)
    return () if record is None else record.runs


def shared_neurons(runs: Sequence[FinetuneRun]) -> pd.DataFrame:
    """List the neurons that several runs hold.

    Returns:
        One row per such neuron, with columns layer, neuron, n_runs and languages (the language of
        each of these runs, or language:method where two runs are of one language).

    Raises:
        LseError: A run without rows.
    """
    names = [run.language for run in runs]
    if len(set(names)) < len(names):
        names = [label(run) for run in runs]
    holders: dict[tuple[int, int], list[str]] = {}
    for run, name in zip(runs, names, strict=True):
        for layer, neurons in enumerate(_rows(run)[0]):
            for neuron in neurons.tolist():
                holders.setdefault((layer, neuron), []).append(name)
    found = [
        (layer, neuron, len(those), ", ".join(those))
        for (layer, neuron), those in sorted(holders.items())
        if len(those) > 1
    ]
    return pd.DataFrame(found, columns=["layer", "neuron", "n_runs", "languages"])


def label(run: FinetuneRun) -> str:
    """Name a run in messages and model names, e.g. `mlt:target`."""
    return f"{run.language}:{run.method}"


def require_base(model: HookedModel, run: FinetuneRun) -> None:
    """Refuse a run that cannot be put into a model.

    The model must be the one the run was made from, or this model with other runs applied.

    Raises:
        MismatchError: Another model, other weights or another dtype.
        LseError: The run has no rows, or is applied already.
    """
    _, rows, _ = _rows(run)
    others = applied(model)
    if any(_same(run, other) for other in others):
        raise LseError(
            f"{label(run)} is applied to {model.name} already. To apply it again, remove it first."
        )
    stored = next((part.dtype for part in rows if part.numel()), model.dtype)
    if stored != model.dtype:
        raise MismatchError(
            f"{label(run)} was trained in {stored} and {model.name} is held in {model.dtype}; "
            f"load the model with dtype={str(stored).removeprefix('torch.')!r}."
        )
    info = _RECORDS[model.hf].info if others else model.info
    info.require_same(run.model, what=f"The run {label(run)}")


_Layers = tuple[Tensor, ...]


def _rows(run: FinetuneRun) -> tuple[_Layers, _Layers, _Layers]:
    """Return neurons, rows and base of a run that has them."""
    if run.neurons is None or run.rows is None or run.base is None:
        raise LseError(
            f"{label(run)} trained no chosen neurons, so there are no rows to put into a model. "
            "`load_tuned` loads its model."
        )
    return run.neurons, run.rows, run.base


def _rule(record: _Record, run: FinetuneRun, *, shared: str) -> str | None:
    pairs = [(other, len(shared_neurons((other, run)))) for other in record.runs]
    found = [f"{label(other)} and {label(run)} share {n} neurons" for other, n in pairs if n]
    if not found:
        return record.rule
    if shared == "error":
        raise MismatchError(f"{'; '.join(found)}. Choose `shared`: {', '.join(_RULES.values())}.")
    if record.rule not in (None, shared):
        raise LseError(
            f"Shared neurons of the runs applied so far follow `{record.rule}`; got {shared!r}. "
            f"Pass shared={record.rule!r}, or remove the runs and apply them again."
        )
    return shared


def _weights(
    record: _Record,
    layer: int,
    neurons: Int64[Tensor, " _neuron"],
    base: Float[Tensor, "projection _neuron d_model"],
) -> Float[Tensor, "projection _neuron d_model"]:
    """Compute what neurons with the weights `base` hold once the runs of a record are applied."""
    rows = base.clone()
    # In float64, so that the order of the runs does not show in the rounding.
    change = torch.zeros_like(base, dtype=torch.float64)
    n_runs = torch.zeros(len(neurons), dtype=torch.int64)
    for run in record.runs:
        chosen, trained, _ = _rows(run)
        mine, theirs = _common(neurons, chosen[layer])
        rows[:, mine] = trained[layer][:, theirs]
        change[:, mine] += rows[:, mine].double() - base[:, mine].double()
        n_runs[mine] += 1
    if record.rule in ("sum", "mean"):
        several = n_runs > 1
        weight = n_runs[several, None] if record.rule == "mean" else 1
        rows[:, several] = (base[:, several] + change[:, several] / weight).to(rows.dtype)
    return rows


def _write(model: HookedModel, run: FinetuneRun, record: _Record) -> None:
    """Write what the neurons of a run hold under a record."""
    neurons, _, base = _rows(run)
    for layer, chosen in enumerate(neurons):
        if len(chosen):
            write_rows(model, layer, chosen, _weights(record, layer, chosen, base[layer]))


def _require_untouched(model: HookedModel, record: _Record) -> None:
    for run in record.runs:
        neurons, _, base = _rows(run)
        for layer, chosen in enumerate(neurons):
            expected = _weights(record, layer, chosen, base[layer])
            if not _same_bits(read_rows(model, layer, chosen).cpu(), expected):
                raise MismatchError(
                    f"Weights of {label(run)} in layer {layer} of {model.name} were changed after "
                    "it was applied; removing or adding runs would overwrite that. Keep the model "
                    "so, or load it again."
                )


def _common(
    neurons: Int64[Tensor, " _neuron"], others: Int64[Tensor, " _other"]
) -> tuple[Int64[Tensor, " _common"], Int64[Tensor, " _common"]]:
    """Return the positions of the common neurons in either of two ascending lists."""
    mine = torch.isin(neurons, others).nonzero()[:, 0]
    return mine, torch.searchsorted(others, neurons[mine])


def _same(run: FinetuneRun, other: FinetuneRun) -> bool:
    """Say whether two objects are one run, perhaps loaded twice."""
    if run is other or run.rows is None or other.rows is None:
        return run is other
    if label(run) != label(other) or len(run.rows) != len(other.rows):
        return False
    return all(
        torch.equal(a, b) and _same_bits(c, d)
        for a, b, c, d in zip(_rows(run)[0], _rows(other)[0], run.rows, other.rows, strict=True)
    )


def _same_bits(a: Tensor, b: Tensor) -> bool:
    """Compare with NaN equal to itself and 0 unlike -0."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))
