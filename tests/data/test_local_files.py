import pytest
from datasets import Dataset, DatasetDict

from lse_interp.core.errors import CorpusError
from lse_interp.core.languages import lookup
from lse_interp.data.corpora import load_corpus
from lse_interp.data.local_files import find_files
from lse_interp.data.parallel import load_parallel

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
