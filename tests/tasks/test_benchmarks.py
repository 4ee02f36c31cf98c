import dataclasses
import gzip

import pyarrow
import pyarrow.parquet
import pytest

from lse_interp.core.errors import CorpusError, LanguageError, LseError
from lse_interp.core.languages import PAPER_LANGUAGES, PAPER_TARGETS, lookup
from lse_interp.tasks import benchmarks
from lse_interp.tasks.benchmarks import BENCHMARKS, SUITES, Reading, tasks_of
from lse_interp.tasks.benchmarks.belebele import BELEBELE
from lse_interp.tasks.benchmarks.flores import FLORES_200
from lse_interp.tasks.benchmarks.opus100 import OPUS_100
from lse_interp.tasks.kinds import require_documents
from lse_interp.tasks.kinds.translation import translation_prompt
from scripts.compatibility.layouts import write_rows

FORMATS = ("jsonl", "jsonl.gz", "parquet", "csv", "tsv")
GENERAL = ("arc_challenge", "arc_easy", "hellaswag", "piqa", "winogrande", "mmlu")

# Benchmark -> folder, split, rows with every column the hub has that is text or number.
ROWS = {
    "belebele": (
        "mlt_Latn",
        "test",
        [
            {
                "link": "https://en.wikibooks.org/wiki/A",
                "question_number": 1,
                "flores_passage": 'Il-passaġġ, "hawn".\nLinja.',
                "question": "X'inhu?",
                **{f"mc_answer{n}": f"għażla {n}" for n in range(1, 5)},
                "correct_answer_num": answer,
                "dialect": "mlt_Latn",
            }
            for answer in ("3", "1")
        ],
    ),
    "sib200": (
        "mlt_Latn",
        "test",
        [
            {"index_id": 373, "category": "geography", "text": 'Għawdex hija "gżira".'},
            {"index_id": 7, "category": "science/technology", "text": "Kompjuter."},
        ],
    ),
    "arc_challenge": (
        "ARC-Challenge",
        "validation",
        [
            {
                "id": "Mercury_1",
                "question": "What is ice?",
                "choices": {"text": ["Water", "Sand", "Gas"], "label": ["A", "B", "C"]},
                "answerKey": "A",
            },
            {
                "id": "NYSEDREGENTS_2",
                "question": "What is steam?",
                "choices": {"text": ["Ice", "Sand", "Gas", "Oil"], "label": ["1", "2", "3", "4"]},
                "answerKey": "3",
            },
        ],
    ),
    "hellaswag": (
        ".",
        "validation",
        [
            {
                "ind": 24,
                "activity_label": "Roof shingle removal",
                "ctx_a": "A man is sitting on a roof.",
                "ctx_b": "he",
                "ctx": "A man is sitting on a roof. he",
                "endings": ["is, still.", "sings.", "falls.", "[title] climbs."],
                "source_id": "activitynet~v_-JhWjGDPHMY",
                "split": "val",
                "split_type": "indomain",
                "label": label,
            }
            for label in ("3", "0")
        ],
    ),
    "piqa": (
        ".",
        "validation",
        [
            {"goal": "Boil an egg.", "sol1": "In water.", "sol2": "In sand.", "label": label}
            for label in (0, 1)
        ],
    ),
    "winogrande": (
        "winogrande_xl",
        "validation",
        [
            {
                "sentence": "The cup did not fit the box as _ was big.",
                "option1": "cup",
                "option2": "box",
                "answer": answer,
            }
            for answer in ("1", "2")
        ],
    ),
    "mmlu": (
        "all",
        "validation",
        [
            {
                "question": "What is 1 + 1?",
                "subject": "abstract_algebra",
                "choices": ["0", "1", "2", "3"],
                "answer": answer,
            }
            for answer in (2, 0)
        ],
    ),
}
ROWS["arc_easy"] = ("ARC-Easy", *ROWS["arc_challenge"][1:])
OPUS = [{"translation": {"en": f"sentence {n}", "mt": f"sentenza {n}"}} for n in range(3)]
FLORES = {
    "eng_Latn": [{"id": n, "text": f"sentence {n}", "topic": "x"} for n in range(3)],
    "mlt_Latn": [{"id": n, "text": f"sentenza {n}", "topic": "x"} for n in (2, 0, 1)],
}

# Benchmark -> options and positions of the answers.
ANSWERS = {
    "belebele": [(("għażla 1", "għażla 2", "għażla 3", "għażla 4"), at) for at in (2, 0)],
    "sib200": [
        (
            (
                "Science/Technology",
                "Travel",
                "Politics",
                "Sports",
                "Health",
                "Entertainment",
                "Geography",
            ),
            at,
        )
        for at in (6, 0)
    ],
    "arc_challenge": [(("Water", "Sand", "Gas"), 0), (("Ice", "Sand", "Gas", "Oil"), 2)],
    "hellaswag": [(("is, still.", "sings.", "falls.", "[title] climbs."), at) for at in (3, 0)],
    "piqa": [(("In water.", "In sand."), at) for at in (0, 1)],
    "winogrande": [(("cup", "box"), at) for at in (0, 1)],
    "mmlu": [(("0", "1", "2", "3"), at) for at in (2, 0)],
}
ANSWERS["arc_easy"] = ANSWERS["arc_challenge"]


def load_documents(task, *, data_dir=None, prompt_style="paper", limit=None):
    return benchmarks.load_documents(task, reading=Reading(data_dir, prompt_style), limit=limit)


def write_benchmark(root, name, *, rows=None, suffix="jsonl"):
    folder, split, own = ROWS[name]
    return write_rows(root / name / folder / f"{split}.{suffix}", own if rows is None else rows)


def write_flores(root, *, suffix="jsonl", **tables):
    for config, rows in {**FLORES, **tables}.items():
        write_rows(root / "flores" / config / f"devtest.{suffix}", rows)


def task_of(name, language="mlt"):
    return tasks_of(language, [name])[0]


def translation_tasks(name):
    to_english, from_english = tasks_of("mlt", [name])
    return to_english, from_english


def changed(name, **cells):
    return [{**row, **cells} for row in ROWS[name][2]]


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("name", ROWS)
def test_load_documents_reads_questions_with_options(tmp_path, name, suffix):
    write_benchmark(tmp_path, name, suffix=suffix)
    task = task_of(name)

    documents = load_documents(task, data_dir=tmp_path)

    require_documents(task, documents)
    assert [(document.choices, document.answer) for document in documents] == ANSWERS[name]
    assert documents[0] == BENCHMARKS[name].question(ROWS[name][2][0], where="")


def test_load_documents_refuses_labels_of_other_rows(tmp_path):
    rows = [{"goal": "g", "sol1": "a", "sol2": "b"}] * 2
    write_rows(tmp_path / "piqa" / "valid.jsonl", rows)
    (tmp_path / "piqa" / "valid-labels.lst").write_text("0\n")
    with pytest.raises(CorpusError, match=r"valid-labels\.lst should .* expected 2, found 1"):
        load_documents(task_of("piqa"), data_dir=tmp_path)


@pytest.mark.parametrize("suffix", FORMATS)
def test_load_documents_reads_opus_in_both_directions(tmp_path, suffix):
    write_rows(tmp_path / "opus100" / "en-mt" / f"test.{suffix}", OPUS)
    to_english, from_english = translation_tasks("opus100")

    first = load_documents(to_english, data_dir=tmp_path)
    second = load_documents(from_english, data_dir=tmp_path)

    require_documents(to_english, first)
    assert first[1].prompt == translation_prompt("sentenza 1", target_name="English")
    assert [document.reference for document in first] == [f"sentence {n}" for n in range(3)]
    assert second[1].prompt == translation_prompt("sentence 1", target_name="Maltese")
    assert [document.reference for document in second] == [f"sentenza {n}" for n in range(3)]


@pytest.mark.parametrize("suffix", FORMATS)
def test_load_documents_aligns_flores_by_id_in_the_order_of_english(tmp_path, suffix):
    write_flores(tmp_path, suffix=suffix)
    to_english, from_english = translation_tasks("flores")

    first = load_documents(to_english, data_dir=tmp_path)
    second = load_documents(from_english, data_dir=tmp_path)

    assert [document.reference for document in first] == [f"sentence {n}" for n in range(3)]
    assert [document.reference for document in second] == [f"sentenza {n}" for n in range(3)]
    assert first[0].prompt == translation_prompt("sentenza 0", target_name="English")


def test_load_documents_takes_the_style_of_the_released_code(tmp_path):
    write_flores(tmp_path)

    documents = load_documents(
        task_of("flores"), data_dir=tmp_path, prompt_style="released", limit=1
    )

    assert [d.prompt for d in documents] == [
        "Translate this sentence into English: sentenza 0 Translation:"
    ]


@pytest.mark.parametrize("limit", [1, 2, 9])
def test_load_documents_takes_the_first_questions(tmp_path, limit):
    write_benchmark(tmp_path, "mmlu")
    whole = load_documents(task_of("mmlu"), data_dir=tmp_path)

    assert load_documents(task_of("mmlu"), data_dir=tmp_path, limit=limit) == whole[:limit]


def test_load_documents_refuses_a_limit_below_1(tmp_path):
    with pytest.raises(CorpusError, match="`limit` should be 1 or more questions; got 0"):
        load_documents(task_of("mmlu"), data_dir=tmp_path, limit=0)


@pytest.mark.parametrize("folder", ["est_Latn", "ekk_Latn", "ekk", "est", "et"])
def test_load_documents_tries_every_spelling_of_a_language(tmp_path, folder):
    write_rows(tmp_path / "belebele" / folder / "test.jsonl", ROWS["belebele"][2])

    assert len(load_documents(task_of("belebele", "ekk"), data_dir=tmp_path)) == 2


@pytest.mark.parametrize("folder", ["en-mt", "mt-en", "eng-mlt", "mlt-eng"])
@pytest.mark.parametrize("keys", [("en", "mt"), ("eng", "mlt")])
def test_load_documents_tries_every_spelling_of_a_pair(tmp_path, folder, keys):
    rows = [{"translation": dict(zip(keys, ("a", "b"), strict=True))}]
    write_rows(tmp_path / "opus100" / folder / "test.jsonl", rows)

    assert load_documents(task_of("opus100"), data_dir=tmp_path)[0].reference == "a"


@pytest.mark.parametrize("name", GENERAL)
def test_load_documents_finds_english_benchmarks_without_a_configuration(tmp_path, name):
    _, split, rows = ROWS[name]
    write_rows(tmp_path / name / f"{split}.jsonl", rows)

    assert len(load_documents(task_of(name), data_dir=tmp_path)) == 2


def test_load_documents_reads_shards_in_order(tmp_path):
    for at in range(2):
        path = tmp_path / "piqa" / f"validation-0000{at}-of-00002.parquet"
        write_rows(path, [{**ROWS["piqa"][2][0], "goal": f"goal {at}"}])

    documents = load_documents(task_of("piqa"), data_dir=tmp_path)

    assert ["goal 0" in documents[0].prompt, "goal 1" in documents[1].prompt] == [True, True]
    (tmp_path / "piqa" / "validation-00000-of-00002.parquet").unlink()
    with pytest.raises(CorpusError, match=r"should hold 2 shards of validation; found .*-00001-of"):
        load_documents(task_of("piqa"), data_dir=tmp_path)


def test_load_documents_refuses_a_split_that_is_there_twice(tmp_path):
    for suffix in ("csv", "jsonl"):
        write_benchmark(tmp_path, "piqa", suffix=suffix)

    with pytest.raises(CorpusError, match=r"more than once: validation\.csv, validation\.jsonl"):
        load_documents(task_of("piqa"), data_dir=tmp_path)


def test_load_documents_names_what_it_looked_for_and_what_is_there(tmp_path):
    task = task_of("belebele", "ekk")
    with pytest.raises(
        CorpusError, match=r"no file est_Latn/test, ekk/test, .* in .*/none/belebele, "
    ):
        load_documents(task, data_dir=tmp_path / "none")
    (tmp_path / "belebele" / "mlt_Latn").mkdir(parents=True)
    with pytest.raises(CorpusError, match=r"est_Latn/test, .*belebele holds: mlt_Latn/"):
        load_documents(task, data_dir=tmp_path)
    write_rows(tmp_path / "belebele" / "est_Latn" / "dev.jsonl", ROWS["belebele"][2])
    with pytest.raises(
        CorpusError, match=r"no file est_Latn/test, .*/est_Latn holds: dev\.jsonl\."
    ):
        load_documents(task, data_dir=tmp_path)


def test_load_documents_names_both_places_of_an_english_benchmark(tmp_path):
    with pytest.raises(
        CorpusError, match=r"no file all/validation, validation, .* holds: \(nothing\)\."
    ):
        load_documents(task_of("mmlu"), data_dir=tmp_path)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("name", ROWS)
def test_load_documents_names_the_columns_expected_and_found(tmp_path, name, suffix):
    for column in BENCHMARKS[name].data.columns:
        rows = [{k: v for k, v in row.items() if k != column} for row in ROWS[name][2]]
        write_benchmark(tmp_path, name, rows=rows, suffix=suffix)

        expected = ", ".join(BENCHMARKS[name].data.columns)
        found = ", ".join(rows[0])
        with pytest.raises(CorpusError) as error:
            load_documents(task_of(name), data_dir=tmp_path)
        message = str(error.value)
        assert f" has no `{column}`: expected the columns {expected}; found {found}." in message


def test_load_documents_names_the_columns_of_translations(tmp_path):
    write_rows(tmp_path / "opus100" / "en-mt" / "test.jsonl", [{"en": "a", "mt": "b"}])
    write_flores(tmp_path, mlt_Latn=[{"id": 0, "sentence": "a"}])

    with pytest.raises(CorpusError, match="no `translation`: .* found en, mt"):
        load_documents(task_of("opus100"), data_dir=tmp_path)
    with pytest.raises(CorpusError, match="no `text`: expected the columns id, text; found id, s"):
        load_documents(task_of("flores"), data_dir=tmp_path)


def test_load_documents_names_a_language_that_a_pair_lacks(tmp_path):
    write_rows(
        tmp_path / "opus100" / "en-mt" / "test.jsonl", [{"translation": {"en": "a", "de": "b"}}]
    )

    with pytest.raises(CorpusError, match=r"no Maltese; expected a key mlt or mt, found en, de"):
        load_documents(task_of("opus100"), data_dir=tmp_path)


def test_load_documents_refuses_flores_that_is_not_parallel(tmp_path):
    write_flores(tmp_path, mlt_Latn=FLORES["mlt_Latn"][:2])
    with pytest.raises(
        CorpusError,
        match=r"eng has 3 sentences and mlt 2, and they differ in 1 sentence ids, e\.g\. 1",
    ):
        load_documents(task_of("flores"), data_dir=tmp_path)
    write_flores(tmp_path, mlt_Latn=FLORES["mlt_Latn"] * 2)
    with pytest.raises(CorpusError, match="line 4: the `id` 2 was used before"):
        load_documents(task_of("flores"), data_dir=tmp_path)


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "csv", "tsv"])
@pytest.mark.parametrize("text", ["", "\n"])
def test_load_documents_refuses_an_empty_file(tmp_path, suffix, text):
    path = tmp_path / "piqa" / f"validation.{suffix}"
    path.parent.mkdir()
    path.write_bytes(gzip.compress(text.encode()) if suffix.endswith("gz") else text.encode())

    with pytest.raises(CorpusError, match=r"is empty: expected"):
        load_documents(task_of("piqa"), data_dir=tmp_path)


def test_load_documents_refuses_a_table_of_a_header_alone(tmp_path):
    write_benchmark(tmp_path, "piqa", suffix="parquet", rows=ROWS["piqa"][2])
    path = tmp_path / "piqa" / "validation.parquet"
    pyarrow.parquet.write_table(pyarrow.parquet.read_table(path).slice(0, 0), path)

    with pytest.raises(CorpusError, match=r"validation\.parquet is empty"):
        load_documents(task_of("piqa"), data_dir=tmp_path)


@pytest.mark.parametrize(
    ("name", "cells", "message"),
    [
        ("belebele", {"correct_answer_num": "0"}, r"should be the right option, 1 to 4; found '0'"),
        ("belebele", {"correct_answer_num": "5"}, r"1 to 4; found '5'"),
        ("belebele", {"question": None}, r"`question` should be text; found None"),
        ("sib200", {"category": "Geography"}, r"one of science/technology, .* found 'Geography'"),
        ("arc_easy", {"answerKey": "E"}, r"should be one of the 3 labels .* found 'E' and the"),
        ("arc_easy", {"choices": ["a", "b"]}, r"`choices` should be an object; found \['a', 'b'\]"),
        ("arc_easy", {"choices": {"text": ["a"]}}, r"`choices` has no `label`: expected the col"),
        ("hellaswag", {"label": ""}, r"0 to 3; found ''. Splits without answers cannot be scored"),
        ("hellaswag", {"endings": "a, b"}, r"`endings` is text that is not JSON .* write this col"),
        ("hellaswag", {"endings": ["a"]}, r"a list of 2 to 10 texts; found \['a'\]"),
        ("piqa", {"label": -1}, r"0 to 1; found -1"),
        ("piqa", {"label": True}, r"0 to 1; found True"),
        ("winogrande", {"answer": ""}, r"1 to 2; found ''"),
        ("winogrande", {"answer": "3"}, r"1 to 2; found '3'"),
        ("mmlu", {"answer": 4}, r"0 to 3; found 4"),
        ("mmlu", {"answer": 1.0}, r"0 to 3; found 1.0"),
        ("mmlu", {"choices": {"text": []}}, r"`choices` should be a list; found \{'text': \[\]\}"),
    ],
)
def test_load_documents_refuses_an_answer_that_is_no_option(tmp_path, name, cells, message):
    path = write_benchmark(tmp_path, name, rows=changed(name, **cells))

    with pytest.raises(CorpusError, match=rf"{path.name}, line 1.*{message}"):
        load_documents(task_of(name), data_dir=tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("validation.jsonl", b'{"goal": ', r"line 1 is not JSON: "),
        ("validation.jsonl", b"[1]\n", r"line 1: expected a JSON object, found list"),
        ("validation.jsonl", '{"goal": "é"}'.encode("latin-1"), r"is not UTF-8: .*iconv"),
        ("validation.jsonl.gz", b"no gzip", r"cannot be decompressed: .* fetch it again"),
        ("validation.jsonl.gz", gzip.compress(b"x" * 99, mtime=0)[:20], r"cannot be decompressed"),
        ("validation.parquet", b"PAR1", r"cannot be read as parquet"),
        ("validation.csv", b"goal,sol1\na,b,c\n", r"line 2 should have 2 cells, as its header has"),
        ("validation.csv", b"goal,sol1\na\n", r"line 2 should have 2 cells"),
        (
            "validation.tsv",
            b'goal\tsol1\n"a" b\tc\n',
            r"line 2 cannot be read: .* is written",
        ),
    ],
)
def test_load_documents_refuses_broken_files(tmp_path, file, content, message):
    (tmp_path / "piqa").mkdir()
    (tmp_path / "piqa" / file).write_bytes(content)

    with pytest.raises(CorpusError, match=message):
        load_documents(task_of("piqa"), data_dir=tmp_path)


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_load_documents_reads_past_a_byte_order_mark(tmp_path, suffix):
    path = write_benchmark(tmp_path, "winogrande", suffix=suffix)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())

    assert len(load_documents(task_of("winogrande"), data_dir=tmp_path)) == 2


def write_hub_like(root, rows):
    """A local data set with the layout of one on the hub: a configuration per language."""
    write_rows(root / "data" / "mlt_Latn.jsonl", rows)
    (root / "README.md").write_text(
        "---\nconfigs:\n- config_name: mlt_Latn\n  data_files:\n"
        "  - split: test\n    path: data/mlt_Latn.jsonl\n---\n"
    )


def read_from(folder, name, monkeypatch):
    """Have a benchmark read a data set in a local folder, as it reads the hub."""
    data = dataclasses.replace(BENCHMARKS[name].data, hub=str(folder))
    here = dataclasses.replace(BENCHMARKS[name], data=data)
    monkeypatch.setitem(BENCHMARKS._known, name, here)


def test_load_documents_reads_a_data_set_like_the_hubs(tmp_path, monkeypatch):
    write_hub_like(tmp_path, ROWS["belebele"][2])
    read_from(tmp_path, "belebele", monkeypatch)

    documents = load_documents(task_of("belebele"))

    assert [(d.choices, d.answer) for d in documents] == ANSWERS["belebele"]
    assert (
        documents[0].prompt
        == BENCHMARKS["belebele"].question(ROWS["belebele"][2][0], where="").prompt
    )
    assert load_documents(task_of("belebele"), limit=1) == documents[:1]
    with pytest.raises(
        CorpusError, match=r"no configuration isl_Latn.* --data-dir DATA with a loc"
    ):
        load_documents(task_of("belebele", "isl"))


def test_load_documents_falls_back_to_the_hubs_parquet_copy(tmp_path, monkeypatch):
    write_rows(tmp_path / "mlt_Latn" / "test" / "0000.parquet", ROWS["sib200"][2])
    read_from(tmp_path, "sib200", monkeypatch)

    documents = load_documents(task_of("sib200"))

    assert [(d.choices, d.answer) for d in documents] == ANSWERS["sib200"]


def test_load_documents_checks_the_rows_of_the_hub(tmp_path, monkeypatch):
    write_hub_like(tmp_path, changed("belebele", correct_answer_num="7"))
    read_from(tmp_path, "belebele", monkeypatch)

    with pytest.raises(CorpusError, match=r"\(mlt_Latn\), row 1: `correct_answer_num` should be"):
        load_documents(task_of("belebele"))


@pytest.mark.parametrize("name", SUITES["paper"])
def test_load_documents_points_to_local_files_when_the_hub_is_out_of_reach(name):
    folder = {"flores": "eng_Latn", "opus100": "en-mt"}.get(name) or ROWS[name][0]
    place = "/".join(["DATA", name, *([folder] if folder != "." else [])])
    split = BENCHMARKS[name].data.split

    with pytest.raises(CorpusError) as error:
        load_documents(task_of(name))
    message = str(error.value)
    assert message.startswith(f"{BENCHMARKS[name].data.hub} cannot be reached on the Hugging Face")
    assert message.endswith(f"Or pass --data-dir DATA with a local copy {place}/{split}.jsonl.")


def test_tasks_of_are_the_rows_of_the_papers_tables():
    tasks = tasks_of("mt", ["paper"])

    assert [task.row for task in tasks] == [
        "FLORES TG→EN",
        "FLORES EN→TG",
        "BELEBELE",
        "SIB200",
        "OPUS TG→EN",
        "OPUS EN→TG",
        "ARC CHALLENGE",
        "ARC EASY",
        "HELLASWAG",
        "PIQA",
        "WINOGRANDE",
        "MMLU",
    ]
    assert [task.name for task in tasks[:6]] == [
        "flores_mlt_eng",
        "flores_eng_mlt",
        "belebele_mlt",
        "sib200_mlt",
        "opus100_mlt_eng",
        "opus100_eng_mlt",
    ]
    assert [task.name for task in tasks[6:]] == list(GENERAL)
    assert [task.language for task in tasks] == ["eng", "mlt"] + ["mlt"] * 2 + ["eng", "mlt"] + [
        "eng"
    ] * 6
    assert [task.kind for task in tasks] == ["translation"] * 2 + ["choice"] * 2 + [
        "translation"
    ] * 2 + ["choice"] * 6
    assert [task.group for task in tasks] == ["target"] * 6 + ["general"] * 6
    assert tasks[0].label == "FLORES mlt→eng"
    assert tasks[2].label == "BELEBELE mlt"
    assert tasks[7].label == "arc easy"


def test_tasks_of_of_the_paper_lack_belebele_in_welsh_alone():
    for code in PAPER_TARGETS:
        names = {task.name for task in tasks_of(code, ["paper"])}
        assert (f"belebele_{code}" in names) == (code != "cym")
        assert len(names) == (11 if code == "cym" else 12)


def test_tasks_of_do_not_translate_english_into_itself():
    names = [task.name for task in tasks_of("eng", ["paper"])]

    assert names == ["belebele_eng", "sib200_eng", *GENERAL]


@pytest.mark.parametrize("code", ["ekk", "zho", "ven", "eng"])
def test_tasks_of_have_names_that_are_read_back(tmp_path, code):
    for task in tasks_of(code, ["paper"]):
        with pytest.raises(CorpusError, match=r"^no file "):
            load_documents(task, data_dir=tmp_path)


def test_tasks_of_refuses_unknown_names():
    with pytest.raises(LseError, match="Unknown task 'belebel'. Did you mean belebele?"):
        tasks_of("mlt", ["belebel"])
    with pytest.raises(LanguageError, match="unknown language 'nlt'"):
        tasks_of("nlt", ["paper"])


def test_load_documents_refuses_a_language_that_a_benchmark_lacks(tmp_path):
    welsh = dataclasses.replace(task_of("belebele"), name="belebele_cym", language="cym")
    with pytest.raises(CorpusError, match=r"facebook/belebele has no Welsh \(cym\): leave it"):
        load_documents(welsh, data_dir=tmp_path)


def test_load_documents_refuses_a_task_of_no_benchmark(tmp_path):
    task = task_of("mmlu")
    with pytest.raises(LseError, match="mmlu has no benchmark; give its questions yourself"):
        load_documents(dataclasses.replace(task, benchmark=None), data_dir=tmp_path)
    with pytest.raises(LseError, match="no task 'mmlo'. Did you mean mmlu"):
        load_documents(dataclasses.replace(task, benchmark="mmlo"), data_dir=tmp_path)


def test_coverage_has_as_many_languages_as_the_benchmarks_say():
    assert (len(BELEBELE), len(FLORES_200), len(OPUS_100)) == (122, 204, 94)


@pytest.mark.parametrize(
    ("code", "belebele", "sib200", "opus100"),
    [
        ("ekk", "est_Latn", "est_Latn", "en-et"),
        ("lvs", "lvs_Latn", "lvs_Latn", "en-lv"),
        ("npi", "npi_Deva", "npi_Deva", "en-ne"),
        ("mkd", "mkd_Cyrl", "mkd_Cyrl", "en-mk"),
        ("afr", "afr_Latn", "afr_Latn", "af-en"),
        ("zho", "zho_Hans", "zho_Hans", "en-zh"),
        ("arb", "arb_Arab", "arb_Arab", "ar-en"),
        ("fil", "tgl_Latn", "tgl_Latn", None),
        ("hye", "hye_Armn", "hye_Armn", None),
        ("fao", None, "fao_Latn", None),
        ("ven", None, None, None),
        ("cym", None, "cym_Latn", "cy-en"),
    ],
)
def test_configurations_are_those_of_the_hub(code, belebele, sib200, opus100):
    language = lookup(code)

    for name, expected in (("belebele", belebele), ("sib200", sib200), ("opus100", opus100)):
        assert next(iter(BENCHMARKS[name].data.configs(language)), None) == expected


def test_every_language_of_the_paper_is_in_flores_and_opus():
    for code in PAPER_LANGUAGES:
        assert BENCHMARKS["flores"].data.configs(lookup(code))
        assert code == "eng" or BENCHMARKS["opus100"].data.configs(lookup(code))
