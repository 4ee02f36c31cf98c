"""Tasks made of the embedded corpus: the paper's prompts, on text that comes with the package.

Translation in both directions, the topic of a sentence (the seven topics of SIB-200), and the
ending of a sentence (which of four halves of a clause belongs there). No sentence has a clause that
a model was trained on (`devtest`). The scores show that the tools work; they are no evidence about
a language.
"""

from collections.abc import Iterator

from lse_interp.core.languages import Language
from lse_interp.data.embedded import (
    TOPICS,
    UNSPACED,
    Clauses,
    Sentence,
    clause_ids,
    clauses,
    sentences,
)
from lse_interp.tasks.benchmarks import BENCHMARKS, Benchmark, Reading, in_both_directions
from lse_interp.tasks.benchmarks.sib200 import topic_question
from lse_interp.tasks.kinds.translation import translation_documents
from lse_interp.tasks.task import Document, Task

_SPLIT = "devtest"
_N_ENDINGS = 4
_GENERAL = "eng"


def _translations(benchmark: Benchmark, name: str, language: Language) -> list[Task]:
    clauses(language.code)
    return in_both_directions(benchmark, name, language, prefix="embedded_")


def _of_language_and_english(benchmark: Benchmark, name: str, language: Language) -> list[Task]:
    clauses(language.code)
    return [
        Task(
            name=f"embedded_{name}_{code}",
            row=f"{benchmark.title} in English" if code == _GENERAL else benchmark.title,
            label=f"{benchmark.title} {code}",
            group="general" if code == _GENERAL else "target",
            kind=benchmark.kind,
            language=code,
            benchmark=name,
        )
        for code in dict.fromkeys((language.code, _GENERAL))
    ]


def _translation_documents(task: Task, reading: Reading) -> Iterator[Document]:
    assert task.source is not None
    both = (sentences(code, _SPLIT) for code in (task.source, task.language))
    pairs = ((text.text, reference.text) for text, reference in zip(*both, strict=True))
    yield from translation_documents(task, pairs, style=reading.prompt_style)


def _topics(task: Task, reading: Reading) -> Iterator[Document]:
    for sentence in sentences(task.language, _SPLIT):
        yield topic_question(sentence.text, answer=list(TOPICS).index(sentence.topic))


def _endings(task: Task, reading: Reading) -> Iterator[Document]:
    """Ask how the main clause of each sentence ends, after another sentence and its first half.

    The other options are second halves of other main clauses of the split: each is the right one
    as often as it is a wrong one, so that no option is likelier by itself. The sentence before
    has none of the main clauses asked about.
    """
    code = task.language
    text, mains = clauses(code), clause_ids(_SPLIT)[0]
    halves = {main: _halves(text.main[main], code) for main in mains}
    subordinates = clause_ids(_SPLIT)[1]
    asked = sentences(code, _SPLIT)
    for at, sentence in enumerate(asked):
        turn = subordinates.index(sentence.subordinate)
        options = _options(sentence.main, mains, {main: halves[main][1] for main in mains}, turn)
        earlier = next(
            asked[at - back]
            for back in range(1, len(asked))
            if asked[at - back].main not in options
        )
        space = "" if code in UNSPACED else " "
        yield Document(
            prompt=earlier.text + space + _beginning(text, sentence, halves[sentence.main][0]),
            choices=tuple(halves[main][1] for main in options),
            answer=options.index(sentence.main),
        )


def _options(right: str, mains: list[str], endings: dict[str, str], turn: int) -> list[str]:
    """Choose the main clauses whose endings are offered; the right one's place turns.

    Clause `at` is offered with `at` + 1 + turn, `at` + 2 + turn, ... (mod the number of clauses),
    leaving out those that end like one chosen before.
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


BENCHMARKS.register("translation")(
    Benchmark("Translation", "translation", _translations, documents=_translation_documents)
)
BENCHMARKS.register("topics")(
    Benchmark("Topics", "choice", _of_language_and_english, documents=_topics)
)
BENCHMARKS.register("endings")(
    Benchmark("Endings", "completion", _of_language_and_english, documents=_endings)
)
