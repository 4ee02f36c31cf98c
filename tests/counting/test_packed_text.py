"""Text packed once for all processes, which threads with one set of counters play."""

import threading
import time

import pytest
import torch
from torch.distributed import HashStore

from lse_interp.core.errors import CorpusError, LseError
from lse_interp.core.processes import Processes
from lse_interp.counting import packed_text as module
from lse_interp.counting.count_settings import CountSettings
from lse_interp.counting.packed_text import FILE_NAME, PackedText, texts_ahead
from lse_interp.data.corpora import load_corpus
from lse_interp.data.packing import pack

LANGUAGES = ("mlt", "isl", "cym", "kat", "lit")
SETTINGS = CountSettings(
    n_tokens=90, block_size=16, batch_size=2, n_shards=5, bos_at="document", prefix=(1,)
)
PATIENCE = 20.0


@pytest.fixture
def read(model, documents):
    """Pack another text for each language; `read.calls` holds the languages asked for."""

    def read(language):
        read.calls.append(language)
        at = LANGUAGES.index(language)
        return PackedText.pack(documents[at:] + documents[:at], model.tokenizer, SETTINGS)

    read.calls = []
    return read


def assert_same(found, expected):
    for name in ("block_size", "spec", "split", "source", "digest"):
        assert getattr(found, name) == getattr(expected, name)
    assert torch.equal(found.ids, expected.ids)
    assert torch.equal(found.is_text, expected.is_text)


def test_blocks_are_those_of_pack(model, documents):
    options = {
        "block_size": 16,
        "n_tokens": 90,
        "prefix": (1,),
        "bos_at": "block",
        "separator": "eos",
    }
    text = PackedText.pack(documents, model.tokenizer, CountSettings(**options))
    expected = list(pack(documents, model.tokenizer, **options))
    found = list(text.blocks(range(len(expected))))
    assert len(found[-1].ids) < 16, "the last block is shorter"
    for block, other in zip(found, expected, strict=True):
        assert torch.equal(block.ids, other.ids)
        assert torch.equal(block.is_text, other.is_text)
        assert block.start == other.start


@pytest.mark.parametrize("n_shards", [1, 2, 5, 64])
def test_shards_are_all_blocks_in_order_with_about_as_much_text(model, documents, n_shards):
    text = PackedText.pack(documents, model.tokenizer, SETTINGS)
    shards = text.shards(n_shards)
    assert len(shards) <= n_shards
    assert [number for shard in shards for number in shard] == list(range(shards[-1].stop))
    sizes = [sum(block.n_text for block in text.blocks(shard)) for shard in shards]
    assert sum(sizes) == text.n_tokens == 90
    assert max(sizes) - min(sizes[:-1], default=0) <= max(90 // n_shards, 16) + 16


def test_a_text_is_mapped_as_it_was_written(model, tmp_path):
    corpus = load_corpus("embedded", language="mlt", split="dev")
    text = PackedText.pack(corpus, model.tokenizer, SETTINGS)
    assert (text.spec, text.split, text.source) == ("embedded", "dev", corpus.source)
    assert not text.is_text.all()
    text.save(tmp_path / FILE_NAME)
    found = PackedText.load(tmp_path / FILE_NAME)
    (tmp_path / FILE_NAME).unlink()
    assert_same(found, text)


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_every_process_gets_every_text_which_is_packed_once(read, tmp_path, world):
    counters, got = HashStore(), [None] * world

    def play(rank):
        processes = Processes(rank, world, counters=counters)
        texts = texts_ahead(
            LANGUAGES, read, processes=processes, folder=lambda lang: tmp_path / lang
        )
        got[rank] = [(language, text) for language, text, _ in texts]

    threads = [threading.Thread(target=play, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(read.calls) == sorted(LANGUAGES)
    for texts in got:
        assert [language for language, _ in texts] == list(LANGUAGES)
        for language, text in texts:
            assert_same(text, read(language))


def test_one_text_is_packed_ahead(read, tmp_path):
    texts = texts_ahead(LANGUAGES, read, processes=Processes(), folder=lambda lang: tmp_path / lang)
    for n_used in range(1, 4):
        next(texts)
        deadline = time.monotonic() + PATIENCE
        while len(read.calls) < n_used + 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        assert read.calls == list(LANGUAGES[: n_used + 1])
    assert not list(tmp_path.iterdir()), "one process writes nothing"


def test_an_error_is_raised_in_its_turn_and_ends_the_others(read, tmp_path):
    def broken(language):
        if language == "cym":
            raise CorpusError("too little text")
        return read(language)

    counters, seen = HashStore(), ([], [])

    def play(rank):
        processes = Processes(rank, 2, counters=counters)
        try:
            with processes.together():
                for language, _, _ in texts_ahead(
                    LANGUAGES, broken, processes=processes, folder=lambda lang: tmp_path / lang
                ):
                    seen[rank].append(language)
        except (LseError, SystemExit) as error:
            seen[rank].append(type(error))

    threads = [threading.Thread(target=play, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    # Process 0 packs `cym` and says what is wrong; the other leaves silently.
    assert seen[0] == ["mlt", "isl", CorpusError]
    assert seen[1][-1] is SystemExit and "cym" not in seen[1]


def test_a_text_that_nobody_packs_is_not_waited_for_without_end(read, tmp_path, monkeypatch):
    """As where the process that packs it was killed, and no launcher ended the others."""
    monkeypatch.setattr(module, "_LONGEST_WAIT", 0.1)
    other = Processes(1, 2, counters=HashStore())
    texts = texts_ahead(LANGUAGES, read, processes=other, folder=lambda lang: tmp_path / lang)
    with pytest.raises(LseError, match=r"mlt/text.safetensors .* was probably killed. End all"):
        next(texts)


def test_a_caller_that_stops_is_not_held_up(read, tmp_path):
    release = threading.Event()

    def slow(language):
        if language == "isl":
            release.wait(PATIENCE)
        return read(language)

    texts = texts_ahead(LANGUAGES, slow, processes=Processes(), folder=lambda lang: tmp_path / lang)
    began = time.monotonic()
    next(texts)
    texts.close()
    assert time.monotonic() - began < PATIENCE / 2
    release.set()
