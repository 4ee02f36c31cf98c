"""Artefacts on disk: whole or not there, checked when read, never of another model."""

import dataclasses
import enum
import json
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lse_interp.artifacts.atomic import write_atomic
from lse_interp.artifacts.format import load_artifact, read_meta, save_artifact
from lse_interp.artifacts.paths import RunPaths
from lse_interp.artifacts.provenance import provenance
from lse_interp.core.errors import ArtifactError, MismatchError
from lse_interp.models.info import ModelInfo

INFO = ModelInfo(
    name="toy",
    fingerprint="abc",
    architecture="LlamaForCausalLM",
    n_layers=2,
    d_model=4,
    d_mlp=8,
    n_parameters=100,
)


def tensors():
    return {
        "counts": torch.arange(6).reshape(2, 3),
        "sums": torch.rand(3, 2, dtype=torch.float64).T,
        "half": torch.rand(4).bfloat16(),
        "mask": torch.tensor([True, False]),
        "empty": torch.zeros(0, dtype=torch.int64),
        "scalar": torch.tensor(3.5),
    }


def write(folder, *, kind="thing", version=1, meta=None):
    path = folder / "thing.safetensors"
    meta = {"name": "ħobż"} if meta is None else meta
    return save_artifact(path, kind=kind, version=version, tensors=tensors(), meta=meta)


def read(path, *, kind="thing", version=1):
    return load_artifact(path, kind=kind, version=version)


def test_save_and_load_round_trip(tmp_path):
    torch.manual_seed(0)
    expected = tensors()
    torch.manual_seed(0)
    found, meta = read(write(tmp_path))
    assert meta == {"name": "ħobż"}
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_save_converts_metadata_to_json(tmp_path):
    class Colour(enum.Enum):
        RED = "red"

    meta = {
        "model": INFO,
        "path": Path("a/b"),
        "pair": (1, 2),
        "dtype": torch.bfloat16,
        "colour": Colour.RED,
    }
    assert read(write(tmp_path, meta=meta))[1] == {
        "model": INFO.to_dict(),
        "path": "a/b",
        "pair": [1, 2],
        "dtype": "torch.bfloat16",
        "colour": "red",
    }


def test_save_leaves_a_readable_twin_and_nothing_else(tmp_path):
    path = write(tmp_path)
    twin = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert twin["kind"] == "thing"
    assert twin["meta"] == {"name": "ħobż"}
    assert twin["tensors"]["counts"] == {"shape": [2, 3], "dtype": "torch.int64"}
    assert {p.name for p in tmp_path.iterdir()} == {"thing.safetensors", "thing.json"}


def test_load_never_reads_the_twin(tmp_path):
    path = write(tmp_path)
    path.with_suffix(".json").unlink()
    assert read(path)[1] == {"name": "ħobż"}


def test_read_meta_gives_the_metadata_alone(tmp_path):
    path = write(tmp_path)
    assert read_meta(path, kind="thing", version=1) == {"name": "ħobż"}
    with pytest.raises(ArtifactError, match="holds `thing`; expected `other`"):
        read_meta(path, kind="other", version=1)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_load_refuses_a_truncated_file(tmp_path, keep):
    path = write(tmp_path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ArtifactError, match=r"cannot be read as an artefact; it is truncated"):
        read(path)


def test_load_refuses_a_flipped_bit_wherever_it_is(tmp_path):
    path = write(tmp_path)
    whole = path.read_bytes()
    header = int.from_bytes(whole[:8], "little")
    n_refused = 0
    for position in range(8 + header, len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(ArtifactError, match="altered after it was written"):
            read(path)
        n_refused += 1
    assert n_refused == len(whole) - 8 - header > 0


def test_load_reads_one_file_while_another_takes_its_place(tmp_path):
    """Files are replaced between two looks at them, and the one that was opened is whole."""
    stopped = threading.Event()

    def keep_writing():
        at = 0
        while not stopped.is_set():
            at += 1
            write(tmp_path, meta={"at": at})

    write(tmp_path)
    writer = threading.Thread(target=keep_writing)
    writer.start()
    try:
        found = {read(tmp_path / "thing.safetensors")[1].get("at") for _ in range(300)}
    finally:
        stopped.set()
        writer.join()
    assert len(found) > 3


def test_load_refuses_altered_metadata(tmp_path):
    path = write(tmp_path, meta={"k": "0.05"})
    altered = path.read_bytes().replace(b"0.05", b"0.06")
    assert altered != path.read_bytes()
    path.write_bytes(altered)
    with pytest.raises(ArtifactError, match="altered after it was written: expected checksum"):
        read(path)


def test_load_refuses_what_is_not_there(tmp_path):
    with pytest.raises(ArtifactError, match="does not exist. Run the command that writes it first"):
        read(tmp_path / "absent.safetensors")


def test_load_refuses_another_kind_or_version(tmp_path):
    path = write(tmp_path, meta={"provenance": {"package_version": "9.9"}})
    with pytest.raises(ArtifactError, match="holds `thing`; expected `other`"):
        read(path, kind="other")
    with pytest.raises(ArtifactError, match=r"format version 1 of `thing`; .* version 2.*9\.9"):
        read(path, version=2)


def test_load_refuses_a_foreign_safetensors_file(tmp_path):
    save_file({"weight": torch.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(ArtifactError, match="not an artefact of lse_interp"):
        read(tmp_path / "model.safetensors")


def test_write_atomic_keeps_the_old_file_when_writing_fails(tmp_path):
    path = tmp_path / "file.txt"
    write_atomic(path, lambda temporary: temporary.write_text("old"))

    def fail(temporary):
        temporary.write_text("ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, fail)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_write_atomic_makes_the_folder(tmp_path):
    write_atomic(tmp_path / "a" / "b.txt", lambda temporary: temporary.write_text("x"))
    assert (tmp_path / "a" / "b.txt").read_text() == "x"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_layers": 3}, r"The file belongs to another model: expected n_layers 2 \(toy\), found"),
        ({"d_model": 5}, "expected d_model 4 .*found d_model 5"),
        ({"d_mlp": 9}, r"expected d_mlp 8 \(toy\), found d_mlp 9 \(toy\)"),
        ({"fingerprint": "xyz"}, "The file belongs to other weights: expected fingerprint abc"),
    ],
)
def test_require_same_refuses_another_model(changes, message):
    with pytest.raises(MismatchError, match=message):
        INFO.require_same(dataclasses.replace(INFO, **changes), what="The file")


@pytest.mark.parametrize("changes", [{}, {"fingerprint": None}, {"name": "copy"}])
def test_require_same_accepts_the_same_weights_under_any_name(changes):
    other = dataclasses.replace(INFO, **changes)
    assert INFO.require_same(other, what="The file") is None
    assert other.require_same(INFO, what="The file") is None


def test_model_info_survives_a_round_trip():
    assert ModelInfo.from_dict(json.loads(json.dumps(INFO.to_dict()))) == INFO


@pytest.mark.parametrize(
    ("model", "folder"),
    [
        ("embedded", "embedded"),
        ("meta-llama/Llama-3.1-8B", "meta-llama--Llama-3.1-8B"),
        ("/models/toy/", "models--toy"),
    ],
)
def test_run_paths_give_each_model_one_folder(model, folder):
    paths = RunPaths(Path("runs"), model)
    assert paths.folder == Path("runs") / folder
    assert paths.counts("mlt") == paths.folder / "counts" / "mlt.safetensors"
    assert paths.alignment("mlt") == paths.folder / "alignment" / "mlt.safetensors"
    assert paths.overlap.parent == paths.folder
    assert paths.neurons == paths.neurons_of("lape") == paths.folder / "neurons/lape.safetensors"


def test_run_paths_of_a_folder_do_not_depend_on_how_it_is_spelled(tmp_path, monkeypatch):
    for name in ("models/toy", "others/toy"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    spellings = (
        "models/toy",
        "models/toy/",
        "./models/toy",
        "~/models/toy",
        "others/../models/toy",
    )
    folders = {
        RunPaths(Path("runs"), name).folder for name in (*spellings, f"{tmp_path}/models/toy")
    }
    assert len(folders) == 1
    assert RunPaths(Path("runs"), "others/toy").folder not in folders
    monkeypatch.chdir(tmp_path / "models")
    assert RunPaths(Path("runs"), "toy").folder in folders
    assert RunPaths(Path("runs"), "embedded").folder == Path("runs/embedded")


def test_provenance_holds_version_time_command_and_configuration():
    @dataclasses.dataclass
    class Config:
        out: Path

    found = provenance(Config(out=Path("x")), n_tokens={"mlt": 5})
    assert found["config"] == {"out": "x"}
    assert found["n_tokens"] == {"mlt": 5}
    assert set(found) >= {"package_version", "created", "command"}
    json.dumps(found)


def test_save_artifact_takes_tensors_that_share_memory(tmp_path):
    whole = torch.arange(6.0)
    tensors = {"whole": whole, "again": whole, "part": whole[2:4]}
    path = save_artifact(tmp_path / "a.safetensors", kind="k", version=1, tensors=tensors, meta={})
    found, _ = load_artifact(path, kind="k", version=1)
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
