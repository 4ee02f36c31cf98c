"""Which neurons belong to which language: the artefact, its set algebra, its file formats.

A neuron is a pair (layer, index in the MLP). Sets of different languages may overlap. File format
`neuron_sets` 2: `neurons` (all indices, language by language and layer by layer), `n_neurons`
[lang layer] (how to cut them), and where known `scores` [layer neuron] and `probability`
[lang layer neuron], both in float64 as they are in memory.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import pandas as pd
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from lse_interp.artifacts.format import load_artifact
from lse_interp.artifacts.provenance import provenance
from lse_interp.artifacts.stored import Stored
from lse_interp.core.errors import LanguageError, LseError, near_misses
from lse_interp.core.languages import by_code, describe
from lse_interp.models.info import HasInfo, ModelInfo, info_of
from lse_interp.neurons.controls import draw_control
from lse_interp.neurons.formats import release_parquet
from lse_interp.neurons.formats.masks_pth import read_masks, write_masks
from lse_interp.neurons.indices import (
    check_grid,
    check_layers,
    cut_indices,
    indices_to_mask,
    layers_by_language,
    mask_to_indices,
)

__all__ = ["NeuronSets"]

_GRIDS = ("scores", "probability")
_LABELS = ("site", "method", "thresholds", "score_name", "score_unit", "provenance")


@dataclasses.dataclass(frozen=True, eq=False)
class NeuronSets(Stored):
    """The neurons of each language, with the evidence they were chosen by where it is known.

    Select by language: `neurons["mlt"]` is one sorted tensor of neuron indices per layer. Every
    method takes a language in any spelling that `core.languages.lookup` knows.

    Raises:
        LanguageError: no language at all, an unknown one, or one under two spellings.
        LseError: a set with the wrong number of layers, an index out of range, unsorted or
            repeated; `scores` or `probability` of another shape, or not a number for a neuron of
            the sets; a score with the name of another column.
    """

    KIND, VERSION = "neuron_sets", 2
    META = ("model", *_LABELS)
    READ: ClassVar = {"model": ModelInfo.from_dict}

    indices: Mapping[str, tuple[Int64[Tensor, " _neuron"], ...]]
    """Language -> one ascending tensor of neuron indices per layer; a layer may be empty."""
    model: ModelInfo
    site: str | None
    """The activation site the neurons were found at; None where a foreign file does not say."""
    method: str
    """How they were chosen: the name of a selector such as `lape`, `masks`, `random:size`, ..."""
    thresholds: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """The parameters of the selector, and the thresholds that they came to."""
    scores: Float64[Tensor, "layer neuron"] | None = None
    """What the selector scored each neuron by, at least 0. LAPE: entropy in nats over languages,
    inf for a neuron that never fires. NaN where unknown (a release table lists only the
    neurons of the sets)."""
    score_name: str = "score"
    """Name of the score, which heads its column in tables, e.g. `lape`."""
    score_unit: str = ""
    """Unit of the score, e.g. `nats`; empty for a plain number."""
    probability: Float64[Tensor, "lang layer neuron"] | None = None
    """Share of tokens with a positive activation, NaN where unknown; languages in the order of
    `languages`."""
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.indices:
            raise LanguageError("NeuronSets needs at least one language; got none.")
        object.__setattr__(self, "indices", by_code(self.indices))
        for language, layers in self.indices.items():
            check_layers(layers, self.model, of=f"The neurons of {language}")
        if self.score_name in release_parquet.REQUIRED:
            raise LseError(f"`score_name` {self.score_name!r} is the name of another column.")
        grid = (self.model.n_layers, self.model.d_mlp)
        check_grid("scores", self.scores, grid, own=self.union)
        check_grid(
            "probability",
            self.probability,
            (len(self.indices), *grid),
            own=lambda: torch.stack([self.mask(language) for language in self]),
        )

    @property
    def languages(self) -> tuple[str, ...]:
        """The codes, in the order of `indices` and of the first axis of `probability`."""
        return tuple(self.indices)

    @property
    def lape(self) -> Float64[Tensor, "layer neuron"] | None:
        """The scores if they are LAPE, else None."""
        return self.scores if self.score_name == "lape" else None

    def __getitem__(self, language: str) -> tuple[Int64[Tensor, " _neuron"], ...]:
        return self.indices[self._code(language)]

    def __iter__(self) -> Iterator[str]:
        return iter(self.indices)

    def __contains__(self, language: object) -> bool:
        return isinstance(language, str) and describe(language).code in self.indices

    def __len__(self) -> int:
        return len(self.indices)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{language} {self.size(language)}" for language in self)
        return f"NeuronSets({self.method}, {self.model.name}: {sizes})"

    def counts(self, language: str) -> Int64[Tensor, " layer"]:
        """Count the neurons of a language in each layer."""
        return torch.tensor([len(neurons) for neurons in self[language]], dtype=torch.int64)

    def size(self, language: str) -> int:
        """Count the neurons of a language."""
        return sum(len(neurons) for neurons in self[language])

    def n_trainable(self, language: str) -> int:
        """Count the weights attached to the neurons of a language.

        Each neuron owns one row of gate, one row of up and one column of down, of d_model each:
        3 * size * d_model (2 * size * d_model where the MLP has no gate). Biases are left out.

        Source: paper, Table 1.
        """
        return len(self.model.projections) * self.size(language) * self.model.d_model

    def mask(self, language: str) -> Bool[Tensor, "layer neuron"]:
        """Mark the neurons of a language."""
        return indices_to_mask(self[language], d_mlp=self.model.d_mlp)

    def union(self, *languages: str) -> Bool[Tensor, "layer neuron"]:
        """Mark the neurons of any of the languages; of all languages when none is named."""
        return torch.stack([self.mask(code) for code in languages or self]).any(dim=0)

    def intersection(self, *languages: str) -> Bool[Tensor, "layer neuron"]:
        """Mark the neurons all of the languages share; of all languages when none is named."""
        return torch.stack([self.mask(code) for code in languages or self]).all(dim=0)

    def exclusive(self, language: str) -> Bool[Tensor, "layer neuron"]:
        """Mark the neurons that belong to this language and to no other."""
        mask = self.mask(language)
        others = [code for code in self if code != self._code(language)]
        return mask & ~self.union(*others) if others else mask

    def select(self, *languages: str) -> "NeuronSets":
        """Leave the other languages out; scores stay those of all.

        Raises:
            LanguageError: a language that is not here.
        """
        codes = tuple(dict.fromkeys(map(self._code, languages)))
        order = [self.languages.index(code) for code in codes]
        return dataclasses.replace(
            self,
            indices={code: self[code] for code in codes},
            probability=None if self.probability is None else self.probability[order],
        )

    def random_like(
        self, *, seed: int, match: Literal["size", "layer", "activity"] = "size"
    ) -> "NeuronSets":
        """Draw a random control: sets of the same size, none sharing a neuron with its original.

        Each language is drawn from `seed` and its own code, so that the control of one language
        does not depend on which others are present.

        Args:
            seed: at least 0; the same seed gives the same neurons.
            match: `size`: uniformly over all layers and neurons; `layer`: as many per layer;
                `activity`: in the same layer, of similar activation probability in that language.

        Raises:
            LseError: too few neurons remain, `match` or `seed` is unknown or negative, or
                `activity` is asked for without every `probability`.

        Source: paper, section 4.3 (iii) for `size`.
        """
        drawn = {
            language: draw_control(
                self.mask(language),
                language=language,
                seed=seed,
                match=match,
                probability=None if self.probability is None else self.probability[position],
            )
            for position, language in enumerate(self)
        }
        return dataclasses.replace(
            self,
            indices={language: mask_to_indices(mask) for language, mask in drawn.items()},
            method=f"random:{match}",
            scores=_complete(self.scores),
            probability=_complete(self.probability),
            provenance=provenance(control={"seed": seed, "match": match, "of": self.method}),
        )

    def to_frame(self) -> pd.DataFrame:
        """List every (language, layer, neuron) with its score and its probability there.

        Columns: language, layer, neuron, the score under `score_name`, probability; NaN where
        unknown. A language without neurons has no row.
        """
        grids = {name: getattr(self, name) for name in _GRIDS}
        return release_parquet.sets_to_rows(self.indices, **grids, score_name=self.score_name)

    def _tensors(self) -> dict[str, Tensor]:
        every = [neurons for layers in self.indices.values() for neurons in layers]
        sizes = torch.stack([self.counts(language) for language in self])
        grids = {n: grid for n in _GRIDS if (grid := getattr(self, n)) is not None}
        return {"neurons": torch.cat(every), "n_neurons": sizes} | grids

    def _meta(self) -> dict[str, Any]:
        return super()._meta() | {"languages": self.languages}

    @classmethod
    def load(cls, path: str | Path, *, model: ModelInfo | HasInfo | None = None) -> "NeuronSets":
        """Read what `save` wrote, or what `to_parquet` did.

        Args:
            path: the `.safetensors` file, or the `.parquet` file of a release.
            model: the model the neurons will be used on, if there is one.

        Raises:
            ArtifactError: missing, truncated, altered or of another kind.
            MismatchError: the neurons belong to another model than `model`.
        """
        if Path(path).suffix == ".parquet":
            return cls.from_parquet(path, model=model)
        tensors, meta = load_artifact(path, kind=cls.KIND, version=cls.VERSION)
        found = ModelInfo.from_dict(meta["model"])
        if model is not None:
            info_of(model).require_same(found, what=f"{path}")
        shape = (len(meta["languages"]), found.n_layers)
        sets = cut_indices(tensors["neurons"], tensors["n_neurons"], shape=shape, where=f"{path}")
        layers = (sets[at : at + found.n_layers] for at in range(0, len(sets), found.n_layers))
        indices = dict(zip(meta["languages"], layers, strict=True))
        grids: dict[str, Any] = {name: tensors.get(name) for name in _GRIDS}
        return cls(indices=indices, **grids, **cls._fields({}, meta))

    def to_parquet(self, path: str | Path) -> Path:
        """Write `to_frame` as a release table.

        Model, fingerprint, site, thresholds and the full language list travel as JSON in the
        schema metadata, under the key `lse_interp`; `from_parquet` reads them back.
        """
        about = super()._meta() | {
            "n_neurons": {language: self.size(language) for language in self}
        }
        return release_parquet.write_table(path, self.to_frame(), about=about)

    @classmethod
    def from_parquet(
        cls, path: str | Path, *, model: ModelInfo | HasInfo | None = None
    ) -> "NeuronSets":
        """Read what `to_parquet` wrote.

        The table lists the neurons of the sets, so `scores` and `probability` are NaN for all other
        neurons; they are None where the table has neither.

        Args:
            path: the `.parquet` file.
            model: the model the neurons will be used on, if there is one.

        Raises:
            ArtifactError: missing, truncated, altered or not a release table.
            MismatchError: the neurons belong to another model than `model`.
        """
        frame, about = release_parquet.read_release_table(path)
        found = ModelInfo.from_dict(about["model"])
        if model is not None:
            info_of(model).require_same(found, what=f"{path}")
        languages = about["n_neurons"]
        scores, probability = release_parquet.rows_to_grids(
            frame, score_name=about["score_name"], languages=languages, model=found
        )
        return cls(
            indices=layers_by_language(release_parquet.rows_by_layer(frame, languages), found),
            model=found,
            scores=scores,
            probability=probability,
            **{name: about[name] for name in _LABELS},
        )

    @classmethod
    def from_indices(
        cls,
        indices: Mapping[str, Any],
        *,
        model: ModelInfo | HasInfo,
        site: str | None = None,
        method: str = "own",
    ) -> "NeuronSets":
        """Build sets from lists of neurons.

            NeuronSets.from_indices({"welsh": [[7, 3], [], [12]]}, model=model)

        Args:
            indices: Language, in any spelling -> for each layer its neurons in any order; or a
                mapping from layers to neurons, in which empty layers may be absent.
            model: The model they point into.
            site: The activation site they were found at, if any.
            method: How they were chosen, as reports and figures call it.

        Raises:
            LanguageError: An unknown language, or one twice.
            LseError: Neurons that are no whole numbers, repeated, or do not fit the model.
        """
        info = info_of(model)
        found = layers_by_language(indices, info)
        return cls(indices=found, model=info, site=site, method=method, provenance=provenance())

    @classmethod
    def from_mask(
        cls, mask: Mapping[str, Bool[Tensor, "layer neuron"]], **about: Any
    ) -> "NeuronSets":
        """Build sets from a mask per language; further arguments as in `from_indices`."""
        return cls.from_indices(mask, **about)

    @classmethod
    def from_frame(cls, frame: pd.DataFrame, **about: Any) -> "NeuronSets":
        """Build sets from a table with a row per neuron; further arguments as in `from_indices`.

        Args:
            frame: Columns language, layer, neuron; others are left out.
            **about: See `from_indices`.

        Raises:
            LseError: A column is missing; or see `from_indices`.
        """
        return cls.from_indices(release_parquet.rows_by_layer(frame), **about)

    @classmethod
    def from_masks(
        cls,
        path: str | Path,
        *,
        model: ModelInfo | HasInfo,
        languages: Sequence[str] | None = None,
        site: str | None = None,
    ) -> "NeuronSets":
        """Read neurons that another project saved with torch.

        The file holds, for each language, a list over layers of index tensors, or a mask
        [layer neuron]; either in a list, in the order of `languages`, or in a dict.

        Args:
            path: the file.
            model: the model the indices point into.
            languages: the languages of a list in their order, in any spelling; None for a list of
                12 means those of the paper's released files. Of a dict, the languages to take.
            site: the activation site they were found at, if known.

        Raises:
            ArtifactError: missing, unreadable or of another structure.
            LanguageError: an unknown language.
            MismatchError: languages, layers or indices do not fit `languages` and `model`.
        """
        info = info_of(model)
        return cls(
            indices=read_masks(path, languages=languages, model=info),
            model=info,
            site=site,
            method="masks",
            provenance=provenance(masks=str(path)),
        )

    def to_masks(self, path: str | Path) -> Path:
        """Write the form that `from_masks` reads; languages in the order of `languages`."""
        return write_masks(path, list(self.indices.values()))

    def _code(self, language: str) -> str:
        code = describe(language).code
        if code not in self.indices:
            close = near_misses(code, self.indices)
            raise LanguageError(f"No neurons of {language!r} here. {close}")
        return code


def _complete(values: Tensor | None) -> Tensor | None:
    """Drop values that are known for some neurons only."""
    return None if values is None or values.isnan().any() else values
