"""Processes that hand on packed text, played by threads with one set of counters."""

import threading
import time

import pytest
import torch
from torch.distributed import HashStore

from lse_interp.core.errors import CorpusError, LseError
from lse_interp.core.processes import Processes
from lse_interp.counting import texts
from lse_interp.counting.count_settings import Settings
from lse_interp.counting.texts import PackedText, pack_corpus, packed_texts, text_is_over
from lse_interp.data import load_corpus

LANGUAGES = ("mlt", "isl", "cym", "kat", "lit")
SETTINGS = Settings("mlp.hook_act", 90, 16, 2, 5, "document", "eos")


@pytest.fixture
def read(model, documents):
    """Pack another text for each language; `read.calls` holds the languages asked for."""
    lock = threading.Lock()

    def read(language):
        with lock:
            read.calls.append(language)
        at = LANGUAGES.index(language)
        return pack_corpus(documents[at:] + documents[:at], model.tokenizer, SETTINGS)

    read.calls = []
    return read


def played(world, read, tmp_path, *, counters=None):
    """Return what each process gets, all running at once: a list of (language, text), or an error.

    `read` is of one process for all, or a mapping from ranks.
    """
    counters = HashStore() if counters is None else counters
    got = [None] * world

    def play(rank):
        try:
            got[rank] = [
                (language, text)
                for language, text, _ in packed_texts(
                    LANGUAGES,
                    read[rank] if isinstance(read, dict) else read,
                    ranks=Processes(rank, world, counters=counters),
                    folder=lambda language: tmp_path / language,
                )
            ]
        except Exception as error:
            got[rank] = error

    threads = [threading.Thread(target=play, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return got


def assert_same(found, expected):
    assert (found.spec, found.split, found.source) == (
        expected.spec,
        expected.split,
        expected.source,
    )
    for block, other in zip(found.blocks, expected.blocks, strict=True):
        assert torch.equal(block.ids, other.ids)
        assert block.ids.dtype == other.ids.dtype == torch.int64
        assert torch.equal(block.is_text, other.is_text)
        assert block.start == other.start


def test_packed_text_is_read_as_it_was_written(model, tmp_path):
    corpus = load_corpus("embedded", language="mlt", split="dev")
    text = pack_corpus(corpus, model.tokenizer, SETTINGS)
    assert (text.spec, text.split, text.source) == ("embedded", "dev", corpus.source)
    assert len(text.blocks[-1].ids) < 16, "the last block is shorter"
    assert not all(block.is_text.all() for block in text.blocks)
    text.save(tmp_path / "text.safetensors")
    assert_same(PackedText.load(tmp_path / "text.safetensors"), text)


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_every_process_gets_every_text_which_is_read_once(read, tmp_path, world):
    for got in played(world, read, tmp_path):
        assert [language for language, _ in got] == list(LANGUAGES)
        for language, text in got:
            assert_same(text, read(language))
            read.calls.pop()
    assert sorted(read.calls) == sorted(LANGUAGES)


def test_a_process_packs_two_texts_per_process_ahead(read, tmp_path):
    """The other process is slow, or has not begun."""
    counters = HashStore()
    stream = packed_texts(
        LANGUAGES,
        read,
        ranks=Processes(1, 2, counters=counters),
        folder=lambda language: tmp_path / language,
    )
    assert next(stream)[0] == "mlt"
    deadline = time.monotonic() + 20
    while len(list(tmp_path.iterdir())) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    assert read.calls == ["mlt", "isl", "cym", "kat"]
    assert [language for language, _, _ in stream] == ["isl", "cym", "kat", "lit"]
    assert read.calls == list(LANGUAGES)


def test_a_text_that_is_over_is_not_waited_for(read, tmp_path):
    counters = HashStore()
    for language in LANGUAGES:
        text_is_over(language, Processes(0, 2, counters=counters))
    stream = packed_texts(
        LANGUAGES,
        read,
        ranks=Processes(1, 2, counters=counters),
        folder=lambda language: tmp_path / language,
    )
    assert [text for _, text, _ in stream] == [None] * 5


def test_a_text_that_nobody_packs_is_packed_here_after_a_while(read, tmp_path, monkeypatch):
    monkeypatch.setattr(texts, "_PATIENCE_SECONDS", 0.2)
    counters = HashStore()
    gone, ranks = Processes(0, 2, counters=counters), Processes(1, 2, counters=counters)
    gone.add(texts._CLAIMED, 1)
    got = list(packed_texts(LANGUAGES, read, ranks=ranks, folder=lambda code: tmp_path / code))
    assert all(text is not None for _, text, _ in got)
    assert sorted(read.calls) == sorted(LANGUAGES)
    assert got[0][2] >= 0.2
    assert not (tmp_path / "mlt").exists()


@pytest.mark.parametrize("world", [2, 4])
def test_a_slow_packer_that_lives_is_waited_for(read, tmp_path, monkeypatch, world):
    monkeypatch.setattr(texts, "_PATIENCE_SECONDS", 0.4)
    monkeypatch.setattr(texts, "_SECONDS_BETWEEN_BEATS", 0.05)

    def slow(language):
        time.sleep(1.5 if language == "isl" else 0)
        return read(language)

    for got in played(world, slow, tmp_path):
        assert [language for language, _ in got] == list(LANGUAGES)
    assert sorted(read.calls) == sorted(LANGUAGES)


def test_a_text_that_is_over_before_it_is_there_is_removed(read, tmp_path, monkeypatch):
    counters = HashStore()
    save = PackedText.save

    def late(text, path):
        save(text, path)
        text_is_over(path.parent.name, Processes(0, 2, counters=counters))

    monkeypatch.setattr(PackedText, "save", late)
    ranks = Processes(1, 2, counters=counters)
    list(packed_texts(LANGUAGES, read, ranks=ranks, folder=lambda code: tmp_path / code))
    deadline = time.monotonic() + 20
    while list(tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not list(tmp_path.iterdir())


def test_a_text_that_comes_when_it_is_over_leaves_nothing(read, tmp_path):
    counters = HashStore()

    def slow(language):
        text = read(language)
        if language == "mlt":
            text_is_over(language, Processes(0, 2, counters=counters))
        return text

    ranks = Processes(1, 2, counters=counters)
    got = list(packed_texts(LANGUAGES, slow, ranks=ranks, folder=lambda code: tmp_path / code))
    assert [text is None for _, text, _ in got] == [True, False, False, False, False]
    assert not (tmp_path / "mlt").exists()


def test_a_text_that_cannot_be_read_ends_all_processes(read, tmp_path):
    def broken(language):
        if language == "cym":
            raise CorpusError("too little text")
        return read(language)

    counters = HashStore()

    def play(rank, got):
        ranks = Processes(rank, 2, counters=counters)
        try:
            with ranks.together():
                for language, _, _ in packed_texts(
                    LANGUAGES, broken, ranks=ranks, folder=lambda code: tmp_path / code
                ):
                    got.append(language)
        except (LseError, SystemExit) as error:
            got.append(type(error))

    seen = [], []
    threads = [threading.Thread(target=play, args=(rank, seen[rank])) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    # Whoever read `cym` says what is wrong; the other leaves silently, at once.
    reader, other = sorted(seen, key=lambda got: got[-1] is SystemExit)
    assert reader == ["mlt", "isl", CorpusError]
    assert other[-1] is SystemExit and "cym" not in other
