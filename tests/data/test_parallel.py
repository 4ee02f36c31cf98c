import json
import logging
import os
from pathlib import Path

import pytest

from lse_interp.core.errors import CorpusError, LanguageError
from lse_interp.core.languages import PAPER_LANGUAGES, lookup
from lse_interp.data import embedded
from lse_interp.data.parallel import ParallelText, load_parallel

LINES = {"mlt": ["wieħed", "tnejn", "tlieta"], "eng": ["one", "two", "three"]}


def write_folder(folder, *, names=None, **lines):
    folder.mkdir(parents=True, exist_ok=True)
    for code, sentences in lines.items():
        name = (names or {}).get(code, f"{code}.txt")
        (folder / name).write_text("\n".join(sentences) + "\n", encoding="utf-8")
    return folder


def write_flores_like(root, *, ids=None, text="text"):
    """A local data set with the layout and the schema of FLORES+."""
    codes = {"mlt_Latn": "mlt", "eng_Latn": "eng"}
    for config, code in codes.items():
        (root / config).mkdir(parents=True)
        for split in ("dev", "devtest"):
            rows = [
                {"id": i, text: f"{split} {LINES[code][i]}"}
                for i in (ids or {}).get(code, range(len(LINES[code])))
            ]
            path = root / config / f"{split}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    configs = "".join(
        f"- config_name: {config}\n  data_files:\n"
        + "".join(f"  - split: {s}\n    path: {config}/{s}.jsonl\n" for s in ("dev", "devtest"))
        for config in codes
    )
    (root / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    return root


def test_load_parallel_embedded_defaults_to_devtest():
    text = load_parallel("embedded", languages=["mt", "jpn"])

    assert (text.languages, text.split, len(text)) == (("mlt", "jpn"), "devtest", 168)
    for code in text.languages:
        expected = tuple(s.text for s in embedded.sentences(code, "devtest"))
        assert text.sentences[code] == expected


def test_load_parallel_takes_the_first_sentences():
    whole = load_parallel("embedded", languages=["mlt"], split="dev")
    some = load_parallel("embedded", languages=["mlt"], split="dev", n_sentences=5)

    assert some.sentences["mlt"] == whole.sentences["mlt"][:5]


@pytest.mark.parametrize("n_sentences", [0, 169])
def test_load_parallel_refuses_more_sentences_than_there_are(n_sentences):
    with pytest.raises(CorpusError, match=rf"{n_sentences} sentences were asked for, .* has 168"):
        load_parallel("embedded", languages=["mlt"], n_sentences=n_sentences)


def test_load_parallel_refuses_unknown_languages_and_splits():
    with pytest.raises(LanguageError, match="unknown language 'nlt'.*mlt"):
        load_parallel("embedded", languages=["nlt"])
    with pytest.raises(CorpusError, match="unknown split 'test'"):
        load_parallel("embedded", languages=["mlt"], split="test")


@pytest.mark.parametrize("languages", [[], ["mlt", "mt"]])
def test_load_parallel_refuses_no_language_and_one_language_twice(languages):
    with pytest.raises(CorpusError, match="one language or more, each once"):
        load_parallel("embedded", languages=languages)


def test_load_parallel_reads_a_folder_with_a_file_per_language(tmp_path):
    write_folder(tmp_path, **LINES, lvs=["a", "b", "c"], names={"lvs": "lav.txt"})

    text = load_parallel(str(tmp_path), languages=["lvs", "eng", "mlt"])

    assert text.languages == ("lvs", "eng", "mlt")
    assert text.sentences["lvs"] == ("a", "b", "c")
    assert text.sentences["mlt"] == tuple(LINES["mlt"])


def test_load_parallel_reads_jsonl_and_splits_from_the_path(tmp_path):
    for code, sentences in LINES.items():
        path = tmp_path / "dev" / f"flores.{code}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps({"s": s}) + "\n" for s in sentences))

    text = load_parallel(
        f"{tmp_path}/{{split}}/flores.{{lang}}.jsonl?field=s", languages=list(LINES), split="dev"
    )

    assert {code: list(lines) for code, lines in text.sentences.items()} == LINES


def test_load_parallel_refuses_a_split_that_a_folder_does_not_have(tmp_path):
    with pytest.raises(CorpusError, match=r"no file mlt/dev, dev/mlt, mlt\.dev, dev\.mlt in"):
        load_parallel(str(tmp_path), languages=["mlt"], split="dev")


def test_load_parallel_names_the_counts_of_unequal_files(tmp_path):
    write_folder(tmp_path, mlt=LINES["mlt"][:2], eng=LINES["eng"])

    with pytest.raises(CorpusError, match=r"is not parallel: .* found mlt 2, eng 3\."):
        load_parallel(str(tmp_path), languages=["mlt", "eng"])


def test_load_parallel_counts_before_it_cuts(tmp_path):
    write_folder(tmp_path, mlt=LINES["mlt"][:2], eng=LINES["eng"])

    with pytest.raises(CorpusError, match="is not parallel"):
        load_parallel(str(tmp_path), languages=["mlt", "eng"], n_sentences=2)


def test_load_parallel_names_language_and_line_of_a_blank(tmp_path):
    write_folder(tmp_path, mlt=["wieħed", " ", "tlieta"], eng=LINES["eng"])

    with pytest.raises(CorpusError, match=r"sentence 2 of mlt is blank"):
        load_parallel(str(tmp_path), languages=["eng", "mlt"])


def test_load_parallel_refuses_a_folder_of_files_for_one_language(tmp_path):
    write_folder(tmp_path / "mlt", a=["x"], b=["y"])

    with pytest.raises(CorpusError, match=r"one file of sentences for Maltese, found .*a\.txt, "):
        load_parallel(str(tmp_path), languages=["mlt"])


def test_load_parallel_aligns_flores_by_id(tmp_path):
    root = write_flores_like(tmp_path, ids={"mlt": [2, 0, 1]})

    text = load_parallel(f"flores:{root}", languages=["mlt", "eng"])

    assert text.split == "devtest"
    assert text.sentences["mlt"] == ("devtest tlieta", "devtest wieħed", "devtest tnejn")
    assert text.sentences["eng"] == ("devtest three", "devtest one", "devtest two")


def test_load_parallel_reads_the_dev_split_of_flores(tmp_path):
    text = load_parallel(f"flores:{write_flores_like(tmp_path)}", languages=["eng"], split="dev")

    assert text.sentences["eng"] == ("dev one", "dev two", "dev three")


def test_load_parallel_refuses_flores_with_unequal_ids(tmp_path):
    root = write_flores_like(tmp_path, ids={"mlt": [0, 1]})

    with pytest.raises(
        CorpusError,
        match=r"eng has 3 sentences and mlt 2, and they differ in 1 sentence ids, e\.g\. 2\.",
    ):
        load_parallel(f"flores:{root}", languages=["eng", "mlt"])


def test_load_parallel_refuses_flores_with_another_schema(tmp_path):
    root = write_flores_like(tmp_path, text="sentence")

    with pytest.raises(CorpusError, match=r"no field 'text'; it has: id, sentence"):
        load_parallel(f"flores:{root}", languages=["eng"])


def test_load_parallel_points_to_local_files_when_flores_is_out_of_reach():
    with pytest.raises(CorpusError, match=r"openlanguagedata/flores_plus cannot be reached"):
        load_parallel("flores", languages=["mlt"])


def test_load_parallel_reads_ntrex_names(tmp_path):
    names = {
        "ekk": "newstest2019-ref.est.txt",
        "lvs": "newstest2019-ref.lav.txt",
        "zho": "newstest2019-ref.zho-CN.txt",
        "tgk": "newstest2019-ref.tgk-Cyrl.txt",
        "eng": "newstest2019-src.eng.txt",
    }
    write_folder(tmp_path, names=names, **{code: [f"text in {code}"] for code in names})
    (tmp_path / "newstest2019-ref.zho-TW.txt").write_text("another Chinese\n")

    text = load_parallel(f"ntrex:{tmp_path}", languages=list(names))

    assert dict(text.sentences) == {code: (f"text in {code}",) for code in names}
    assert text.split == "test"


@pytest.mark.parametrize("source", ["flores", "ntrex", "folder", "template"])
def test_load_parallel_takes_optional_languages_where_they_are(tmp_path, caplog, source):
    caplog.set_level(logging.INFO)
    if source == "flores":
        spec = f"flores:{write_flores_like(tmp_path)}"
    else:
        pattern = "newstest2019-ref.{}.txt" if source == "ntrex" else "{}.txt"
        for code in ("mlt", "eng"):
            (tmp_path / pattern.format(code)).write_text("a\nb\n", encoding="utf-8")
        specs = {"ntrex": f"ntrex:{tmp_path}", "template": f"{tmp_path}/{{lang}}.txt"}
        spec = specs.get(source, str(tmp_path))
    text = load_parallel(spec, languages=["mlt"], optional=["deu", "eng", "fra"])
    assert text.languages == ("mlt", "eng")
    assert f"{spec} has no sentences in deu, fra: left out" in caplog.text
    with pytest.raises(CorpusError):
        load_parallel(spec, languages=["mlt", "deu"], optional=["eng"])


def test_load_parallel_takes_optional_languages_of_the_embedded_corpus():
    text = load_parallel("embedded", languages=["mlt"], optional=["swe", "eng"])
    assert text.languages == ("mlt", "eng")


def test_parallel_text_says_in_which_languages_it_was_loaded():
    text = load_parallel("embedded", languages=["mlt", "eng"], n_sentences=3)
    text.require(["eng"])
    with pytest.raises(LanguageError, match=r"without slv, for mlt, eng alone.*, languages=\["):
        text.require(["mlt", "slv"])
    assert len(text.first(2)) == 2
    assert len(text.first(9)) == 3
    with pytest.raises(CorpusError):
        text.first(0)


def test_load_parallel_reports_what_ntrex_lacks(tmp_path):
    write_folder(tmp_path, names={"eng": "newstest2019-src.eng.txt"}, eng=["one"])

    with pytest.raises(
        CorpusError, match=r"no Maltese: looked for newstest2019-src\.\{lang\}\.txt "
    ):
        load_parallel(f"ntrex:{tmp_path}", languages=["mlt"])
    with pytest.raises(CorpusError, match=r"no NTREX folder at .*none\. Get it from"):
        load_parallel(f"ntrex:{tmp_path}/none", languages=["mlt"])
    with pytest.raises(CorpusError, match=r"NTREX has one split, test; got 'dev'"):
        load_parallel(f"ntrex:{tmp_path}", languages=["eng"], split="dev")


@pytest.fixture
def ntrex():
    folder = Path(os.environ.get("LSE_REFERENCE_DATA", "")) / "ntrex"
    if "LSE_REFERENCE_DATA" not in os.environ or not folder.is_dir():
        pytest.skip("LSE_REFERENCE_DATA names no folder with ntrex/")
    return folder


def test_load_parallel_reads_the_real_ntrex_in_the_languages_of_the_paper(ntrex):
    text = load_parallel(f"ntrex:{ntrex}", languages=PAPER_LANGUAGES)

    assert len(text) == 1997
    assert text.sentences["eng"][0].startswith("Welsh AMs worried")
    assert "\r" not in "".join(text.sentences["mlt"])


def test_load_parallel_finds_the_odd_names_of_the_real_ntrex(ntrex):
    codes = ["aze", "ckb", "sna", "snd", "srp", "tgk", "zho", "lvs", "npi", "por"]

    text = load_parallel(f"ntrex:{ntrex}", languages=codes, n_sentences=3)

    assert len(text.languages) == 10
    assert "威尔士" in text.sentences["zho"][0]
    assert "Велшки" in text.sentences["srp"][0]


def test_load_parallel_reads_all_128_languages_of_the_real_ntrex(ntrex):
    names = {path.name.split(".")[1] for path in ntrex.glob("newstest2019-*.txt")}
    codes = [lookup(name).code for name in names]

    text = load_parallel(f"ntrex:{ntrex}", languages=codes, n_sentences=1)

    assert len(text.languages) == 128
    assert text.sentences["zho-Hant"] != text.sentences["zho"]


@pytest.mark.parametrize(
    ("languages", "sentences"), [((), {}), (("mlt",), {"eng": ("one",)}), (("mlt",), {"mlt": ()})]
)
def test_parallel_text_refuses_missing_sentences(languages, sentences):
    with pytest.raises(CorpusError, match="needs one language or more|holds no sentence"):
        ParallelText(languages=languages, sentences=sentences, spec="here", split=None)
