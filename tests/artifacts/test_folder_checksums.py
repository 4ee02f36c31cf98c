"""Checksums of folders: any change of a listed file is found."""

import shutil
import subprocess

import pytest

from lse_interp.artifacts.folder_checksums import SUMS, check_sums, write_sums
from lse_interp.core.errors import ArtifactError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "weights.bin").write_bytes(bytes(range(50)))
    (tmp_path / "sub" / "ħobż.json").write_text("{}", encoding="utf-8")
    write_sums(tmp_path)
    return tmp_path


def check(folder):
    check_sums(folder, remedy="Start afresh.")


def test_check_sums_accepts_what_was_written_and_more(folder):
    assert check(folder) is None
    (folder / "notes.txt").write_text("mine")
    assert check(folder) is None


def test_check_sums_finds_every_flipped_bit(folder):
    path = folder / "weights.bin"
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        octets = bytearray(whole)
        octets[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(octets)
        with pytest.raises(ArtifactError, match=r"weights.bin was altered .*\. Start afresh\."):
            check(folder)


def test_check_sums_misses_files_that_are_gone(folder):
    (folder / "sub" / "ħobż.json").unlink()
    with pytest.raises(ArtifactError, match=r"ħobż.json is missing\. Start afresh\."):
        check(folder)


@pytest.mark.parametrize("content", [None, b"", b"x", b"\xff\xfe"])
def test_check_sums_needs_its_list(folder, content):
    if content is None:
        (folder / SUMS).unlink()
    else:
        (folder / SUMS).write_bytes(content)
    with pytest.raises(ArtifactError, match="The checksums of .* cannot be read .* Start afresh"):
        check(folder)


def test_check_sums_finds_damage_of_its_list(folder):
    path = folder / SUMS
    whole = path.read_bytes()
    damaged = [whole[:length] for length in range(len(whole))]
    for at in range(len(whole)):
        damaged.append(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(ArtifactError, match="Start afresh"):
            check(folder)


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="sha256sum is not here")
def test_the_list_is_one_that_sha256sum_reads(folder):
    done = subprocess.run(["sha256sum", "-c", SUMS], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("OK") == 2
