"""From a row of a benchmark to a question: options in their order, the answer as a position.

Column names and their types are those of the data sets on the Hugging Face hub. A cell that a csv
or tsv file cannot hold (`choices`, `endings`, `translation`) is read from JSON text. Text is taken
as it stands: HellaSwag's `[header]` and `[step]` and Winogrande's `_` stay in the prompt.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lse_interp.core.errors import CorpusError
from lse_interp.core.languages import Language
from lse_interp.data.source_spec import spellings
from lse_interp.tasks import prompts
from lse_interp.tasks.base import LETTERS, Document

__all__ = [
    "Row",
    "arc",
    "belebele",
    "hellaswag",
    "mmlu",
    "piqa",
    "require_columns",
    "sib200",
    "text_cell",
    "translation_pair",
    "winogrande",
]

Row = Mapping[str, Any]
"""Column -> cell."""


def belebele(row: Row, *, where: str) -> Document:
    """Read a row of Belebele; `correct_answer_num` counts from 1."""
    options = [text_cell(row, f"mc_answer{number}", where=where) for number in range(1, 5)]
    return _question(
        prompts.comprehension(
            text_cell(row, "flores_passage", where=where),
            question=text_cell(row, "question", where=where),
            options=options,
        ),
        options,
        _position(row, "correct_answer_num", first=1, n_options=4, where=where),
    )


def sib200(row: Row, *, where: str) -> Document:
    """Read a row of SIB-200; a `category` is a topic of the prompt in small letters."""
    from lse_interp.data.embedded import TOPICS

    topics = tuple(TOPICS.values())
    names = [topic.lower() for topic in topics]
    category = text_cell(row, "category", where=where)
    if category not in names:
        raise CorpusError(
            f"{where}: `category` should be one of {', '.join(names)}; found {category!r}."
        )
    text = text_cell(row, "text", where=where)
    return _question(prompts.classification(text), topics, names.index(category))


def arc(row: Row, *, where: str) -> Document:
    """Read a row of ARC; `answerKey` is one of `choices.label`.

    The labels are letters in some rows and digits in others; the prompt has letters throughout.
    """
    choices = _nested(row, "choices", kind=Mapping, where=where)
    require_columns(choices, ("text", "label"), where=f"{where}, `choices`")
    options = _texts(choices["text"], "choices.text", where=where)
    labels = _texts(choices["label"], "choices.label", where=where)
    key = text_cell(row, "answerKey", where=where)
    if len(labels) != len(options) or key not in labels:
        raise CorpusError(
            f"{where}: `answerKey` should be one of the {len(options)} labels of `choices`; found "
            f"{key!r} and the labels {', '.join(labels)}."
        )
    question = text_cell(row, "question", where=where)
    return _question(prompts.arc(question, options), options, labels.index(key))


def hellaswag(row: Row, *, where: str) -> Document:
    """Read a row of HellaSwag; `label` counts from 0."""
    options = _texts(_nested(row, "endings", kind=Sequence, where=where), "endings", where=where)
    answer = _position(row, "label", first=0, n_options=len(options), where=where)
    context = text_cell(row, "ctx", where=where)
    return _question(prompts.hellaswag(context, options), options, answer)


def piqa(row: Row, *, where: str) -> Document:
    """Read a row of PIQA; `label` counts from 0."""
    options = [text_cell(row, name, where=where) for name in ("sol1", "sol2")]
    answer = _position(row, "label", first=0, n_options=2, where=where)
    goal = text_cell(row, "goal", where=where)
    return _question(prompts.piqa(goal, options), options, answer)


def winogrande(row: Row, *, where: str) -> Document:
    """Read a row of Winogrande; `answer` counts from 1."""
    options = [text_cell(row, name, where=where) for name in ("option1", "option2")]
    answer = _position(row, "answer", first=1, n_options=2, where=where)
    sentence = text_cell(row, "sentence", where=where)
    return _question(prompts.winogrande(sentence, options), options, answer)


def mmlu(row: Row, *, where: str) -> Document:
    """Read a row of MMLU; `answer` counts from 0."""
    options = _texts(_nested(row, "choices", kind=Sequence, where=where), "choices", where=where)
    answer = _position(row, "answer", first=0, n_options=len(options), where=where)
    question = text_cell(row, "question", where=where)
    return _question(prompts.mmlu(question, options), options, answer)


def translation_pair(row: Row, *, languages: Sequence[Language], where: str) -> tuple[str, ...]:
    """Read a row of OPUS-100: one text per language, under any spelling of its code."""
    pair = _nested(row, "translation", kind=Mapping, where=where)
    texts = []
    for language in languages:
        key = next((code for code in spellings(language) if code in pair), None)
        if key is None:
            raise CorpusError(
                f"{where}: `translation` has no {language.name}; expected a key "
                f"{' or '.join(language.spellings)}, found {', '.join(pair)}."
            )
        texts.append(text_cell(pair, key, where=f"{where}, `translation`"))
    return tuple(texts)


def require_columns(row: Iterable[str], columns: Sequence[str], *, where: str) -> None:
    """Raise a CorpusError that names the columns expected and found unless all are there."""
    found = list(row)
    missing = [name for name in columns if name not in found]
    if missing:
        raise CorpusError(
            f"{where} has no {' and no '.join(f'`{name}`' for name in missing)}: expected the "
            f"columns {', '.join(columns)}; found {', '.join(map(str, found)) or '(none)'}."
        )


def text_cell(row: Row, name: str, *, where: str) -> str:
    """Return a cell that should hold text."""
    value = row[name]
    if not isinstance(value, str):
        raise CorpusError(f"{where}: `{name}` should be text; found {value!r}.")
    return value


def _question(prompt: str, options: Sequence[str], answer: int) -> Document:
    return Document(prompt=prompt, choices=tuple(options), answer=answer)


def _position(row: Row, name: str, *, first: int, n_options: int, where: str) -> int:
    """Return the position, from 0, that a cell gives as a number from `first`."""
    value = row[name]
    text = str(value).strip()
    if isinstance(value, bool) or not text.isascii() or not text.isdigit():
        number = None
    else:
        number = int(text) - first
    if number is None or not 0 <= number < n_options:
        raise CorpusError(
            f"{where}: `{name}` should be the right option, {first} to {first + n_options - 1}; "
            f"found {value!r}. Splits without answers cannot be scored."
        )
    return number


def _nested(row: Row, name: str, *, kind: type, where: str) -> Any:
    value = row[name]
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise CorpusError(
                f"{where}: `{name}` is text that is not JSON ({error}). In a csv or tsv file write "
                f"this column as JSON, or use jsonl or parquet."
            ) from error
    if not isinstance(value, kind) or isinstance(value, str):
        wanted = "a list" if kind is Sequence else "an object"
        raise CorpusError(f"{where}: `{name}` should be {wanted}; found {value!r}.")
    return value


def _texts(values: Any, name: str, *, where: str) -> list[str]:
    texts = list(values) if isinstance(values, Sequence) and not isinstance(values, str) else []
    if not 2 <= len(texts) <= len(LETTERS) or not all(isinstance(text, str) for text in texts):
        raise CorpusError(
            f"{where}: `{name}` should be a list of 2 to {len(LETTERS)} texts; found {values!r}."
        )
    return texts
