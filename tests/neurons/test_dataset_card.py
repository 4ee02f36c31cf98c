"""The dataset card: front matter that the hub reads, and a body that tells the truth."""

import dataclasses

import datasets
import huggingface_hub
import pandas as pd
import pytest
import torch

from lse_interp.core.errors import LseError
from lse_interp.core.languages import LANGUAGES
from lse_interp.models.info import ModelInfo
from lse_interp.neurons.formats.dataset_card import dataset_card, write_release
from lse_interp.neurons.sets import NeuronSets


def make(lists=None, **changes):
    """Neuron sets from language -> layer -> indices."""
    lists = lists or {"mlt": [[0, 2], [7]], "zho-Hant": [[2], []], "nob": [[], []]}
    indices = {
        code: tuple(torch.tensor(layer, dtype=torch.int64) for layer in layers)
        for code, layers in lists.items()
    }
    values = {
        "indices": indices,
        "model": ModelInfo("some/model", "abc123", "LlamaForCausalLM", 2, 4, 10, 1000),
        "site": "mlp.hook_act",
        "method": "lape",
        "thresholds": {
            "k": 0.05,
            "activity_quantile": 0.95,
            "activity": 0.5,
            "selectivity_quantile": 0.9,
            "selectivity": 0.25,
        },
        "scores": torch.rand(2, 10, dtype=torch.float64),
        "score_name": "lape",
        "score_unit": "nats",
        "probability": torch.rand(len(lists), 2, 10, dtype=torch.float64),
        "provenance": {
            "package_version": "0.1.0",
            "created": "2025-01-01T00:00:00+00:00",
            "n_tokens": {"mlt": 12000, "zho-Hant": 12000, "nob": 500},
            "corpora": {"mlt": "glotcc", "zho-Hant": "glotcc", "nob": "my text/{lang}.txt"},
        },
    }
    return NeuronSets(**(values | changes))


def row(card, start):
    return next(line for line in card.splitlines() if line.startswith(start))


def test_dataset_card_has_front_matter_that_the_hub_reads():
    data = huggingface_hub.DatasetCard(dataset_card(make())).data
    assert data.license == "unknown"
    assert data.pretty_name == "Language neurons of some/model"
    assert data.language == ["mt", "nb", "zh"]
    assert data.language_bcp47 == ["zh-Hant"]
    assert data.size_categories == ["n<1K"]
    assert data.configs == [
        {"config_name": "default", "data_files": [{"split": "train", "path": "neurons.parquet"}]}
    ]
    assert {"interpretability", "multilingual", "lape"} <= set(data.tags)


def test_dataset_card_lists_every_language_of_the_crosswalk_in_codes_of_the_hub():
    card = dataset_card(make({code: [[1], []] for code in LANGUAGES}, provenance={}))
    data = huggingface_hub.DatasetCard(card).data
    assert {LANGUAGES[code].iso639_1 or code for code in LANGUAGES if "-" not in code} == set(
        data.language
    )
    assert all(isinstance(code, str) and len(code) in (2, 3) for code in data.language)
    assert data.language_bcp47 == [
        *("en-GB", "en-IN", "en-US", "es-MX", "fr-CA", "gsw-BE", "gsw-ZH"),
        *("nb-radical", "pt-BR", "zh-Hant"),
    ]


def test_dataset_card_quotes_what_yaml_would_read_as_something_else():
    neurons = make({"mlt": [[1], []], "no": [[1], []], "qaa": [[2], []]}, provenance={})
    named = dataclasses.replace(neurons, model=dataclasses.replace(neurons.model, name='a: "b" #c'))
    data = huggingface_hub.DatasetCard(dataset_card(named)).data
    assert data.language == ["mt", "nb", "qaa"]
    assert data.pretty_name == 'Language neurons of a: "b" #c'


def test_dataset_card_says_what_the_neurons_are_of():
    card = dataset_card(make())
    assert row(card, "| fingerprint") == "| fingerprint of its weights | `abc123` |"
    assert row(card, "| site") == "| site of the activations | `mlp.hook_act` |"
    assert row(card, "| layers") == "| layers, neurons per layer | 2, 10 |"
    assert "3 of its 20 neurons (15.00 %)" in " ".join(card.split())
    assert row(card, "| `k`").startswith("| `k` | 0.05 |")
    assert row(card, "| `selectivity` ").startswith("| `selectivity` | 0.25 |")
    assert row(card, "| `mlt`") == "| `mlt` | Maltese | 12,000 | 3 | 36 | 3.60 |"
    assert row(card, "| `nob`") == "| `nob` | Norwegian Bokmål | 500 | 0 | 0 | 0.00 |"
    assert 'neurons["mlt"]' in card
    for name in ("language", "layer", "neuron", "lape", "probability"):
        assert row(card, f"| `{name}`")
    assert "eprint = {2402.16438}" in card


def test_dataset_card_gives_the_commands_that_make_the_table_again():
    command = " ".join(dataset_card(make()).split("## Making it again")[1].split("```")[1].split())
    assert command.replace(" \\", "") == (
        "bash python -m lse_interp.activations --model some/model --corpus glotcc "
        "--n-tokens 12000 --site mlp.hook_act --langs mlt zho-Hant "
        "python -m lse_interp.activations --model some/model --corpus 'my text/{lang}.txt' "
        "--n-tokens 500 --site mlp.hook_act --langs nob "
        "python -m lse_interp.lape --model some/model --k 0.05 --activity-quantile 0.95 "
        "--selectivity-quantile 0.9 --parquet"
    )


def test_dataset_card_says_unknown_where_nothing_is_known():
    model = dataclasses.replace(make().model, fingerprint=None)
    card = dataset_card(
        make(
            model=model,
            site=None,
            method="masks",
            thresholds={},
            scores=None,
            probability=None,
            provenance={},
        )
    )
    assert row(card, "| fingerprint").endswith("| `unknown` |")
    assert row(card, "| site").endswith("| `unknown` |")
    assert row(card, "| `mlt`") == "| `mlt` | Maltese | unknown | 3 | 36 | 3.60 |"
    assert "Not known here: lape, probability." in card
    assert "The command was not recorded." in card
    assert "Entropy (LAPE): with" not in card


def test_dataset_card_leaves_the_license_to_the_user():
    assert "Not chosen yet" in dataset_card(make())
    chosen = dataset_card(make(), license="apache-2.0")
    assert huggingface_hub.DatasetCard(chosen).data.license == "apache-2.0"
    assert "Not chosen yet" not in chosen
    with pytest.raises(LseError, match=r"`license` must be an identifier .* got 'MIT license'"):
        dataset_card(make(), license="MIT license")


def test_write_release_makes_a_folder_that_datasets_loads(tmp_path):
    neurons = make()
    folder = write_release(tmp_path / "release", neurons)
    (folder / "NOTES").write_text("kept")
    assert write_release(folder, neurons) == folder
    assert (folder / "NOTES").read_text() == "kept"
    loaded = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    pd.testing.assert_frame_equal(loaded.to_pandas(), neurons.to_frame(), check_dtype=False)
    assert loaded.column_names == ["language", "layer", "neuron", "lape", "probability"]
    read = NeuronSets.from_parquet(folder / "neurons.parquet")
    assert [read.size(code) for code in read] == [3, 1, 0]
