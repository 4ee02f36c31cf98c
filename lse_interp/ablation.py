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
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from lse_interp.analysis.constants import N_CONTROLS, N_SENTENCES
from lse_interp.core.cli import CONFIG_FLAT, ModelArgs, NeuronArgs, SentenceArgs, main_for
from lse_interp.core.languages import codes_of

__all__ = ["Config", "main", "run"]

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Config(NeuronArgs, SentenceArgs):
    """Switch off each language's neurons and measure the loss in every language."""

    model: CONFIG_FLAT[ModelArgs] = ModelArgs()
    langs: tuple[str, ...] = ()
    """Languages whose neurons are switched off; by default all in the neuron file."""
    against: tuple[str, ...] = ()
    """More languages whose loss is measured; by default all in the neuron file."""
    n_sentences: int | Literal["all"] | None = dataclasses.field(  # type: ignore[assignment]
        default=None, kw_only=True
    )
    """Take the first so many sentences, or `all`; by default 48, or as many as there are. Time
    grows in proportion."""
    control: Literal["layer", "size", "activity"] | None = "layer"
    """What the random control matches; None measures none, in half the time."""
    n_controls: int = N_CONTROLS
    """Random draws to average; each costs as much as the measurement itself."""
    seed: int = 0
    """Seed of the first draw."""
    root: Path = Path("runs")
    """Folder of all runs; this command reads and writes `root/<model>/`."""
    overwrite: bool = False
    """Measure again, and replace a file of any settings."""


def run(config: Config) -> Any:
    """Measure, write the artefact and report; reuse a finished one of the same settings.

    If the model, or the neurons in the same file, changed since, it is measured again.

    Raises:
        LseError: see `measure_ablation`, `is_current`, `load_parallel` and `load_model`.
        ArtifactError: a neuron file, or an earlier artefact, that cannot be read.
    """
    from lse_interp.analysis import ablation as analysis
    from lse_interp.analysis.ablation_matrix import AblationMatrix, ablation_report
    from lse_interp.artifacts.paths import RunPaths
    from lse_interp.artifacts.provenance import provenance
    from lse_interp.artifacts.reuse import find_finished, reuse_or_make
    from lse_interp.data.parallel import load_parallel
    from lse_interp.models.loading import load_from_args
    from lse_interp.neurons.on_disk import load_neurons, neuron_file

    paths = RunPaths(config.root, config.model.model)
    source, out = neuron_file(config, paths), paths.folder / "ablation.safetensors"
    neurons = load_neurons(config, paths)
    langs = codes_of(config.langs) or neurons.languages
    analysis.require_neurons(neurons, langs, what=str(source))
    against = codes_of(config.against) or neurons.languages
    n_sentences = config.n_sentences if isinstance(config.n_sentences, int) else None
    parallel = load_parallel(
        config.parallel,
        languages=tuple(dict.fromkeys((*langs, *against))),
        split=config.split,
        n_sentences=n_sentences,
    )
    parallel = parallel if config.n_sentences is not None else parallel.first(N_SENTENCES)
    names = ("control", "n_controls", "seed")
    options = {"languages": langs, **{name: getattr(config, name) for name in names}}
    setup = analysis.ablation_setup(neurons, parallel, **options)

    def finished(fingerprint: str | None) -> dict[str, Any]:
        check: dict[str, Any] = {"fingerprint": fingerprint, "config": config}
        return {
            "load": AblationMatrix.load,
            "matches": lambda found: analysis.is_current(found, out, setup, **check),
            "overwrite": config.overwrite,
        }

    # What will be refused is refused before the model is loaded, if its hash is known.
    find_finished(out, **finished(neurons.model.fingerprint))
    model = load_from_args(config.model)
    model.info.require_same(neurons.model, what=str(source))

    def make() -> AblationMatrix:
        matrix = analysis.measure_ablation(
            model, neurons, parallel, batch_size=config.batch_size, **options
        )
        about = provenance(config, measured=dict(matrix.provenance))
        matrix = dataclasses.replace(matrix, provenance=about)
        logger.info("wrote %s", matrix.save(out))
        return matrix

    matrix = reuse_or_make(
        out, what="the ablation matrix", make=make, **finished(model.info.fingerprint)
    )
    logger.info("%s", ablation_report(matrix))
    return matrix


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    return main_for(Config, run, argv, description=__doc__)


if __name__ == "__main__":
    raise SystemExit(main())
