import bz2
import gzip
import json
import logging
import lzma

import pyarrow
import pytest
import zstandard

from lse_interp.core.errors import CorpusError
from lse_interp.data.readers import read_documents, read_records, read_rows

TEXTS = ["Il-qattus rieqed.", "Ix-xemx telgħet, u ż-żiffa waqfet."]
PACK = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("packing", PACK)
def test_packed_text_of_several_parts_is_read_whole(tmp_path, packing):
    parts = [PACK[packing](f"{text}\n".encode()) for text in TEXTS]
    path = write(tmp_path / f"mlt.txt{packing}", b"".join(parts))
    assert list(read_documents(path)) == TEXTS


@pytest.mark.parametrize("packing", PACK)
def test_damaged_packing_is_an_error_that_names_the_file(tmp_path, packing):
    whole = PACK[packing]("".join(f"{n} text\n" for n in range(9999)).encode())
    for name, content in {"cut": whole[: len(whole) // 2], "plain": b"plain text\n" * 9}.items():
        path = write(tmp_path / f"{name}.txt{packing}", content)
        with pytest.raises(CorpusError, match=rf"{name}\.txt\{packing} cannot be decompressed"):
            list(read_documents(path))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("blanks", [0, 2])
def test_lines_end_as_on_any_system(tmp_path, end, blanks):
    path = write(tmp_path / "mlt.txt", end.join(["\ufeffone", "", "two", *[""] * blanks]))
    assert list(read_records(path)) == ["one", "", "two"]
    table = write(tmp_path / "mlt.csv", end.join(["\ufefftext,n", "one,1", *[""] * blanks]))
    assert [row for _, row in read_rows(table)] == [{"text": "one", "n": "1"}]


def test_a_carriage_return_inside_a_line_is_text(tmp_path):
    path = write(tmp_path / "mlt.txt", "one\rmore\ntwo\n")
    assert list(read_records(path)) == ["one\rmore", "two"]


def test_a_line_longer_than_any_buffer_is_one_line(tmp_path):
    long = "ħ" * 3_000_000
    assert list(read_records(write(tmp_path / "a.txt", f"one\n{long}\ntwo"))) == [
        "one",
        long,
        "two",
    ]
    assert list(read_records(write(tmp_path / "a.csv", f"text\n{long}\n"))) == [long]


@pytest.mark.parametrize("name", ["a.json", "A.JSON", "a.json.gz"])
@pytest.mark.parametrize("indent", [None, 2])
def test_json_is_a_list_or_lines(tmp_path, name, indent):
    rows = [{"text": text} for text in TEXTS]
    for content in (json.dumps(rows, indent=indent), "\n".join(map(json.dumps, rows))):
        packed = gzip.compress(content.encode()) if name.endswith("gz") else content
        assert [row for _, row in read_rows(write(tmp_path / name, packed))] == rows


def test_json_that_is_none_names_its_line(tmp_path):
    path = write(tmp_path / "a.json", '[\n {"text": "a"},\n {"text": }\n]')
    with pytest.raises(CorpusError, match=r"a\.json, line 3 is not JSON"):
        list(read_rows(path))
    cut = write(tmp_path / "cut.jsonl", '{"text": "a"}\n{"text": \n')
    with pytest.raises(CorpusError, match=r"cut\.jsonl, line 2 is not JSON: Expecting value\."):
        list(read_rows(cut))
    deep = write(tmp_path / "deep.jsonl", '{"a":' * 100_000 + "1" + "}" * 100_000)
    with pytest.raises(CorpusError, match=r"deep\.jsonl, line 1 is not JSON"):
        list(read_rows(deep))


def test_lone_surrogates_are_replaced_counted_and_said_once(tmp_path, caplog):
    rows = [r'{"text": "a\ud83d", "more": ["\udc00"]}', r'{"text": "\ud83d\ude00 \\ud83d"}']
    paths = [write(tmp_path / f"{n}.jsonl", "\n".join(rows)) for n in range(2)]
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            found = [row for _, row in read_rows(*paths)]
    assert found == [{"text": "a\ufffd", "more": ["\ufffd"]}, {"text": "\U0001f600 \\ud83d"}] * 2
    assert [record.getMessage() for record in caplog.records] == [
        "4 lone surrogates (\\ud800 to \\udfff, half a character) were replaced by U+FFFD in "
        f"{paths[0]}, {paths[1]}"
    ]


def test_lone_surrogates_are_said_of_a_text_that_is_read_in_part(tmp_path, caplog):
    path = write(tmp_path / "a.jsonl", '{"text": "\\ud83d"}\n' * 9)
    documents = read_documents(path)
    next(documents)
    documents.close()
    assert "1 lone surrogates" in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", 'text\nfine\n"open\nmore\n', r"a\.csv, line 3 cannot be read"),
        ("a.csv", 'text\n"a" b\n', r"a\.csv, line 2 cannot be read"),
        ("a.csv", "text,text\na,b\n", r"a\.csv has two columns called 'text'"),
        ("a.tsv", "id\ttext\n1\ta\tb\n", r"a\.tsv, line 2 should have 2 cells"),
        ("a.txt", b"fine\nt\0e\0", r"a\.txt, line 2, is not UTF-8: byte 0x00 at .*-f UTF-16"),
        ("a.csv", b"text\nfine\ncaf\xe9\n", r"a\.csv, line 3, is not UTF-8: byte 0xe9"),
        ("a.arrow", b"no arrow", r"a\.arrow cannot be read as arrow"),
        ("a.txt", "version https://git-lfs.github.com/spec/v1\noid 1\n", r"pointer of Git LFS"),
    ],
)
def test_a_file_that_is_broken_names_its_line(tmp_path, name, content, message):
    with pytest.raises(CorpusError, match=message):
        list(read_records(write(tmp_path / name, content)))


def test_parquet_of_text_that_is_not_utf8_is_one_error(tmp_path):
    bytes_ = pyarrow.array([b"caf\xe9"], pyarrow.binary())
    text = pyarrow.Array.from_buffers(pyarrow.string(), 1, bytes_.buffers())
    pyarrow.parquet.write_table(pyarrow.table({"text": text}), tmp_path / "a.parquet")
    with pytest.raises(CorpusError, match=r"a\.parquet cannot be read as parquet: 'utf-8'"):
        list(read_records(tmp_path / "a.parquet"))


def test_tabs_in_lines_of_text_are_text(tmp_path):
    assert list(read_records(write(tmp_path / "a.txt", "1\tone\n"))) == ["1\tone"]
