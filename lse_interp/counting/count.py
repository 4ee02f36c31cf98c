"""count_activations: how often each neuron is active on the text of one language."""

import contextlib
import secrets
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import torch

from lse_interp.artifacts.atomic import remove_folder
from lse_interp.artifacts.provenance import provenance
from lse_interp.core.errors import LseError, MismatchError
from lse_interp.core.languages import lookup
from lse_interp.core.processes import Processes
from lse_interp.core.progress import Progress
from lse_interp.counting.count_settings import CountSettings
from lse_interp.counting.counter import NeuronCounter
from lse_interp.counting.counts import ActivationCounts
from lse_interp.counting.packed_text import FILE_NAME, PackedText, texts_ahead
from lse_interp.counting.shard_store import Shard, ShardStore
from lse_interp.data.corpora import Corpus
from lse_interp.data.packing import batches
from lse_interp.data.separators import BosAt, Separator
from lse_interp.models.hooked import HookedModel

__all__ = ["SharedCount", "count_activations", "count_texts"]


def count_activations(
    model: HookedModel,
    corpus: Corpus | Iterable[str],
    *,
    language: str,
    n_tokens: int | Literal["all"] | None = None,
    site: str = "mlp.hook_act",
    block_size: int | None = None,
    batch_size: int = 8,
    n_shards: int = 8,
    bos_at: BosAt | None = None,
    separator: Separator = "eos",
    workdir: str | Path | None = None,
    overwrite: bool = False,
    show_progress: bool = False,
) -> ActivationCounts:
    """Count at how many text tokens each neuron is active, and sum its values.

    Counts are exact; sums are float32 within a batch and float64 over batches. The
    language-model head is not run. What is None takes the default of the corpus or the model, as
    in `python -m lse_interp.activations`, which gives the same counts.

    Args:
        model: The model, run on its own device and in its own dtype.
        corpus: A corpus, or documents.
        language: ISO 639-3, or any spelling that `lookup` knows.
        n_tokens: Text tokens to count, at least 1, or `"all"` of the corpus.
        site: A kind of site whose last axis is neurons.
        block_size: Positions per sequence, at most what the model was made for.
        batch_size: Sequences per forward pass.
        n_shards: Pieces of the corpus that are counted apart. None is smaller than a block, so
            short text gives fewer.
        bos_at: Where the model reads its prefix: before every block, or every document.
        separator: What the model reads between two documents.
        workdir: Folder that keeps finished shards. Called again with the same arguments, the
            function resumes from it and gives the same counts bit by bit. Processes that
            `accelerate launch` or `torchrun` started together need one. It is not deleted.
        overwrite: Whether to delete what `workdir` holds first.
        show_progress: Whether to say how much is done; see `core.progress`.

    Returns:
        The counts of all shards, in every process.

    Raises:
        LanguageError: Unknown language.
        CorpusError: Less text than `n_tokens`, or none.
        ActivationError: Unknown site, or values that are not finite (names the first layer).
        MismatchError: `workdir` belongs to a run with other settings, or `corpus` to another
            language.
        LseError: An argument is out of range, or several processes have no `workdir`.
    """
    code = lookup(language).code
    if isinstance(corpus, Corpus) and corpus.language != code:
        raise MismatchError(
            f"The corpus {corpus.spec} was opened for {corpus.language}; asked for {code}. Open it "
            "with load_corpus(..., language=...) of the language to count."
        )
    chosen = CountSettings(n_tokens, site, block_size, batch_size, n_shards, bos_at, separator)
    settings = chosen.resolved(model, corpus=corpus.spec if isinstance(corpus, Corpus) else "")
    with contextlib.ExitStack() as stack:
        processes = Processes.find()
        if workdir is None:
            if processes.world > 1:
                raise LseError(
                    f"{processes.world} processes exchange their shards through a folder that all "
                    "of them see; pass workdir."
                )
            workdir = stack.enter_context(tempfile.TemporaryDirectory(prefix="lse_interp-"))
        folder = Path(workdir)
        processes = stack.enter_context(processes.joined())
        processes.require_one_folder(folder)
        if processes.is_main:
            # A text is that of one launch.
            remove_folder(folder) if overwrite else (folder / FILE_NAME).unlink(missing_ok=True)
        processes.wait()
        (count,) = count_texts(
            model,
            [code],
            lambda _: PackedText.pack(corpus, model.tokenizer, settings),
            settings=settings,
            folder=lambda _: folder,
            processes=processes,
            show_progress=show_progress,
        )
        counts = count.merged()
        # Nobody may clear the folder while another still reads.
        processes.wait()
    return counts


def count_texts(
    model: HookedModel,
    languages: Sequence[str],
    read: Callable[[str], PackedText],
    *,
    settings: CountSettings,
    folder: Callable[[str], Path],
    processes: Processes,
    overwrite: bool = False,
    show_progress: bool = False,
) -> Iterator["SharedCount"]:
    """Count texts of several languages with all processes; give each count once it is complete.

    Nobody waits for a process that is still at its part of a language: other processes than the
    main one get the counts at the end.

    Args:
        model: The model to run.
        languages: ISO 639-3.
        read: Language -> its text.
        settings: Resolved ones.
        folder: Language -> where its finished shards are kept.
        processes: The processes that share the work.
        overwrite: Whether to count shards of other settings again, instead of refusing them.
        show_progress: Whether the main process says how much of its own part is done.
    """
    launch, n_before = processes.decide(lambda: secrets.token_hex(4)), 0
    incomplete: list[SharedCount] = []
    amount = "all text" if settings.n_tokens == "all" else f"{settings.n_tokens:,} tokens"
    what, shown = f"counting {amount} of each language", show_progress and processes.is_main
    with Progress(what, total=len(languages), unit="language", shown=shown) as bar:
        for language, text, waiting in texts_ahead(
            languages, read, processes=processes, folder=folder
        ):
            count = SharedCount(
                model,
                text,
                language=language,
                settings=settings,
                folder=folder(language),
                processes=processes,
                launch=launch,
                n_before=n_before,
                overwrite=overwrite,
            )
            count.count(text, bar=bar, seconds_waiting=waiting)
            n_before += len(count.shards)
            # Before another one is held too.
            del text
            incomplete.append(count)
            while processes.is_main and incomplete and incomplete[0].is_complete:
                yield incomplete.pop(0)
    processes.wait()
    yield from incomplete


class SharedCount:
    """The count of one text, of which every process counts the shards that are its own by number.

    Process p of n counts the shards whose number, counted over all texts of the launch, is p
    modulo n. Which process counts a shard does not change it. Nobody waits for the others: a
    process passes on to its next text, and the shards can be merged once `is_complete`.

    Args:
        model: The model to run.
        text: The text, the same in every process; not kept.
        language: ISO 639-3.
        settings: Resolved ones.
        folder: Where finished shards are kept.
        processes: This process among those that share the work.
        launch: Tells its counters from those of other calls in the same processes.
        n_before: Shards of the texts before this one.
        overwrite: Whether to count shards of other settings again, instead of refusing them.
    """

    def __init__(
        self,
        model: HookedModel,
        text: PackedText,
        *,
        language: str,
        settings: CountSettings,
        folder: Path,
        processes: Processes,
        launch: str,
        n_before: int = 0,
        overwrite: bool = False,
    ) -> None:
        self.language = language
        self.shards = text.shards(settings.n_shards)
        self._model, self._info, self._source = model, model.info, text.source
        self._site, self._batch_size = settings.site, settings.batch_size
        self._processes, self._launch, self._n_before = processes, launch, n_before
        about = {
            **settings.statistic(model, language=language, corpus=text.spec),
            "split": text.split,
            "text": text.digest,
            **settings.numerics(model),
        }
        self.store = ShardStore(folder, about, overwrite)

    def count(
        self, text: PackedText, *, bar: Progress | None = None, seconds_waiting: float = 0.0
    ) -> None:
        """Count the shards of this process; finished ones are only read.

        Args:
            text: The text given before.
            bar: Is told which share of this process's part is done.
            seconds_waiting: How long this process has waited for the text.

        Raises:
            ActivationError: A layer gave values that are not finite.
            MismatchError: The folder holds shards of other settings.
            ArtifactError: A shard in the folder was altered.
            LseError: Another process has failed.
        """
        began = time.monotonic() - seconds_waiting
        finished = self.store.indices()
        counter: NeuronCounter | None = None
        rank, world = self._processes.rank, self._processes.world
        own = [i for i in range(len(self.shards)) if (self._n_before + i) % world == rank]
        n_own = max(1, text.n_tokens * len(own) // len(self.shards))

        def advance(n_tokens: int, *, worked: bool = True) -> None:
            if bar is not None:
                bar.advance(n_tokens / n_own, worked=worked)

        for index in own:
            self._processes.require_all()
            if index in finished:
                n_tokens = self.store.load(index).n_tokens
                self._add("reused", 1)
                self._add("tokens reused", n_tokens)
                advance(n_tokens, worked=False)
                continue
            counter = counter or NeuronCounter(self._model, self._site)
            self.store.save(index, self._count(counter, text, index, advance))
        self._add("ms waiting", round(1000 * seconds_waiting))
        self._add("ms", round(1000 * (time.monotonic() - began)))
        # Last, as the main process may merge once all have passed.
        self._add("passed", 1)

    @property
    def is_complete(self) -> bool:
        """Whether every process has counted its shards."""
        return self._add("passed", 0) == self._processes.world

    def merged(self) -> ActivationCounts:
        """Put the shards of all processes together.

        Raises:
            ArtifactError: A shard is missing or was altered.
        """
        found = [self.store.load(index) for index in range(len(self.shards))]
        world = self._processes.world
        n_tokens = sum(shard.n_tokens for shard in found)
        return ActivationCounts(
            language=self.language,
            model=self._info,
            site=self._site,
            shard_n_positive=torch.stack([shard.n_positive for shard in found]),
            shard_activation_sum=torch.stack([shard.activation_sum for shard in found]),
            shard_n_tokens=torch.tensor([shard.n_tokens for shard in found]),
            provenance=provenance(
                settings=self.store.settings,
                source=self._source,
                n_processes=world,
                n_shards_reused=self._add("reused", 0),
                n_tokens_counted=n_tokens - self._add("tokens reused", 0),
                # Of several processes, the mean.
                seconds=self._add("ms", 0) / 1000 / world,
                seconds_waiting=self._add("ms waiting", 0) / 1000 / world,
            ),
        )

    def _count(
        self,
        counter: NeuronCounter,
        text: PackedText,
        index: int,
        advance: Callable[[int], object],
    ) -> Shard:
        n_tokens = 0
        for ids, is_text in batches(text.blocks(self.shards[index]), self._batch_size):
            counter.add(ids, is_text)
            n_text = int(is_text.sum())
            n_tokens += n_text
            advance(n_text)
        what = f"{self.language} text (shard {index} of {len(self.shards)})"
        return Shard(*counter.finish(what=what), n_tokens)

    def _add(self, name: str, n: int) -> int:
        return self._processes.add(f"{self._launch} {self.language} {name}", n)
