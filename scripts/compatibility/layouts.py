"""Which files are read, as the owners of data sets distribute them: each is made and read."""

import bz2
import csv
import gzip
import io
import json
import lzma
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from lse_interp.data.corpora import load_corpus
from lse_interp.data.parallel import load_parallel
from lse_interp.tasks.benchmarks import Reading, load_documents, tasks_of

__all__ = ["LAYOUTS", "Layout", "measure", "table", "write_rows"]

_MLT = ("Il-qattus rieqed.", 'Ix-xemx, "telgħet".', "Tmiem.")
_ENG = ("The cat sleeps.", 'The sun "rose".', "The end.")
_TEXTS = {"mlt": _MLT, "eng": _ENG}
_ANSWERS = (1, 0, 1)

_ABOUT = """## Files

Each row is made in a folder and read back: as the corpus of a language (`--corpus`), as parallel
sentences (`--parallel`), as the questions of a benchmark (`--data-dir`). `yes` means that exactly
what was written is read, `-` that it is no text of that use.

| files | corpus | parallel | evaluation |
| --- | --- | --- | --- |
"""


@dataclass(frozen=True)
class Layout:
    """Files that are made, and how each use of them is asked for; None where there is none."""

    name: str
    write: Callable[[Path], object]
    corpus: str | None = None
    parallel: str | None = None
    task: str | None = None
    split: str | None = None


def write_rows(path: Path, rows: Sequence[Any]) -> Path:
    """Write rows in the format that a name says; nested cells of a table become JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pack = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": _zstd}
    kind = path.with_suffix("").suffix if path.suffix in pack else path.suffix
    content = io.BytesIO()
    if kind == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), content)
    elif kind == ".arrow":
        columns = pyarrow.Table.from_pylist(rows)
        with pyarrow.ipc.new_stream(content, columns.schema) as stream:
            stream.write_table(columns)
    elif kind in (".csv", ".tsv"):
        text = io.TextIOWrapper(content, encoding="utf-8", newline="", write_through=True)
        table = csv.writer(text, delimiter="\t" if kind == ".tsv" else ",")
        table.writerow(rows[0])
        for row in rows:
            cells = row.values()
            table.writerow([json.dumps(c) if isinstance(c, dict | list) else c for c in cells])
        text.detach()
    elif kind == ".json":
        content.write(json.dumps(rows, ensure_ascii=False, indent=1).encode())
    else:
        lines = [
            row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows
        ]
        content.write("".join(f"{line}\n" for line in lines).encode())
    path.write_bytes(pack.get(path.suffix, bytes)(content.getvalue()))
    return path


def measure(layout: Layout, folder: Path) -> list[str]:
    """Make the files of a layout and read them; return the cells of its row.

    Raises:
        AssertionError: What is read is not what was written.
    """
    layout.write(folder)
    cells = [layout.name]
    if layout.corpus is not None:
        spec = layout.corpus.replace("ROOT", str(folder))
        found = tuple(load_corpus(spec, language="mlt", split=layout.split).documents())
        assert found == _MLT, (layout.name, found)
    if layout.parallel is not None:
        spec = layout.parallel.replace("ROOT", str(folder))
        sentences = load_parallel(spec, languages=tuple(_TEXTS), split=layout.split).sentences
        assert dict(sentences) == _TEXTS, (layout.name, sentences)
    if layout.task is not None:
        task, *_ = tasks_of("mlt", [layout.task])
        documents = load_documents(task, reading=Reading(folder))
        translations = [document.reference for document in documents]
        answers = [document.answer for document in documents]
        assert translations == list(_ENG) or answers == list(_ANSWERS), (layout.name, documents)
    uses = (layout.corpus, layout.parallel, layout.task)
    return [*cells, *("-" if use is None else "yes" for use in uses)]


def table() -> str:
    """Return the section of the page."""
    lines = []
    for layout in LAYOUTS:
        with tempfile.TemporaryDirectory() as folder:
            lines.append(f"| {' | '.join(measure(layout, Path(folder)))} |\n")
    return _ABOUT + "".join(lines)


def _zstd(content: bytes) -> bytes:
    return pyarrow.compress(content, codec="zstd", asbytes=True)


def _each(template: str, *, cells: Callable[[str, int], Any]) -> Any:
    """Write a file for each language, which `{mlt}`, `{mlt_Latn}` or `{mt}` names."""

    def write(root: Path) -> None:
        for code, texts in _TEXTS.items():
            names = {"mlt": code, "mlt_Latn": f"{code}_Latn", "mt": {"mlt": "mt"}.get(code, "en")}
            rows = [cells(text, number) for number, text in enumerate(texts)]
            write_rows(root / template.format(**names), rows)

    return write


def _text(text: str, number: int) -> dict[str, Any]:
    return {"id": number, "text": text}


def _topic(text: str, number: int) -> dict[str, Any]:
    category = ("travel", "science/technology", "travel")[number]
    return {"index_id": number, "category": category, "text": text}


def _passage(text: str, number: int) -> dict[str, Any]:
    options = {f"mc_answer{at}": f"option {at}" for at in range(1, 5)}
    answer = str(_ANSWERS[number] + 1)
    return {"flores_passage": text, "question": "?", **options, "correct_answer_num": answer}


def _questions(file: str, row: Callable[[int], Any], *, labels: str | None = None) -> Any:
    """Write a question for each answer, and the answers alone into a file of their own."""

    def write(root: Path) -> None:
        write_rows(root / file, [row(answer) for answer in _ANSWERS])
        if labels is not None:
            write_rows(root / labels, [str(answer) for answer in _ANSWERS])

    return write


def _arc(answer: int) -> dict[str, Any]:
    choices = [{"text": label.lower(), "label": label} for label in "ABCD"]
    return {"id": "1", "question": {"stem": "?", "choices": choices}, "answerKey": "ABCD"[answer]}


def _hellaswag(answer: int) -> dict[str, Any]:
    return {"ind": 1, "ctx": "a", "endings": ["b", "c", "d", "e"], "label": answer}


def _piqa(answer: int) -> dict[str, Any]:
    return {"goal": "a", "sol1": "b", "sol2": "c"}


def _winogrande(answer: int) -> dict[str, Any]:
    return {"sentence": "_", "option1": "a", "option2": "b", "answer": str(answer + 1)}


def _mmlu(root: Path) -> None:
    for at, answer in enumerate(_ANSWERS):
        path = root / "mmlu" / "val" / f"subject_{at}_val.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'"What, now?",a,b,c,d,{"ABCD"[answer]}\n', encoding="utf-8")


def _ntrex(root: Path) -> None:
    write_rows(root / "newstest2019-ref.mlt.txt", _MLT)
    write_rows(root / "newstest2019-src.eng.txt", _ENG)


def _saved(root: Path) -> None:
    from datasets import Dataset

    for code, texts in _TEXTS.items():
        Dataset.from_dict({"text": texts}).save_to_disk(root / code / "train")
        Dataset.from_dict({"text": ["held out"]}).save_to_disk(root / code / "test")


def _lines(*, end: str = "\n", mark: str = "", last: str = "") -> Any:
    def write(root: Path) -> None:
        for code, texts in _TEXTS.items():
            text = mark + end.join(texts) + end + last
            (root / f"{code}.txt").write_bytes(text.encode())

    return write


def _kinds() -> list[Layout]:
    """List every kind of file, packed in every way."""
    packed = [
        (kind, pack)
        for kind in (".txt", ".jsonl", ".ndjson", ".json", ".csv", ".tsv")
        for pack in ("", ".gz", ".bz2", ".xz", ".zst")
    ]
    return [
        Layout(
            f"`mlt{kind}{pack}`",
            _each(f"{{mlt}}{kind}{pack}", cells=_text if kind != ".txt" else _line),
            corpus="ROOT",
            parallel="ROOT",
        )
        for kind, pack in (*packed, (".parquet", ""), (".arrow", ""))
    ]


def _line(text: str, _: int) -> str:
    return text


_DEVTEST = "flores200_dataset/devtest/{mlt_Latn}.devtest"
_SIB = "sib-200/data/annotated/{mlt_Latn}/test.tsv"
_OPUS = "opus-100-corpus/v1.0/supervised/en-mt"

LAYOUTS: tuple[Layout, ...] = (
    Layout(
        "FLORES-200: `devtest/mlt_Latn.devtest`",
        _each(_DEVTEST, cells=_line),
        *("ROOT/flores200_dataset", "flores:ROOT/flores200_dataset", "flores", "devtest"),
    ),
    Layout(
        "FLORES+: `devtest/mlt_Latn.parquet`",
        _each("flores_plus/devtest/{mlt_Latn}.parquet", cells=_text),
        *("ROOT/flores_plus", "flores:ROOT/flores_plus", "flores", "devtest"),
    ),
    Layout(
        "FLORES+: `devtest/mlt_Latn.jsonl`",
        _each("flores_plus/devtest/{mlt_Latn}.jsonl", cells=_text),
        *("ROOT/flores_plus", "flores:ROOT/flores_plus", "flores", "devtest"),
    ),
    Layout(
        "NTREX: `newstest2019-ref.mlt.txt`, `newstest2019-src.eng.txt`",
        _ntrex,
        corpus="ROOT/newstest2019-ref.{lang}.txt",
        parallel="ntrex:ROOT",
    ),
    Layout(
        "Belebele: `mlt_Latn.jsonl`",
        _each("Belebele/{mlt_Latn}.jsonl", cells=_passage),
        corpus="ROOT/Belebele?field=flores_passage",
        parallel="ROOT/Belebele?field=flores_passage",
        task="belebele",
    ),
    Layout(
        "SIB-200: `data/annotated/mlt_Latn/test.tsv`",
        _each(_SIB, cells=_topic),
        *("ROOT/sib-200/data/annotated",) * 2,
        *("sib200", "test"),
    ),
    Layout(
        "OPUS-100: `en-mt/opus.en-mt-test.mt`",
        _each(f"{_OPUS}/opus.en-mt-test.{{mt}}", cells=_line),
        *(f"ROOT/{_OPUS}/opus.en-mt-test.{{lang}}",) * 2,
        task="opus100",
    ),
    Layout(
        "ARC: `ARC-Easy/ARC-Easy-Dev.jsonl`",
        _questions("ARC-V1-Feb2018-2/ARC-Easy/ARC-Easy-Dev.jsonl", _arc),
        task="arc_easy",
    ),
    Layout(
        "HellaSwag: `data/hellaswag_val.jsonl`",
        _questions("hellaswag/data/hellaswag_val.jsonl", _hellaswag),
        task="hellaswag",
    ),
    Layout(
        "PIQA: `valid.jsonl`, `valid-labels.lst`",
        _questions("piqa/valid.jsonl", _piqa, labels="piqa/valid-labels.lst"),
        task="piqa",
    ),
    Layout(
        "Winogrande: `winogrande_1.1/dev.jsonl`",
        _questions("winogrande_1.1/dev.jsonl", _winogrande),
        task="winogrande",
    ),
    Layout("MMLU: `val/<subject>_val.csv`", _mmlu, task="mmlu"),
    Layout(
        "GlotCC: `mlt-Latn/mlt-Latn_0.parquet`",
        _each("v1.0/{mlt}-Latn/{mlt}-Latn_0.parquet", cells=lambda text, _: {"content": text}),
        corpus="ROOT/v1.0/{glotcc}?field=content",
    ),
    Layout("`DatasetDict.save_to_disk`: `mlt/train/`", _saved, "ROOT", "ROOT", split="train"),
    Layout(
        "Moses: `train.mt`, `train.en`",
        _each("train.{mt}", cells=_line),
        *("ROOT",) * 2,
        split="train",
    ),
    Layout(
        "`Maltese.TXT` in capitals",
        lambda root: [
            write_rows(root / name, rows)
            for name, rows in (("Maltese.TXT", _MLT), ("English.TXT", _ENG))
        ],
        *("ROOT",) * 2,
    ),
    Layout("Windows line ends", _lines(end="\r\n"), *("ROOT",) * 2),
    Layout("old Mac line ends", _lines(end="\r"), *("ROOT",) * 2),
    Layout("byte order mark", _lines(mark="\ufeff"), *("ROOT",) * 2),
    Layout("blank last lines", _lines(last="\n \n"), *("ROOT",) * 2),
    *_kinds(),
)
"""Every layout and kind of file that is tried."""
