import os
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict

from lse_interp.core.errors import CorpusError
from lse_interp.core.languages import PAPER_LANGUAGES, lookup
from lse_interp.data.corpora import load_corpus
from lse_interp.data.local_files import find_files
from lse_interp.data.parallel import load_parallel
from lse_interp.tasks.benchmarks.flores import FLORES_200

MLT = lookup("mlt")


def touch(root, *names, text="text\n"):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.format(name=name), encoding="utf-8")
    return root


def found(root, *, split=None, template=None):
    files = find_files(str(template or root), language=MLT, split=split)
    return [path.relative_to(root).as_posix() for path in files]


@pytest.mark.parametrize(
    "layout",
    [
        "devtest/{}_Latn.devtest",
        "devtest/{}_Latn.parquet",
        "{}/devtest.tsv",
        "{}_Latn.devtest",
        "{}/devtest-00000-of-00001.parquet",
        "devtest.{}",
        "devtest/{}.txt.gz",
        "{}/devtest/part.jsonl",
    ],
)
def test_a_split_is_found_in_a_folder_by_language_or_by_split(tmp_path, layout):
    for split in ("dev", "devtest"):
        for code in ("mlt", "eng"):
            touch(tmp_path, layout.format(code).replace("devtest", split))
    assert found(tmp_path, split="devtest") == [layout.format("mlt")]


def test_a_suffix_may_be_the_name_of_a_split_or_of_the_language(tmp_path):
    touch(tmp_path, "devtest/mlt_Latn.devtest", "opus.en-mt-test.mt", "opus.en-mt-test.en")
    assert found(tmp_path, template=tmp_path / "devtest") == ["devtest/mlt_Latn.devtest"]
    assert found(tmp_path, template=tmp_path / "devtest/{flores}.devtest")
    assert found(tmp_path, template=tmp_path / "opus.en-mt-test.{lang}") == ["opus.en-mt-test.mt"]
    with pytest.raises(CorpusError, match=r"opus\.en-mt-test\.en: cannot read this kind of file"):
        found(tmp_path, template=tmp_path / "opus.en-mt-test.en")


def test_splits_of_a_language_are_not_mixed(tmp_path):
    touch(tmp_path, "mlt/train.tsv", "mlt/dev.tsv", "mlt/test.tsv", "mlt/labels.txt")
    with pytest.raises(CorpusError, match=r"holds the splits dev, test, train\. Name one"):
        found(tmp_path)
    assert found(tmp_path, split="train") == ["mlt/train.tsv"]
    assert found(tmp_path, split="test", template=tmp_path / "mlt") == ["mlt/test.tsv"]
    with pytest.raises(CorpusError, match=r"no file mlt/val, .* mlt holds: |mlt holds: dev\.tsv"):
        found(tmp_path, split="val")


def test_what_is_next_to_the_data_is_no_data(tmp_path):
    about = ("README.txt", "LICENSE.txt", "._a.txt", ".hidden/a.txt", "state.json", "notes.md")
    touch(tmp_path, "mlt/a.txt", *[f"mlt/{name}" for name in about])
    assert found(tmp_path) == ["mlt/a.txt"]


def test_links_spaces_and_capitals_are_found(tmp_path):
    touch(tmp_path, "far away/MLT 1.TXT")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mlt").symlink_to(tmp_path / "far away")
    assert found(tmp_path, template=tmp_path / "data") == ["data/mlt/MLT 1.TXT"]
    (tmp_path / "mlt").mkdir()
    (tmp_path / "mlt" / "deep").symlink_to(tmp_path / "far away")
    assert found(tmp_path) == ["mlt/deep/MLT 1.TXT"]
    (tmp_path / "mlt" / "gone.txt").symlink_to(tmp_path / "nowhere.txt")
    with pytest.raises(CorpusError, match=r"gone\.txt is a link to .*nowhere\.txt, which does not"):
        found(tmp_path)


def test_home_is_a_place(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(touch(tmp_path, "text/mlt.txt", "text/eng.txt")))
    assert list(load_corpus("~/text", language="mlt").documents()) == ["text"]
    assert len(load_parallel("~/text", languages=["mlt", "eng"])) == 1


def test_two_files_of_one_language_are_refused(tmp_path):
    touch(tmp_path, "mlt.txt", "mlt.txt.gz")
    with pytest.raises(CorpusError, match=r"Maltese more than once: mlt\.txt, mlt\.txt\.gz"):
        found(tmp_path)


def test_a_missing_shard_is_refused(tmp_path):
    touch(tmp_path, "mlt/part-00001-of-00002.jsonl")
    with pytest.raises(CorpusError, match=r"mlt should hold 2 shards of part; found part-00001"):
        found(tmp_path)


def test_data_sets_that_were_saved_to_disk_are_read(tmp_path):
    saved = Dataset.from_dict({"text": ["one", "two", "three"]})
    saved.save_to_disk(tmp_path / "plain" / "mlt")
    assert list(load_corpus(str(tmp_path / "plain"), language="mlt").documents())[2] == "three"
    splits = DatasetDict({"train": saved, "test": Dataset.from_dict({"text": ["held out"]})})
    splits.save_to_disk(tmp_path / "mlt")
    corpus = load_corpus(str(tmp_path / "mlt"), language="mlt", split="train")
    assert list(corpus.documents()) == ["one", "two", "three"]
    with pytest.raises(CorpusError, match=r"mlt holds the splits test, train"):
        load_corpus(str(tmp_path), language="mlt")


def test_parallel_text_as_flores_distributes_it(tmp_path):
    touch(tmp_path, "devtest/mlt_Latn.devtest", "devtest/eng_Latn.devtest", text="{name}\nb\n\n")
    touch(tmp_path, "dev/mlt_Latn.dev", "dev/eng_Latn.dev", text="{name}\n")
    touch(tmp_path, "metadata_dev.tsv", "metadata_devtest.tsv", "README")
    for spec in (f"flores:{tmp_path}", str(tmp_path), f"{tmp_path}/devtest"):
        split = None if spec.endswith("devtest") or spec.startswith("flores") else "devtest"
        text = load_parallel(spec, languages=["mlt", "eng"], optional=["deu"], split=split)
        assert text.sentences["mlt"] == ("devtest/mlt_Latn.devtest", "b")
    dev = load_parallel(f"flores:{tmp_path}", languages=["mlt", "eng"], split="dev")
    assert dev.sentences["eng"] == ("dev/eng_Latn.dev",)
    touch(tmp_path, "devtest/eng_Latn.devtest", text="a\nb\nc\n")
    with pytest.raises(CorpusError, match=r"mlt has 2 sentences and eng 3"):
        load_parallel(f"flores:{tmp_path}", languages=["mlt", "eng"])
    with pytest.raises(CorpusError, match=r"is not parallel: .* found mlt 2, eng 3"):
        load_parallel(str(tmp_path), languages=["mlt", "eng"], split="devtest")


def test_a_blank_line_inside_parallel_text_is_a_sentence(tmp_path):
    touch(tmp_path, "mlt.txt", text="a\n\nc\n\n")
    touch(tmp_path, "eng.txt", text="a\nc\n")
    with pytest.raises(CorpusError, match=r"is not parallel: .* found mlt 3, eng 2"):
        load_parallel(str(tmp_path), languages=["mlt", "eng"])


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("welsh.txt", "cym"),
        ("Welsh.TXT", "cym"),
        ("CY.txt", "cym"),
        ("cy_GB.txt", "cym"),
        ("est_Latn.txt", "ekk"),
        ("Standard_Estonian.txt", "ekk"),
        ("zho_Hans.txt", "zho"),
        ("zh-CN.txt", "zho"),
        ("zho_Simpl.txt", "zho"),
        ("chinese.txt", "zho"),
        ("zh-Hant.txt", "zho-Hant"),
        ("pt-br.txt", "por-BR"),
        ("srp_Latn.txt", "srp-Latn"),
        ("kas_Deva.jsonl", "kas-Deva"),
        ("scottish-gaelic.txt", "gla"),
        ("norwegian_bokmal.txt", "nob"),
        ("tlh.txt", "tlh"),
        ("qaa.txt", "qaa"),
    ],
)
def test_a_file_is_found_by_any_spelling_of_its_language(tmp_path, name, code):
    touch(tmp_path, name, "deu.txt", "notes_all.txt")
    for template in (tmp_path, tmp_path / f"{{lang}}{Path(name).suffix.lower()}"):
        (file,) = find_files(str(template), language=lookup(code))
        assert file.name == name
    (tmp_path / "below").mkdir()
    touch(tmp_path, f"below/{Path(name).stem}/a.txt")
    (file,) = find_files(f"{tmp_path}/below/{{flores}}", language=lookup(code))
    assert file.name == "a.txt"


def test_two_spellings_of_one_language_are_refused_in_a_template_too(tmp_path):
    touch(tmp_path, "est.txt", "et.txt")
    with pytest.raises(CorpusError, match=r"Estonian more than once: est\.txt, et\.txt"):
        find_files(f"{tmp_path}/{{lang}}.txt", language=lookup("ekk"))


def test_a_file_of_another_variety_is_not_taken(tmp_path):
    touch(tmp_path, "zho_Hant.txt", "srp_Latn.txt", "por-BR.txt", "fra-CA.txt")
    for code in ("zho", "srp", "por", "fra"):
        with pytest.raises(CorpusError, match="no file or folder for"):
            find_files(str(tmp_path), language=lookup(code))


def test_the_nearest_file_is_named_first(tmp_path):
    touch(tmp_path, "cmy.txt", "deu.txt", "welhs.txt")
    for template in (tmp_path, tmp_path / "{lang}.txt"):
        with pytest.raises(CorpusError, match=r"Did you mean cmy\.txt or welhs\.txt\? .* holds: "):
            find_files(str(template), language=lookup("cym"))


@pytest.mark.parametrize("form", ["{}.txt", "devtest/{}.devtest"])
def test_a_folder_with_the_names_of_flores_200_has_every_language(tmp_path, form):
    touch(tmp_path, *map(form.format, FLORES_200), text="{name}\n")
    split = "devtest" if "devtest" in form else None
    languages = {lookup(code).code: code for code in FLORES_200}
    text = load_parallel(str(tmp_path), languages=list(languages), split=split)
    assert {code: lines[0] for code, lines in text.sentences.items()} == {
        code: form.format(flores) for code, flores in languages.items()
    }
    paper = load_parallel(
        str(tmp_path), languages=["mlt"], optional=PAPER_LANGUAGES[:8], split=split
    )
    assert set(PAPER_LANGUAGES) <= set(text.languages)
    assert set(paper.languages) == {"mlt", *PAPER_LANGUAGES[:8]}


@pytest.mark.parametrize(
    ("folder", "form"),
    [
        ("ntrex", "newstest2019-ref.{}.txt"),
        ("flores200_devtest", "{}.txt"),
        ("text", "{}.txt"),
    ],
)
def test_every_file_of_the_reference_data_is_found(folder, form):
    root = Path(os.environ.get("LSE_REFERENCE_DATA", "/nonexistent")) / folder
    if not root.is_dir():
        pytest.skip(f"LSE_REFERENCE_DATA names no folder with {folder}/")
    files = list(root.glob(form.format("*")))
    assert len(files) >= 12
    before, after = form.split("{}")
    for file in files:
        code = file.name.removeprefix(before).removesuffix(after)
        template = str(root / form.replace("{}", "{lang}"))
        assert find_files(template, language=lookup(code)) == [file]
