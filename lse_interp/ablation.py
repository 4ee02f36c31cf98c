"""Test language neurons causally: switch off one language's and see which languages suffer.

The neurons of language A are silenced (their term act(gate) * up of the MLP's sum is set to zero,
`mlp.hook_post`), and the loss is measured in every language B, on parallel sentences:

    increase[A, B] = mean over sentences s of  loss(B_s without the neurons of A) - loss(B_s)

in nats per sentence. The sentences carry the same content, so languages compare whatever their
tokens. Language neurons are real where A is hurt more than the others, and more than by as many
random neurons of the same layers (`control`).

Source: Tang et al. 2024 (arXiv:2402.16438) and Gurgurov et al. 2025 (arXiv:2507.22608) measure the
change in perplexity per token. Nats per sentence, the random control and the error are additions.

    python -m lse_interp.ablation
    python -m lse_interp.ablation --langs mlt slk --n-sentences 48 --n-controls 3

reads `runs/<model>/neurons/lape.safetensors` and writes `runs/<model>/ablation.safetensors`.
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lse_interp.core.cli import CONFIG_FLAT, ModelArgs, answer_at_once, main_for


@dataclasses.dataclass(frozen=True)
class Config:
    """Switch off each language's neurons and measure the loss in every language."""

    model: CONFIG_FLAT[ModelArgs] = ModelArgs()
    langs: tuple[str, ...] = ()
    """Languages whose neurons are switched off; by default all in the neuron file."""
    against: tuple[str, ...] = ()
    """Languages whose loss is measured beside those of `--langs`; by default all in the neuron
    file."""
    neurons: Path | None = None
    """A neuron file; by default `root/<model>/neurons/lape.safetensors`."""
    parallel: str = "embedded"
    """`embedded`, `flores`, `ntrex:<folder>`, or a folder with one file per language."""
    split: str | None = None
    """Split of the sentences; each source has its own default (`devtest`)."""
    n_sentences: int | Literal["all"] | None = None
    """Take the first so many sentences, or `all`; by default 48, or as many as there are. Time
    grows in proportion."""
    control: Literal["layer", "size", "activity"] | None = "layer"
    """What the random control matches; None measures none, in half the time."""
    n_controls: int = 1
    """Random draws to average; each costs as much as the measurement itself."""
    seed: int = 0
    """Seed of the first draw."""
    batch_size: int = 32
    """Sentences per forward pass; does not change the result."""
    root: Path = Path("runs")
    """Folder of all runs; this stage reads and writes `root/<model>/`."""
    overwrite: bool = False
    """Measure again even if the numbers are there, or were measured with other settings."""


if __name__ == "__main__":
    # Before the imports below, which take seconds.
    answer_at_once(Config, description=__doc__)


from lse_interp.analysis.ablation import (
    AblationMatrix,
    _require_neurons,
    _setup,
    ablation_report,
    measure_ablation,
)
from lse_interp.artifacts.paths import RunPaths
from lse_interp.artifacts.provenance import provenance
from lse_interp.artifacts.reuse import find_finished, require_same_settings, reuse_or_make
from lse_interp.core.languages import lookup
from lse_interp.data.parallel import ParallelText, load_parallel
from lse_interp.models import load_from_args
from lse_interp.neurons.sets import NeuronSets

__all__ = ["Config", "main", "run"]

logger = logging.getLogger(__name__)
_N_SENTENCES = 48


def run(config: Config) -> AblationMatrix:
    """Measure, write the artefact and report; a finished one, measured alike, is reused.

    One whose model, or whose neurons in the same file, were made again since is out of date, and
    measured again.

    Raises:
        MismatchError: a finished artefact of other settings; or neurons of another model.
        LanguageError: a language of `langs` that is not in the neuron file.
        ArtifactError: a neuron file, or an earlier artefact, that cannot be read.
        LseError: see `measure_ablation`, `load_parallel` and `load_model`.
    """
    paths = RunPaths(config.root, config.model.model)
    source = config.neurons or paths.neurons
    neurons = NeuronSets.load(source)
    langs = tuple(lookup(code).code for code in config.langs) or neurons.languages
    _require_neurons(neurons, langs, what=str(source))
    parallel = _load_parallel(config, langs, neurons)
    options: dict[str, Any] = {
        "languages": langs,
        "control": config.control,
        "n_controls": config.n_controls,
        "seed": config.seed,
    }
    setup = _setup(neurons, parallel, **options)
    out = paths.folder / "ablation.safetensors"

    def matches(found: AblationMatrix, fingerprint: str | None) -> bool:
        return _matches(found, config, out, setup, fingerprint=fingerprint)

    # What would be refused is refused before a model is loaded, where its hash is known.
    known = neurons.model.fingerprint
    find_finished(
        out,
        load=AblationMatrix.load,
        matches=lambda found: matches(found, known),
        overwrite=config.overwrite,
    )
    model = load_from_args(config.model)
    model.info.require_same(neurons.model, what=str(source))

    def make() -> AblationMatrix:
        if out.exists() and not config.overwrite:
            logger.info("%s is of other neurons or weights, and out of date: made anew", out)
        matrix = measure_ablation(model, neurons, parallel, batch_size=config.batch_size, **options)
        about = provenance(config, measured=dict(matrix.provenance))
        matrix = dataclasses.replace(matrix, provenance=about)
        logger.info("wrote %s", matrix.save(out))
        return matrix

    matrix = reuse_or_make(
        out,
        what="the ablation matrix",
        load=AblationMatrix.load,
        matches=lambda found: matches(found, model.info.fingerprint),
        make=make,
        overwrite=config.overwrite,
    )
    logger.info("%s", ablation_report(matrix))
    return matrix


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage from the command line."""
    return main_for(Config, run, argv, description=__doc__)


def _load_parallel(config: Config, langs: Sequence[str], neurons: NeuronSets) -> ParallelText:
    against = tuple(lookup(code).code for code in config.against) or neurons.languages
    n_sentences = config.n_sentences
    parallel = load_parallel(
        config.parallel,
        languages=tuple(dict.fromkeys((*langs, *against))),
        split=config.split,
        n_sentences=n_sentences if isinstance(n_sentences, int) else None,
    )
    return parallel if n_sentences is not None else parallel.first(_N_SENTENCES)


def _matches(
    earlier: AblationMatrix,
    config: Config,
    out: Path,
    setup: Mapping[str, Any],
    *,
    fingerprint: str | None,
) -> bool:
    """Say whether a finished artefact is what was asked for; False if it is out of date.

    Raises:
        MismatchError: it is of these weights, but was measured with other settings.
    """
    if fingerprint is None or earlier.model.fingerprint != fingerprint:
        return False
    if earlier.setup == setup:
        logger.info("%s is finished; --overwrite measures again", out)
        return True
    before, now = earlier.provenance.get("config") or {}, config.neurons
    if before.get("neurons") == (None if now is None else str(now)):
        # Neurons that were found again in the same place are no other setting.
        setup = {**setup, "neurons": earlier.neurons}
    require_same_settings(out, earlier.setup, setup, provenance=earlier.provenance, config=config)
    return False


if __name__ == "__main__":
    raise SystemExit(main())
