"""Two processes started on one artefact: one makes it, the other waits and takes it as it is."""

import dataclasses
import os
import subprocess
import sys

import pytest
import torch

from lse_interp.activations import main as activations
from lse_interp.artifacts.locks import locked
from lse_interp.counting.counts import ActivationCounts
from lse_interp.finetune import main as finetune
from lse_interp.subnetworks.finetune_run import FinetuneRun
from lse_interp.tasks.answer_cache import AnswerCache
from lse_interp.tasks.results import EvaluationTable
from tests.tiny_models import tiny_hf, tiny_tokenizer
from tests.training.tiny_runs import same_run
from tests.training.tiny_stage import Place, environment

from .small_artefacts import evaluation

pytestmark = pytest.mark.slow


def start(stage, *words):
    """Start a stage, which waits for a line on stdin when it has been imported."""
    code = (
        f"import sys; from lse_interp.{stage} import main\n"
        "sys.stdin.readline()\n"
        "raise SystemExit(main(sys.argv[1:]))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        env=environment(),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_together(*processes):
    """Let processes go at once; return what each logged."""
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    logs = [process.communicate(timeout=200)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), logs
    return logs


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Flags that count the tiny model on a text, all but the root."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_hf("llama").save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    text = "\n".join(" ".join(f"w{(i * j) % 30}" for j in range(1, 20)) for i in range(400))
    (folder / "mlt.txt").write_text(text, encoding="utf-8")
    return (
        *("--model", folder / "model", "--device", "cpu", "--corpus", folder / "mlt.txt"),
        *("--langs", "mlt", "--n-tokens", 6000, "--block-size", 16, "--batch-size", 1),
    )


@pytest.mark.slow
def test_two_processes_count_a_language_once(words, tmp_path):
    both = [start("activations", *words, "--root", tmp_path / "both") for _ in range(2)]
    assert activations([str(word) for word in (*words, "--root", tmp_path / "alone")]) == 0
    logs = run_together(*both)
    (path,) = (tmp_path / "both").rglob("mlt.safetensors")
    (expected,) = (tmp_path / "alone").rglob("mlt.safetensors")
    found, expected = ActivationCounts.load(path), ActivationCounts.load(expected)
    assert torch.equal(found.shard_n_positive, expected.shard_n_positive)
    assert torch.equal(found.shard_activation_sum, expected.shard_activation_sum)
    assert found.provenance["n_tokens_counted"] == 6000
    assert sum("6,000 tokens counted now" in log for log in logs) == 1
    (other,) = (log for log in logs if "6,000 tokens counted now" not in log)
    assert "is finished; reusing it" in other
    assert sorted(left.name for left in path.parent.iterdir()) == ["mlt.json", "mlt.safetensors"]


@pytest.mark.slow
def test_two_processes_train_a_run_once(tmp_path):
    place = Place(tmp_path)
    both = [start("finetune", *place.arguments(runs="both")) for _ in range(2)]
    assert finetune(place.arguments(runs="alone")) == 0
    logs = run_together(*both)
    folder = place.run("target", runs="both")
    same_run(FinetuneRun.load(folder), FinetuneRun.load(place.run("target", runs="alone")))
    assert sum("is finished; --overwrite trains again" in log for log in logs) == 1
    names = {path.name for path in folder.iterdir()}
    assert names == {"subnetwork.safetensors", "subnetwork.json", "curves.csv", "tensorboard"}
    assert [path.name for path in folder.parent.iterdir()] == ["target"]


@pytest.mark.slow
def test_a_stage_waits_for_another_process_and_is_told_for_whom(words, tmp_path):
    root = tmp_path / "runs"
    waiting = start("activations", *words, "--root", root)
    folder = root / str(words[1]).strip("/").replace("/", "--") / "counts"
    with locked(folder / "mlt.safetensors", what="the counts of mlt"):
        waiting.stdin.write("\n")
        waiting.stdin.flush()
        line = next(line for line in waiting.stderr if line.startswith("waiting"))
        assert f"waiting for process {os.getpid()} on " in line
        assert "which is making the counts of mlt" in line
        assert list(root.rglob("*.safetensors")) == []
    _, log = waiting.communicate(timeout=100)
    assert waiting.returncode == 0, log
    assert "6,000 tokens counted now" in log


def test_two_askers_of_one_model_lose_no_answer(tmp_path):
    table = evaluation()
    (measure,) = table.measures
    first, second = (
        EvaluationTable(
            models=("base",),
            methods=("base",),
            seeds=(0,),
            fingerprints=("aa",),
            language="mlt",
            measures=(dataclasses.replace(measure, task=task),),
            scores=(table.scores[0][:1],),
        )
        for task in ("one", "another")
    )
    askers = [AnswerCache(tmp_path, "aa"), AnswerCache(tmp_path, "aa")]
    askers[0].add(first)
    askers[1].add(second)
    again = AnswerCache(tmp_path, "aa")
    assert again.find(first.measures) is not None
    assert again.find(second.measures) is not None
    # One that starts afresh finds nothing, and still deletes nothing.
    fresh = AnswerCache(tmp_path, "aa", fresh=True)
    assert fresh.find(first.measures) is None
    fresh.add(second)
    assert fresh.find(second.measures) is not None
    assert AnswerCache(tmp_path, "aa").find(first.measures) is not None
