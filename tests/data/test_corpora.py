import csv
import gzip
import itertools
import json
import re
import tracemalloc

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lse_interp.core.errors import CorpusError, LanguageError
from lse_interp.core.languages import lookup
from lse_interp.data import embedded
from lse_interp.data.corpora import load_corpus, require_text_of_each
from lse_interp.data.readers import read_documents
from lse_interp.data.source_spec import expand

TEXTS = ["Il-qattus rieqed.", "Ix-xemx telgħet.\nIż-żiffa waqfet.", "Tmiem."]


def write_jsonl(path, texts, *, field="text"):
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8") as stream:
        for number, text in enumerate(texts):
            stream.write(json.dumps({"id": number, field: text}, ensure_ascii=False) + "\n")
    return path


def write_parquet(path, texts, *, field="text", rows_per_group=2):
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.table({"id": list(range(len(texts))), field: texts})
    pyarrow.parquet.write_table(table, path, row_group_size=rows_per_group)
    return path


def write_glotcc_like(root):
    """A local data set with the layout and the schema of GlotCC."""
    write_parquet(root / "v1.0/mlt-Latn/mlt-Latn_0.parquet", TEXTS, field="content")
    write_parquet(root / "v1.0/eng-Latn/eng-Latn_0.parquet", ["English."], field="content")
    configs = "".join(
        f"- config_name: {name}\n  data_files: v1.0/{name}/*.parquet\n"
        for name in ("mlt-Latn", "eng-Latn")
    )
    (root / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    return root


def documents(spec, language="mlt", split=None):
    return list(load_corpus(str(spec), language=language, split=split).documents())


# Embedded


def test_load_corpus_embedded_defaults_to_pretrain():
    corpus = load_corpus("embedded", language="mt")

    assert (corpus.language, corpus.spec, corpus.split) == ("mlt", "embedded", "pretrain")
    assert list(corpus.documents()) == embedded.documents("mlt", "pretrain")
    assert corpus.source == "embedded corpus, 11760 sentences"


def test_load_corpus_embedded_takes_a_split():
    assert documents("embedded", "kat", "adapt") == embedded.documents("kat", "adapt")


def test_load_corpus_embedded_refuses_an_unknown_split():
    with pytest.raises(CorpusError, match=r"unknown split 'test'.*'devtest'"):
        load_corpus("embedded", language="mlt", split="test")


def test_load_corpus_embedded_refuses_a_language_it_lacks():
    with pytest.raises(LanguageError, match="embedded corpus has no language 'nld'"):
        load_corpus("embedded", language="nld")


@pytest.mark.parametrize("spec", ["embedded", "glotcc", "anything.txt"])
def test_load_corpus_suggests_near_misses_of_an_unknown_language(spec):
    with pytest.raises(LanguageError, match=r"unknown language 'nlt'.*Did you mean .*mlt"):
        load_corpus(spec, language="nlt")


# Local files


def test_load_corpus_txt_without_blank_lines_has_a_document_per_line(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("one\ntwo\nthree", encoding="utf-8")

    assert documents(path) == ["one", "two", "three"]


def test_load_corpus_txt_with_blank_lines_has_a_document_per_paragraph(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\none\ntwo\n\n \nthree\n\n", encoding="utf-8")

    assert documents(path) == ["one\ntwo", "three"]


def test_load_corpus_txt_with_a_blank_line_at_its_ends_only_has_a_document_per_line(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n\none\ntwo\n\n", encoding="utf-8")

    assert documents(path) == ["one", "two"]


def test_load_corpus_txt_takes_windows_newlines_byte_order_mark_and_unicode_separators(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes("\ufeffone\u2028still one\r\ntwo\x85still two\r\n".encode())

    assert documents(path) == ["one\u2028still one", "two\x85still two"]


@pytest.mark.parametrize("name", ["text.jsonl", "text.jsonl.gz"])
def test_load_corpus_reads_jsonl(tmp_path, name):
    path = write_jsonl(tmp_path / name, [*TEXTS, "", None])

    assert documents(path) == TEXTS


def test_load_corpus_reads_parquet_over_row_groups(tmp_path):
    path = write_parquet(tmp_path / "text.parquet", [*TEXTS, None, " "])

    assert pyarrow.parquet.ParquetFile(path).num_row_groups == 3
    assert documents(path) == TEXTS


@pytest.mark.parametrize(("suffix", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_load_corpus_reads_the_cells_of_tables(tmp_path, suffix, delimiter):
    path = tmp_path / f"mlt.{suffix}"
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, delimiter=delimiter).writerows([("id", "text"), *enumerate(TEXTS)])

    assert documents(path) == TEXTS


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".parquet"])
def test_load_corpus_takes_another_field(tmp_path, suffix):
    write = write_parquet if suffix == ".parquet" else write_jsonl
    path = write(tmp_path / f"text{suffix}", TEXTS, field="content")

    assert documents(f"{path}?field=content") == TEXTS


def test_load_corpus_can_be_read_again_and_in_parallel(tmp_path):
    corpus = load_corpus(str(write_jsonl(tmp_path / "text.jsonl", TEXTS)), language="mlt")

    first, second = corpus.documents(), corpus.documents()

    assert list(zip(first, second, strict=True)) == [(text, text) for text in TEXTS]


@pytest.mark.parametrize(
    ("name", "language"),
    [
        ("mlt.txt", "mlt"),
        ("mt.txt", "mlt"),
        ("est.txt", "ekk"),
        ("lvs_Latn.txt", "lvs"),
        ("cmn_Hans.txt", "zho"),
    ],
)
def test_load_corpus_tries_every_spelling_of_the_language(tmp_path, name, language):
    (tmp_path / f"news-{name}").write_text("text\n", encoding="utf-8")

    corpus = load_corpus(f"{tmp_path}/news-{{lang}}.txt", language=language)

    assert list(corpus.documents()) == ["text"]
    assert corpus.source == str(tmp_path / f"news-{name}")
    assert corpus.language == language


def test_load_corpus_folder_takes_the_file_of_the_language(tmp_path):
    (tmp_path / "deu.txt").write_text("deutsch\n", encoding="utf-8")
    (tmp_path / "lav.txt").write_text("latviski\n", encoding="utf-8")

    assert documents(tmp_path, "lvs") == ["latviski"]
    assert documents(tmp_path, "deu") == ["deutsch"]


def test_load_corpus_folder_of_the_language_takes_every_file_by_name(tmp_path):
    folder = tmp_path / "mlt"
    (folder / ".cache").mkdir(parents=True)
    (folder / ".cache" / "z.txt").write_text("hidden\n", encoding="utf-8")
    (folder / "b.txt").write_text("second\n", encoding="utf-8")
    (folder / "notes.md").write_text("no text\n", encoding="utf-8")
    write_jsonl(folder / "a.jsonl.gz", ["first"])
    write_parquet(folder / "c" / "c.parquet", ["third"])

    for spec in (tmp_path, folder, tmp_path / "{lang}"):
        assert documents(spec) == ["first", "second", "third"]


def test_load_corpus_fills_the_split_into_the_path(tmp_path):
    (tmp_path / "dev-mlt.txt").write_text("dev\n", encoding="utf-8")

    assert documents(f"{tmp_path}/{{split}}-{{lang}}.txt", split="dev") == ["dev"]


def test_load_corpus_refuses_a_split_that_a_path_has_no_place_for(tmp_path):
    with pytest.raises(CorpusError, match=r"split 'dev' was asked for, but .* has no \{split\}"):
        load_corpus(f"{tmp_path}/{{lang}}.txt", language="mlt", split="dev")


def test_load_corpus_says_what_it_looked_for_and_what_is_there(tmp_path):
    (tmp_path / "news.txt").write_text("text\n", encoding="utf-8")

    with pytest.raises(
        CorpusError,
        match=r"no text for Maltese \(mlt\) at .*/new\.txt\. Did you mean news\.txt\? .* holds: ",
    ):
        load_corpus(f"{tmp_path}/new.txt", language="mlt")
    with pytest.raises(CorpusError, match=r"at .*/\{lang\}\.txt with ekk, est, et, ekk_Latn, "):
        load_corpus(f"{tmp_path}/{{lang}}.txt", language="ekk")


def test_load_corpus_names_the_nearest_folder_that_exists(tmp_path):
    (tmp_path / "text").mkdir()

    with pytest.raises(
        CorpusError, match=re.escape(f"Did you mean text? {tmp_path} holds: text/.")
    ):
        load_corpus(f"{tmp_path}/texts/deep/{{lang}}.txt", language="mlt")


def test_load_corpus_suggests_a_specification_near_the_one_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CorpusError, match="no text for Maltese") as caught:
        load_corpus("embeded", language="mlt")

    assert caught.value.__notes__ == [
        "Did you mean embedded? (Known besides paths: embedded, glotcc.)"
    ]


def test_load_corpus_folder_without_the_language_lists_names_and_content(tmp_path):
    (tmp_path / "deu.txt").write_text("deutsch\n", encoding="utf-8")

    with pytest.raises(
        CorpusError,
        match=r"no file or folder for Maltese: looked for the names mlt, mt, mlt_Latn, mlt-Latn, "
        r"Maltese with \.txt, .* holds: deu\.txt\..*\{lang\}",
    ):
        load_corpus(str(tmp_path), language="mlt")


def test_load_corpus_folder_refuses_to_choose_between_two_files(tmp_path):
    (tmp_path / "mlt.txt").write_text("text\n", encoding="utf-8")
    write_jsonl(tmp_path / "mlt.jsonl", TEXTS)

    with pytest.raises(CorpusError, match=r"Maltese more than once: mlt\.jsonl, mlt\.txt"):
        load_corpus(str(tmp_path), language="mlt")


def test_load_corpus_folder_refuses_to_choose_between_two_spellings(tmp_path):
    for name in ("est", "et"):
        (tmp_path / f"{name}.txt").write_text("text\n", encoding="utf-8")

    with pytest.raises(CorpusError, match=r"Estonian more than once: est\.txt, et\.txt"):
        load_corpus(str(tmp_path), language="ekk")


@pytest.mark.parametrize("spec", ["{file}", "{file}?field=text", "hf:user/data?config=mlt"])
def test_one_text_is_not_that_of_several_languages(tmp_path, spec):
    file = tmp_path / "est.txt"
    file.write_text("text\n", encoding="utf-8")
    spec = spec.format(file=file)

    with pytest.raises(CorpusError, match=r"is one text, and it was asked for as ekk, eng\. Write"):
        require_text_of_each(spec, ("ekk", "eng"))
    require_text_of_each(spec, ("ekk",))
    for of_each in ("embedded", "glotcc", str(tmp_path), f"{tmp_path}/{{lang}}.txt"):
        require_text_of_each(of_each, ("ekk", "eng"))
    require_text_of_each("hf:user/data?config={flores}", ("ekk", "eng"))


def test_load_corpus_refuses_an_empty_file_at_once(tmp_path):
    (tmp_path / "mlt.txt").touch()

    with pytest.raises(CorpusError, match=r"mlt\.txt is empty: expected text, found 0 bytes"):
        load_corpus(str(tmp_path / "mlt.txt"), language="mlt")


def test_documents_refuses_a_file_of_blanks(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(" \n\n\t\n", encoding="utf-8")

    with pytest.raises(CorpusError, match=r"text\.txt holds no text: every record in it is blank"):
        documents(path)


def test_documents_names_file_offset_and_remedy_where_text_is_not_utf8(tmp_path):
    path = tmp_path / "mlt.txt"
    path.write_bytes("tajjeb ħafna\n".encode() + "caf\xe9\n".encode("latin-1"))

    with pytest.raises(
        CorpusError,
        match=r"mlt\.txt, line 2, is not UTF-8: byte 0xe9 at offset 17 .* iconv -f ISO-8859-1 -t",
    ):
        documents(path)


def test_documents_recognises_utf16(tmp_path):
    path = tmp_path / "mlt.txt"
    path.write_text("tajjeb\n", encoding="utf-16")

    with pytest.raises(CorpusError, match=r"at offset 0 .* iconv -f UTF-16"):
        documents(path)


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".parquet"])
def test_documents_names_the_fields_there_are(tmp_path, suffix):
    write = write_parquet if suffix == ".parquet" else write_jsonl
    path = write(tmp_path / f"text{suffix}", TEXTS, field="content")

    with pytest.raises(CorpusError, match=r"no field 'text'; it has: id, content\. .*\?field="):
        documents(path)


def test_documents_refuses_a_field_that_is_not_text(tmp_path):
    path = write_jsonl(tmp_path / "text.jsonl", TEXTS)

    with pytest.raises(CorpusError, match=r"line 1: the field 'id' holds int, expected text"):
        documents(f"{path}?field=id")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{broken", r"line 2 is not JSON"),
        ('["list"]', r"line 2: expected a JSON object, found list"),
    ],
)
def test_documents_names_a_broken_json_line(tmp_path, line, message):
    path = tmp_path / "text.jsonl"
    path.write_text(json.dumps({"text": "fine"}) + "\n" + line + "\n", encoding="utf-8")

    with pytest.raises(CorpusError, match=message):
        documents(path)


def test_documents_refuses_parquet_that_is_none(tmp_path):
    path = tmp_path / "text.parquet"
    path.write_bytes(b"PAR1 and nothing more")

    with pytest.raises(CorpusError, match=r"text\.parquet cannot be read as parquet"):
        documents(path)


def test_documents_refuses_truncated_parquet(tmp_path):
    path = write_parquet(tmp_path / "text.parquet", TEXTS * 100)
    path.write_bytes(path.read_bytes()[:-200])

    with pytest.raises(CorpusError, match=r"text\.parquet cannot be read as parquet"):
        documents(path)


@pytest.mark.parametrize("damage", ["truncated", "no gzip"])
def test_documents_refuses_broken_gzip(tmp_path, damage):
    path = write_jsonl(tmp_path / "text.jsonl.gz", TEXTS * 200)
    path.write_bytes(path.read_bytes()[:-20] if damage == "truncated" else b'{"text": "plain"}\n')

    with pytest.raises(
        CorpusError, match=r"text\.jsonl\.gz cannot be decompressed: .* fetch it again"
    ):
        documents(path)


def test_load_corpus_refuses_other_kinds_of_file(tmp_path):
    path = tmp_path / "text.docx"
    path.write_bytes(b"text")

    with pytest.raises(CorpusError, match=r"cannot read this kind of file\. Expected \.txt, "):
        load_corpus(str(path), language="mlt")


def test_load_corpus_refuses_unknown_options_and_placeholders(tmp_path):
    with pytest.raises(CorpusError, match=r"unknown option 'feild'\. Did you mean field\?"):
        load_corpus(f"{tmp_path}/text.jsonl?feild=content", language="mlt")
    with pytest.raises(CorpusError, match=r"unknown placeholder \{language\}.* Known: .*\{lang\}"):
        load_corpus(f"{tmp_path}/{{language}}.txt", language="mlt")


@pytest.mark.parametrize("suffix", [".txt", ".jsonl.gz", ".parquet"])
def test_read_documents_holds_little_of_a_large_file(tmp_path, suffix):
    text = "x" * 20_000
    path = tmp_path / f"text{suffix}"
    if suffix == ".parquet":
        write_parquet(path, [text] * 1000, rows_per_group=50)
    elif suffix == ".txt":
        path.write_text((text + "\n") * 1000, encoding="utf-8")
    else:
        write_jsonl(path, [text] * 1000)

    tracemalloc.start()
    try:
        n_documents = sum(1 for _ in read_documents(path))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert n_documents == 1000
    assert peak < 6_000_000


@given(
    lines=st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r\ufeff\0")),
        min_size=1,
    )
)
def test_read_documents_agrees_with_splitting_the_whole_text(tmp_path_factory, lines):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_bytes("\n".join(lines).encode())
    groups = [
        list(group)
        for kept, group in itertools.groupby(lines, key=lambda s: bool(s.strip()))
        if kept
    ]
    if not groups:
        with pytest.raises(CorpusError, match="holds no text"):
            list(read_documents(path))
        return

    expected = groups[0] if len(groups) == 1 else ["\n".join(group) for group in groups]
    assert list(read_documents(path)) == expected


# Hugging Face data sets


def test_load_corpus_streams_a_data_set_with_the_schema_of_glotcc(tmp_path):
    root = write_glotcc_like(tmp_path)

    corpus = load_corpus(f"hf:{root}?config={{glotcc}}&field=content", language="mt")

    assert list(corpus.documents()) == TEXTS
    assert list(corpus.documents()) == TEXTS
    assert corpus.split == "train"
    assert corpus.source == f"hf:{root}?config=mlt-Latn&field=content&split=train"


def test_load_corpus_streams_a_plain_folder_of_jsonl(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", TEXTS)
    write_jsonl(tmp_path / "test.jsonl", ["held out"])

    assert documents(f"hf:{tmp_path}") == TEXTS
    assert documents(f"hf:{tmp_path}?split=test") == ["held out"]
    assert documents(f"hf:{tmp_path}", split="test") == ["held out"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train.csv", 'text\n"open\nmore\n'),
        ("train.jsonl", '{"text": \n'),
        ("train.jsonl", '{"text": "\\ud83d"}\n'),
    ],
)
def test_a_data_set_that_is_broken_is_one_error(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(CorpusError, match=r"cannot be read: .* without hf:, and the message names"):
        documents(f"hf:{tmp_path}")


def test_load_corpus_picks_data_files_by_language(tmp_path):
    root = write_glotcc_like(tmp_path)
    (root / "README.md").unlink()

    spec = f"hf:{root}?data_files=v1.0/{{glotcc}}/*.parquet&field=content"

    assert documents(spec) == TEXTS
    assert documents(spec, "eng") == ["English."]


def test_load_corpus_names_the_configurations_there_are(tmp_path):
    root = write_glotcc_like(tmp_path)

    with pytest.raises(CorpusError, match=r"has no configuration lvs-Latn, lav-Latn\. .*mlt-Latn"):
        load_corpus(f"hf:{root}?config={{glotcc}}&field=content", language="lvs")


def test_load_corpus_names_the_splits_there_are(tmp_path):
    root = write_glotcc_like(tmp_path)

    with pytest.raises(CorpusError, match=r"has no split 'test'\. Known: train"):
        load_corpus(f"hf:{root}?config={{glotcc}}&field=content", language="mlt", split="test")


def test_load_corpus_names_the_columns_there_are(tmp_path):
    root = write_glotcc_like(tmp_path)

    with pytest.raises(CorpusError, match=r"no field 'text'; it has: id, content"):
        load_corpus(f"hf:{root}?config={{glotcc}}", language="mlt")


def test_load_corpus_refuses_two_different_splits(tmp_path):
    with pytest.raises(CorpusError, match=r"split 'dev' was asked for, but .* says split=train"):
        load_corpus("glotcc", language="mlt", split="dev")


def test_load_corpus_points_to_local_files_when_the_hub_is_out_of_reach():
    with pytest.raises(
        CorpusError,
        match=r"GlotCC-V1 cannot be reached .*HF_HUB_OFFLINE. Or read local text: .*\{lang\}",
    ):
        load_corpus("glotcc", language="mlt")


def test_load_corpus_reports_a_data_set_that_is_not_there(tmp_path):
    with pytest.raises(CorpusError, match=rf"cannot open hf:{tmp_path}/none\?.*hf auth login"):
        load_corpus(f"hf:{tmp_path}/none", language="mlt")


# Specifications


def test_expand_spells_flores_and_glotcc_codes():
    assert expand("{flores}/{glotcc}/{iso1}", language=lookup("mlt")) == ("mlt_Latn/mlt-Latn/mt",)
    assert expand("{flores}", language=lookup("lvs")) == ("lvs_Latn", "lav_Latn")
    assert expand("same", language=lookup("lvs")) == ("same",)


def test_expand_refuses_a_code_the_language_does_not_have():
    with pytest.raises(CorpusError, match=r"needs \{iso1\}, but Bemba has no ISO 639-1 code"):
        expand("{iso1}.txt", language=lookup("bem"))
    with pytest.raises(CorpusError, match=r"needs \{split\}, but no split was given"):
        expand("{split}.txt", language=lookup("mlt"))
