import json
import logging

import pytest

pytest.importorskip("lm_eval")
pytest.importorskip("sacrebleu")

from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from lse_interp.core.errors import CorpusError, LseError
from lse_interp.models.loading import load_model
from lse_interp.tasks.benchmarks import Reading, load_documents, tasks_of
from lse_interp.tasks.generation import generation_settings
from lse_interp.tasks.harness import as_lm, run_tasks
from lse_interp.tasks.yaml_export import read_documents, write_task_files

BELEBELE = [
    {
        "flores_passage": f"Il-qattus qiegħed fuq is-siġġu {at}.",
        "question": "Fejn qiegħed?",
        **{f"mc_answer{number}": f"post {number}" for number in range(1, 5)},
        "correct_answer_num": str(at + 1),
    }
    for at in range(4)
]
OPUS = [
    {"translation": {"en": f"The patient left hospital {at}.", "mt": f"Il-pazjent ħareġ {at}."}}
    for at in range(3)
]


@pytest.fixture(scope="module")
def model():
    return load_model("embedded", device="cpu")


@pytest.fixture
def data_dir(tmp_path):
    for name, rows in (("belebele/mlt_Latn", BELEBELE), ("opus100/en-mt", OPUS)):
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "test.jsonl").write_text(lines, encoding="utf-8")
    return tmp_path / "data"


def _tasks(*names):
    return tasks_of("mlt", names)


def _run(folder, names, model, *, limit=None, **options):
    manager = TaskManager(include_path=str(folder), include_defaults=False, **options)
    lm = as_lm(model, batch_size=4)
    return evaluate(lm=lm, task_dict=manager.load(names), bootstrap_iters=0, limit=limit)


def test_write_task_files_writes_every_task_of_the_paper(tmp_path):
    paths = write_task_files(tmp_path / "new" / "tasks", tasks_of("mlt", ["paper"]))
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    generated = [task.name for task in tasks_of("mlt", ["paper"])]
    letters = [task.name for task in tasks_of("mlt", ["paper"]) if task.kind == "choice"]
    assert {"flores_mlt_eng", "opus100_eng_mlt", "belebele_mlt", "mmlu"} <= set(generated)
    assert sorted(manager.all_subtasks) == sorted(
        [*generated, *(f"{name}_loglikelihood" for name in letters)]
    )
    assert manager.all_tags == ["lse_interp"]
    assert sorted(paths) == sorted((tmp_path / "new" / "tasks").iterdir())
    assert paths[-1].name == "lse_interp_tasks.py"


def test_task_files_spell_out_how_text_is_generated(tmp_path):
    path, *_ = write_task_files(tmp_path, _tasks("flores"))
    settings = load_yaml(path, resolve_func=False)["generation_kwargs"]
    assert settings == generation_settings()
    assert settings.pop("until")[:3] == ["\n", "\n\n", "Question:"]
    assert settings == {
        "do_sample": False,
        "temperature": 0.0,
        "max_gen_toks": 128,
        "repetition_penalty": 1.1,
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("flores_mlt_eng", "# FLORES mlt→eng (English). A translation is generated"),
        ("flores_eng_mlt", "#   Translate this sentence into Maltese: {source_text}\n#   Transl"),
        ("belebele_mlt", "#   Passage: {flores_passage}\n#\n#   Question: {question}\n"),
        ("sib200_mlt", "#   G) Geography\n#\n#   Text: {text}\n#\n#   Answer:\ntask: sib200_mlt\n"),
        ("arc_easy", "#   {question}\n#\n#   A) {option 1}\n#   B) {option 2}\n"),
        ("hellaswag", "#   {ctx}\n#\n#   A) {option 1}\n"),
        ("piqa", "#   Goal: {goal}\n#\n#   A) {sol1}\n#   B) {sol2}\n"),
        ("winogrande", "#   {sentence}\n#\n#   A) {option1}\n#   B) {option2}\n"),
        ("mmlu_loglikelihood", "#   {question}\n#\n#   A) {option 1}\n"),
        ("mmlu", "# Source: paper, section 4.2 (benchmark), appendices C.2 (prompt) and C.3 (gen"),
    ],
)
def test_task_files_begin_with_task_source_and_prompt(tmp_path, name, expected):
    write_task_files(tmp_path, tasks_of("mlt", ["paper"]))
    assert expected in (tmp_path / f"{name}.yaml").read_text(encoding="utf-8")


def test_write_task_files_takes_the_prompt_style(tmp_path, data_dir):
    path, *_ = write_task_files(
        tmp_path / "tasks", _tasks("opus100"), data_dir=data_dir, prompt_style="released"
    )
    assert "{source_text} Translation:" in path.read_text(encoding="utf-8")
    documents = read_documents(**load_yaml(path, resolve_func=False)["metadata"])["test"]
    assert documents[0]["prompt"].endswith(" 0. Translation:")


def test_task_files_give_the_scores_of_run_tasks(tmp_path, data_dir, model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tasks = _tasks("belebele", "opus100")
    write_task_files("tasks", tasks, data_dir="data")
    # Started elsewhere: the path of the data is absolute.
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    found = _run(tmp_path / "tasks", ["lse_interp"], model)["samples"]

    documents = {task: load_documents(task, reading=Reading(data_dir)) for task in tasks}
    expected = run_tasks(as_lm(model, batch_size=4), documents)
    assert set(found) == {*expected, "belebele_mlt_loglikelihood"}
    for name, outcomes in expected.items():
        for sample, outcome in zip(found[name], outcomes, strict=True):
            assert sample["filtered_resps"][0] == outcome.output
            assert {m: sample[m] for m in sample["metrics"]}.items() <= outcome.scores.items()
    assert set(found["opus100_mlt_eng"][0]["metrics"]) == {"bleu", "chrf", "format_failure"}
    assert set(found["belebele_mlt"][0]["metrics"]) == {"letter_accuracy", "format_failure"}
    letters = found["belebele_mlt_loglikelihood"]
    assert [sample["loglikelihood_accuracy"] for sample in letters] == [
        outcome.scores["loglikelihood_accuracy"] for outcome in expected["belebele_mlt"]
    ]
    assert [option for _, option in letters[0]["arguments"]] == [" A", " B", " C", " D"]
    assert letters[0]["arguments"][0][0] == documents[tasks[0]][0].prompt


def test_task_files_of_embedded_completions_score_as_run_tasks_does(tmp_path, model):
    (task,) = [
        task for task in tasks_of("mlt", ["embedded"]) if task.name == "embedded_endings_mlt"
    ]
    write_task_files(tmp_path, [task])
    documents = load_documents(task)
    found = _run(tmp_path, [task.name], model, limit=12)
    expected = run_tasks(as_lm(model, batch_size=4), {task: documents[:12]})[task.name]
    for sample, outcome in zip(found["samples"][task.name], expected, strict=True):
        assert {name: sample[name] for name in sample["metrics"]} == outcome.scores
    assert found["n-samples"][task.name]["original"] == len(documents)


def test_the_data_folder_can_be_given_to_the_harness_instead(tmp_path, data_dir, model, caplog):
    write_task_files(tmp_path / "tasks", _tasks("belebele"))
    with caplog.at_level(logging.ERROR, logger="lm_eval"):
        results = _run(
            tmp_path / "tasks",
            ["belebele_mlt_loglikelihood"],
            model,
            metadata={"data_dir": str(data_dir), "pretrained": "some/model"},
        )
    assert results["n-samples"]["belebele_mlt_loglikelihood"]["effective"] == 4


def test_task_files_name_the_data_that_is_missing(tmp_path, data_dir):
    path, *_ = write_task_files(tmp_path / "tasks", _tasks("sib200"), data_dir=data_dir)
    with pytest.raises(CorpusError, match="sib200"):
        read_documents(**load_yaml(path, resolve_func=False)["metadata"])


def test_write_task_files_refuses_another_prompt_style(tmp_path):
    with pytest.raises(LseError, match="`prompt_style` must be paper or released; got 'other'"):
        write_task_files(tmp_path, _tasks("flores"), prompt_style="other")
    assert not list(tmp_path.iterdir())
