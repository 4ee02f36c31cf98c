r"""Count how often each FFN neuron is active on text of a language.

For neuron i of layer l and the T text tokens of a language,

    p[l, i] = 1/T * sum over tokens t of [act(gate(x_t))[i] > 0],

and likewise the sum of the values themselves. Only text is counted: BOS and document separators
are read by the model and left out. Source: paper, section 3.1.

    python -m lse_interp.activations --langs mlt eng --n-tokens 100000
    accelerate launch --multi_gpu --num_processes 4 -m lse_interp.activations \
        --model meta-llama/Llama-3.1-8B --corpus glotcc --n-tokens 10000000

writes `runs/<model>/counts/<language>.safetensors`. The corpus is counted in shards. Each finished
shard is kept in `<language>.safetensors.shards/`, so that a run that was killed resumes when the
command is repeated. Several processes share the shards. Either way the counts are those of one
uninterrupted process (with as many threads, which decide the last bits of a matrix product).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lse_interp.core.cli import CONFIG_FLAT, CorpusArgs, ModelArgs, main_for
from lse_interp.core.languages import PAPER_LANGUAGES, codes_of
from lse_interp.counting.count_settings import CountSettings

__all__ = ["Config", "main", "run"]


@dataclass(frozen=True)
class Config:
    """Count activations of one model on text of several languages."""

    model: CONFIG_FLAT[ModelArgs] = ModelArgs()
    text: CONFIG_FLAT[CorpusArgs] = CorpusArgs()
    langs: tuple[str, ...] = PAPER_LANGUAGES
    """Languages, by any of their codes."""
    counting: CONFIG_FLAT[CountSettings] = CountSettings()
    root: Path = Path("runs")
    """Folder of all runs; this command writes `root/<model>/counts/`."""
    overwrite: bool = False
    """Recount existing results. If interrupted, rerun the same command to resume."""


def run(config: Config) -> dict[str, Path]:
    """Count every language and write its counts; reuse finished ones.

    Returns:
        Language -> file.

    Raises:
        LseError: See `count_languages`.
    """
    import logging
    from dataclasses import replace

    from lse_interp.artifacts.paths import RunPaths
    from lse_interp.core.processes import Processes
    from lse_interp.counting.claims import corpus_of
    from lse_interp.counting.count_languages import count_languages
    from lse_interp.data.corpora import load_corpus, require_text_of_each
    from lse_interp.models.loading import load_from_args

    with Processes.find().joined() as processes, processes.together():
        if not processes.is_main:
            logging.disable(logging.WARNING)
        config.counting.check()
        languages = codes_of(config.langs)
        require_text_of_each(config.text.corpus, languages)
        paths = RunPaths(config.root, config.model.model)
        for language in languages if processes.is_main else ():
            # Finished counts need no text; those of another corpus are refused later on.
            if config.overwrite or corpus_of(paths.counts(language)) != config.text.corpus:
                load_corpus(config.text.corpus, language=language, split=config.text.split)
        device = processes.device(config.model.device)
        return count_languages(
            load_from_args(replace(config.model, device=device)),
            languages,
            corpus=config.text,
            settings=config.counting,
            paths=paths,
            processes=processes,
            overwrite=config.overwrite,
            config=config,
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    return main_for(Config, run, argv, description=__doc__)


if __name__ == "__main__":
    raise SystemExit(main())
