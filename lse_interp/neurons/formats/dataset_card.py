"""The dataset card of released neurons: the README next to the table on the Hugging Face hub.

Everything in it is read from the neuron sets. What they do not say is given as unknown.
"""

import re
import shlex
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCardData

from lse_interp.artifacts.atomic import write_together
from lse_interp.artifacts.paths import DEFAULT_SELECTOR
from lse_interp.artifacts.registry import writer_command
from lse_interp.core.errors import LseError
from lse_interp.core.languages import describe
from lse_interp.neurons.selectors import SELECTORS, Selector, command_flags
from lse_interp.neurons.sets import NeuronSets

__all__ = ["CARD_NAME", "TABLE_NAME", "check_license", "dataset_card", "write_release"]

CARD_NAME, TABLE_NAME = "README.md", "neurons.parquet"

_NO_LICENSE = "unknown"
_ROWS = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (10**6, "100K<n<1M"))
_TITLE = "Sparse Subnetwork Enhancement for Underrepresented Languages in Large Language Models"
_UNLICENSED = """\
Not chosen yet: change `license: unknown` in the first lines of this file, or write it again with
`--license`, before publishing. The license of the model may bear on it; see
https://huggingface.co/docs/hub/repositories-licenses."""
_TEMPLATE = """\
---
{front_matter}
---

# Language neurons of {model}

{summary}

## How they were found

{method}

## Languages

{languages}

## Columns

{columns}

## Loading

```python
import pandas as pd
from datasets import load_dataset
from huggingface_hub import hf_hub_download
from lse_interp import NeuronSets

frame = pd.read_parquet("hf://datasets/<user>/<name>/{table}")
rows = load_dataset("<user>/<name>", split="train")

path = hf_hub_download("<user>/<name>", "{table}", repo_type="dataset")
neurons = NeuronSets.from_parquet(path)  # languages, thresholds and model with it
neurons["{language}"]  # one tensor of neuron indices per layer
```

Model, thresholds, site and provenance are in the file itself, as JSON under the key
`lse_interp` of the parquet schema.

## Making it again

{commands}

## Citation

```bibtex
@misc{{gurgurov2025sparse,
  title  = {title},
  author = {{Gurgurov, Daniil and van Genabith, Josef and Ostermann, Simon}},
  year   = {{2025}}
}}{citation}
```

## License

{license}
"""


def write_release(folder: str | Path, neurons: NeuronSets, *, license: str | None = None) -> Path:
    """Write a folder that is ready for `hf upload`: the table and its card.

    Other files in the folder stay.

    Args:
        folder: where; created if it is missing.
        neurons: the sets.
        license: see `dataset_card`.

    Returns:
        The folder.
    """
    folder = Path(folder)
    card = dataset_card(neurons, license=license)
    write_together(
        {
            folder / TABLE_NAME: neurons.to_parquet,
            folder / CARD_NAME: lambda path: path.write_text(card, encoding="utf-8"),
        }
    )
    return folder


def dataset_card(neurons: NeuronSets, *, license: str | None = None) -> str:
    """Write the card of a release table.

    Args:
        neurons: the sets.
        license: the hub's identifier of a license, such as `cc-by-4.0`; the card says `unknown`
            where none was chosen.

    Raises:
        LseError: `license` cannot be an identifier.
    """
    if license is not None:
        check_license(license)
    selector = SELECTORS[neurons.method] if neurons.method in SELECTORS else None  # noqa: SIM401
    return _TEMPLATE.format(
        front_matter=_front_matter(neurons, license or _NO_LICENSE).to_yaml(),
        model=neurons.model.name,
        summary=_summary(neurons),
        method=_method(neurons, selector),
        languages=_languages(neurons),
        columns=_columns(neurons, selector),
        table=TABLE_NAME,
        language=max(neurons, key=neurons.size),
        commands=_commands(neurons, selector),
        title=f"{{{_TITLE}}}",
        citation=f"\n{selector.citation}" if selector and selector.citation else "",
        license=_UNLICENSED if license is None else f"`{license}`.",
    )


def check_license(license: str) -> None:
    """Refuse a license that cannot be one of the hub's identifiers.

    Raises:
        LseError: it holds more than small letters, digits, dots and hyphens.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", license):
        raise LseError(
            "`license` must be an identifier of the hub such as cc-by-4.0 or mit; got "
            f"{license!r}. See https://huggingface.co/docs/hub/repositories-licenses."
        )


def _front_matter(neurons: NeuronSets, license: str) -> DatasetCardData:
    n_rows = sum(neurons.size(language) for language in neurons)
    # The hub knows languages; varieties have a field of their own.
    languages, varieties = set(), set()
    for code in neurons:
        language, hyphen, variety = code.partition("-")
        languages.add(short := describe(language).iso639_1 or language)
        if variety:
            varieties.add(short + hyphen + variety)
    about: dict[str, Any] = {
        "license": license,
        "pretty_name": f"Language neurons of {neurons.model.name}",
        "language": sorted(languages),
        "language_bcp47": sorted(varieties) or None,
        "multilinguality": ["multilingual"],
        "size_categories": [next((name for top, name in _ROWS if n_rows < top), "1M<n<10M")],
        "tags": ["interpretability", "multilingual", "language-neurons", neurons.method]
        + ["lse_interp"],
        "configs": [
            {"config_name": "default", "data_files": [{"split": "train", "path": TABLE_NAME}]}
        ],
    }
    return DatasetCardData(**about)


def _summary(neurons: NeuronSets) -> str:
    model, n_all = neurons.model, neurons.model.n_layers * neurons.model.d_mlp
    n_union = int(neurons.union().sum())
    about = neurons.provenance
    made = f"{about.get('created', 'at an unknown time')}, lse_interp"
    text = _fill(
        f"Neurons of the feed-forward layers that `{model.name}` keeps for {len(neurons)} "
        f"languages, one row of `{TABLE_NAME}` per language, layer and neuron. {n_union:,} of its "
        f"{n_all:,} neurons ({_percent(n_union, n_all)} %) belong to at least one language; a "
        "neuron may belong to several."
    )
    rows = [
        ("model", f"`{model.name}`"),
        ("fingerprint of its weights", f"`{model.fingerprint or 'unknown'}`"),
        ("architecture", f"{model.architecture}, {model.n_parameters:,} parameters"),
        ("layers, neurons per layer", f"{model.n_layers}, {model.d_mlp:,}"),
        ("site of the activations", f"`{neurons.site or 'unknown'}`"),
        ("made", f"{made} {about.get('package_version', 'unknown version')}"),
    ]
    return f"{text}\n\n{_table(('', ''), rows)}"


def _method(neurons: NeuronSets, selector: Selector | None) -> str:
    about = _fill(selector.about if selector else f"Method: `{neurons.method}`.")
    known, meanings = neurons.thresholds, selector.thresholds if selector else {}
    order = dict.fromkeys([name for name in meanings if name in known] + list(known))
    rows = [(f"`{name}`", _number(known[name]), meanings.get(name, "")) for name in order]
    return f"{about}\n\n{_table(('threshold', 'value', 'meaning'), rows)}" if rows else about


def _languages(neurons: NeuronSets) -> str:
    n_tokens = neurons.provenance.get("n_tokens", {})
    rows = [
        (
            f"`{code}`",
            describe(code).name,
            f"{n_tokens[code]:,}" if code in n_tokens else "unknown",
            f"{neurons.size(code):,}",
            f"{neurons.n_trainable(code):,}",
            _percent(neurons.n_trainable(code), neurons.model.n_parameters),
        )
        for code in neurons
    ]
    header = ("code", "language", "tokens counted", "neurons", "trainable weights", "% of model")
    note = _fill(
        "Trainable weights are the rows and columns that the neurons own: "
        f"{len(neurons.model.projections)} x neurons x {neurons.model.d_model:,}."
    )
    return f"{_table(header, rows, right=4)}\n\n{note}"


def _columns(neurons: NeuronSets, selector: Selector | None) -> str:
    title = selector.title if selector else "score"
    unit = f", in {neurons.score_unit}" if neurons.score_unit else ""
    score = neurons.score_name
    meanings = {
        "language": "code of the language: ISO 639-3, of a variety with its region or script",
        "layer": "layer, from 0",
        "neuron": "index of the neuron in the MLP of that layer, from 0",
        score: f"{title} of the neuron over all languages{unit}",
        "probability": "share of the language's tokens at which the neuron is active",
    }
    table = _table(("column", "meaning"), [(f"`{name}`", text) for name, text in meanings.items()])
    grids = {score: neurons.scores, "probability": neurons.probability}
    unknown = ", ".join(name for name, grid in grids.items() if grid is None)
    return f"{table}\n\nNot known here: {unknown}." if unknown else table


def _commands(neurons: NeuronSets, selector: Selector | None) -> str:
    asked = selector.defaults if selector else {}
    if selector is None or not asked.keys() <= neurons.thresholds.keys():
        command = neurons.provenance.get("command")
        return f"Written by `{command}`." if command else "The command was not recorded."
    model = f"--model {neurons.model.name}"
    n_tokens = neurons.provenance.get("n_tokens", {})
    corpora = neurons.provenance.get("corpora", {})
    together: dict[tuple[str, int], list[str]] = {}
    for code in neurons:
        source = (corpora.get(code) or "<your text>", n_tokens.get(code, 0))
        together.setdefault(source, []).append(code)
    counts = (neurons.provenance.get("config") or {}).get("counts")
    lines = [
        f"{writer_command('activation_counts')} {model} --corpus {shlex.quote(corpus)} "
        f"--n-tokens {n} --site {neurons.site} --langs {' '.join(codes)}"
        for (corpus, n), codes in together.items()
        if counts is None
    ]
    choice = "" if selector.name == DEFAULT_SELECTOR else f" --selector {selector.name}"
    flags = command_flags({name: neurons.thresholds[name] for name in asked})
    theirs = "" if counts is None else f" --counts {shlex.quote(counts)}"
    lines.append(f"{writer_command('neuron_sets')} {model}{theirs}{choice} {flags} --parquet")
    return "\n".join(["```bash", *map(_wrapped, lines), "```"])


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: int = 0) -> str:
    """Write a markdown table; the last `right` columns are numbers."""
    rule = ["---"] * (len(header) - right) + ["---:"] * right
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, rule, *rows])


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else f"{value}"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f}"


def _wrapped(command: str) -> str:
    lines = textwrap.wrap(command, 96, break_long_words=False, break_on_hyphens=False)
    return " \\\n    ".join(lines)


def _fill(text: str) -> str:
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False)
