"""The counts in a folder, and the neurons found in them: reused, or identified and saved."""

import dataclasses
import functools
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lse_interp.artifacts.folder_checksums import file_sha256
from lse_interp.artifacts.format import read_checksum
from lse_interp.artifacts.paths import RunPaths
from lse_interp.artifacts.provenance import jsonable
from lse_interp.artifacts.registry import writer_command
from lse_interp.artifacts.reuse import differences, refusal, reuse_or_make
from lse_interp.core.cli import NeuronArgs
from lse_interp.core.errors import ArtifactError, LseError, MismatchError
from lse_interp.core.languages import codes_of
from lse_interp.counting.counts import ActivationCounts
from lse_interp.counting.foreign_counts import count_files
from lse_interp.models.info import ModelInfo
from lse_interp.neurons.formats.masks_pth import model_of_masks
from lse_interp.neurons.identify import identify
from lse_interp.neurons.selectors import SELECTORS
from lse_interp.neurons.sets import NeuronSets

__all__ = ["CountsOnDisk", "identify_on_disk", "load_neurons", "neuron_file"]

logger = logging.getLogger(__name__)


# Not of `str, ActivationCounts`: the type checks of the tests would then read an item.
class CountsOnDisk(Mapping):
    """The counts in a folder by language, loaded on access and not kept.

    Args:
        paths: The run folder.
        languages: Codes in any spelling; by default every language with counts.
        folder: Another folder than that of the run, with artefacts or other projects' counts.

    Raises:
        LanguageError: An unknown language.
        ArtifactError: A language without counts.
        MismatchError: Two files of one language.
    """

    def __init__(
        self, paths: RunPaths, languages: Sequence[str] = (), *, folder: Path | None = None
    ) -> None:
        self._model_name = paths.model
        self._files = count_files(folder or paths.counts("*").parent)
        asked = codes_of(languages)
        self._languages = asked or tuple(sorted(self._files))
        missing = [code for code in self._languages if code not in self._files]
        if missing or not self._files:
            how = (
                f"Run `{writer_command(ActivationCounts.KIND)} --model {paths.model}` first."
                if folder is None
                else "Put the language into the name of a file: `mt.pt`, `activation.mt.train`."
            )
            raise ArtifactError(
                f"No activation counts of {' '.join(missing) or 'any language'} in "
                f"{folder or paths.counts('*').parent}. {how} "
                f"Found: {' '.join(self._files) or '(none)'}."
            )

    def __getitem__(self, language: str) -> ActivationCounts:
        path = self._files[language]
        if path.suffix == ".safetensors":
            return ActivationCounts.load(path, totals=True)
        return ActivationCounts.from_counts(path, language=language, model=self._model)

    def __iter__(self) -> Iterator[str]:
        return iter(self._languages)

    def __len__(self) -> int:
        return len(self._languages)

    @functools.cached_property
    def _model(self) -> ModelInfo:
        return ModelInfo.from_config(self._model_name)

    def checksums(self) -> dict[str, str]:
        """Return what tells counts from others, whatever the dates of their files."""
        return {code: _checksum(self._files[code]) for code in self}


def identify_on_disk(
    counts: CountsOnDisk,
    *,
    out: Path,
    selector: str,
    parameters: Mapping[str, Any],
    overwrite: bool = False,
    config: Any = None,
) -> NeuronSets:
    """Identify neurons and save them; reuse a finished file of the same counts and settings.

    Args:
        counts: Of all languages to tell apart.
        out: The neuron file.
        selector: See `identify`.
        parameters: See `identify`.
        overwrite: Identify them even if they are finished.
        config: What the provenance records.

    Raises:
        LseError: See `identify`.
        MismatchError: Finished neurons with other settings, and no `overwrite`.
    """
    values = dataclasses.asdict(SELECTORS[selector].parameters(parameters))
    # The order of the languages changes nothing but the order of the output.
    asked = {"selector": selector, "languages": " ".join(sorted(counts)), **values}

    # Foreign counts are hashed whole, so once.
    checksums = functools.cache(counts.checksums)

    def matches(neurons: NeuronSets) -> bool:
        found = {"selector": neurons.method, "languages": " ".join(sorted(neurons))}
        known = {name: found.get(name, neurons.thresholds.get(name)) for name in asked}
        if changed := differences(known, asked):
            raise refusal(out, changed)
        same = neurons.provenance.get("counts") == checksums()
        note = "reusing it" if same else "it is of other counts, so the neurons are found again"
        logger.info("%s is finished; %s (--overwrite finds them again)", out, note)
        return same

    def make() -> NeuronSets:
        neurons = identify(counts, selector=selector, **parameters)
        about = {"config": jsonable(config), "counts": checksums()}
        neurons = dataclasses.replace(neurons, provenance=dict(neurons.provenance) | about)
        neurons.save(out)
        _warn_of_unequal_text(neurons.provenance["n_tokens"])
        return neurons

    return reuse_or_make(
        out,
        what="the neuron sets",
        load=NeuronSets.load,
        matches=matches,
        make=make,
        overwrite=overwrite,
    )


def neuron_file(args: NeuronArgs, paths: RunPaths) -> Path:
    """Return the file with the neurons that a command line asks for."""
    return args.masks or args.neurons or paths.neurons


def load_neurons(args: NeuronArgs, paths: RunPaths) -> NeuronSets:
    """Read the neurons that a command line asks for.

    Raises:
        LseError: Flags that contradict each other; or see `NeuronSets.load` and `from_masks`.
    """
    if args.masks is None:
        if args.mask_model is not None or args.mask_languages:
            raise LseError("`--mask-model` and `--mask-languages` describe `--masks`; add it.")
        return NeuronSets.load(neuron_file(args, paths))
    if args.neurons is not None:
        raise LseError("`--neurons` and `--masks` both name the neurons; give one of them.")
    model = model_of_masks(args.masks, args.mask_model, default=paths.model)
    try:
        return NeuronSets.from_masks(args.masks, languages=args.mask_languages or None, model=model)
    except MismatchError as error:
        error.add_note(f"--mask-model names the model of the masks, here {model.name}.")
        raise


def _checksum(path: Path) -> str:
    if path.suffix == ".safetensors":
        return read_checksum(path, kind=ActivationCounts.KIND)
    return file_sha256(path)


def _warn_of_unequal_text(n_tokens: Mapping[str, int]) -> None:
    fewest, most = (choose(n_tokens, key=n_tokens.__getitem__) for choose in (min, max))
    if n_tokens[fewest] < n_tokens[most]:
        logger.warning(
            "the languages were counted on unequal text, from %s tokens (%s) to %s (%s): the less "
            "text, the noisier a language's probabilities",
            f"{n_tokens[fewest]:,}",
            fewest,
            f"{n_tokens[most]:,}",
            most,
        )
