"""The benchmarks of the paper: where they are, which languages they have, their questions.

| name            | data set on the hub            | configuration            | split      |
|-----------------|--------------------------------|--------------------------|------------|
| `flores`        | `openlanguagedata/flores_plus` | a language, `ekk_Latn`   | devtest    |
| `belebele`      | `facebook/belebele`            | a language, `est_Latn`   | test       |
| `sib200`        | `Davlan/sib200`                | a language, `est_Latn`   | test       |
| `opus100`       | `Helsinki-NLP/opus-100`        | a pair, `en-et`, `af-en` | test       |
| `arc_challenge` | `allenai/ai2_arc`              | `ARC-Challenge`          | validation |
| `arc_easy`      | `allenai/ai2_arc`              | `ARC-Easy`               | validation |
| `hellaswag`     | `Rowan/hellaswag`              | none                     | validation |
| `piqa`          | `baber/piqa`                   | none                     | validation |
| `winogrande`    | `allenai/winogrande`           | `winogrande_xl`          | validation |
| `mmlu`          | `cais/mmlu`                    | `all`                    | validation |

The paper says "valtest" for FLORES-200, test for OPUS-100, and no split for the others. Its ARC and
MMLU scores fit the sizes of the validation splits; the test splits of HellaSwag, PIQA and
Winogrande have no answers. FLORES+ is the maintained edition of FLORES-200. `ybisk/piqa` is a
script, which `datasets` 4 does not run; `baber/piqa` holds the same rows as parquet. Where a data
set cannot be opened as it is, the hub's own parquet copy of it (`refs/convert/parquet`) is tried.

Local copies stand in for the hub, in a folder laid out as

    <data_dir>/<name>/<configuration>/<split>.jsonl     (or .jsonl.gz, .parquet, .csv, .tsv)
    <data_dir>/<name>/<split>.jsonl                     the six of English, if you like

e.g. `data/belebele/est_Latn/test.jsonl`, `data/arc_easy/validation.parquet`. A folder of a language
may have any spelling of its code (`est_Latn`, `ekk_Latn`, `ekk`, `est`, `et`; pairs `en-et` or
`et-en`). Columns are those of the hub; FLORES+ has `id` and `text`.

The tests read local files of these columns in every format, and local data sets through the code
that reads the hub; they do not reach the hub itself.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lse_interp.core.errors import CorpusError
from lse_interp.core.languages import Language, lookup
from lse_interp.data.hub import HubSource, open_rows
from lse_interp.data.parallel import ParallelText, load_parallel
from lse_interp.data.source_spec import expand, spellings
from lse_interp.tasks import prompts, rows
from lse_interp.tasks.base import Document, Task
from lse_interp.tasks.coverage import opus_code
from lse_interp.tasks.local_data import find_split, read_rows
from lse_interp.tasks.registry import BENCHMARKS, Benchmark, benchmark_of, benchmark_tasks

__all__ = ["BENCHMARKS", "Benchmark", "benchmark_tasks", "load_documents"]

_ENGLISH = "eng"


def load_documents(
    task: Task,
    *,
    data_dir: Path | str | None = None,
    prompt_style: prompts.Style = "paper",
    limit: int | None = None,
) -> list[Document]:
    """Read the questions of a task, in the paper's prompts.

    Args:
        task: one of `benchmark_tasks`.
        data_dir: folder with local copies, laid out as above; None reads the hub.
        prompt_style: form of translation prompts; see `prompts.STYLES`.
        limit: take the first so many questions, 1 or more; None takes all.

    Raises:
        CorpusError: a language that the benchmark lacks, files or columns that are missing, an
            answer that is no option, or a hub that cannot be reached.
        LseError: a task of no benchmark.
    """
    if limit is not None and limit < 1:
        raise CorpusError(f"`limit` should be 1 or more questions; got {limit}.")
    folder = None if data_dir is None else Path(data_dir).expanduser()
    benchmark, codes = benchmark_of(task.name)
    if benchmark.to_document is None:
        source, target = (lookup(code) for code in codes)
        pairs = _pairs(benchmark, source, target, data_dir=folder)
        return [
            Document(
                prompt=prompts.translation(text, target_name=target.name, style=prompt_style),
                reference=reference,
            )
            for text, reference in itertools.islice(pairs, limit)
        ]
    language = lookup(codes[0]) if codes else None
    found = itertools.islice(_rows(benchmark, language, data_dir=folder), limit)
    return [benchmark.to_document(row, where=where) for where, row in found]


def _pairs(
    benchmark: Benchmark, source: Language, target: Language, *, data_dir: Path | None
) -> Iterator[tuple[str, str]]:
    other = target if source.code == _ENGLISH else source
    if benchmark.name == "flores":
        text = _flores(other, data_dir=data_dir)
        yield from zip(text.sentences[source.code], text.sentences[target.code], strict=True)
        return
    for where, row in _rows(benchmark, other, data_dir=data_dir):
        first, second = rows.translation_pair(row, languages=(source, target), where=where)
        yield first, second


def _flores(language: Language, *, data_dir: Path | None) -> ParallelText:
    """Read a language and English, aligned by the column `id`, in the order of English."""
    languages = (lookup(_ENGLISH), language)
    split = BENCHMARKS["flores"].split
    if data_dir is None:
        try:
            codes = [record.code for record in languages]
            return load_parallel("flores", languages=codes, split=split)
        except CorpusError as error:
            raise CorpusError(_hub_failure(BENCHMARKS["flores"], language, error)) from error
    tables = [
        _by_id(_rows(BENCHMARKS["flores"], record, data_dir=data_dir)) for record in languages
    ]
    odd = sorted(tables[0].keys() ^ tables[1].keys())
    if odd:
        raise CorpusError(
            f"{data_dir / 'flores'} is not parallel: {language.name} and English differ in "
            f"{len(odd)} values of `id`, e.g. {', '.join(odd[:5])}."
        )
    return ParallelText(
        languages=tuple(record.code for record in languages),
        sentences={
            record.code: tuple(table[key] for key in tables[0])
            for record, table in zip(languages, tables, strict=True)
        },
        spec=str(data_dir / "flores"),
        split=split,
    )


def _by_id(found: Iterator[tuple[str, rows.Row]]) -> dict[str, str]:
    table: dict[str, str] = {}
    for where, row in found:
        key = str(row["id"])
        if key in table:
            raise CorpusError(f"{where}: the `id` {key} was there before; every id stands once.")
        table[key] = rows.text_cell(row, "text", where=where)
    return table


def _rows(
    benchmark: Benchmark, language: Language | None, *, data_dir: Path | None
) -> Iterator[tuple[str, rows.Row]]:
    """Yield where each row stands and the row, its columns checked."""
    if data_dir is None:
        found = _hub_rows(benchmark, language)
    else:
        files = find_split(
            data_dir / benchmark.name,
            folders=_folders(benchmark, language),
            split=benchmark.split,
        )
        found = itertools.chain.from_iterable(map(read_rows, files))
    for where, row in found:
        rows.require_columns(row, benchmark.columns, where=where)
        yield where, row


def _folders(benchmark: Benchmark, language: Language | None) -> list[str]:
    """List the folders a local copy may be in, the hub's configuration first."""
    if language is None or benchmark.config_of is None:
        return [*([benchmark.config] if benchmark.config else []), "."]
    config = benchmark.config_of(language)
    names = [config] if config else []
    if benchmark.config_of is opus_code:
        for code in language.spellings:
            english = "en" if len(code) == 2 else _ENGLISH
            names += [f"{english}-{code}", f"{code}-{english}"]
    else:
        names += [*expand("{flores}", language=language), *spellings(language)]
    return list(dict.fromkeys(names))


def _hub_rows(
    benchmark: Benchmark, language: Language | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    config = benchmark.config
    if language is not None and benchmark.config_of is not None:
        config = benchmark.config_of(language)
    sources = [
        HubSource(
            dataset=benchmark.dataset,
            config=config,
            split=benchmark.split,
            field=benchmark.columns[0],
        ),
        # Files named one by one are all of the split `train`.
        HubSource(
            dataset=benchmark.dataset,
            config=None,
            split="train",
            field=benchmark.columns[0],
            revision="refs/convert/parquet",
            data_files=f"{config or 'default'}/{benchmark.split}/*.parquet",
        ),
    ]
    from datasets.exceptions import DatasetsError

    try:
        stream, _ = open_rows(sources)
        for number, row in enumerate(stream, start=1):
            yield f"{benchmark.dataset} ({config or 'default'}), row {number}", row
    except (CorpusError, OSError, DatasetsError) as error:
        raise CorpusError(_hub_failure(benchmark, language, error)) from error


def _hub_failure(benchmark: Benchmark, language: Language | None, error: Exception) -> str:
    reason = str(error)
    if isinstance(error.__cause__, ConnectionError):
        reason = (
            f"{benchmark.dataset} cannot be reached on the Hugging Face hub: {error.__cause__}. "
            f"Check the network and HF_HUB_OFFLINE."
        )
    folder = _folders(benchmark, language)[0]
    place = "/".join(["DATA", benchmark.name, *([folder] if folder != "." else [])])
    return f"{reason} Or pass --data-dir DATA with a local copy {place}/{benchmark.split}.jsonl."
