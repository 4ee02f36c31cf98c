"""FinetuneRun: what a fine-tuning changed, its settings and its curves; megabytes, not the model.

A run that trained neurons holds their weights before and after, so that they can be put into the
base model and taken out again to the bit. A run of another method (LoRA, FFN, full) holds only the
record, next to its folder `adapter/` or `model/`. File format `finetune_run` 1:
`subnetwork.safetensors` (`neurons`, `n_neurons` [layer], `rows.<layer>` and `base.<layer>`
[projection neuron d_model]) or `run.safetensors` (no tensor); `curves.csv` repeats the curves.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from lse_interp.artifacts.format import load_artifact, read_meta, save_artifact
from lse_interp.artifacts.stored import Stored
from lse_interp.core.errors import ArtifactError, LseError
from lse_interp.models.info import ModelInfo
from lse_interp.neurons.indices import check_layers, cut_indices, indices_to_mask

__all__ = ["CURVE_COLUMNS", "FinetuneRun", "RunRecord"]

_FILES = {True: "subnetwork.safetensors", False: "run.safetensors"}

CURVE_COLUMNS = ("step", "tokens", "split", "language", "loss")
"""Columns of the curves: optimizer steps and text tokens so far, `train` or `validation`, the
language of the text, and the loss in nats per token."""


@dataclasses.dataclass(frozen=True, eq=False)
class FinetuneRun(Stored):
    """One fine-tuning.

    Raises:
        LseError: neurons, rows and base that do not fit each other or the model; curves without
            their columns.
    """

    KIND = "finetune_run"
    META = ("language", "method", "model", "curves", "settings", "results", "provenance")
    READ: ClassVar = {
        "model": ModelInfo.from_dict,
        "curves": lambda columns: pd.DataFrame(columns, columns=list(CURVE_COLUMNS)),
    }

    language: str
    """The language trained, ISO 639-3."""
    method: str
    """`target`, `random:size`, `random:layer`, `random:activity`, `ffn`, `full` or `lora`."""
    model: ModelInfo
    """The base model."""
    neurons: tuple[Int64[Tensor, " _neuron"], ...] | None
    """One ascending tensor of neuron indices per layer; None if no neurons were chosen."""
    rows: tuple[Float[Tensor, "projection _neuron d_model"], ...] | None
    """Trained weights per layer: gate rows, up rows, down columns, in the model's dtype."""
    base: tuple[Float[Tensor, "projection _neuron d_model"], ...] | None
    """The same weights before training."""
    curves: pd.DataFrame
    """Losses in nats per token; columns `CURVE_COLUMNS`."""
    settings: Mapping[str, Any]
    """Everything the result depends on: hyper-parameters, text, neuron set, seed."""
    results: Mapping[str, Any]
    """`step` and `tokens` of the weights kept, `validation_loss` (language -> nats per token)
    there and `base_validation_loss` before, `n_trainable`, `decay_factor` (the product of
    1 - lr * weight decay up to there), `tokens_per_second`, `peak_memory_bytes`."""
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    folder: Path | None = dataclasses.field(default=None, compare=False)
    """Where the run was saved."""

    def __post_init__(self) -> None:
        if missing := [name for name in CURVE_COLUMNS if name not in self.curves.columns]:
            raise LseError(
                f"Curves need the columns {', '.join(CURVE_COLUMNS)}; {', '.join(missing)} missing."
            )
        given = [part is not None for part in (self.neurons, self.rows, self.base)]
        if len(set(given)) != 1:
            raise LseError("Neurons, rows and base belong together: give all three or none.")
        if self.neurons is not None:
            self._check_rows()

    @property
    def is_subnetwork(self) -> bool:
        """Whether the run trained chosen neurons, and so carries their weights."""
        return self.neurons is not None

    @property
    def deltas(self) -> tuple[Float[Tensor, "projection _neuron d_model"], ...]:
        """The change of every trained weight, per layer, in float32 (float64 for float64 rows).

        Raises:
            LseError: the run trained no chosen neurons.
        """
        if self.rows is None or self.base is None:
            raise LseError(
                f"A run of method {self.method!r} holds no rows. Compare the model in its folder "
                "with the base model instead."
            )
        wide = [torch.promote_types(rows.dtype, torch.float32) for rows in self.rows]
        return tuple(
            rows.to(dtype) - base.to(dtype)
            for rows, base, dtype in zip(self.rows, self.base, wide, strict=True)
        )

    def mask(self) -> Bool[Tensor, "layer neuron"]:
        """Mark the trained neurons.

        Raises:
            LseError: the run trained no chosen neurons.
        """
        if self.neurons is None:
            raise LseError(f"A run of method {self.method!r} chose no neurons.")
        return indices_to_mask(self.neurons, d_mlp=self.model.d_mlp)

    def to_frame(self) -> pd.DataFrame:
        """List every loss of the curves.

        Columns: method, language (the one trained), seed, measured (the language of the text),
        split, step, tokens, loss (nats per token).
        """
        seed = int(self.settings.get("seed", 0))
        about: dict[str, Any] = {"method": self.method, "language": self.language, "seed": seed}
        curves = self.curves.rename(columns={"language": "measured"}).assign(**about)
        return curves[[*about, "measured", "split", "step", "tokens", "loss"]]

    def save(self, folder: str | Path) -> Path:
        """Write the run and `curves.csv` into a folder; see `artifacts.format.save_artifact`.

        Returns:
            The file of the artefact.
        """
        folder = Path(folder)
        path = folder / _FILES[self.is_subnetwork]
        save_artifact(
            path,
            kind=self.KIND,
            version=self.VERSION,
            tensors=self._tensors(),
            meta=self._meta(),
            beside={folder / "curves.csv": lambda file: self.curves.to_csv(file, index=False)},
        )
        # A file left by a run of another kind would be found first.
        _remove(folder / _FILES[not self.is_subnetwork])
        return path

    @classmethod
    def load(cls, folder: str | Path) -> "FinetuneRun":
        """Read what `save` wrote.

        Args:
            folder: the folder of the run, or its file.

        Raises:
            ArtifactError: missing, truncated, altered or of another kind.
        """
        path = _find(Path(folder))
        tensors, meta = load_artifact(path, kind=cls.KIND, version=cls.VERSION)
        info = ModelInfo.from_dict(meta["model"])
        has_rows = "neurons" in tensors
        parts = _unpack(tensors, info, where=f"{path}") if has_rows else (None, None, None)
        neurons, rows, base = parts
        fields = cls._fields({}, meta)
        return cls(neurons=neurons, rows=rows, base=base, folder=path.parent, **fields)

    @classmethod
    def exists(cls, folder: str | Path) -> bool:
        """Say whether a folder holds a finished run."""
        return any((Path(folder) / name).is_file() for name in _FILES.values())

    @classmethod
    def discard(cls, folder: str | Path) -> None:
        """Delete the record of a finished run, so that the folder holds none."""
        for name in _FILES.values():
            _remove(Path(folder) / name)

    def _tensors(self) -> dict[str, Tensor]:
        if self.neurons is None or self.rows is None or self.base is None:
            return {}
        tensors = {"neurons": torch.cat(self.neurons)}
        tensors["n_neurons"] = torch.tensor([len(layer) for layer in self.neurons])
        for layer, (rows, base) in enumerate(zip(self.rows, self.base, strict=True)):
            if len(self.neurons[layer]):
                tensors |= {f"rows.{layer}": rows, f"base.{layer}": base}
        return tensors

    def _meta(self) -> dict[str, Any]:
        return super()._meta() | {"curves": self.curves.to_dict(orient="list")}

    def _check_rows(self) -> None:
        assert self.neurons is not None
        assert self.rows is not None
        assert self.base is not None
        check_layers(self.neurons, self.model, of="`neurons`")
        expected = [
            [len(self.model.projections), len(chosen), self.model.d_model]
            for chosen in self.neurons
        ]
        for name, per_layer in (("rows", self.rows), ("base", self.base)):
            if (found := [list(part.shape) for part in per_layer]) != expected:
                raise LseError(
                    f"`{name}` should be [projection neuron d_model] in each of the "
                    f"{self.model.n_layers} layers of {self.model.name}: {expected}; got {found}."
                )


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """The record of a finished run, read without its weights."""

    folder: Path
    language: str
    """The language trained, ISO 639-3."""
    method: str
    model: ModelInfo
    """The base model."""
    settings: Mapping[str, Any]
    chosen_by: tuple[str, ...]
    """Hashes of the text that chose the weights; see `token_blocks.hashes`."""

    @property
    def seed(self) -> int:
        """Seed of the training."""
        return int(self.settings.get("seed", 0))

    @classmethod
    def read(cls, folder: str | Path) -> "RunRecord":
        """Read the record of a run; its weights are checked when they are loaded.

        Raises:
            ArtifactError: missing, truncated or of another kind.
        """
        path = _find(Path(folder))
        meta = read_meta(path, kind=FinetuneRun.KIND, version=FinetuneRun.VERSION)
        return cls(
            folder=path.parent,
            model=ModelInfo.from_dict(meta["model"]),
            chosen_by=tuple(meta["provenance"].get("chosen_by", ())),
            **{name: meta[name] for name in ("language", "method", "settings")},
        )


def _remove(path: Path) -> None:
    for file in (path, path.with_suffix(".json")):
        file.unlink(missing_ok=True)


def _find(path: Path) -> Path:
    if path.suffix == ".safetensors":
        return path
    for name in _FILES.values():
        if (path / name).is_file():
            return path / name
    raise ArtifactError(
        f"{path} holds no finished fine-tuning run ({' or '.join(_FILES.values())}). Give the "
        "folder that `python -m lse_interp.finetune` names at its end."
    )


_Layers = tuple[Tensor, ...]


def _unpack(
    tensors: Mapping[str, Tensor], info: ModelInfo, *, where: str
) -> tuple[_Layers, _Layers, _Layers]:
    shape = (info.n_layers,)
    neurons = cut_indices(tensors["neurons"], tensors["n_neurons"], shape=shape, where=where)
    dtype = next((t.dtype for name, t in tensors.items() if name.startswith("rows.")), None)
    none = torch.empty(len(info.projections), 0, info.d_model, dtype=dtype or torch.float32)
    rows = tuple(tensors.get(f"rows.{layer}", none) for layer in range(info.n_layers))
    base = tuple(tensors.get(f"base.{layer}", none) for layer in range(info.n_layers))
    return neurons, rows, base
