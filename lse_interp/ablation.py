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

reads `runs/<model>/neurons.safetensors` and writes `runs/<model>/ablation.safetensors`.
"""

import contextlib
import dataclasses
import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lse_interp.core.cli import CONFIG_FLAT, ModelArgs, answer_at_once, main_for, progress


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
    """A neuron file; by default `root/<model>/neurons.safetensors`."""
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

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from lse_interp.core.ablation_report import ablation_report
from lse_interp.core.ablations import AblationMatrix
from lse_interp.core.artifacts import RunPaths, provenance
from lse_interp.core.errors import (
    ActivationError,
    CorpusError,
    LanguageError,
    LseError,
    MismatchError,
    near_misses,
)
from lse_interp.core.finished import require_alike
from lse_interp.core.languages import family_order, lookup
from lse_interp.core.locks import find_or_make
from lse_interp.core.neurons import NeuronSets
from lse_interp.data.parallel import ParallelText, load_parallel
from lse_interp.models import HookedModel, load_from_args, site_name
from lse_interp.models.losses import sentence_losses

__all__ = [
    "AblationMatrix",
    "Config",
    "ablate",
    "main",
    "measure_ablation",
    "run",
    "sentence_losses",
]

logger = logging.getLogger(__name__)

_SITES = ("mlp.hook_post", "mlp.hook_act", "mlp.hook_pre", "mlp.hook_pre_linear")
_SITE = "mlp.hook_post"
_N_SENTENCES = 48


@contextlib.contextmanager
def ablate(
    model: HookedModel,
    mask: Bool[Tensor, "layer neuron"],
    *,
    value: Literal["zero", "mean"] = "zero",
    means: Float[Tensor, "layer neuron"] | None = None,
    site: str = _SITE,
) -> Iterator[HookedModel]:
    """Switch neurons off in every forward pass inside a `with` block.

    At `mlp.hook_post`, the input of the down projection, zero removes what a neuron adds to the
    residual stream, as if its column of `down` were zero.

    Args:
        model: the model.
        mask: the neurons, e.g. `neurons.mask("mlt")`.
        value: `zero`, or `mean`, which holds each neuron at its entry of `means`.
        means: what `mean` sets; at the same site.
        site: a site with one value per neuron.

    Yields:
        The model, edited until the block ends (see `HookedModel.edits`).

    Raises:
        MismatchError: a mask or means of another shape than the model's neurons.
        ActivationError: a site without neurons, or one this model does not have.
        LseError: another `value`, or `means` missing or not used.
    """
    _check_ablate(model, mask, value=value, means=means, site=site)
    level = torch.zeros(mask.shape, dtype=model.dtype) if means is None else means
    hooks = {}
    for layer in mask.any(dim=-1).nonzero().flatten().tolist():
        hooks[site_name(site, layer)] = _hold(mask[layer], level[layer])
    with model.edits(hooks):
        yield model


def measure_ablation(
    model: HookedModel,
    neurons: NeuronSets,
    parallel: ParallelText,
    *,
    languages: Sequence[str] | None = None,
    control: Literal["layer", "size", "activity"] | None = "layer",
    n_controls: int = 3,
    seed: int = 0,
    batch_size: int = 32,
) -> AblationMatrix:
    """Measure what the neurons of each language do for the loss in every language.

    Args:
        model: the model.
        neurons: sets found on this model.
        parallel: the same sentences in every language to measure, at least 2 of each.
        languages: whose neurons are switched off, in any spelling that `lookup` knows; None takes
            all of `neurons`. All must be in `parallel`.
        control: what random neurons match (see `NeuronSets.random_like`); None for no control.
        n_controls: draws of random neurons to average, at least 1; seeds `seed`, `seed` + 1, ...
        seed: at least 0.
        batch_size: sentences per forward pass; changes results by rounding alone.

    Returns:
        Losses with rows and columns in family order. Languages without neurons repeat the intact
        loss.

    Raises:
        MismatchError: neurons of another model.
        LanguageError: a language that is unknown, not in `neurons` or not in `parallel`; or only
            one language to measure.
        CorpusError: fewer than two sentences; see also `sentence_losses`.
        LseError: any other argument out of range; see also `NeuronSets.random_like`.

    Source: arXiv:2402.16438 (matrix of perplexity changes).
    """
    setup = _setup(
        neurons, parallel, languages=languages, control=control, n_controls=n_controls, seed=seed
    )
    model.info.require_same(neurons.model, what="The neuron set")
    ablated, measured = setup["ablated"], setup["measured"]
    chosen = neurons.select(*ablated)
    seeds = range(seed, seed + setup["n_controls"])
    draws = [chosen.random_like(seed=s, match=control) for s in seeds if control is not None]
    sentences = [sentence for code in measured for sentence in parallel.sentences[code]]

    def losses() -> Float64[Tensor, "measured sentence"]:
        flat = sentence_losses(model, sentences, batch_size=batch_size)
        return flat.view(len(measured), len(parallel))

    def losses_without(sets: NeuronSets, code: str) -> Float64[Tensor, "measured sentence"]:
        with ablate(model, sets.mask(code)):
            return losses()

    intact = losses()
    without, without_random = [], []
    for code in progress(ablated, desc="ablation", unit="language"):
        if not chosen.size(code):
            without.append(intact)
            without_random.append(intact)
            continue
        without.append(losses_without(chosen, code))
        if draws:
            controls = [losses_without(drawn, code) for drawn in draws]
            without_random.append(torch.stack(controls).mean(dim=0))
    return AblationMatrix(
        intact=intact,
        without=torch.stack(without),
        without_random=torch.stack(without_random) if draws else None,
        n_neurons=torch.tensor([chosen.size(code) for code in ablated]),
        model=model.info,
        method=neurons.method,
        provenance=provenance(
            parallel=parallel.spec,
            split=parallel.split,
            backend=model.backend,
            dtype=model.dtype,
            device=model.device,
        ),
        **setup,
    )


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
    # What would be refused is refused before a model is loaded, where its hash is known.
    _find(config, out, setup, fingerprint=neurons.model.fingerprint)
    model = load_from_args(config.model)
    model.info.require_same(neurons.model, what=str(source))

    def find() -> AblationMatrix | None:
        found = _find(config, out, setup, fingerprint=model.info.fingerprint)
        if found is not None:
            logger.info("%s is finished; --overwrite measures again", out)
        return found

    def make() -> AblationMatrix:
        if out.exists() and not config.overwrite:
            logger.info("%s is of other neurons or weights, and out of date: made anew", out)
        matrix = measure_ablation(model, neurons, parallel, batch_size=config.batch_size, **options)
        about = provenance(config, measured=dict(matrix.provenance))
        matrix = dataclasses.replace(matrix, provenance=about)
        logger.info("wrote %s", matrix.save(out))
        return matrix

    matrix = find_or_make(out, what="the ablation matrix", find=find, make=make)
    logger.info("%s", ablation_report(matrix))
    return matrix


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage from the command line."""
    return main_for(Config, run, argv, description=__doc__)


def _hold(
    mask: Bool[Tensor, " neuron"], level: Float[Tensor, " neuron"]
) -> Callable[[Tensor, str], Tensor]:
    """Return a hook that sets the marked neurons to `level`, on whatever device the layer is."""

    def hook(activation: Tensor, site: str) -> Tensor:
        return torch.where(mask.to(activation.device), level.to(activation), activation)

    return hook


def _check_ablate(
    model: HookedModel,
    mask: Bool[Tensor, "layer neuron"],
    *,
    value: str,
    means: Float[Tensor, "layer neuron"] | None,
    site: str,
) -> None:
    if site not in _SITES:
        raise ActivationError(
            f"Neurons are switched off at {', '.join(_SITES)}; got site {site!r}. "
            f"{near_misses(site, _SITES)}"
        )
    if value not in ("zero", "mean"):
        raise LseError(f"`value` must be zero or mean; got {value!r}.")
    if (value == "mean") != (means is not None):
        raise LseError(
            f"`means` must be given with value='mean' and only then; got value={value!r} and "
            f"{'no means' if means is None else 'means'}."
        )
    grid = (model.n_layers, model.d_mlp)
    for name, values in (("mask", mask), ("means", means)):
        if values is not None and tuple(values.shape) != grid:
            raise MismatchError(
                f"`{name}` should be [layer neuron] = {list(grid)} for {model.name}; got "
                f"{list(values.shape)}."
            )


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


def _find(
    config: Config, out: Path, setup: Mapping[str, Any], *, fingerprint: str | None
) -> AblationMatrix | None:
    """Return the finished artefact; None where there is none, or one that is out of date.

    Raises:
        MismatchError: it is of these weights, but was measured with other settings.
    """
    if config.overwrite or not out.exists():
        return None
    earlier = AblationMatrix.load(out)
    if fingerprint is None or earlier.model.fingerprint != fingerprint:
        return None
    if earlier.setup == setup:
        return earlier
    before, now = earlier.provenance.get("config") or {}, config.neurons
    if before.get("neurons") == (None if now is None else str(now)):
        # Neurons that were found again in the same place are no other setting.
        setup = {**setup, "neurons": earlier.neurons}
    require_alike(out, earlier.setup, setup, provenance=earlier.provenance, config=config)
    return None


def _setup(
    neurons: NeuronSets,
    parallel: ParallelText,
    *,
    languages: Sequence[str] | None,
    control: str | None,
    n_controls: int,
    seed: int,
) -> dict[str, Any]:
    """Check the request, and return everything besides the model that the numbers depend on."""
    if n_controls < 1:
        raise LseError(
            f"`n_controls` must be at least 1; got {n_controls}. Pass control=None for none."
        )
    named = neurons if languages is None else [lookup(code).code for code in languages]
    ablated = tuple(family_order(named))
    measured = tuple(family_order(parallel.languages))
    _require_neurons(neurons, ablated, what="The neuron set")
    parallel.require(ablated)
    if len(set(ablated)) < len(ablated) or len(measured) < 2:
        raise LanguageError(
            "Ablation compares a language with others, each named once; got the neurons of "
            f"{', '.join(ablated)} and sentences in {', '.join(measured)}."
        )
    if len(parallel) < 2:
        raise CorpusError(
            f"Ablation needs at least 2 sentences for an error estimate; {parallel.spec} has "
            f"{len(parallel)}."
        )
    return {
        "ablated": ablated,
        "measured": measured,
        "neurons": _neuron_hash(neurons, ablated),
        "text": parallel.digest(measured),
        "site": _SITE,
        "control": control,
        "n_controls": 0 if control is None else n_controls,
        "seed": seed,
    }


def _require_neurons(neurons: NeuronSets, languages: Sequence[str], *, what: str) -> None:
    missing = [code for code in languages if code not in neurons]
    if missing:
        raise LanguageError(
            f"{what} has no neurons of {', '.join(missing)}; it has those of "
            f"{', '.join(neurons.languages)}."
        )


def _neuron_hash(neurons: NeuronSets, languages: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for code in languages:
        for layer, indices in enumerate(neurons[code]):
            digest.update(f"{code} {layer} {len(indices)} ".encode())
            digest.update(indices.numpy().tobytes())
    return digest.hexdigest()[:16]


if __name__ == "__main__":
    raise SystemExit(main())
