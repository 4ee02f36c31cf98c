"""A task and a kind of task that another package adds through entry points."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("lm_eval")

from lse_interp.artifacts.paths import RunPaths
from lse_interp.evaluation import main
from lse_interp.tasks.benchmarks import BENCHMARKS, tasks_of
from lse_interp.tasks.kinds import KINDS
from lse_interp.tasks.results import EvaluationTable

TASK = '''"""Colours: a benchmark in one file."""
from lse_interp.tasks.task import Document
from lse_interp.tasks.benchmarks import BENCHMARKS, Benchmark, in_english
from lse_interp.tasks.cells import position_cell, text_cell
from lse_interp.tasks.data_sets import DataSet


def question(row, *, where):
    return Document(
        prompt=f"What has the colour {text_cell(row, 'colour', where=where)}? Answer:",
        choices=("snow", "grass"),
        answer=position_cell(row, "label", first=0, n_options=2, where=where),
    )


BENCHMARKS.register("colours")(
    Benchmark(
        title="COLOURS",
        kind=KIND,
        tasks=in_english,
        data=DataSet("someone/colours", split="test", columns=("colour", "label")),
        question=question,
        example={"label": "1"},
    )
)
'''
KIND = '''"""Brevity: a kind of task in one file."""
from lse_interp.tasks.kinds import KINDS, Metric, TaskKind, Text


def score(task, document, output):
    return {"is_short": 100.0 * (len(output) < 1000)}


KINDS.register("brevity")(
    TaskKind(metrics={"is_short": Metric(headline=True)}, text=Text("A text is generated.", score))
)
'''


@pytest.fixture(params=["choice", "brevity"])
def kind(request, tmp_path, monkeypatch):
    """A package beside ours: a benchmark of a known kind, or of its own."""
    folder = tmp_path / "package"
    about = folder / "colours-1.0.dist-info"
    about.mkdir(parents=True)
    (folder / "colours.py").write_text(TASK.replace("KIND", repr(request.param)))
    points = "[lse_interp.tasks]\ncolours = colours\n"
    if request.param == "brevity":
        (folder / "brevity.py").write_text(KIND)
        points += "[lse_interp.task_kinds]\nbrevity = brevity\n"
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: colours\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(folder)
    yield request.param
    for registry, name in ((BENCHMARKS, "colours"), (KINDS, "brevity")):
        registry._known.pop(name, None)
        sys.modules.pop(name, None)


def test_a_new_task_is_in_the_help(kind, tmp_path):
    path = os.pathsep.join([str(tmp_path / "package"), *sys.path])
    shown = subprocess.run(
        [sys.executable, "-m", "lse_interp.evaluation", "--help"],
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "400"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert ",colours}" in shown


def test_a_new_task_is_asked_and_is_in_the_table(kind, tmp_path, caplog):
    folder = tmp_path / "data" / "colours"
    folder.mkdir(parents=True)
    rows = [{"colour": "white", "label": 0}, {"colour": "green", "label": 1}]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    root = tmp_path / "runs"
    caplog.set_level("INFO")

    words = ["--langs", "mlt", "--tasks", "colours", "--parallel", "none"]
    assert main([*words, "--data-dir", str(tmp_path / "data"), "--root", str(root)]) == 0

    table = EvaluationTable.load(RunPaths(root, "embedded").evaluation("mlt"))
    headline = [(m.row, m.metric) for m in table.measures if m.headline]
    metric = {"choice": "letter_accuracy", "brevity": "is_short"}[kind]
    assert headline == [("COLOURS", metric)]
    assert table.of("colours", metric).shape == (1, 2)
    assert "colours" in caplog.text


def test_a_new_task_has_a_task_file(kind, tmp_path):
    words = ["--langs", "mlt", "--tasks", "colours", "--task-files", str(tmp_path / "files")]
    assert main(words) == 0
    text = (tmp_path / "files" / "colours.yaml").read_text(encoding="utf-8")
    assert "#   What has the colour {colour}? Answer:" in text
    assert [task.name for task in tasks_of("mlt", ["colours", "arc_easy"])] == [
        "arc_easy",
        "colours",
    ]
