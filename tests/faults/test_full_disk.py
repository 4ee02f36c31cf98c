"""A disk that is full: one line says so, nothing old is lost, and with room the command goes on."""

import dataclasses
import os
import re
import subprocess

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch

from lse_interp.activations import main as activations
from lse_interp.core.errors import WriteError
from lse_interp.counting.counts import ActivationCounts
from lse_interp.finetune import main as finetune
from lse_interp.neurons.formats.dataset_card import write_release
from lse_interp.plotting.style import save_figure
from lse_interp.subnetworks.finetune_run import FinetuneRun
from lse_interp.tasks.answer_cache import AnswerCache
from tests.full_disk import largest_file
from tests.tiny_models import tiny_hf, tiny_tokenizer
from tests.training.tiny_runs import same_run
from tests.training.tiny_stage import Place

from .small_artefacts import KINDS, evaluation, load, neurons, same, saved

pytestmark = pytest.mark.slow


class SmallDisk:
    """A file system of a few kilobytes, which can be given more room."""

    def __init__(self, folder):
        self.folder = folder

    def resize(self, kilobytes):
        self._mount(f"remount,size={kilobytes}k")

    def _mount(self, options):
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        return done.returncode == 0


@pytest.fixture
def disk(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk takes root")
    folder = tmp_path / "disk"
    folder.mkdir()
    small = SmallDisk(folder)
    if not small._mount("size=4k"):
        pytest.skip("nothing may be mounted here")
    yield small
    subprocess.run(["umount", folder], check=True)


def the_error(capsys):
    """Return the one message on stderr."""
    log = capsys.readouterr().err
    assert "Traceback" not in log
    (message,) = re.findall(r"^error: (.*)$", log, flags=re.MULTILINE)
    assert "Could not write" in message
    return message


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    tiny_hf("llama").save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    text = "\n".join(" ".join(f"w{(i * j) % 30}" for j in range(1, 20)) for i in range(40))
    (folder / "mlt.txt").write_text(text, encoding="utf-8")
    words = [
        *("--model", folder / "model", "--device", "cpu", "--corpus", folder / "mlt.txt"),
        *("--langs", "mlt", "--n-tokens", 500, "--block-size", 16, "--n-shards", 4),
    ]
    return [str(word) for word in words]


def counts_in(root):
    (path,) = root.rglob("mlt.safetensors")
    return ActivationCounts.load(path)


@pytest.mark.parametrize("kilobytes", [4, 20, 36, 44])
def test_counting_goes_on_when_there_is_room(words, disk, tmp_path, capsys, kilobytes):
    disk.resize(kilobytes)
    command = [*words, "--root", str(disk.folder)]
    assert activations(command) == 2
    message = the_error(capsys)
    assert str(disk.folder) in message
    assert "Make room" in message or "make room" in message
    assert not list(disk.folder.rglob("mlt.safetensors"))
    kept = len(list(disk.folder.rglob("0*.safetensors")))
    disk.resize(1000)
    assert activations(command) == 0
    assert activations([*words, "--root", str(tmp_path / "roomy")]) == 0
    found, expected = counts_in(disk.folder), counts_in(tmp_path / "roomy")
    assert torch.equal(found.shard_n_positive, expected.shard_n_positive)
    assert torch.equal(found.shard_activation_sum, expected.shard_activation_sum)
    assert found.provenance["n_shards_reused"] == kept
    left = sorted(path.name for path in disk.folder.rglob("*") if path.is_file())
    assert left == ["mlt.json", "mlt.safetensors"]


@pytest.mark.parametrize("kilobytes", [4, 24, 40, 64])
def test_training_goes_on_when_there_is_room(disk, tmp_path, capsys, kilobytes):
    place = Place(tmp_path)
    command = place.arguments(root=disk.folder)
    disk.resize(kilobytes)
    status = finetune(command)
    assert status == 2
    assert str(disk.folder) in the_error(capsys)
    assert not FinetuneRun.exists(_run_in(disk.folder, place))
    disk.resize(10_000)
    assert finetune(command) == 0
    assert finetune(place.arguments(runs="roomy")) == 0
    found = FinetuneRun.load(_run_in(disk.folder, place))
    same_run(found, FinetuneRun.load(place.run("target", runs="roomy")))


def _run_in(root, place):
    return root / place.run("target").relative_to(place.root / "runs")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("room", [0, 200, 500])
def test_artefacts_stay_when_they_cannot_be_replaced(tmp_path, kind, room):
    path = saved(kind, tmp_path)
    expected = load(kind, path)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*")}
    make, save, _ = KINDS[kind]
    other = make()
    with largest_file(room), pytest.raises(Exception, match="Could not write"):
        save(other, tmp_path)
    assert same(load(kind, path), expected)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*")} == before


def _picture(value):
    figure, axes = plt.subplots()
    axes.plot([0, 1], [0, value])
    return figure


@pytest.mark.parametrize("room", [0, 1000, 10_000, 20_000])
def test_a_figure_that_cannot_be_written_leaves_the_old_one(tmp_path, room):
    stem = tmp_path / "figure"
    old = save_figure(_picture(1), stem, frame=pd.DataFrame({"x": [1]}), source="test")
    before = {path: path.read_bytes() for path in old}
    # Its numbers need more room than its picture: the last file of the three fails.
    long = pd.DataFrame({"x": range(5000)})
    with largest_file(room), pytest.raises(WriteError, match="Could not write .*figure"):
        save_figure(_picture(2), stem, frame=long, source="test")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    save_figure(_picture(2), stem, frame=long, source="test")
    assert all(path.read_bytes() != before[path] for path in old)


def test_answers_and_scores_stay_when_they_cannot_be_replaced(tmp_path):
    asked = AnswerCache(tmp_path, "aa")
    path = asked.write_answers("topics", [{"answer": "A"}])
    table = evaluation()
    parts = {name: getattr(table, name)[:1] for name in ("models", "methods", "seeds")}
    parts |= {"fingerprints": ("aa",), "scores": (table.scores[0][:1],)}
    table = dataclasses.replace(table, **parts)
    with largest_file(4), pytest.raises(WriteError, match=f"Could not write {path}"):
        asked.write_answers("topics", [{"answer": "B"}])
    assert path.read_text(encoding="utf-8") == '{"answer": "A"}\n'
    with largest_file(100), pytest.raises(WriteError, match="Could not write"):
        asked.add(table)
    assert [left.name for left in asked.folder.iterdir()] == ["topics.jsonl"]


def test_a_release_stays_when_it_cannot_be_replaced(tmp_path):
    folder = tmp_path / "release"
    quantiles = {"activity_quantile": 0.95, "selectivity_quantile": 0.95}
    sets = dataclasses.replace(neurons(), thresholds={"k": 0.25} | quantiles)
    write_release(folder, sets)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with largest_file(1000), pytest.raises(WriteError, match="Could not write"):
        write_release(folder, sets)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_masks_stay_when_they_cannot_be_replaced(tmp_path):
    path = neurons().to_masks(tmp_path / "masks.pth")
    before = path.read_bytes()
    with largest_file(100), pytest.raises(WriteError, match="Could not write"):
        neurons().to_masks(path)
    assert path.read_bytes() == before
