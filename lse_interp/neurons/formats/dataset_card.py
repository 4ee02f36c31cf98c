"""The dataset card of released neurons: what stands beside the table on the Hugging Face hub.

YAML front matter in the hub's vocabulary, then what a reader needs to use the table and to make it
again. Everything is read from the neuron sets; what they do not say is said to be unknown.
"""

import json
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lse_interp.artifacts.atomic import write_together
from lse_interp.core.errors import LseError
from lse_interp.core.languages import LANGUAGES
from lse_interp.neurons.formats.release_parquet import COLUMNS
from lse_interp.neurons.sets import NeuronSets

__all__ = ["CARD_NAME", "TABLE_NAME", "check_license", "dataset_card", "write_release"]

CARD_NAME, TABLE_NAME = "README.md", "neurons.parquet"

_NO_LICENSE = "unknown"
_TAGS = ("interpretability", "multilingual", "language-neurons", "lape", "lse_interp")
_ROWS = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (10**6, "100K<n<1M"))
_THRESHOLDS = {
    "k": "share of all neurons that were chosen",
    "activity_quantile": "share of all probabilities below the bar for being eligible",
    "activity": "that quantile: the bar some language must pass",
    "selectivity_quantile": "share of all probabilities below the bar for belonging to a language",
    "selectivity": "that quantile: the bar the language itself must pass",
}
_CITATION = """\
@misc{gurgurov2025sparse,
  title  = {Sparse Subnetwork Enhancement for Underrepresented Languages in Large Language Models},
  author = {Gurgurov, Daniil and van Genabith, Josef and Ostermann, Simon},
  year   = {2025}
}
@misc{tang2024language,
  title  = {Language-Specific Neurons: The Key to Multilingual Capabilities in Large Language
            Models},
  author = {Tang, Tianyi and Luo, Wenyang and Huang, Haoyang and Zhang, Dongdong and Wang, Xiaolei
            and Zhao, Xin and Wei, Furu and Wen, Ji-Rong},
  year   = {2024},
  eprint = {2402.16438},
  archivePrefix = {arXiv}
}"""


def write_release(folder: str | Path, neurons: NeuronSets, *, license: str | None = None) -> Path:
    """Write a folder that is ready for `hf upload`: the table and its card.

    Other files in the folder stay.

    Args:
        folder: where; made if need be.
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
        LseError: what cannot be an identifier.
    """
    if license is not None:
        check_license(license)
    sections = {
        "": _summary(neurons),
        "How they were found": _method(neurons),
        "Languages": _languages(neurons),
        "Columns": _columns(neurons),
        "Loading": _loading(neurons),
        "Making it again": _commands(neurons),
        "Citation": f"```bibtex\n{_CITATION}\n```",
        "License": _license(license),
    }
    parts = [f"## {title}\n\n{text}" if title else text for title, text in sections.items()]
    title = f"# Language neurons of {neurons.model.name}"
    return "\n\n".join([_front_matter(neurons, license or _NO_LICENSE), title, *parts]) + "\n"


def check_license(license: str) -> None:
    """Refuse what cannot be one of the hub's license identifiers.

    Raises:
        LseError: it holds more than small letters, digits, dots and hyphens.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", license):
        raise LseError(
            "`license` must be an identifier of the hub such as cc-by-4.0 or mit; got "
            f"{license!r}. See https://huggingface.co/docs/hub/repositories-licenses."
        )


def _front_matter(neurons: NeuronSets, license: str) -> str:
    n_rows = sum(neurons.size(language) for language in neurons)
    records = [LANGUAGES[code] for code in neurons if code in LANGUAGES]
    base = {record.code: record.iso639_1 or record.code for record in LANGUAGES.values()}
    # The hub knows languages; varieties have a field of their own.
    varieties = [
        base[record.iso639_3] + record.code.removeprefix(record.iso639_3)
        for record in records
        if record.code != record.iso639_3
    ]
    unlisted = [code for code in neurons if code not in LANGUAGES]
    fields: dict[str, Any] = {
        "license": license,
        "pretty_name": f"Language neurons of {neurons.model.name}",
        "language": sorted({base[record.iso639_3] for record in records} | set(unlisted)),
        **({"language_bcp47": sorted(varieties)} if varieties else {}),
        "multilinguality": ["multilingual"],
        "size_categories": [next((name for top, name in _ROWS if n_rows < top), "1M<n<10M")],
        "tags": list(_TAGS),
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": "train", "path": TABLE_NAME}],
            }
        ],
    }
    return "\n".join(["---", *_yaml(fields), "---"])


def _yaml(value: Mapping[str, Any], *, indent: str = "") -> Iterator[str]:
    """Write mappings, lists and text as YAML; JSON strings are YAML, and `no` stays Norwegian."""
    for key, item in value.items():
        if not isinstance(item, list):
            yield f"{indent}{key}: {_scalar(item)}"
        elif item and isinstance(item[0], Mapping):
            yield f"{indent}{key}:"
            for part in item:
                first, *rest = _yaml(part, indent=indent + "  ")
                yield f"{indent}- {first.lstrip()}"
                yield from rest
        else:
            yield f"{indent}{key}:"
            yield from (f"{indent}- {_scalar(part)}" for part in item)


def _scalar(text: str) -> str:
    plain = re.fullmatch(r"[a-z][\w.-]*", text) and text not in {"no", "yes", "on", "off", "null"}
    return text if plain else json.dumps(text, ensure_ascii=False)


def _summary(neurons: NeuronSets) -> str:
    model, n_all = neurons.model, neurons.model.n_layers * neurons.model.d_mlp
    n_union = int(neurons.union().sum())
    return "\n\n".join(
        [
            _fill(
                f"Neurons of the feed-forward layers that `{model.name}` keeps for "
                f"{len(neurons)} languages, one row of `{TABLE_NAME}` per language, layer and "
                f"neuron. {n_union:,} of its {n_all:,} neurons ({_percent(n_union, n_all)} %) "
                "belong to at least one language; a neuron may belong to several."
            ),
            _table(
                ("", ""),
                [
                    ("model", f"`{model.name}`"),
                    ("fingerprint of its weights", f"`{model.fingerprint or 'unknown'}`"),
                    ("architecture", f"{model.architecture}, {model.n_parameters:,} parameters"),
                    ("layers, neurons per layer", f"{model.n_layers}, {model.d_mlp:,}"),
                    ("site of the activations", f"`{neurons.site or 'unknown'}`"),
                    ("made", _made(neurons)),
                ],
            ),
        ]
    )


def _made(neurons: NeuronSets) -> str:
    version = neurons.provenance.get("package_version", "unknown version")
    return f"{neurons.provenance.get('created', 'at an unknown time')}, lse_interp {version}"


def _method(neurons: NeuronSets) -> str:
    if neurons.method != "lape":
        about = _fill(f"Method: `{neurons.method}`.")
    else:
        about = _fill(
            "Language Activation Probability Entropy (LAPE): with p[k] the share of tokens of "
            "language k at which a neuron is active (value > 0) and q[k] = p[k] / sum of p over "
            "languages, its score is - sum of q[k] log q[k]. Chosen are the neurons of lowest "
            "score among those that some language uses often; each belongs to every language that "
            "uses it often. The scores depend on the whole set of languages."
        )
    known = neurons.thresholds
    order = [name for name in _THRESHOLDS if name in known]
    order += [name for name in known if name not in _THRESHOLDS]
    rows = [(f"`{name}`", f"{known[name]:g}", _THRESHOLDS.get(name, "")) for name in order]
    return "\n\n".join(
        [about, _table(("threshold", "value", "meaning"), rows)] if rows else [about]
    )


def _languages(neurons: NeuronSets) -> str:
    n_tokens = neurons.provenance.get("n_tokens", {})
    rows = [
        (
            f"`{code}`",
            LANGUAGES[code].name if code in LANGUAGES else "",
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


def _columns(neurons: NeuronSets) -> str:
    unknown = [name for name in ("lape", "probability") if getattr(neurons, name) is None]
    rows = [(f"`{name}`", meaning) for name, meaning in COLUMNS.items()]
    table = _table(("column", "meaning"), rows)
    return f"{table}\n\nNot known here: {', '.join(unknown)}." if unknown else table


def _loading(neurons: NeuronSets) -> str:
    language = max(neurons, key=neurons.size)
    return textwrap.dedent(
        f"""\
        ```python
        import pandas as pd
        from datasets import load_dataset
        from huggingface_hub import hf_hub_download
        from lse_interp import NeuronSets

        frame = pd.read_parquet("hf://datasets/<user>/<name>/{TABLE_NAME}")
        rows = load_dataset("<user>/<name>", split="train")

        path = hf_hub_download("<user>/<name>", "{TABLE_NAME}", repo_type="dataset")
        neurons = NeuronSets.from_parquet(path)  # languages, thresholds and model with it
        neurons["{language}"]  # one tensor of neuron indices per layer
        ```

        Model, thresholds, site and provenance are in the file itself, as JSON under the key
        `lse_interp` of the parquet schema."""
    )


def _commands(neurons: NeuronSets) -> str:
    if neurons.method != "lape" or "k" not in neurons.thresholds:
        command = neurons.provenance.get("command")
        return f"Written by `{command}`." if command else "The command was not recorded."
    model = f"--model {neurons.model.name}"
    n_tokens = neurons.provenance.get("n_tokens", {})
    corpora = neurons.provenance.get("corpora", {})
    together: dict[tuple[str, int], list[str]] = {}
    for code in neurons:
        source = (corpora.get(code) or "<your text>", n_tokens.get(code, 0))
        together.setdefault(source, []).append(code)
    lines = [
        f"python -m lse_interp.activations {model} --corpus {_quoted(corpus)} --n-tokens {n} "
        f"--site {neurons.site} --langs {' '.join(codes)}"
        for (corpus, n), codes in together.items()
    ]
    flags = [
        f"--{name.replace('_', '-')} {neurons.thresholds[name]:g}"
        for name in ("k", "activity_quantile", "selectivity_quantile")
    ]
    lines.append(f"python -m lse_interp.lape {model} {' '.join(flags)} --parquet")
    return "\n".join(["```bash", *map(_wrapped, lines), "```"])


def _license(license: str | None) -> str:
    if license is not None:
        return f"`{license}`."
    return _fill(
        f"Not chosen yet: change `license: {_NO_LICENSE}` in the first lines of this file, or "
        "write it again with `--license`, before publishing. The license of the model may bear on "
        "it; see https://huggingface.co/docs/hub/repositories-licenses."
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: int = 0) -> str:
    """Write a markdown table; the last `right` columns are numbers."""
    rule = ["---"] * (len(header) - right) + ["---:"] * right
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, rule, *rows])


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f}"


def _quoted(corpus: str) -> str:
    return f"'{corpus}'" if re.search(r"[^\w./:-]", corpus) else corpus


def _wrapped(command: str) -> str:
    lines = textwrap.wrap(command, 96, break_long_words=False, break_on_hyphens=False)
    return " \\\n    ".join(lines)


def _fill(text: str) -> str:
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False)
