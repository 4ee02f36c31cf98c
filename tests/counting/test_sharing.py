"""Processes that share the shards of a language, played in one process by one set of counters."""

import functools
import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed import HashStore

from lse_interp.activations import Config, count_activations, run
from lse_interp.core.cli import CorpusArgs, ModelArgs
from lse_interp.core.errors import ActivationError, ArtifactError, LseError
from lse_interp.core.processes import Processes
from lse_interp.counting.count import SharedCount, shard_blocks
from lse_interp.counting.counts import ActivationCounts
from lse_interp.counting.reporting import warn_of_idle
from lse_interp.counting.shard_store import ShardStore
from lse_interp.data import pack

N_TOKENS, BLOCK_SIZE, BATCH_SIZE, N_SHARDS = 300, 16, 2, 5
OPTIONS = {
    "language": "mlt",
    "n_tokens": N_TOKENS,
    "block_size": BLOCK_SIZE,
    "batch_size": BATCH_SIZE,
    "n_shards": N_SHARDS,
}


@pytest.fixture(scope="module")
def groups(model, documents):
    blocks = list(
        pack(documents, model.tokenizer, block_size=BLOCK_SIZE, n_tokens=N_TOKENS, bos="none")
    )
    return shard_blocks(blocks, n_shards=N_SHARDS, block_size=BLOCK_SIZE)


@pytest.fixture(scope="module")
def alone(model, documents):
    """The counts of one process."""
    return count_activations(model, documents, bos="none", **OPTIONS)


def processes(model, folder, *, world):
    """Return the part of every process in one count."""
    counters = HashStore()
    return [
        SharedCount(
            model,
            language="mlt",
            site="mlp.hook_act",
            batch_size=BATCH_SIZE,
            settings={"text": "the same"},
            source="in memory",
            ranks=Processes(rank, world, counters=counters),
            store=ShardStore(folder, {"text": "the same"}),
        )
        for rank in range(world)
    ]


def assert_same(found, expected):
    assert torch.equal(found.shard_n_positive, expected.shard_n_positive)
    assert torch.equal(found.shard_activation_sum, expected.shard_activation_sum)
    assert torch.equal(found.shard_n_tokens, expected.shard_n_tokens)


def nest(parts, groups, starts):
    """Run each process in the middle of the one before, after so many of its batches."""
    if not parts:
        return
    n_batches = 0

    def advance(n_tokens):
        nonlocal n_batches
        n_batches += 1
        if n_batches == starts[0]:
            nest(parts[1:], groups, starts[1:])

    parts[0].count(groups, advance=advance)
    if n_batches < starts[0]:
        nest(parts[1:], groups, starts[1:])


@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(0, 2**31))
def test_counts_do_not_depend_on_who_counts(model, groups, alone, tmp_path_factory, starts, last):
    """One to eight processes, some slow, some without work; any of them may merge."""
    parts = processes(model, tmp_path_factory.mktemp("shards"), world=len(starts))
    nest(parts, groups, starts)
    counts = parts[last % len(parts)].merged()
    assert_same(counts, alone)
    assert counts.provenance["n_processes"] == len(starts)
    assert counts.provenance["n_tokens_counted"] == N_TOKENS


def test_a_slow_process_counts_less(model, groups, alone, tmp_path):
    slow, fast = processes(model, tmp_path, world=2)
    nest([slow, fast], groups, [1, 1])
    assert sorted(slow._mine) == [0]
    assert sorted(fast._mine) == [1, 2, 3, 4]
    assert_same(slow.merged(), alone)


def test_is_complete_only_when_the_last_shard_is_there(model, groups, tmp_path):
    slow, fast = processes(model, tmp_path, world=2)
    seen = []

    def advance(n_tokens):
        if not seen:
            fast.count(groups, advance=lambda n: None)
            seen.append(fast.is_complete)

    slow.count(groups, advance=advance)
    assert seen == [False]
    assert slow.is_complete and fast.is_complete


def test_a_process_that_comes_late_finds_nothing_to_do(model, groups, alone, tmp_path):
    early, late = processes(model, tmp_path / "shards", world=2)
    early.count(groups, advance=lambda n: None)
    assert_same(early.merged(), alone)
    for file in (tmp_path / "shards").iterdir():
        file.unlink()
    late.count(groups, advance=lambda n: None)
    assert not late._mine


def test_progress_is_that_of_all_processes(model, groups, tmp_path):
    parts = processes(model, tmp_path, world=2)
    seen = []
    parts[0].count(
        groups,
        advance=lambda n: (
            seen.append(n) or len(seen) == 1 and parts[1].count(groups, advance=lambda n: None)
        ),
    )
    assert sum(seen) == N_TOKENS


def test_a_shard_that_another_process_wrote_elsewhere_is_missed(model, groups, tmp_path):
    here, there = processes(model, tmp_path / "here", world=2)
    there.store = ShardStore(tmp_path / "there", there.store.settings)
    nest([here, there], groups, [1, 1])
    with pytest.raises(ArtifactError, match=r"00001.safetensors does not exist") as caught:
        here.merged()
    assert "Another process has counted shard 1 of mlt" in caught.value.__notes__[0]


def test_several_processes_need_a_folder(model):
    with pytest.raises(LseError, match="2 processes exchange their shards through a folder"):
        SharedCount(
            model,
            language="mlt",
            site="mlp.hook_act",
            batch_size=BATCH_SIZE,
            settings={},
            source="in memory",
            ranks=Processes(0, 2),
            store=None,
        )


def test_a_failure_ends_the_others_at_their_next_claim(model, groups, tmp_path):
    """As on another machine, whose launcher sees nothing of it."""
    going_on, failing = processes(model, tmp_path, world=2)

    def fail():
        with pytest.raises(ActivationError), failing._ranks.together():
            raise ActivationError("not finite")

    fails = iter([fail])

    with pytest.raises(LseError, match="Another process of this run has ended"):
        going_on.count(groups, advance=lambda n: next(fails, int)())
    assert sorted(going_on._mine) == [0], "the shard at hand is finished and kept"
    assert going_on.store.indices() == {0}


def test_run_takes_auto_as_the_cpu_where_there_is_no_gpu(model_folder, documents, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    (tmp_path / "mlt.txt").write_text("\n".join(documents), encoding="utf-8")
    config = functools.partial(
        Config,
        text=CorpusArgs(corpus=str(tmp_path / "mlt.txt")),
        langs=("mlt",),
        n_tokens=N_TOKENS,
        block_size=BLOCK_SIZE,
    )
    paths = [
        run(config(model=ModelArgs(str(model_folder), device=device), root=tmp_path / device))
        for device in ("cpu", "auto")
    ]
    found, expected = (ActivationCounts.load(path["mlt"]) for path in reversed(paths))
    assert_same(found, expected)


def test_run_says_how_many_processes_find_no_work(caplog):
    with caplog.at_level(logging.WARNING):
        warn_of_idle(8, Processes(0, 8))
        warn_of_idle(0, Processes(0, 8))
        assert not caplog.text
        warn_of_idle(8, Processes(0, 16))
    assert "16 processes share 8 shards: 8 of them find no work. More --n-shards" in caplog.text
