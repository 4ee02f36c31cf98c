"""From shards of blocks to counts: each process counts its own, all of them read the rest."""

import hashlib
from collections.abc import Callable, Iterable, Sequence

from lse_interp.core.errors import ArtifactError, LseError
from lse_interp.counting.counter import NeuronCounter
from lse_interp.counting.ranks import Ranks
from lse_interp.counting.shards import Shard, ShardStore
from lse_interp.data import Block, batches
from lse_interp.data.blocks import shards
from lse_interp.models import HookedModel

__all__ = ["count_shards", "shard_blocks", "text_digest"]


def shard_blocks(blocks: Sequence[Block], *, n_shards: int, block_size: int) -> list[list[Block]]:
    """Cut a corpus into at most `n_shards` runs of consecutive blocks with about as much text.

    The cuts depend on nothing but the blocks and the two numbers. No shard is smaller than a
    block, so a short corpus has fewer of them.
    """
    n_tokens = blocks[-1].start + blocks[-1].n_text
    tokens_per_shard = max(-(-n_tokens // n_shards), block_size)
    return [list(group) for _, group in shards(blocks, tokens_per_shard=tokens_per_shard)]


def text_digest(blocks: Iterable[Block]) -> str:
    """Hash the token ids of a corpus, and which of them are text (16 hexadecimal digits)."""
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block.ids.numpy().tobytes())
        digest.update(block.is_text.numpy().tobytes())
    return digest.hexdigest()[:16]


def count_shards(
    model: HookedModel,
    groups: Sequence[Sequence[Block]],
    *,
    site: str,
    batch_size: int,
    language: str,
    ranks: Ranks,
    store: ShardStore | None,
    advance: Callable[[int], object],
) -> tuple[list[Shard], set[int]]:
    """Count the shards that are not there yet.

    Args:
        model: The model to run.
        groups: The blocks of each shard.
        site: Kind of site to read.
        batch_size: Blocks per forward pass; a pass never spans two shards.
        language: Named in errors.
        ranks: This process among those that share the work.
        store: Where finished shards are kept; None keeps them in memory.
        advance: Called with the number of text tokens done since the last call, those of shards
            found in `store` included.

    Returns:
        All shards in corpus order, in every process, and the indices of those found in `store`.

    Raises:
        ActivationError: A layer gave values that are not finite.
        MismatchError: `store` holds shards of other settings.
        LseError: Several processes and no `store` to meet in.
        ArtifactError: A shard of another process cannot be seen from this one.
    """
    if store is None and ranks.world > 1:
        raise LseError(
            f"{ranks.world} processes exchange their shards through a folder that all of them "
            "see; pass workdir."
        )
    done = store.load_all() if store is not None else {}
    # Everyone looks before anyone adds, so that all agree on what was there.
    ranks.wait()
    reused = set(done)
    advance(sum(shard.n_tokens for shard in done.values()))
    counter = NeuronCounter(model, site)
    for index, blocks in enumerate(groups):
        if index in done or not ranks.owns(index):
            continue
        what = f"{language} text (shard {index} of {len(groups)})"
        done[index] = _count(counter, blocks, batch_size=batch_size, what=what, advance=advance)
        if store is not None:
            store.save(index, done[index])
    ranks.wait()
    if store is not None and ranks.world > 1:
        done = store.load_all()
        # Nobody may clear the folder while another still reads.
        ranks.wait()
    if missing := [index for index in range(len(groups)) if index not in done]:
        raise ArtifactError(
            f"Shards {missing} of {language} are not in {store.folder if store else 'memory'} "
            "although their processes have finished. All processes must see one folder; give "
            "them a shared file system, or count parts of the corpus apart and `merge` them."
        )
    return [done[index] for index in range(len(groups))], reused


def _count(
    counter: NeuronCounter,
    blocks: Iterable[Block],
    *,
    batch_size: int,
    what: str,
    advance: Callable[[int], object],
) -> Shard:
    n_tokens = 0
    for ids, is_text in batches(blocks, batch_size):
        counter.add(ids, is_text)
        n_text = int(is_text.sum())
        n_tokens += n_text
        advance(n_text)
    n_positive, activation_sum = counter.finish(what=what)
    return Shard(n_positive, activation_sum, n_tokens)
