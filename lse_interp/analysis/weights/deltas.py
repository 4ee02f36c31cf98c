"""WeightDeltas: how far each projection of each layer moved, neuron by neuron, and what did not.

The selected entries are the gate rows, up rows and down columns of the selected neurons; the rest
is every other entry of these matrices, and the others are all further parameters. File format
`weight_deltas` 2: `neurons` and `n_neurons` [layer] (how to cut them), `neuron_norms`
[projection neuron], the arrays [layer projection ...] under their field names, and where known
`scores` and `probability` [neuron].
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from lse_interp.analysis.weights.row_statistics import N_BINS, QUANTILES
from lse_interp.artifacts.stored import Stored
from lse_interp.core.errors import MismatchError
from lse_interp.models.info import ModelInfo
from lse_interp.neurons.indices import check_layers, indices_to_mask

__all__ = ["OTHER_COLUMNS", "UNDETERMINED", "WeightDeltas"]


UNDETERMINED = "und"
"""The ISO 639 code of two models whose difference belongs to no language."""

OTHER_COLUMNS = ("parameter", "n_entries", "n_changed", "l2", "max_abs")
"""Columns of `WeightDeltas.others`."""

_LONGEST_ACRONYM = 5
_OF_REST = ("rest_n_changed", "rest_l2", "rest_max_abs")
_PER_CELL = ("mean", "std", "base_l2", "dot", "n_changed", *_OF_REST)
_ARRAYS = ("quantiles", "histogram", *_PER_CELL)
_LABELS = ("language", "name", "method", "decay_factor", "limit", "score_name", "score_unit")
_EVIDENCE = ("scores", "probability")
_PER_NEURON = ("neurons", "neuron_norms", *_EVIDENCE)


@dataclasses.dataclass(frozen=True, eq=False)
class WeightDeltas(Stored):
    """Weight changes from one model to another, per layer and projection.

    A layer without selected neurons has NaN quantiles, mean and std, and norms of 0.

    Raises:
        MismatchError: shapes that disagree, counts or quantiles out of order.
    """

    KIND, VERSION = "weight_deltas", 2
    TENSORS = _ARRAYS
    META = (*_LABELS, "base", "tuned", "others", "provenance")
    READ: ClassVar = {
        "base": ModelInfo.from_dict,
        "tuned": ModelInfo.from_dict,
        "others": lambda columns: pd.DataFrame(columns, columns=list(OTHER_COLUMNS)),
    }

    language: str
    """ISO 639-3; `UNDETERMINED` where two models were compared without one."""
    name: str
    """Which run or model this is, e.g. `target`, `random-layer`."""
    method: str
    """How the weights were trained (see `FinetuneRun.method`); `models` where unknown."""
    base: ModelInfo
    """The model before."""
    tuned: ModelInfo
    """The model after."""
    decay_factor: float | None
    """Product of 1 - lr * weight decay over all steps; None if unknown."""
    neurons: tuple[Int64[Tensor, " _neuron"], ...]
    """The selected neurons: one ascending tensor of indices per layer."""
    neuron_norms: tuple[Float64[Tensor, "projection _neuron"], ...]
    """L2 norm of the change of each selected neuron's row or column, per layer."""
    quantiles: Float64[Tensor, "layer projection quantile"]
    """Of the change of single selected entries, at `QUANTILES`."""
    histogram: Int64[Tensor, "layer projection bin"]
    """Selected entries by change, in equal bins from -`limit` to `limit`; those beyond are not
    in it."""
    limit: float
    """End of the histogram: 1.25 times the largest 0.1 % or 99.9 % quantile of all layers and
    projections, and no more than the largest change."""
    mean: Float64[Tensor, "layer projection"]
    """Mean change of a selected entry."""
    std: Float64[Tensor, "layer projection"]
    """Population standard deviation of the change of a selected entry."""
    base_l2: Float64[Tensor, "layer projection"]
    """L2 norm of the selected entries before."""
    dot: Float64[Tensor, "layer projection"]
    """Inner product of the change of the selected entries with their values before."""
    n_changed: Int64[Tensor, "layer projection"]
    """Selected entries that are not bit for bit the same."""
    rest_n_changed: Int64[Tensor, "layer projection"]
    """Entries of unselected neurons that are not bit for bit the same."""
    rest_l2: Float64[Tensor, "layer projection"]
    """L2 norm of their change."""
    rest_max_abs: Float64[Tensor, "layer projection"]
    """Largest absolute change of an entry of an unselected neuron."""
    others: pd.DataFrame
    """One row per parameter outside gate, up and down: attention, embeddings, norms, biases."""
    scores: tuple[Float64[Tensor, " _neuron"], ...] | None = None
    """What the selected neurons were chosen by, e.g. their LAPE; None if it is not known."""
    score_name: str = "score"
    """See `NeuronSets.score_name`."""
    score_unit: str = ""
    """See `NeuronSets.score_unit`."""
    probability: tuple[Float64[Tensor, " _neuron"], ...] | None = None
    """Their activation probability in `language`; None if it is not known."""
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_shapes(self)
        _check_values(self)

    @property
    def score_label(self) -> str:
        """The name of the score as a reader expects it: short names are acronyms."""
        name = self.score_name
        return name.upper() if len(name) <= _LONGEST_ACRONYM else name.replace("_", " ")

    @property
    def projections(self) -> tuple[str, ...]:
        """The names along the axis `projection`."""
        return self.base.projections

    @property
    def n_neurons(self) -> Int64[Tensor, " layer"]:
        """Selected neurons per layer."""
        return torch.tensor([len(layer) for layer in self.neurons], dtype=torch.int64)

    @property
    def n_entries(self) -> Int64[Tensor, " layer"]:
        """Selected entries per layer in one projection: neurons times d_model."""
        return self.n_neurons * self.base.d_model

    @property
    def l2(self) -> Float64[Tensor, "layer projection"]:
        """L2 (Frobenius) norm of the change of the selected entries."""
        return torch.stack([norms.square().sum(dim=-1) for norms in self.neuron_norms]).sqrt()

    @property
    def relative_l2(self) -> Float64[Tensor, "layer projection"]:
        """`l2` as a share of `base_l2`; NaN without selected neurons."""
        return self.l2 / self.base_l2

    @property
    def rms(self) -> Float64[Tensor, "layer projection"]:
        """Root mean square change of a selected entry: L2 norm over the root of their number."""
        return self.l2 / self.n_entries[:, None].double().sqrt()

    @property
    def decay_l2(self) -> Float64[Tensor, "layer projection"]:
        """L2 norm of the change that weight decay alone would have made; NaN if unknown."""
        return abs(self._decay) * self.base_l2

    @property
    def decay_share(self) -> Float64[Tensor, "layer projection"]:
        """Share of the squared change that weight decay explains; NaN if unknown.

        AdamW without gradients takes the weights w to f w, f the `decay_factor`. With the change d
        and that of decay alone, e = (f - 1) w,

            share = 1 - |d - e|^2 / |d|^2.

        It is 1 if the change is only decay, 0 if there is no decay, and below 0 if the change goes
        against it, as when training grows the weights.
        """
        return self._explained / self.l2.square()

    @property
    def total_decay_share(self) -> float:
        """`decay_share` of all selected entries together."""
        return float(self._explained.sum() / self.l2.square().sum())

    @property
    def rest_exactly_zero(self) -> bool:
        """Whether every entry that was not selected is bit for bit the same in both models."""
        return int(self.rest_n_changed.sum()) == 0 and int(self.others["n_changed"].sum()) == 0

    @property
    def rest_n_entries(self) -> int:
        """Entries of the unselected neurons, over all layers and projections."""
        n_selected = int(self.n_neurons.sum())
        unselected = self.base.n_layers * self.base.d_mlp - n_selected
        return unselected * self.base.d_model * len(self.projections)

    @property
    def edges(self) -> Float64[Tensor, " edge"]:
        """The borders of the histogram's bins."""
        return torch.linspace(-self.limit, self.limit, N_BINS + 1, dtype=torch.float64)

    def mask(self) -> Bool[Tensor, "layer neuron"]:
        """Mark the selected neurons."""
        return indices_to_mask(self.neurons, d_mlp=self.base.d_mlp)

    def to_frame(self) -> pd.DataFrame:
        """List every layer and projection.

        Columns: language, name, method, layer, projection, n_neurons, n_entries, n_changed, mean,
        std, rms, l2, base_l2, relative_l2, decay_l2, decay_share, rest_n_changed, rest_l2,
        rest_max_abs, and one column `q<quantile>` per quantile, e.g. `q0.25`.
        """
        layers, width = self.base.n_layers, len(self.projections)
        columns = {
            "layer": torch.arange(layers)[:, None].expand(layers, width),
            "n_neurons": self.n_neurons[:, None].expand(layers, width),
            "n_entries": self.n_entries[:, None].expand(layers, width),
        }
        derived = ("rms", "l2", "relative_l2", "decay_l2", "decay_share")
        columns |= {name: getattr(self, name) for name in (*_PER_CELL, *derived)}
        columns |= {f"q{q:g}": self.quantiles[..., i] for i, q in enumerate(QUANTILES)}
        frame = pd.DataFrame({name: values.flatten().numpy() for name, values in columns.items()})
        frame = frame.assign(projection=list(self.projections) * layers, **self._about)
        first = ("language", "name", "method", "layer", "projection", "n_neurons", "n_entries")
        order = (*first, "n_changed", "mean", "std", *derived[:2], "base_l2", *derived[2:])
        rest = ("rest_n_changed", "rest_l2", "rest_max_abs")
        return frame[[*order, *rest, *(f"q{q:g}" for q in QUANTILES)]]

    def neuron_frame(self) -> pd.DataFrame:
        """List every selected neuron with its score, its probability and how far it moved.

        Columns: language, name, layer, neuron, the score under `score_name`, probability,
        norm_gate, norm_up, norm_down (L2 of the change of its row or column) and norm (of all of
        them together). NaN if unknown; norm_gate is also NaN if there is no gate.
        """
        layer = torch.arange(self.base.n_layers).repeat_interleave(self.n_neurons).numpy()
        norms = torch.cat(self.neuron_norms, dim=-1).numpy()
        unknown = np.full(len(layer), np.nan)
        each = dict(zip(self.projections, norms, strict=True))
        about = self._about
        return pd.DataFrame(
            {
                "language": pd.Series([about["language"]] * len(layer), dtype="str"),
                "name": pd.Series([about["name"]] * len(layer), dtype="str"),
                "layer": layer,
                "neuron": torch.cat(self.neurons).numpy(),
                **{
                    column: unknown if values is None else torch.cat(values).numpy()
                    for column, values in (
                        (self.score_name, self.scores),
                        ("probability", self.probability),
                    )
                },
                **{f"norm_{name}": each.get(name, unknown) for name in ("gate", "up", "down")},
                "norm": np.sqrt(np.square(norms).sum(axis=0)),
            }
        )

    def correlation(self) -> dict[str, float]:
        """Correlate how far a neuron moved with its score: Spearman's rank correlation.

        Layers differ in both, so the correlation over all neurons may only reflect the layers. The
        one within layers averages the correlations of the layers, weighted by their neurons.
        Neurons that never fire (infinite score) are left out.

        Returns:
            `overall`, `within_layers` (both NaN if undefined) and `n_neurons`.
        """
        frame = self.neuron_frame().rename(columns={self.score_name: "score"})
        frame = frame[np.isfinite(frame["score"])]
        parts = [(_spearman(rows), len(rows)) for _, rows in frame.groupby("layer")]
        parts = [(rho, n) for rho, n in parts if np.isfinite(rho)]
        weight = sum(n for _, n in parts)
        return {
            "overall": _spearman(frame),
            "within_layers": sum(rho * n for rho, n in parts) / weight if weight else float("nan"),
            "n_neurons": len(frame),
        }

    def _tensors(self) -> dict[str, Tensor]:
        tensors = super()._tensors()
        tensors |= {"neurons": torch.cat(self.neurons), "n_neurons": self.n_neurons}
        tensors["neuron_norms"] = torch.cat(self.neuron_norms, dim=-1)
        known = {name: getattr(self, name) for name in _EVIDENCE}
        return tensors | {name: torch.cat(v) for name, v in known.items() if v is not None}

    def _meta(self) -> dict[str, Any]:
        others = self.others.to_dict(orient="list")
        about = {"projections": self.projections, "quantile": QUANTILES, "others": others}
        return super()._meta() | about

    @classmethod
    def _fields(cls, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> dict[str, Any]:
        sizes = tensors["n_neurons"].tolist()
        cut = {n: tensors[n].split(sizes, dim=-1) for n in _PER_NEURON if n in tensors}
        return super()._fields(tensors, meta) | cut

    @property
    def _decay(self) -> float:
        return float("nan") if self.decay_factor is None else self.decay_factor - 1.0

    @property
    def _explained(self) -> Float64[Tensor, "layer projection"]:
        """|d|^2 - |d - e|^2 = 2 d.e - |e|^2."""
        return 2 * self._decay * self.dot - self.decay_l2.square()

    @property
    def _about(self) -> dict[str, str]:
        return {"language": self.language, "name": self.name, "method": self.method}


def _spearman(frame: pd.DataFrame) -> float:
    """Correlate ranks; NaN if one column is constant or too short."""
    ranks = frame[["score", "norm"]].rank()
    return float(ranks.corr().iloc[0, 1]) if (ranks.nunique() > 1).all() else float("nan")


def _check_shapes(deltas: WeightDeltas) -> None:
    n_layers, width = deltas.base.n_layers, len(deltas.projections)
    tails = {"quantiles": (len(QUANTILES),), "histogram": (N_BINS,)}
    for name in _ARRAYS:
        expected = (n_layers, width, *tails.get(name, ()))
        if (found := tuple(getattr(deltas, name).shape)) != expected:
            raise MismatchError(f"`{name}` should have shape {expected}; got {found}.")
    check_layers(deltas.neurons, deltas.base, of="`neurons`", error=MismatchError)
    sizes = [len(layer) for layer in deltas.neurons]
    if not sum(sizes):
        raise MismatchError("`neurons` should have at least one neuron; got 0 neurons.")
    for name in ("neuron_norms", *_EVIDENCE):
        per_layer = getattr(deltas, name)
        if per_layer is not None and [layer.shape[-1] for layer in per_layer] != sizes:
            raise MismatchError(
                f"`{name}` should have one value per selected neuron of each layer {sizes}; got "
                f"{[layer.shape[-1] for layer in per_layer]}."
            )
    if tuple(deltas.others.columns) != OTHER_COLUMNS:
        raise MismatchError(
            f"`others` needs the columns {', '.join(OTHER_COLUMNS)}; got "
            f"{', '.join(deltas.others.columns)}."
        )


def _check_values(deltas: WeightDeltas) -> None:
    n_entries = deltas.n_entries[:, None]
    for name in ("n_changed", "histogram"):
        counts = getattr(deltas, name)
        counts = counts.sum(dim=-1) if counts.dim() == 3 else counts
        if not bool(((counts >= 0) & (counts <= n_entries)).all()):
            raise MismatchError(f"`{name}` must count at most the selected entries of its layer.")
    if bool((deltas.quantiles.diff(dim=-1) < 0).any()):
        raise MismatchError("`quantiles` must not fall from one quantile to the next.")
    if not deltas.limit > 0:
        raise MismatchError(f"`limit` must be above 0; got {deltas.limit}.")
    if deltas.decay_factor is not None and not 0 < deltas.decay_factor <= 1:
        raise MismatchError(
            f"`decay_factor` must be in (0, 1], or None where unknown; got {deltas.decay_factor}."
        )
