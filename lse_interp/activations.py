r"""Count how often each FFN neuron is active on text of a language.

For neuron i of layer l and the T text tokens of a language,

    p[l, i] = 1/T * sum over tokens t of [act(gate(x_t))[i] > 0],

and likewise the sum of the values themselves. Only text is counted: BOS and document separators
are read by the model and left out. Source: paper, section 3.1.

    python -m lse_interp.activations --langs mlt eng --n-tokens 100000
    accelerate launch --multi_gpu --num_processes 4 -m lse_interp.activations \
        --model meta-llama/Llama-3.1-8B --corpus glotcc --n-tokens 10000000

writes `runs/<model>/counts/<language>.safetensors`. The corpus is counted in shards, each kept in
`<language>.safetensors.shards/` once it is finished: a run that was killed goes on from there,
and several processes share the shards. Either way the counts are those of one uninterrupted
process (with as many threads, which decide the last bits of a matrix product).
"""

import logging
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm.auto import tqdm

from lse_interp.core.artifacts import RunPaths, provenance, read_meta
from lse_interp.core.cli import CONFIG_FLAT, CorpusArgs, ModelArgs, main_for
from lse_interp.core.errors import MismatchError
from lse_interp.core.languages import PAPER_LANGUAGES, lookup
from lse_interp.core.settings import differences
from lse_interp.counting.counts import KIND, VERSION, ActivationCounts, merge
from lse_interp.counting.engine import count_shards, shard_blocks, text_digest
from lse_interp.counting.ranks import Ranks
from lse_interp.counting.settings import Settings
from lse_interp.counting.shards import ShardStore
from lse_interp.data import Block, Corpus, load_corpus, pack
from lse_interp.data.blocks import Bos, Separator
from lse_interp.models import HookedModel, load_from_args

__all__ = ["ActivationCounts", "Config", "count_activations", "main", "merge", "run"]

logger = logging.getLogger(__name__)

_IN_MEMORY = "in memory"


@dataclass(frozen=True)
class Config:
    """Count activations of one model on text of several languages."""

    model: CONFIG_FLAT[ModelArgs] = ModelArgs()
    text: CONFIG_FLAT[CorpusArgs] = CorpusArgs()
    langs: tuple[str, ...] = PAPER_LANGUAGES
    """Languages, by any of their codes."""
    n_tokens: int | None = None
    """Text tokens per language; by default 20,000 of the embedded corpus, 1,000,000 of any other.
    The paper reads 100 MB of text per language, some 20 to 50 million tokens."""
    site: str = "mlp.hook_act"
    """Values that are counted where > 0; LAPE's are those of the gate, `mlp.hook_act`."""
    block_size: int | None = None
    """Positions per sequence; by default 512, and 128 for the embedded model, as in training."""
    batch_size: int = 8
    """Sequences per forward pass."""
    n_shards: int = 8
    """Pieces that the corpus is counted in: the unit of resuming, and the number of processes
    that find work."""
    bos: Bos | Literal["auto"] = "auto"
    """BOS before every block, every document or nowhere; `auto`: every block if the tokenizer
    adds BOS itself, else nowhere, and every document for the embedded model, as in training."""
    separator: Separator = "eos"
    """Between two documents: EOS, or nothing."""
    root: Path = Path("runs")
    """Folder of all runs; this stage writes `root/<model>/counts/`."""
    overwrite: bool = False
    """Count again what is already there."""


def count_activations(
    model: HookedModel,
    corpus: Corpus | Iterable[str],
    *,
    language: str,
    n_tokens: int | None,
    site: str = "mlp.hook_act",
    block_size: int = 512,
    batch_size: int = 8,
    n_shards: int = 8,
    bos: Bos | Literal["auto"] = "auto",
    separator: Separator = "eos",
    workdir: str | Path | None = None,
    overwrite: bool = False,
    show_progress: bool = False,
) -> ActivationCounts:
    """Count at how many text tokens each neuron is active, and sum its values.

    Counts are exact; sums are float32 within a batch and float64 over batches. The
    language-model head is not run.

    Args:
        model: The model, run on its own device and in its own dtype.
        corpus: A corpus, or documents.
        language: ISO 639-3, or any spelling that `lookup` knows.
        n_tokens: Text tokens to count, at least 1; None counts the whole corpus.
        site: A kind of site whose last axis is neurons.
        block_size: Positions per sequence, at most what the model was made for.
        batch_size: Sequences per forward pass.
        n_shards: Pieces of the corpus that are counted apart. None is smaller than a block, so
            short text gives fewer.
        bos: Where the model reads BOS; `auto`: before every block if the tokenizer adds BOS
            itself, else nowhere.
        separator: What the model reads between two documents.
        workdir: Folder that keeps finished shards. Called again with the same arguments, the
            function goes on from there and gives the same counts bit by bit. Processes that
            `accelerate launch` or `torchrun` started together need one. It is left behind.
        overwrite: Whether to delete what `workdir` holds first.
        show_progress: Whether to draw a progress bar on stderr.

    Returns:
        The counts of all shards, in every process.

    Raises:
        LanguageError: Unknown language.
        CorpusError: Less text than `n_tokens`, or none.
        ActivationError: Unknown site, or values that are not finite (names the first layer).
        MismatchError: `workdir` belongs to a run with other settings, or `corpus` to another
            language.
        LseError: An argument is out of range.
    """
    began, ranks = time.monotonic(), Ranks.find()
    language = _same_language(corpus, language)
    settings = Settings(site, n_tokens, block_size, batch_size, n_shards, bos, separator)
    settings = settings.fitted(model)
    blocks = _pack(corpus, model.tokenizer, settings)
    described = _describe(corpus, blocks, settings, model=model, language=language)
    store = None if workdir is None else ShardStore(Path(workdir), described)
    if store is not None and overwrite:
        ranks.once(store.clear)
    total = blocks[-1].start + blocks[-1].n_text
    with _bar(language, total, show=show_progress and ranks.is_main) as bar:
        counted, reused = count_shards(
            model,
            shard_blocks(blocks, n_shards=n_shards, block_size=block_size),
            site=site,
            batch_size=batch_size,
            language=language,
            ranks=ranks,
            store=store,
            advance=bar.update,
        )
    return ActivationCounts(
        language=language,
        model=model.info,
        site=site,
        shard_n_positive=torch.stack([shard.n_positive for shard in counted]),
        shard_activation_sum=torch.stack([shard.activation_sum for shard in counted]),
        shard_n_tokens=torch.tensor([shard.n_tokens for shard in counted]),
        provenance=provenance(
            settings=described,
            source=corpus.source if isinstance(corpus, Corpus) else _IN_MEMORY,
            n_processes=ranks.world,
            n_shards_reused=len(reused),
            n_tokens_counted=total - sum(counted[index].n_tokens for index in reused),
            seconds=time.monotonic() - began,
        ),
    )


def run(config: Config) -> dict[str, Path]:
    """Count every language and write its counts; reuse those that are there.

    Returns:
        Language -> file.

    Raises:
        LseError: See `count_activations`; also for finished counts with other settings.
    """
    languages = tuple(dict.fromkeys(lookup(code).code for code in config.langs))
    settings = _settings(config)
    ranks = Ranks.find()
    if not ranks.is_main:
        logging.disable(logging.WARNING)
    chosen = config.model
    model = load_from_args(replace(chosen, device=ranks.device(chosen.device)))
    settings = settings.fitted(model)
    paths = RunPaths(config.root, chosen.model)
    began, n_counted = time.monotonic(), 0
    for language in languages:
        n_counted += _run_language(
            config,
            settings,
            model,
            language=language,
            path=paths.counts(language),
            ranks=ranks,
        )
    logger.info(
        "languages with counts in %s: %d (%s tokens counted now, %s tokens/s)",
        paths.folder / "counts",
        len(languages),
        f"{n_counted:,}",
        f"{n_counted / (time.monotonic() - began):,.0f}",
    )
    ranks.leave()
    return {language: paths.counts(language) for language in languages}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage from the command line."""
    return main_for(Config, run, argv, description=__doc__)


def _settings(config: Config) -> Settings:
    embedded_model = config.model.model == "embedded"
    block_size = 128 if embedded_model else 512
    n_tokens = 20_000 if config.text.corpus == "embedded" else 1_000_000
    return Settings(
        site=config.site,
        n_tokens=n_tokens if config.n_tokens is None else config.n_tokens,
        block_size=block_size if config.block_size is None else config.block_size,
        batch_size=config.batch_size,
        n_shards=config.n_shards,
        bos="document" if embedded_model and config.bos == "auto" else config.bos,
        separator=config.separator,
    )


def _run_language(
    config: Config,
    settings: Settings,
    model: HookedModel,
    *,
    language: str,
    path: Path,
    ranks: Ranks,
) -> int:
    """Count one language and write it, unless it is there; return the tokens counted."""
    asked = settings.statistic(model, language=language, corpus=config.text.corpus)
    if config.text.split is not None:
        asked["split"] = config.text.split
    if not config.overwrite and _is_finished(path, asked):
        return 0
    workdir = path.with_name(f"{path.name}.shards")
    counts = count_activations(
        model,
        load_corpus(config.text.corpus, language=language, split=config.text.split),
        language=language,
        **asdict(settings),
        workdir=workdir,
        overwrite=config.overwrite,
        show_progress=True,
    )
    about = {**counts.provenance, "config": provenance(config)["config"]}

    def save() -> None:
        replace(counts, provenance=about).save(path)
        shutil.rmtree(workdir)

    ranks.once(save)
    n_new, n_reused = about["n_tokens_counted"], about["n_shards_reused"]
    logger.info(
        "%s: %s tokens (%s tokens/s%s) in %s",
        language,
        f"{counts.n_tokens:,}",
        f"{n_new / about['seconds']:,.0f}",
        f"; {n_reused} of {counts.n_shards} shards were there" if n_reused else "",
        path,
    )
    return n_new


def _is_finished(path: Path, asked: Mapping[str, Any]) -> bool:
    if not path.exists():
        return False
    found = read_meta(path, kind=KIND, version=VERSION)["provenance"].get("settings", {})
    if changed := differences({name: found.get(name) for name in asked}, asked):
        raise MismatchError(
            f"{path} was counted with other settings: {changed}. Pass --overwrite to count again, "
            "or --root to write elsewhere."
        )
    logger.info("%s is finished; reusing it (--overwrite to count again)", path)
    return True


def _same_language(corpus: Corpus | Iterable[str], language: str) -> str:
    code = lookup(language).code
    if isinstance(corpus, Corpus) and corpus.language != code:
        raise MismatchError(
            f"The corpus {corpus.spec} was opened for {corpus.language}; asked for {code}. Open it "
            "with load_corpus(..., language=...) of the language to count."
        )
    return code


def _pack(corpus: Corpus | Iterable[str], tokenizer: Any, settings: Settings) -> list[Block]:
    # All of it at once, so that text too short is refused before the first forward pass.
    return list(
        pack(
            corpus.documents() if isinstance(corpus, Corpus) else corpus,
            tokenizer,
            block_size=settings.block_size,
            n_tokens=settings.n_tokens,
            bos=settings.bos,
            separator=settings.separator,
        )
    )


def _describe(
    corpus: Corpus | Iterable[str],
    blocks: list[Block],
    settings: Settings,
    *,
    model: HookedModel,
    language: str,
) -> dict[str, Any]:
    """Return everything that the counts depend on."""
    spec, split = (corpus.spec, corpus.split) if isinstance(corpus, Corpus) else (_IN_MEMORY, None)
    return {
        **settings.statistic(model, language=language, corpus=spec),
        "split": split,
        "text": text_digest(blocks),
        **settings.numerics(model),
    }


def _bar(language: str, total: int, *, show: bool) -> tqdm:
    # None: silent where stderr is not a terminal.
    disable = None if show else True
    return tqdm(
        total=total, desc=language, unit="tok", unit_scale=True, leave=False, disable=disable
    )


if __name__ == "__main__":
    raise SystemExit(main())
