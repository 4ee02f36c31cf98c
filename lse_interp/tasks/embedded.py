"""Tasks made of the embedded corpus: the paper's prompts, on text that ships with the package.

Translation in both directions, the topic of a sentence (the seven topics of SIB-200), and the
ending of a sentence (which of four halves of a clause belongs there). All on sentences without a
clause that a model was trained on (`devtest`). The scores show that the tools work; they are no
evidence about a language.
"""

from lse_interp.core.errors import LseError, near_misses
from lse_interp.core.languages import lookup
from lse_interp.data.embedded import (
    TOPICS,
    UNSPACED,
    Clauses,
    Sentence,
    clause_ids,
    clauses,
    sentences,
)
from lse_interp.tasks import prompts
from lse_interp.tasks.base import Document, Task

__all__ = ["EMBEDDED_TASKS", "embedded_documents", "embedded_tasks"]

EMBEDDED_TASKS: tuple[str, ...] = ("translation", "topics", "endings")
"""Names of the embedded tasks, as `--tasks` takes them."""

_N_ENDINGS = 4
_GENERAL = "eng"


def embedded_tasks(language: str, *, names: tuple[str, ...] = EMBEDDED_TASKS) -> list[Task]:
    """List the embedded tasks of a language, and those of English as general capabilities.

    Raises:
        LanguageError: a language that the embedded corpus lacks.
        LseError: an unknown task.
    """
    code = lookup(language).code
    clauses(code)
    for name in names:
        if name not in EMBEDDED_TASKS:
            raise LseError(f"Unknown embedded task {name!r}. {near_misses(name, EMBEDDED_TASKS)}")
    tasks = []
    if "translation" in names and code != _GENERAL:
        tasks += [_translation(code, _GENERAL), _translation(_GENERAL, code)]
    for name, row in (("topics", "Topics"), ("endings", "Endings")):
        if name in names:
            tasks.append(_of_one_language(name, row, code))
    for name, row in (("topics", "Topics"), ("endings", "Endings")):
        if name in names and code != _GENERAL:
            tasks.append(_of_one_language(name, row, _GENERAL))
    return tasks


def embedded_documents(
    task: Task, *, prompt_style: prompts.Style = "paper", split: str = "devtest"
) -> list[Document]:
    """Write the questions of an embedded task, one per sentence of the split.

    Args:
        task: One of `embedded_tasks`.
        prompt_style: See `prompts.translation`.
        split: `dev` or `devtest`.
    """
    name, *codes = task.name.removeprefix("embedded_").split("_")
    if name == "translation":
        source, target = codes
        pairs = zip(sentences(source, split), sentences(target, split), strict=True)
        target_name = lookup(target).name
        return [
            Document(
                prompt=prompts.translation(text.text, target_name=target_name, style=prompt_style),
                reference=reference.text,
            )
            for text, reference in pairs
        ]
    (code,) = codes
    if name == "topics":
        return [_topic(sentence) for sentence in sentences(code, split)]
    return _endings(code, split)


def _translation(source: str, target: str) -> Task:
    to_english = target == _GENERAL
    return Task(
        name=f"embedded_translation_{source}_{target}",
        row="Translation TG→EN" if to_english else "Translation EN→TG",
        label=f"Translation {source}→{target}",
        group="target",
        kind="translation",
        language=target,
    )


def _of_one_language(name: str, row: str, code: str) -> Task:
    general = code == _GENERAL
    return Task(
        name=f"embedded_{name}_{code}",
        row=f"{row} in English" if general else row,
        label=f"{row} {code}",
        group="general" if general else "target",
        kind="choice" if name == "topics" else "completion",
        language=code,
    )


def _topic(sentence: Sentence) -> Document:
    names = tuple(TOPICS.values())
    return Document(
        prompt=prompts.classification(sentence.text),
        choices=names,
        answer=list(TOPICS).index(sentence.topic),
    )


def _endings(code: str, split: str) -> list[Document]:
    """Ask how the main clause of each sentence ends, after another sentence and its first half.

    The other options are second halves of other main clauses of the split: each is the right one
    as often as it is a wrong one, so that no option is likelier by itself. The sentence before
    has none of the main clauses asked about.
    """
    text, mains = clauses(code), clause_ids(split)[0]
    halves = {main: _halves(text.main[main], code) for main in mains}
    subordinates = clause_ids(split)[1]
    asked = sentences(code, split)
    documents = []
    for at, sentence in enumerate(asked):
        turn = subordinates.index(sentence.subordinate)
        options = _options(sentence.main, mains, {main: halves[main][1] for main in mains}, turn)
        earlier = next(
            asked[at - back]
            for back in range(1, len(asked))
            if asked[at - back].main not in options
        )
        space = "" if code in UNSPACED else " "
        documents.append(
            Document(
                prompt=earlier.text + space + _beginning(text, sentence, halves[sentence.main][0]),
                choices=tuple(halves[main][1] for main in options),
                answer=options.index(sentence.main),
            )
        )
    return documents


def _options(right: str, mains: list[str], endings: dict[str, str], turn: int) -> list[str]:
    """Choose the main clauses whose endings are offered; the right one's place turns.

    Clause `at` is offered with `at` + 1 + turn, `at` + 2 + turn, ... (mod the number of clauses),
    leaving out those that end like one that is there.
    """
    at = mains.index(right)
    chosen: list[str] = []
    for step in range(len(mains) - 1):
        other = mains[(at + 1 + (turn + step) % (len(mains) - 1)) % len(mains)]
        if endings[other] not in {endings[main] for main in (right, *chosen)}:
            chosen.append(other)
        if len(chosen) == _N_ENDINGS - 1:
            break
    place = (at + turn) % _N_ENDINGS
    return [*chosen[:place], right, *chosen[place:]]


def _halves(clause: str, code: str) -> tuple[str, str]:
    """Cut a clause in the middle; the second half keeps the space before it."""
    if code in UNSPACED:
        at = (len(clause) + 1) // 2
        return clause[:at], clause[at:]
    words = clause.split(" ")
    at = (len(words) + 1) // 2
    return " ".join(words[:at]), " " + " ".join(words[at:])


def _beginning(text: Clauses, sentence: Sentence, first: str) -> str:
    """Compose a sentence up to the end of the first half of its main clause."""
    head, _, _ = text.template.partition("{main}")
    beginning = head.format(sub=text.subordinate[sentence.subordinate]) + first
    return beginning[0].title() + beginning[1:]
