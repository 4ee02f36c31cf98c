"""Files and folders are replaced whole, and a failed write costs nothing."""

import os

import pytest

from lse_interp.artifacts.atomic import remove_folder, remove_leftovers, write_atomic, write_folder
from lse_interp.core.errors import WriteError
from tests.full_disk import largest_file


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_write_atomic_keeps_the_old_file_on_a_full_disk(tmp_path):
    path = tmp_path / "file.txt"
    write_atomic(path, lambda out: out.write_text("old"))
    with largest_file(1000), pytest.raises(WriteError) as caught:
        write_atomic(path, lambda out: out.write_text("x" * 2000))
    message = str(caught.value)
    assert message.startswith(f"Could not write {path} ([Errno 27] File too large); ")
    assert message.endswith("Nothing that was there before is lost. Make room, and repeat the comm"
                            "and.")  # fmt: skip
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_write_atomic_says_where_nothing_can_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(WriteError, match="Permission denied.*Give a folder that can be written to"):
        write_atomic(tmp_path / "file.txt", lambda out: out.write_text("x"))


def test_write_atomic_says_that_a_file_is_in_the_way_of_the_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="Could not write .*file/a.txt .*; .* MB are free there"):
        write_atomic(tmp_path / "file" / "a.txt", lambda out: out.write_text("x"))


def test_write_atomic_passes_other_errors_on(tmp_path):
    with pytest.raises(ZeroDivisionError):
        write_atomic(tmp_path / "file", lambda out: 1 / 0)
    assert names(tmp_path) == []


def test_write_folder_replaces_the_whole_folder(tmp_path):
    folder = tmp_path / "model"
    write_folder(folder, lambda out: (out / "old").touch())
    assert write_folder(folder, lambda out: (out / "new").touch()) == folder
    assert names(folder) == ["new"]
    assert names(tmp_path) == ["model"]


def test_write_folder_keeps_the_old_folder_on_a_full_disk(tmp_path):
    folder = tmp_path / "model"
    write_folder(folder, lambda out: (out / "old").write_text("x"))
    match = f"Could not write {folder} .*File too large"
    with largest_file(1000), pytest.raises(WriteError, match=match):
        write_folder(folder, lambda out: (out / "new").write_text("x" * 2000))
    assert names(folder) == ["old"]
    assert names(tmp_path) == ["model"]


def test_remove_folder_leaves_no_part_in_place_when_it_is_cut_off(tmp_path, monkeypatch):
    folder = tmp_path / "checkpoints"
    (folder / "checkpoint-2").mkdir(parents=True)

    def cut_off(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", cut_off)
        with pytest.raises(KeyboardInterrupt):
            remove_folder(folder)
    assert not folder.exists()
    assert len(names(tmp_path)) == 1
    remove_leftovers(folder)
    assert names(tmp_path) == []
    remove_folder(folder)


def test_remove_leftovers_of_a_file_takes_its_twin_and_no_other(tmp_path):
    left = [".mlt.safetensors.a1b2c3d4.safetensors", ".mlt.json.a1b2c3d4.json"]
    kept = [".mlt.safetensors.lock", ".eng.json.a1b2c3d4.json", "mlt.json", "mlt.safetensors"]
    for name in left + kept:
        (tmp_path / name).touch()
    remove_leftovers(tmp_path / "mlt.safetensors")
    assert names(tmp_path) == sorted(kept)
