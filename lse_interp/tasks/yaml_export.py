"""Tasks as YAML files, to be run by lm-evaluation-harness itself.

```
python -c "
from lse_interp.tasks.benchmarks import tasks_of
from lse_interp.tasks.yaml_export import write_task_files
write_task_files('tasks', tasks_of('mlt', ['paper']))"
lm-eval run --include_path tasks --tasks flores_mlt_eng,belebele_mlt --model hf \
    --model_args pretrained=meta-llama/Llama-3.1-8B --batch_size 1
lm-eval run --include_path tasks --tasks lse_interp --model vllm \
    --model_args pretrained=meta-llama/Llama-3.1-8B,dtype=bfloat16
```

A folder holds one file per task, two for a `choice` (a YAML task has one type of output:
`belebele_mlt` generates, `belebele_mlt_loglikelihood` compares the letters), and one Python file
with the functions they name, which come from this module. The tag `lse_interp` names all of them.
Local copies of the benchmarks take the place of the hub with `--metadata '{"data_dir": "/path"}'`.

Scores are those of `harness.run_tasks`, with two differences of the harness's own `hf` model: its
repetition penalty counts padding, which `--batch_size 1` avoids (vLLM has none), and it loses
characters if a token reaches across the end of a prompt (options without a space before them). See
`greedy_lm`.
"""

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lse_interp.artifacts.atomic import write_atomic
from lse_interp.core.errors import LseError
from lse_interp.core.languages import lookup
from lse_interp.tasks.benchmarks import BENCHMARKS, Reading, load_documents, tasks_of
from lse_interp.tasks.generation import generation_settings
from lse_interp.tasks.kinds import continuations, kind_of, score
from lse_interp.tasks.kinds.translation import STYLES, Style
from lse_interp.tasks.task import Document, Task

__all__ = ["export_tasks", "options", "read_documents", "score_results", "write_task_files"]

logger = logging.getLogger(__name__)

_MODULE = "lse_interp_tasks"
_PYTHON = '''"""The functions that the task files in this folder name."""

from lse_interp.tasks.yaml_export import options, read_documents, score_results

__all__ = ["options", "read_documents", "score_results"]
'''


def write_task_files(
    folder: str | Path,
    tasks: Sequence[Task],
    *,
    data_dir: str | Path | None = None,
    prompt_style: str = "paper",
) -> list[Path]:
    """Write tasks as files for lm-evaluation-harness; files of the same name are replaced.

    Args:
        folder: Where to write; made if it does not exist.
        tasks: From `benchmarks.tasks_of`.
        data_dir: Local copies of the benchmarks, see `data_sets`; None reads the hub.
        prompt_style: One of `STYLES`.

    Returns:
        The files, the Python file last.

    Raises:
        LseError: Another prompt style.
        OSError: A folder that cannot be written.
    """
    if prompt_style not in STYLES:
        raise LseError(f"`prompt_style` must be {' or '.join(STYLES)}; got {prompt_style!r}.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {
        # Relative paths would be resolved against the folder the harness is started in.
        "data_dir": None if data_dir is None else str(Path(data_dir).expanduser().resolve()),
        "prompt_style": prompt_style,
    }
    texts: dict[str, str] = {}
    for task in tasks:
        kind = kind_of(task)
        if kind.text:
            texts[f"{task.name}.yaml"] = _yaml(task, metadata, generated=True)
        if kind.comparison:
            name = f"{task.name}_loglikelihood" if kind.text else task.name
            texts[f"{name}.yaml"] = _yaml(task, metadata, generated=False, name=name)
    texts[f"{_MODULE}.py"] = _PYTHON
    for name, text in texts.items():
        _write(folder / name, text)
    return [folder / name for name in texts]


def export_tasks(
    folder: Path,
    languages: Sequence[str],
    *,
    tasks: Sequence[str],
    data_dir: Path | None,
    prompt_style: Style,
) -> None:
    """Write the tasks of several languages, and say how to run them; see `write_task_files`.

    Raises:
        LseError: An unknown task or language.
    """
    found = dict.fromkeys(task for code in languages for task in tasks_of(code, tasks))
    written = write_task_files(folder, list(found), data_dir=data_dir, prompt_style=prompt_style)
    logger.info(
        "wrote %d files; run them with\n  lm-eval run --include_path %s --tasks lse_interp "
        "--model vllm --model_args pretrained=...",
        len(written),
        folder,
    )


def read_documents(
    *,
    lse_task: Mapping[str, Any],
    data_dir: str | None = None,
    prompt_style: Style = "paper",
    **_: Any,
) -> dict[str, Any]:
    """Read the documents of a task, as the harness wants them.

    The arguments are the `metadata` of a task file; others, such as those of the model that the
    harness adds, are not used.

    Args:
        lse_task: The fields of the task.
        data_dir: Local copies of the benchmarks; None reads the hub.
        prompt_style: One of `STYLES`.

    Returns:
        The split `test`, with the fields of a document, and the kind and language of the task.
    """
    from datasets import Dataset, Features, Value

    task = Task(**lse_task)
    documents = load_documents(task, reading=_reading(data_dir, prompt_style))
    text = Value("string")
    features = Features(
        prompt=text,
        reference=text,
        choices=[text],
        answer=Value("int64"),
        lse_task={name: text for name in dataclasses.asdict(task)},
    )
    rows = [{**dataclasses.asdict(document), "lse_task": lse_task} for document in documents]
    return {"test": Dataset.from_list(rows, features=features)}


def options(doc: Mapping[str, Any]) -> list[str]:
    """Return the texts whose log-likelihoods are compared; see `kinds.continuations`."""
    return list(continuations(Task(**doc["lse_task"]), _document(doc)))


def score_results(doc: Mapping[str, Any], results: Sequence[Any]) -> dict[str, float]:
    """Score a text, or the log-likelihoods of the options; see `kinds.score`."""
    generated = isinstance(results[0], str)
    outcome = score(
        Task(**doc["lse_task"]),
        _document(doc),
        output=results[0] if generated else None,
        loglikelihoods=None if generated else [value for value, _ in results],
    )
    return dict(outcome.scores)


def _reading(data_dir: str | None, prompt_style: Style) -> Reading:
    return Reading(None if data_dir is None else Path(data_dir).expanduser(), prompt_style)


def _document(doc: Mapping[str, Any]) -> Document:
    return Document(
        prompt=doc["prompt"],
        reference=doc["reference"],
        choices=tuple(doc["choices"]),
        answer=doc["answer"],
    )


def _yaml(
    task: Task, metadata: Mapping[str, Any], *, generated: bool, name: str | None = None
) -> str:
    """Write a task file. Strings are written as JSON, which YAML contains."""
    kind = kind_of(task)
    metrics = {n: m.higher_is_better for n, m in kind.metrics.items() if m.of_text == generated}
    lines = [
        *_header(task, prompt_style=metadata["prompt_style"], generated=generated),
        f"task: {name or task.name}",
        "tag: lse_interp",
        f"custom_dataset: !function {_MODULE}.read_documents",
        "test_split: test",
        "num_fewshot: 0",
        "doc_to_text: prompt",
        f"doc_to_target: {'reference' if kind.has_reference else 'answer'}",
        *(_generation() if generated else _comparison()),
        f"process_results: !function {_MODULE}.score_results",
        "metric_list:",
    ]
    for metric, higher in metrics.items():
        lines += [
            f"  - metric: {metric}",
            "    aggregation: mean",
            f"    higher_is_better: {json.dumps(higher)}",
        ]
    lines += ["metadata:", "  version: 1.0"]
    lines += [f"  {key}: {_json(value)}" for key, value in metadata.items()]
    lines += ["  lse_task:"]
    lines += [f"    {key}: {_json(value)}" for key, value in dataclasses.asdict(task).items()]
    return "\n".join(lines) + "\n"


def _header(task: Task, *, prompt_style: Style, generated: bool) -> list[str]:
    kind = kind_of(task)
    part = kind.text if generated else kind.comparison
    assert part is not None and task.benchmark is not None
    how = "appendices C.2 (prompt) and C.3 (generation)" if generated else "appendix C.2 (prompt)"
    prompt = BENCHMARKS[task.benchmark].prompt_template(task, _reading(None, prompt_style))
    return [
        f"# {task.label} ({lookup(task.language).name}). {part.what}",
        f"# Source: paper, section 4.2 (benchmark), {how}.",
        "# The prompt:",
        *(f"#   {line}".rstrip() for line in prompt.split("\n")),
    ]


def _generation() -> list[str]:
    lines = ["output_type: generate_until", "generation_kwargs:"]
    for key, value in generation_settings().items():
        if isinstance(value, list):
            lines += [f"  {key}:", *(f"    - {_json(stop)}" for stop in value)]
        else:
            lines.append(f"  {key}: {_json(value)}")
    return lines


def _comparison() -> list[str]:
    return [
        "output_type: multiple_choice",
        f"doc_to_choice: !function {_MODULE}.options",
        # The options bring their own space.
        'target_delimiter: ""',
    ]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _write(path: Path, text: str) -> None:
    write_atomic(path, lambda out: out.write_text(text, encoding="utf-8"))
