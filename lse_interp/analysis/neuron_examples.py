"""NeuronExamples: where in text each neuron is strong, middling, weak, or whatever it is at random.

Strong examples alone mislead: they say what a neuron does at its extreme, not what it does. See
`example_streams` for how the kinds are chosen.

    examples = lse.collect_examples(model, lse.load_parallel("embedded", languages=["mlt", "eng"]))
    for window in examples.windows(2, 17, "mlt", "middle", model=model):
        print(window.value, window.text)

`example_collection` reads the text. The artefact takes languages * layers * neurons * 5 * k * 8
bytes, and the text.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float32, Int, Int32, Int64
from torch import Tensor

from lse_interp.analysis.example_streams import ABSENT, WHICH
from lse_interp.analysis.text_windows import Encoded, Window, encode, read_window
from lse_interp.artifacts.provenance import provenance
from lse_interp.artifacts.stored import Stored
from lse_interp.core.errors import (
    ActivationError,
    LanguageError,
    LseError,
    MismatchError,
    near_misses,
    require_one_of,
)
from lse_interp.core.languages import lookup
from lse_interp.models.hooked import HookedModel
from lse_interp.models.info import ModelInfo
from lse_interp.models.sites import site_name

__all__ = ["NeuronExamples"]

_AXES = ("which", "lang", "layer", "neuron", "example")


@dataclasses.dataclass(frozen=True, eq=False)
class NeuronExamples(Stored):
    """Examples of every neuron in text of several languages, and that text.

    Raises:
        LanguageError: A language twice.
        MismatchError: Shapes that do not fit, or a position that is not in the text.
    """

    KIND = "neuron_examples"
    AXES: ClassVar = dict.fromkeys(("values", "positions"), _AXES)
    META = ("languages", "model", "site", "block", "sample", "seed", "provenance")
    READ: ClassVar = {"model": ModelInfo.from_dict}

    languages: tuple[str, ...]
    """ISO 639-3."""
    model: ModelInfo
    site: str
    """Kind of site, e.g. `mlp.hook_act`."""
    block: int
    """Tokens of text that are read at once; a longer document is read in pieces of so many."""
    sample: int
    """Active positions from which `middle` and `weak` were taken."""
    seed: int
    documents: Mapping[str, tuple[str, ...]]
    """Language -> the text that was read."""
    lengths: Mapping[str, tuple[int, ...]]
    """Language -> the tokens in each document."""
    values: Float32[Tensor, "which lang layer neuron example"]
    """In the order of `example_streams.WHICH`; NaN where a neuron has fewer examples."""
    positions: Int32[Tensor, "which lang layer neuron example"]
    """Which token of the language's text, all documents in a row; -1 where there is none."""
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(self)

    @property
    def n_tokens(self) -> dict[str, int]:
        """Language -> tokens read."""
        return {code: sum(lengths) for code, lengths in self.lengths.items()}

    def code(self, language: str) -> str:
        """Return the code of a language that there are examples in.

        Raises:
            LanguageError: No text of that language.
        """
        code = lookup(language).code
        if code not in self.languages:
            raise LanguageError(
                f"There are no examples in {code}. {near_misses(code, self.languages)}"
            )
        return code

    def locate(
        self, language: str, positions: Int[Tensor, "*shape"]
    ) -> tuple[Int64[Tensor, "*shape"], Int64[Tensor, "*shape"]]:
        """Return the document of each position, and the token in it; -1 where there is none.

        Raises:
            LanguageError: No text of that language.
        """
        lengths = torch.tensor(self.lengths[self.code(language)])
        ends = lengths.cumsum(dim=0)
        known = positions.long().clamp(min=0).contiguous()
        document = torch.searchsorted(ends, known, right=True)
        token = known - (ends - lengths)[document]
        absent = positions == ABSENT
        return document.masked_fill(absent, ABSENT), token.masked_fill(absent, ABSENT)

    def of(self, layer: int, neuron: int, language: str, which: str = "top") -> pd.DataFrame:
        """List the examples of one neuron: value, document, token; see `example_streams`.

        Args:
            layer: From 0 at the input.
            neuron: From 0.
            language: In any spelling.
            which: `top`, `middle`, `weak`, `active` or `random`.

        Raises:
            LanguageError: No text of that language.
            ActivationError: No such layer or neuron.
            LseError: Another kind.
        """
        require_one_of("which", which, WHICH)
        code = self.code(language)
        for name, number, n in (
            ("layer", layer, self.model.n_layers),
            ("neuron", neuron, self.model.d_mlp),
        ):
            if not 0 <= number < n:
                raise ActivationError(f"`{name}` must be in 0 to {n - 1}; got {number}.")
        cell = (WHICH.index(which), self.languages.index(code), layer, neuron)
        found = self.positions[cell] != ABSENT
        document, token = self.locate(code, self.positions[cell][found])
        values = self.values[cell][found]
        return pd.DataFrame({"value": values, "document": document, "token": token}).astype(
            {"value": float, "document": int, "token": int}
        )

    def to_frame(self) -> pd.DataFrame:
        """List all examples: which, language, layer, neuron, value, document, token."""
        cells = (self.positions != ABSENT).nonzero(as_tuple=True)
        which, place, layer, neuron, _ = (axis.numpy() for axis in cells)
        located = torch.stack(
            [
                torch.stack(self.locate(code, self.positions[:, i]))
                for i, code in enumerate(self.languages)
            ],
            dim=2,
        )
        document, token = (found[cells].numpy() for found in located)
        return pd.DataFrame(
            {
                "which": np.array(WHICH)[which],
                "language": np.array(self.languages)[place],
                "layer": layer,
                "neuron": neuron,
                "value": self.values[cells].numpy(),
                "document": document,
                "token": token,
            }
        )

    def windows(
        self,
        layer: int,
        neuron: int,
        language: str,
        which: str = "top",
        *,
        model: HookedModel,
        before: int = 24,
        after: int = 8,
    ) -> list[Window]:
        """Show the text around the examples of one neuron, with its value at every token.

        The model reads the few documents again.

        Args:
            layer: From 0 at the input.
            neuron: From 0.
            language: In any spelling.
            which: See `of`.
            model: The model of the examples.
            before: Tokens before the example.
            after: Tokens after it.

        Raises:
            MismatchError: Another model, or a tokenizer that reads the text differently.
            LseError: See `of`.
        """
        frame = self.of(layer, neuron, language, which)
        encoded = self.encode(model, language, frame["document"])
        found = []
        for tokens, row in zip(encoded, frame.itertuples(), strict=True):
            window = read_window(
                model,
                self.documents[self.code(language)][row.document],
                tokens,
                site=site_name(self.site, layer),
                neuron=neuron,
                token=row.token,
                block=self.block,
                before=before,
                after=after,
            )
            found.append(Window(row.document, row.token, row.value, *window))
        return found

    def encode(
        self, model: HookedModel, language: str, documents: Iterable[int] | None = None
    ) -> list[Encoded]:
        """Tokenise documents of a language, all of them by default, as they were read.

        Raises:
            LanguageError: No text of that language.
            MismatchError: Another model, or a tokenizer that reads the text differently.
        """
        self.model.require_same(model.info, what="The model given")
        code = self.code(language)
        chosen = range(len(self.documents[code])) if documents is None else list(documents)
        found = encode(model, [self.documents[code][document] for document in chosen])
        for document, encoded in zip(chosen, found, strict=True):
            if len(encoded.ids) != (n_tokens := self.lengths[code][document]):
                raise MismatchError(
                    f"Document {document} of {code} had {n_tokens} tokens, and now has "
                    f"{len(encoded.ids)}. Load the model with the tokenizer that the examples "
                    "were collected with."
                )
        return found

    @classmethod
    def join(cls, parts: Sequence["NeuronExamples"]) -> "NeuronExamples":
        """Put examples of different languages together.

        Raises:
            LanguageError: A language twice.
            MismatchError: Other models or settings.
            LseError: No part.
        """
        if not parts:
            raise LseError("There are no examples to join; give at least one part.")
        first = parts[0]
        for part in parts[1:]:
            first.model.require_same(part.model, what="Examples", exact=True)
            for name in ("site", "block", "sample", "seed"):
                if getattr(part, name) != getattr(first, name):
                    raise MismatchError(
                        f"Examples to join must share `{name}`; got {getattr(first, name)} and "
                        f"{getattr(part, name)}. Collect them with the same settings."
                    )
        if len({part.values.shape[-1] for part in parts}) > 1:
            raise MismatchError("Examples to join must share `k`. Collect them with the same k.")
        return dataclasses.replace(
            first,
            languages=tuple(code for part in parts for code in part.languages),
            documents={code: text for part in parts for code, text in part.documents.items()},
            lengths={code: n for part in parts for code, n in part.lengths.items()},
            values=torch.cat([part.values for part in parts], dim=1),
            positions=torch.cat([part.positions for part in parts], dim=1),
            provenance=provenance(joined=[part.provenance for part in parts]),
        )

    def _tensors(self) -> dict[str, Tensor]:
        # Text of any size; the header of a file is limited.
        text = json.dumps({"documents": self.documents, "lengths": self.lengths})
        return super()._tensors() | {
            "text": torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
        }

    @classmethod
    def _fields(cls, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> dict[str, Any]:
        text = json.loads(tensors["text"].numpy().tobytes())
        lists = {
            name: {code: tuple(values) for code, values in by_language.items()}
            for name, by_language in text.items()
        }
        return super()._fields(tensors, meta) | lists


def _check(examples: NeuronExamples) -> None:
    codes, model = examples.languages, examples.model
    if not codes or len(set(codes)) < len(codes):
        raise LanguageError(
            f"Examples need languages, each once; got {', '.join(codes) or 'none'}."
        )
    for name in ("documents", "lengths"):
        if tuple(getattr(examples, name)) != codes:
            raise MismatchError(
                f"`{name}` should be of {', '.join(codes)}; got "
                f"{', '.join(getattr(examples, name)) or 'none'}."
            )
    shape = [len(WHICH), len(codes), model.n_layers, model.d_mlp]
    for name in ("values", "positions"):
        found = list(getattr(examples, name).shape)
        if found[:-1] != shape or found != list(examples.values.shape):
            raise MismatchError(
                f"`{name}` should be [{' '.join(_AXES)}] = {[*shape, 'k']} for {model.name}; got "
                f"{found}."
            )
    for place, (code, n_tokens) in enumerate(examples.n_tokens.items()):
        if len(examples.documents[code]) != len(examples.lengths[code]):
            raise MismatchError(f"Each document of {code} needs its number of tokens.")
        positions = examples.positions[:, place]
        if int(positions.min()) < ABSENT or int(positions.max()) >= n_tokens:
            raise MismatchError(
                f"Positions in {code} must be in 0 to {n_tokens - 1}, or {ABSENT} for none; got "
                f"{int(positions.min())} to {int(positions.max())}."
            )
