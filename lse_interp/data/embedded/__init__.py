"""The mini corpus that ships with the package: parallel sentences in 21 languages.

A sentence is one main clause joined to one subordinate clause by the template of its language;
sentences of the same two clauses mean the same in every language. Each main clause carries one of
the seven topics of SIB-200. Splits are cut by clause: a held-out sentence holds no clause that any
training sentence holds. Of the 308 x 96 pairs, the 13,496 that lie within one split are used.
"""

import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lse_interp.core.errors import CorpusError, LanguageError, near_misses
from lse_interp.core.languages import PAPER_LANGUAGES, PAPER_TARGETS

__all__ = [
    "SPLITS",
    "TOPICS",
    "UNSPACED",
    "Clauses",
    "Sentence",
    "clause_ids",
    "clauses",
    "documents",
    "sentences",
]

SPLITS: tuple[str, ...] = ("pretrain", "adapt", "dev", "devtest")
"""`pretrain` is what the embedded model was trained on (the 12 languages on a third of it, the nine
on the clauses of `adapt` besides); `adapt` (the 12 only) plays the role of GlotCC; `dev` and
`devtest` those of FLORES."""

TOPICS: dict[str, str] = {
    "science": "Science/Technology",
    "travel": "Travel",
    "politics": "Politics",
    "sports": "Sports",
    "health": "Health",
    "entertainment": "Entertainment",
    "geography": "Geography",
}
"""Topic of a main clause -> its name in the classification prompt. Source: paper, appendix C.2."""

UNSPACED: tuple[str, ...] = ("jpn", "zho")
"""Languages written without spaces between words."""

_FOLDER = Path(__file__).parent / "corpus"
_SHUFFLE_SEED = 20251


@dataclass(frozen=True)
class Clauses:
    """One language's clause file."""

    language: str
    name: str
    template: str
    main: dict[str, str]
    subordinate: dict[str, str]

    def compose(self, main: str, subordinate: str) -> str:
        """Join two clauses, by id, into a sentence with a capital first letter."""
        text = self.template.format(main=self.main[main], sub=self.subordinate[subordinate])
        # Titlecase, not uppercase: Georgian capitals (Mtavruli) do not begin sentences.
        return text[0].title() + text[1:]


@dataclass(frozen=True)
class Sentence:
    """A composed sentence, its topic and the two clauses it is made of."""

    text: str
    topic: str
    main: str
    subordinate: str


@cache
def clauses(language: str) -> Clauses:
    """Read one language's clause file.

    Raises:
        LanguageError: the corpus has no such language.
        CorpusError: the file lacks a header line or a clause.
    """
    if language not in PAPER_LANGUAGES:
        raise LanguageError(
            f"the embedded corpus has no language {language!r}. "
            f"{near_misses(language, PAPER_LANGUAGES)}"
        )
    path = _FOLDER / f"{language}.tsv"
    header, rows = _read(path)
    split_of = _split_of()
    missing = [clause for clause in split_of if clause not in rows]
    if missing or not {"name", "template"} <= set(header):
        raise CorpusError(
            f"{path} is incomplete: expected the headers name and template and "
            f"{len(split_of)} clauses, found headers {sorted(header)} and lacks {missing[:5]}."
        )
    return Clauses(
        language=language,
        name=header["name"],
        template=header["template"],
        main={k: v for k, v in rows.items() if k.split(".")[0] in TOPICS},
        subordinate={k: v for k, v in rows.items() if k.split(".")[0] not in TOPICS},
    )


def clause_ids(split: str) -> tuple[list[str], list[str]]:
    """List the ids of a split's main clauses and of its subordinate clauses, in file order."""
    ids = [clause for clause, name in _split_of().items() if name == split]
    mains = [clause for clause in ids if clause.split(".")[0] in TOPICS]
    return mains, [clause for clause in ids if clause not in mains]


@cache
def sentences(language: str, split: str) -> tuple[Sentence, ...]:
    """Compose every sentence of a split, in one shuffled order shared by all languages.

    The sentence at index i means the same in every language that has the split.

    Raises:
        LanguageError: no such language.
        CorpusError: no such split, or a split this language does not have.
    """
    if split not in SPLITS:
        raise CorpusError(f"unknown split {split!r} of the embedded corpus. Known: {SPLITS}.")
    if split == "adapt" and language not in PAPER_TARGETS:
        raise CorpusError(
            f"the split `adapt` has no {language}: it holds the 12 languages to adapt to "
            f"({', '.join(PAPER_TARGETS)}). Use split pretrain, dev or devtest."
        )
    text = clauses(language)
    mains, subordinates = clause_ids(split)
    pairs = [(main, sub) for main in mains for sub in subordinates]
    random.Random(_SHUFFLE_SEED).shuffle(pairs)
    return tuple(
        Sentence(text.compose(main, sub), main.split(".")[0], main, sub) for main, sub in pairs
    )


def documents(language: str, split: str, *, n_sentences: int = 6) -> list[str]:
    """Group a split into documents of `n_sentences` consecutive sentences."""
    texts = [sentence.text for sentence in sentences(language, split)]
    join = "" if language in UNSPACED else " "
    return [
        join.join(texts[start : start + n_sentences]) for start in range(0, len(texts), n_sentences)
    ]


def _read(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    header: dict[str, str] = {}
    rows: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("# "):
            key, _, value = line[2:].partition(": ")
            header[key] = value
        elif line.strip():
            key, _, value = line.partition("\t")
            rows[key] = value
    return header, rows


@cache
def _split_of() -> dict[str, str]:
    _, rows = _read(_FOLDER / "splits.tsv")
    return rows
