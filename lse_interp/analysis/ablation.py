"""Test language neurons causally: switch off one language's and see which languages suffer.

The neurons of language A are silenced (their term act(gate) * up of the MLP's sum is set to zero,
`mlp.hook_post`), and the loss is measured in every language B, on parallel sentences:

    increase[A, B] = mean over sentences s of  loss(B_s without the neurons of A) - loss(B_s)

in nats per sentence. The sentences carry the same content, so languages compare whatever their
tokens. Language neurons are real if A is hurt more than the others, and more than by as many random
neurons of the same layers (`control`).

Source: Tang et al. 2024 (arXiv:2402.16438) and Gurgurov et al. 2025 (arXiv:2507.22608) measure the
change in perplexity per token. Nats per sentence, the random control and the error are additions.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float64
from torch import Tensor

from lse_interp.analysis.ablation_matrix import AblationMatrix
from lse_interp.analysis.constants import BATCH_SIZE, N_CONTROLS
from lse_interp.analysis.losses import sentence_losses
from lse_interp.analysis.neuron_edits import NEURON_SITE, ablate
from lse_interp.artifacts.provenance import jsonable, provenance
from lse_interp.artifacts.reuse import changed_options, refusal, require_same_settings
from lse_interp.core.errors import CorpusError, LanguageError, LseError
from lse_interp.core.languages import codes_of, family_order
from lse_interp.core.progress import Progress
from lse_interp.data.parallel import ParallelText, Sentences, as_parallel
from lse_interp.models.hooked import HookedModel
from lse_interp.neurons.indices import hash_indices
from lse_interp.neurons.sets import NeuronSets

__all__ = ["ablation_setup", "is_current", "measure_ablation", "require_neurons"]


def measure_ablation(
    model: HookedModel,
    neurons: NeuronSets,
    parallel: Sentences,
    *,
    languages: Sequence[str] | None = None,
    control: Literal["layer", "size", "activity"] | None = "layer",
    n_controls: int = N_CONTROLS,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
) -> AblationMatrix:
    """Measure what the neurons of each language do for the loss in every language.

    Args:
        model: the model.
        neurons: sets found on this model.
        parallel: the same sentences in every language to measure, at least 2 of each: parallel
            text, a dictionary of language -> sentences, or a specification for `load_parallel`,
            which loads the languages of `neurons`.
        languages: the languages whose neurons are switched off, in any spelling that `lookup`
            knows; None takes all of `neurons`. All must be in `parallel`.
        control: what random neurons match (see `NeuronSets.random_like`); None for no control.
        n_controls: draws of random neurons to average, at least 1; seeds `seed`, `seed` + 1, ...
        seed: at least 0.
        batch_size: sentences per forward pass; changes results only by rounding.

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
    parallel = as_parallel(parallel, languages=neurons.languages)
    setup = ablation_setup(
        neurons, parallel, languages=languages, control=control, n_controls=n_controls, seed=seed
    )
    model.info.require_same(neurons.model, what="The neuron set")
    ablated, measured = setup["ablated"], setup["measured"]
    chosen = neurons.select(*ablated)
    seeds = range(seed, seed + setup["n_controls"])
    draws = [chosen.random_like(seed=s, match=control) for s in seeds if control is not None]
    sentences = [sentence for code in measured for sentence in parallel.sentences[code]]

    bar = Progress("ablation", total=sum(chosen.size(c) > 0 for c in ablated), unit="language")
    share = 1 / (len(sentences) * (1 + len(draws)))

    def losses(advance: Callable[[int], object] | None = None) -> Float64[Tensor, "..."]:
        flat = sentence_losses(model, sentences, batch_size=batch_size, advance=advance)
        return flat.view(len(measured), len(parallel))

    def losses_without(sets: NeuronSets, code: str) -> Float64[Tensor, "measured sentence"]:
        with ablate(model, sets, code):
            return losses(lambda n: bar.advance(n * share))

    without, without_random = [], []
    with bar:
        intact = losses()
        for code in ablated:
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
            prefix=model.prefix,
            device=model.device,
        ),
        **setup,
    )


def ablation_setup(
    neurons: NeuronSets,
    parallel: ParallelText,
    *,
    languages: Sequence[str] | None,
    control: str | None,
    n_controls: int,
    seed: int,
) -> dict[str, Any]:
    """Check a request, and return everything besides the model that the numbers depend on.

    Raises:
        LanguageError: See `measure_ablation`.
        CorpusError: Fewer than two sentences.
        LseError: `n_controls` out of range.
    """
    if n_controls < 1:
        raise LseError(
            f"`n_controls` must be at least 1; got {n_controls}. Pass control=None for none."
        )
    named = neurons if languages is None else codes_of(languages)
    ablated = tuple(family_order(named))
    measured = tuple(family_order(parallel.languages))
    require_neurons(neurons, ablated, what="The neuron set")
    parallel.require(ablated)
    if len(measured) < 2:
        raise LanguageError(
            "Ablation compares a language with others; got the neurons of "
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
        "neurons": hash_indices(layer for code in ablated for layer in neurons[code]),
        "text": parallel.digest(measured),
        "site": NEURON_SITE,
        "control": control,
        "n_controls": 0 if control is None else n_controls,
        "seed": seed,
    }


def require_neurons(neurons: NeuronSets, languages: Sequence[str], *, what: str) -> None:
    """Refuse languages that a neuron set does not have.

    Raises:
        LanguageError: Such a language.
    """
    missing = [code for code in languages if code not in neurons]
    if missing:
        raise LanguageError(
            f"{what} has no neurons of {', '.join(missing)}; it has those of "
            f"{', '.join(neurons.languages)}."
        )


def is_current(
    matrix: AblationMatrix,
    path: Path,
    setup: Mapping[str, Any],
    *,
    fingerprint: str | None,
    config: Any,
) -> bool:
    """Say whether a finished matrix is the requested one; False if it is out of date.

    It is out of date if the model was trained again, or if other neurons were found in the same
    file.

    Args:
        matrix: The finished one.
        path: Its file.
        setup: What `ablation_setup` returns for the requested measurement.
        fingerprint: Hash of the model's weights.
        config: The configuration of the command, with `neurons`.

    Raises:
        MismatchError: It is of these weights, but was measured with other settings.
    """
    if fingerprint is None or matrix.model.fingerprint != fingerprint:
        return False
    before = matrix.provenance.get("config") or {}
    if changed := changed_options(before.get("model"), config.model, ("bos",)):
        raise refusal(path, changed)
    if matrix.setup == setup:
        return True
    if all(before.get(name) == jsonable(getattr(config, name)) for name in ("neurons", "masks")):
        setup = {**setup, "neurons": matrix.neurons}
    require_same_settings(path, matrix.setup, setup, provenance=matrix.provenance, config=config)
    return False
