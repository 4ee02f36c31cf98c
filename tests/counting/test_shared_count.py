"""Processes that share the shards of a text, played in one process by one set of counters."""

import functools
import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed import HashStore

from lse_interp.activations import Config, run
from lse_interp.core.cli import CorpusArgs, ModelArgs
from lse_interp.core.errors import ActivationError, ArtifactError, LseError
from lse_interp.core.processes import Processes
from lse_interp.counting.count import SharedCount, count_activations
from lse_interp.counting.count_languages import _warn_of_idle as warn_of_idle
from lse_interp.counting.count_settings import CountSettings
from lse_interp.counting.counts import ActivationCounts
from lse_interp.counting.packed_text import PackedText

N_TOKENS, N_SHARDS = 300, 5
SETTINGS = CountSettings(
    n_tokens=N_TOKENS, block_size=16, batch_size=2, n_shards=N_SHARDS, bos_at="block", prefix=()
)


@pytest.fixture(scope="module")
def text(model, documents):
    return PackedText.pack(documents, model.tokenizer, SETTINGS)


@pytest.fixture(scope="module")
def alone(model, documents):
    """The counts of one process."""
    return count_activations(
        model,
        documents,
        language="mlt",
        n_tokens=N_TOKENS,
        block_size=16,
        batch_size=2,
        n_shards=N_SHARDS,
    )


def processes(model, text, folder, *, world, n_before=0):
    """Return the part of every process in one count."""
    counters = HashStore()
    return [
        SharedCount(
            model,
            text,
            language="mlt",
            settings=SETTINGS,
            folder=folder,
            processes=Processes(rank, world, counters=counters),
            n_before=n_before,
            launch="test",
        )
        for rank in range(world)
    ]


def assert_same(found, expected):
    assert torch.equal(found.shard_n_positive, expected.shard_n_positive)
    assert torch.equal(found.shard_activation_sum, expected.shard_activation_sum)
    assert torch.equal(found.shard_n_tokens, expected.shard_n_tokens)


@settings(deadline=None, max_examples=15)
@given(st.permutations(range(4)), st.integers(1, 4), st.integers(0, 9), st.data())
def test_counts_do_not_depend_on_who_counts(
    model, text, alone, tmp_path_factory, order, world, n_before, data
):
    """One to four processes, in any order; any of them may merge."""
    parts = processes(
        model, text, tmp_path_factory.mktemp("shards"), world=world, n_before=n_before
    )
    for rank in (rank for rank in order if rank < world):
        assert not parts[0].is_complete
        parts[rank].count(text)
    counts = parts[data.draw(st.integers(0, world - 1))].merged()
    assert_same(counts, alone)
    assert counts.provenance["n_processes"] == world
    assert counts.provenance["n_tokens_counted"] == N_TOKENS


def test_shards_are_given_by_number_over_all_texts(model, text, tmp_path):
    for n_before in range(4):
        parts = processes(model, text, tmp_path / str(n_before), world=3, n_before=n_before)
        for rank, part in enumerate(parts):
            part.count(text)
            finished = [i for i in range(N_SHARDS) if (n_before + i) % 3 <= rank]
            assert sorted(part.store.indices()) == finished


def test_shards_of_a_launch_of_other_size_are_reused(model, text, alone, tmp_path):
    processes(model, text, tmp_path, world=3)[1].count(text)
    parts = processes(model, text, tmp_path, world=2)
    for part in parts:
        part.count(text)
    counts = parts[0].merged()
    assert_same(counts, alone)
    assert counts.provenance["n_shards_reused"] == 2
    of_two_shards = int(alone.shard_n_tokens[[1, 4]].sum())
    assert counts.provenance["n_tokens_counted"] == N_TOKENS - of_two_shards


def test_is_complete_only_when_all_have_passed(model, text, tmp_path):
    """Also those without a shard: nobody may delete a text that another has yet to map."""
    parts = processes(model, text, tmp_path, world=N_SHARDS + 1)
    for part in parts:
        assert not part.is_complete
        part.count(text)
    assert parts[0].is_complete


def test_a_shard_that_another_process_wrote_elsewhere_is_missed(model, text, tmp_path):
    here = processes(model, text, tmp_path / "here", world=2)[0]
    there = processes(model, text, tmp_path / "there", world=2)[1]
    here.count(text)
    there.count(text)
    with pytest.raises(ArtifactError, match=r"00001.safetensors does not exist"):
        here.merged()


def test_several_processes_need_a_folder(model, documents, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(LseError, match="2 processes exchange their shards through a folder"):
        count_activations(model, documents, language="mlt", n_tokens=N_TOKENS, block_size=16)


def test_a_failure_ends_the_others_at_their_next_shard(model, text, tmp_path):
    """As on another machine, whose launcher sees nothing of it."""
    going_on, failing = processes(model, text, tmp_path, world=2)
    save = type(going_on.store).save

    def save_and_fail(store, index, shard):
        save(store, index, shard)
        with pytest.raises(ActivationError), failing._processes.together():
            raise ActivationError("not finite")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(going_on.store), "save", save_and_fail)
        with pytest.raises(LseError, match="Another process of this run has ended"):
            going_on.count(text)
    assert going_on.store.indices() == {0}, "the shard at hand is finished and kept"


def test_run_takes_auto_as_the_cpu_where_there_is_no_gpu(model_folder, documents, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    (tmp_path / "mlt.txt").write_text("\n".join(documents), encoding="utf-8")
    config = functools.partial(
        Config,
        text=CorpusArgs(corpus=str(tmp_path / "mlt.txt")),
        langs=("mlt",),
        counting=CountSettings(n_tokens=N_TOKENS, block_size=16),
    )
    paths = [
        run(config(model=ModelArgs(str(model_folder), device=device), root=tmp_path / device))
        for device in ("cpu", "auto")
    ]
    expected, found = (ActivationCounts.load(path["mlt"]) for path in paths)
    assert_same(found, expected)


def test_idle_processes_are_announced(caplog):
    with caplog.at_level(logging.WARNING):
        warn_of_idle(8, Processes(0, 8))
        warn_of_idle(0, Processes(0, 8))
        assert not caplog.text
        warn_of_idle(8, Processes(0, 16))
    assert "16 processes share 8 shards: 8 of them find no work" in caplog.text
