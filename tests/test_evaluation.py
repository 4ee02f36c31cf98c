"""The evaluation stage: what is asked, what is kept, what is refused."""

import json
import logging

import pytest
import torch

pytest.importorskip("lm_eval")

from lse_interp import load_model
from lse_interp.analysis.losses import sentence_losses
from lse_interp.artifacts.paths import RunPaths
from lse_interp.core.errors import CorpusError, LseError
from lse_interp.data.embedded import sentences
from lse_interp.data.parallel import load_parallel
from lse_interp.evaluation import Config, main, run
from lse_interp.models.loading import load_from_args, read_defaults
from lse_interp.models.packaged import packaged_folder
from lse_interp.tasks import evaluation
from lse_interp.tasks.benchmarks import load_documents, tasks_of
from lse_interp.tasks.evaluation import evaluate, loss_measures
from lse_interp.tasks.metrics import sentence_bleu
from lse_interp.tasks.questions import questions_of
from lse_interp.tasks.results import EvaluationTable
from lse_interp.tasks.task import Document, Task
from tests.subnetworks.making_runs import make_run

FEW = 3
ENDINGS = ("--tasks", "endings", "--parallel", "none", "--limit", str(FEW))


@pytest.fixture(scope="module")
def model():
    return load_model("embedded")


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """The stage's table on a few questions of all tasks, its folder, and its log."""
    root = tmp_path_factory.mktemp("runs")
    tables = run(Config(langs=("mlt",), limit=FEW, root=root))
    return tables["mlt"], RunPaths(root, "embedded")


def test_stage_asks_every_task_and_measures_losses(asked):
    table, paths = asked
    headline = [(m.task, m.metric) for m in table.measures if m.headline]
    assert headline == [
        ("embedded_translation_mlt_eng", "bleu"),
        ("embedded_translation_eng_mlt", "bleu"),
        ("embedded_topics_mlt", "letter_accuracy"),
        ("embedded_endings_mlt", "loglikelihood_accuracy"),
        ("embedded_topics_eng", "letter_accuracy"),
        ("embedded_endings_eng", "loglikelihood_accuracy"),
        ("loss_mlt", "loss"),
        ("loss_eng", "loss"),
        ("loss_others", "loss"),
    ]
    assert {scores.shape[1] for scores in table.scores} == {FEW}
    again = EvaluationTable.load(paths.evaluation("mlt"))
    assert all(torch.equal(a, b) for a, b in zip(again.scores, table.scores, strict=True))


def test_stage_measures_the_loss_of_sentences(asked, model):
    table, _ = asked
    sentences = load_parallel("embedded", languages=["mlt"], n_sentences=FEW).sentences["mlt"]
    found = table.of("loss_mlt", "loss")[0]
    torch.testing.assert_close(found, sentence_losses(model, sentences))


def test_stage_keeps_what_the_model_answered(asked):
    table, paths = asked
    (folder,) = (paths.evaluation("mlt").parent / "models").iterdir()
    lines = (folder / "embedded_translation_mlt_eng.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == FEW
    for at, row in enumerate(rows):
        bleu = sentence_bleu(row["output"], row["reference"], language="eng")
        assert bleu == pytest.approx(table.of("embedded_translation_mlt_eng", "bleu")[0, at])
        other = rows[(at + FEW // 2) % FEW]["reference"]
        control = sentence_bleu(row["output"], other, language="eng")
        found = table.of("embedded_translation_mlt_eng", "bleu_other")[0, at]
        assert control == pytest.approx(found.item())


def test_stage_asks_nothing_twice(tmp_path, monkeypatch, capsys):
    from lse_interp.tasks import harness

    calls = []
    ask = harness.run_tasks

    def counting(lm, tasks):
        calls.extend(task.name for task in tasks)
        return ask(lm, tasks)

    monkeypatch.setattr(harness, "run_tasks", counting)
    root = ("--root", str(tmp_path))
    assert main(["--langs", "mlt", *ENDINGS, *root]) == 0
    assert calls == ["embedded_endings_mlt", "embedded_endings_eng"]
    # Icelandic brings its own questions; those in English are known.
    assert main(["--langs", "mlt", "isl", *ENDINGS, *root]) == 0
    assert calls[2:] == ["embedded_endings_isl"]
    # Other questions do not take the place of a finished table; --overwrite asks again.
    out = RunPaths(tmp_path, "embedded").evaluation("mlt")
    before = out.read_bytes()
    fewer = ["--langs", "mlt", *ENDINGS[:-1], "2", *root]
    assert main(fewer) == 2
    error = capsys.readouterr().err
    assert (
        f"{out} is finished, with other questions: other questions in embedded_endings_m" in error
    )
    assert f"(limit was {FEW}, now 2). Pass --name" in error
    assert (out.read_bytes(), len(calls)) == (before, 3)
    assert main([*fewer, "--name", "two"]) == 0
    assert calls[3:] == ["embedded_endings_mlt", "embedded_endings_eng"]
    assert main(["--langs", "mlt", *ENDINGS, *root, "--overwrite"]) == 0
    assert len(calls) == 7
    # Without BOS the model answers otherwise, so nothing is reused.
    bare = ["--langs", "mlt", *ENDINGS, *root, "--bos", "none"]
    assert main(bare) == 2
    assert "bos was None, now none. Pass --overwrite" in capsys.readouterr().err
    assert main([*bare, "--name", "bare"]) == 0
    assert len(calls) == 9


def test_stage_compares_runs_with_the_base_and_averages_languages(tmp_path, model, caplog):
    paths = RunPaths(tmp_path, "embedded")
    for language in ("mlt", "isl"):
        made = make_run(model, language=language)
        made.save(paths.finetune(language, "target"))
    caplog.set_level(logging.INFO)
    tables = run(
        Config(langs=("mlt", "isl"), tasks=("endings",), limit=FEW, root=tmp_path, name="few")
    )
    assert tables["isl"].models == ("base", "target")
    assert tables["isl"].methods == ("base", "target")
    frame = tables["mlt"].to_frame()
    changes = frame[frame["model"] == "target"].set_index(["task", "metric"])["difference"]
    assert changes["loss_mlt", "loss"] != 0
    assert "Means over 2 languages" in caplog.text
    assert (paths.evaluation("mlt").parent / "few" / "mlt.safetensors").is_file()


def test_stage_keeps_models_that_were_not_asked_for(tmp_path, model, capsys):
    paths = RunPaths(tmp_path, "embedded")
    for name, method in (("target", "target"), ("random-size", "random:size")):
        make_run(model, method=method, seed=len(name)).save(paths.finetune("mlt", name))
    words = ["--langs", "mlt", *ENDINGS, "--root", str(tmp_path)]
    assert main(words) == 0
    every = EvaluationTable.load(paths.evaluation("mlt"))
    assert main([*words, "--runs", "random-size"]) == 0
    found = EvaluationTable.load(paths.evaluation("mlt"))
    assert found.models == every.models == ("base", "target", "random-size")
    for ours, theirs in zip(found.scores, every.scores, strict=True):
        assert torch.equal(ours, theirs)

    make_run(model, seed=9).save(paths.finetune("mlt", "target-again"))
    assert main([*words, "--runs", "target-again"]) == 2
    error = capsys.readouterr().err
    assert "holds target, of method target and seed " in error and "Pass --name" in error


def test_stage_measures_losses_where_there_are_sentences(tmp_path, caplog, capsys):
    caplog.set_level(logging.INFO)
    for code in ("mlt", "deu"):
        lines = "\n".join(sentence.text for sentence in sentences(code, "devtest")[:3])
        (tmp_path / f"{code}.txt").write_text(lines, encoding="utf-8")
    words = ["--tasks", "endings", "--limit", "3", "--root", str(tmp_path / "runs")]
    words += ["--parallel", str(tmp_path)]
    assert main(["--langs", "mlt", *words]) == 0
    assert "has no sentences in arb, eng, spa, fra, ita, jpn, rus, zho: left out" in caplog.text
    table = EvaluationTable.load(RunPaths(tmp_path / "runs", "embedded").evaluation("mlt"))
    losses = [measure.row for measure in table.measures if measure.metric == "loss"]
    assert losses == ["Loss", "Loss in 1 other language"]
    assert main(["--langs", "isl", *words]) == 2
    assert "Icelandic" in capsys.readouterr().err


def test_evaluate_is_the_stage_in_memory(model, asked):
    table, _ = asked
    questions = questions_of("mlt", tasks=["endings"], limit=FEW)
    found = evaluate({"base": model}, questions, language="mlt", parallel="none")
    measure = ("embedded_endings_mlt", "loglikelihood_accuracy")
    assert torch.equal(found.of(*measure), table.of(*measure))


@pytest.mark.parametrize("by", ["name", "path"])
def test_defaults_are_those_of_the_model_by_name_and_by_path(by, model, asked, monkeypatch):
    """A function without tasks and text, and a command without them, ask the same."""
    table, _ = asked
    if by == "path":
        model = load_model(packaged_folder("embedded"))
    assert read_defaults(packaged_folder("embedded")) == read_defaults("embedded") == model.defaults
    seen = {}

    def none_asked(model, questions, *, batch_size):
        seen.update(questions)
        return {}, {}

    def none_measured(model, parallel, *, language, batch_size):
        return dict.fromkeys(loss_measures(parallel, language), torch.zeros(1, dtype=torch.float64))

    monkeypatch.setattr(evaluation, "ask", none_asked)
    monkeypatch.setattr(evaluation, "measure_losses", none_measured)
    found = evaluate({"base": model}, language="mlt")
    names = [*(task.name for task in seen), *(measure.task for measure in found.measures)]
    assert names == list(dict.fromkeys(measure.task for measure in table.measures))
    assert list(found.measures)[0].row == "Loss"


def test_evaluate_refuses_nothing_to_ask(model):
    (task, *_) = tasks_of("mlt", ["embedded"])
    with pytest.raises(LseError, match="no model to ask"):
        evaluate({}, {}, language="mlt")
    with pytest.raises(CorpusError, match="has no question"):
        evaluate({"base": model}, {task: []}, language="mlt")
    wrong = [Document(prompt="?", choices=("a", "b"), answer=0)]
    with pytest.raises(CorpusError, match="should have a reference"):
        evaluate({"base": model}, {task: wrong}, language="mlt")


def test_questions_of_limits_and_names(tmp_path):
    questions = questions_of("mlt", tasks=["topics"], limit=2)
    assert [task.name for task in questions] == ["embedded_topics_mlt", "embedded_topics_eng"]
    assert all(len(documents) == 2 for documents in questions.values())
    (task, *_) = questions
    assert questions[task] == load_documents(task, limit=2)
    with pytest.raises(LseError, match="Unknown task 'belebelle'. Did you mean belebele"):
        questions_of("mlt", tasks=["belebelle"])
    with pytest.raises(CorpusError, match=str(tmp_path)):
        questions_of("mlt", tasks=["belebele"], data_dir=tmp_path)


def test_questions_of_leaves_out_what_a_benchmark_lacks():
    # Belebele has no Welsh: an empty cell, not an error.
    assert questions_of("cym", tasks=["belebele"]) == {}


def _write_jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_stage_asks_benchmarks_from_a_folder(tmp_path):
    data = tmp_path / "benchmarks"
    row = {"flores_passage": "Il-qattus raqad.", "question": "X'raqad?", "correct_answer_num": "2"}
    row |= {f"mc_answer{at}": text for at, text in enumerate(("kelb", "qattus", "ors", "far"), 1)}
    _write_jsonl(data / "belebele" / "mlt_Latn" / "test.jsonl", [row, row])
    pair = {"translation": {"en": "The cat slept.", "mt": "Il-qattus raqad."}}
    _write_jsonl(data / "opus100" / "en-mt" / "test.jsonl", [pair])
    choices = {"text": ["ice", "steam"], "label": ["1", "2"]}
    question = {"question": "What is hot?", "choices": choices, "answerKey": "2"}
    _write_jsonl(data / "arc_easy" / "validation.jsonl", [question] * 3)
    flags = ("--data-dir", str(data), "--parallel", "none", "--root", str(tmp_path / "runs"))
    assert main(["--langs", "mlt", "--tasks", "belebele", "opus100", "arc_easy", *flags]) == 0
    table = EvaluationTable.load(RunPaths(tmp_path / "runs", "embedded").evaluation("mlt"))
    found = {
        (m.label, m.metric): len(s[0])
        for m, s in zip(table.measures, table.scores, strict=True)
        if m.headline
    }
    assert found == {
        ("OPUS mlt→eng", "bleu"): 1,
        ("OPUS eng→mlt", "bleu"): 1,
        ("BELEBELE mlt", "letter_accuracy"): 2,
        ("arc easy", "letter_accuracy"): 3,
    }
    (folder,) = (tmp_path / "runs" / "embedded" / "evaluation" / "models").iterdir()
    (asked, *_) = (folder / "belebele_mlt.jsonl").read_text("utf-8").splitlines()
    assert json.loads(asked)["choices"] == ["kelb", "qattus", "ors", "far"]
    assert "Passage: Il-qattus raqad.\n\nQuestion: X'raqad?" in json.loads(asked)["prompt"]


def write_belebele(root, *codes):
    row = {"flores_passage": "a", "question": "b", "correct_answer_num": "1"}
    row |= {f"mc_answer{number}": "c" for number in range(1, 5)}
    (root / "Belebele").mkdir(exist_ok=True)
    for code in codes:
        (root / "Belebele" / f"{code}.jsonl").write_text(json.dumps(row) + "\n")
    return root


@pytest.mark.parametrize("lacks", ["file", "field", "sentences", "run", "questions"])
def test_stage_checks_every_language_before_it_loads_a_model(tmp_path, monkeypatch, lacks):
    monkeypatch.setattr("lse_interp.subnetworks.find.load_from_args", pytest.fail)
    data = write_belebele(tmp_path, "isl_Latn", "mlt_Latn")
    options = {"tasks": ("belebele",), "data_dir": data, "parallel": "none", "root": tmp_path}
    match = {
        "file": r"no file mlt_Latn/test",
        "field": r"mlt_Latn\.jsonl, line 1 has no `flores_passage`",
        "sentences": r"no file or folder for Maltese",
        "run": r"no finished run 'target' of isl",
        "questions": r"mlt\.safetensors is finished, with other questions",
    }[lacks]
    if lacks == "file":
        (data / "Belebele" / "mlt_Latn.jsonl").unlink()
    if lacks == "field":
        (data / "Belebele" / "mlt_Latn.jsonl").write_text("{}\n")
    if lacks == "sentences":
        (tmp_path / "isl.txt").write_text("a\n")
        options["parallel"] = str(tmp_path)
    if lacks == "run":
        options["runs"] = ("target",)
    if lacks == "questions":
        with monkeypatch.context() as loading:
            loading.setattr("lse_interp.subnetworks.find.load_from_args", load_from_args)
            run(Config(langs=("mlt",), tasks=("endings",), parallel="none", limit=1, root=tmp_path))
    with pytest.raises(LseError, match=match):
        run(Config(langs=("isl", "mlt"), **options))


def test_stage_writes_task_files_instead_of_asking(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    folder = tmp_path / "tasks"
    flags = ("--tasks", "belebele", "arc_easy", "--task-files", str(folder))
    assert main(["--langs", "mlt", "isl", *flags, "--root", str(tmp_path / "runs")]) == 0
    names = {path.name for path in folder.glob("*.yaml")}
    assert {"belebele_mlt.yaml", "belebele_isl.yaml", "arc_easy.yaml"} <= names
    assert "lm-eval run --include_path" in caplog.text
    assert not (tmp_path / "runs").exists()


def test_main_refuses_bad_options(capsys):
    assert main(["--langs", "mlt", "--limit", "0"]) == 2
    assert "`limit` should be 1 or more questions; got 0" in capsys.readouterr().err
    assert main(["--langs", "mlt", "--tasks", "belebelle"]) == 2
    assert "Unknown task" in capsys.readouterr().err
    assert main(["--langs", "mlt", "--data-dir", "nowhere"]) == 2
    assert "There is no folder nowhere to read benchmarks from" in capsys.readouterr().err
    for name in ("../x", "..", "models"):
        assert main(["--langs", "mlt", "--name", name]) == 2
        assert "`name` must be the name of one folder" in capsys.readouterr().err
    assert main(["--langs", "cym", "--tasks", "belebele", "--parallel", "none"]) == 2
    assert "None of the tasks exists in Welsh" in capsys.readouterr().err


def test_task_is_a_key():
    task = Task("t", "T", "t", "target", "choice", "mlt")
    assert {task: 1}[Task("t", "T", "t", "target", "choice", "mlt")] == 1
