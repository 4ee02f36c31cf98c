r"""Train the neurons of a language, and nothing else; or a baseline, the same way.

For the neurons S of a language, the rows S of gate and up and the columns S of down are trained,

    min over theta_S of  E over text x  [ - sum over t  log p(x_t | x_<t; theta) ],

and every other weight stays the same, to the bit. AdamW makes one pass over the text, the loss is
validated every so many steps, and the weights of the best validation loss are kept. Source: paper,
sections 3.2, 4.1, 4.3.

    python -m lse_interp.finetune --lang mlt --method target
    python -m lse_interp.finetune --lang mlt --method random --random-match layer
    python -m lse_interp.finetune --lang mlt --n-tokens 10000 20000 40000
    accelerate launch --multi_gpu --num_processes 4 -m lse_interp.finetune --lang mlt \
        --model meta-llama/Llama-3.1-8B --dtype bfloat16 --corpus glotcc

writes `runs/<model>/finetune/<lang>/<method>/`: `subnetwork.safetensors` (the trained rows, before
and after), `curves.csv`, TensorBoard logs; `adapter/` for LoRA and `model/` for whole matrices. If
interrupted, rerun the same command to resume from the last checkpoint.
"""

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lse_interp.core.cli import CONFIG_FLAT, CorpusArgs, ModelArgs, NeuronArgs, main_for
from lse_interp.core.languages import codes_of, lookup
from lse_interp.training.hyperparameters import Hyperparameters
from lse_interp.training.methods import METHODS

__all__ = ["Config", "main", "run"]


@dataclass(frozen=True)
class Config(NeuronArgs):
    """Train one language's neurons, or a baseline, and keep what changed."""

    lang: str
    """The language to train, e.g. `mlt`."""
    method: METHODS.choice = "target"  # type: ignore[name-defined]
    """`target` trains the language's neurons, `random` as many others; the rest are baselines."""
    model: CONFIG_FLAT[ModelArgs] = ModelArgs()
    text: CONFIG_FLAT[CorpusArgs] = CorpusArgs()
    n_tokens: tuple[int, ...] = ()
    """Text tokens to train on; several make one run each, as in Figure 5. By default all of the
    embedded corpus (its split `adapt`), and up to 100 million of any other."""
    validation: str | None = None
    """Validation text: `embedded`, `flores`, `ntrex:<folder>`, or anything `--corpus` takes; by
    default the embedded split `dev` with the embedded corpus, else FLORES+ dev."""
    against: tuple[str, ...] = ("eng",)
    """Languages whose validation loss is measured too, to see what is forgotten."""
    random_match: Literal["size", "layer", "activity"] | None = None
    """What random neurons share with the language's: number (the default), also per layer, or also
    activation probability."""
    training: CONFIG_FLAT[Hyperparameters] = Hyperparameters()
    name: str | None = None
    """Folder of the run; by default made of method, match, tokens and seed."""
    root: Path = Path("runs")
    """Folder of all runs; this command writes `root/<model>/finetune/<lang>/<name>/`."""
    overwrite: bool = False
    """Train again, even if the run is finished, or unfinished with other settings. If interrupted,
    rerun the same command to resume."""


def run(config: Config) -> list[Any]:
    """Train, once per token budget, and return the `FinetuneRun`s; finished ones are reused.

    Raises:
        LseError: Flags that contradict each other, or as `finetune_language` and `load_model`.
    """
    from lse_interp.artifacts.paths import RunPaths
    from lse_interp.neurons.on_disk import load_neurons
    from lse_interp.subnetworks.find import default_name
    from lse_interp.training.finetune_language import finetune_language
    from lse_interp.training.launch_options import Launch, check_flags
    from lse_interp.training.reporting import report
    from lse_interp.training.text_sources import training_corpus, validation_texts

    launch, method, options = Launch.find(), METHODS[config.method], config.training
    check_flags(config, launch)
    paths, language = RunPaths(config.root, config.model.model), lookup(config.lang).code
    with launch.joined(config.model) as (processes, model):
        corpus = training_corpus(config.text, language)
        validation = validation_texts(
            config.validation,
            corpus=config.text.corpus,
            languages=codes_of((language, *config.against)),
        )
        neurons = load_neurons(config, paths) if method.needs_neurons else None
        runs = []
        for n_tokens in config.n_tokens or (None,):
            name = config.name or default_name(
                method.label(config.random_match),
                profile=options.profile,
                n_tokens=n_tokens,
                seed=options.seed,
            )
            folder = paths.finetune(language, name)
            processes.require_one_folder(folder)
            gc.collect()  # A cycle may hold the model of the run before, and so its memory.
            found = finetune_language(
                launch.load(model),
                corpus,
                language=language,
                validation=validation,
                method=config.method,
                neurons=neurons,
                random_match=config.random_match,
                n_tokens=n_tokens,
                options=options,
                folder=folder,
                overwrite=config.overwrite,
            )
            report(found)
            runs.append(found)
    return runs


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    return main_for(Config, run, argv, description=__doc__)


if __name__ == "__main__":
    raise SystemExit(main())
