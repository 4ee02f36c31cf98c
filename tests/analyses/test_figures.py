"""The scripts of the figures: what they write, and what they say when something is missing."""

import dataclasses

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
from PIL import Image

from analyses import (
    fig01_schematic,
    fig03_improvements,
    fig05_data_size,
    fig07_alignment,
    fig09_overlap_nemo,
    fig10_neurons_by_layer_nemo,
    fig11_subnetworks_nemo,
    fig13_small_multiples_nemo,
    fig_scores,
)
from analyses.second_model import second_model
from analyses.sources import NeuronArgs
from lse_interp.core.errors import ArtifactError, LanguageError, LseError
from lse_interp.models.info import ModelInfo
from lse_interp.neurons.sets import NeuronSets
from lse_interp.tasks.results import FRAME_COLUMNS


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


@pytest.fixture
def neurons(tmp_path):
    """A file of neurons of another model than the embedded one."""
    lists = {"mlt": [[0, 1, 2], [5]], "slk": [[1, 2], [5, 6]]}
    sets = NeuronSets(
        indices={
            code: tuple(torch.tensor(layer, dtype=torch.int64) for layer in layers)
            for code, layers in lists.items()
        },
        model=ModelInfo("second", "abc", "LlamaForCausalLM", 2, 4, 10, 1000),
        site="mlp.hook_act",
        method="lape",
        thresholds={"k": 0.05},
    )
    return sets.save(tmp_path / "runs" / "second" / "neurons" / "lape.safetensors")


@pytest.fixture
def scores(tmp_path):
    """A table of scores: Maltese, one target task, base 10, target 14."""
    rows = [
        {
            **dict.fromkeys(FRAME_COLUMNS, float("nan")),
            **{"language": "mlt", "model": method, "method": method, "seed": 0, "task": "t"},
            **{"row": "A", "label": "A", "group": "target", "metric": "bleu", "unit": "BLEU"},
            **{"headline": True, "score": score, "stderr": 1.0, "n_documents": 5},
            **({} if method == "base" else {"difference": score - 10, "low": 3.0, "high": 5.0}),
        }
        for method, score in (("base", 10), ("target", 14))
    ]
    path = tmp_path / "scores.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def test_fig01_schematic_writes_layers_and_neurons(neurons, tmp_path):
    source = NeuronArgs(neurons=neurons, figures=tmp_path / "figures")
    png, _, csv = fig01_schematic.run(fig01_schematic.Config(lang="sk", source=source))
    assert png.name == "fig01_schematic_slk_second.png"
    assert pd.read_csv(csv)[["layer", "neuron"]].values.tolist() == [[0, 1], [0, 2], [1, 5], [1, 6]]
    with Image.open(png) as image:
        assert image.info["Comment"].endswith("--lang sk")
    with pytest.raises(LanguageError):
        fig01_schematic.run(fig01_schematic.Config(lang="isl", source=source))


def test_fig03_improvements_reads_a_table_of_scores(scores, tmp_path):
    config = fig03_improvements.Config(source=str(scores), figures=tmp_path / "figures")
    png, _, csv = fig03_improvements.run(config)
    assert png.name == "fig03_improvements_scores.png"
    assert pd.read_csv(csv)[["improvement", "low", "high"]].values.tolist() == [[4, 3, 5]]
    with Image.open(png) as image:
        assert image.info["Source"] == f"{scores}; 1 languages; 1 seed"
        assert image.info["Comment"].endswith(f"fig03_improvements --source {scores}")


@pytest.mark.parametrize("script", [fig03_improvements, fig_scores])
def test_pictures_of_scores_name_what_writes_a_missing_table(script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ArtifactError, match=r"docs/evaluation.csv does not exist.*evaluation_resul"
    ):
        script.run(script.Config(figures=tmp_path))


def test_published_improvements_are_differences_of_the_tables():
    frame = fig03_improvements.published_improvements()
    found = frame.set_index(["model", "tasks", "language"])["improvement"]
    # Table 11 of the paper, by hand: the mean change of Maltese over its six target tasks.
    assert found["Llama-3.1-8B", "target", "mlt"] == pytest.approx(8.795)
    assert len(found) == 2 * 2 * 12
    # Paper, section 5.2.2: decreases of Georgian with Llama, of Slovenian and Nepali with Mistral.
    target = found.xs("target", level="tasks")
    assert set(target[target < 0].index) == {
        ("Llama-3.1-8B", "kat"),
        ("Mistral-Nemo-12B", "slv"),
        ("Mistral-Nemo-12B", "npi"),
        ("Mistral-Nemo-12B", "lvs"),
    }
    assert "over target-language tasks, Georgian (Llama-3.1-8B), Latvian, Nepali, Slovenian (" in (
        fig03_improvements.describe_decreases(frame)
    )


def test_fig_scores_draws_both_published_models(tmp_path):
    written = fig_scores.run(fig_scores.Config(source="published", figures=tmp_path))
    llama, nemo = (pd.read_csv(path) for path in written if path.suffix == ".csv")
    assert (len(llama), len(nemo)) == (12 * 6, 12 * 3)
    # Belebele has no Welsh.
    assert set(llama.loc[llama["row"] == "BELEBELE", "n_languages"]) == {11}


def test_fig05_data_size_draws_task_scores(scores, tmp_path):
    table = pd.read_csv(scores)
    table = pd.concat([table.assign(tokens=tokens) for tokens in (100, 200)])
    table.to_csv(tmp_path / "sizes.csv", index=False)
    config = fig05_data_size.Config(
        metric="score", scores=tmp_path / "sizes.csv", figures=tmp_path / "figures"
    )
    png, _, csv = fig05_data_size.run(config)
    assert png.name == "fig05_data_size_scores.png"
    assert pd.read_csv(csv)[["tokens", "points"]].values.tolist() == [[100, 4], [200, 4]]
    with pytest.raises(ArtifactError, match="has no scores of method full"):
        fig05_data_size.run(dataclasses.replace(config, method="full"))
    with pytest.raises(
        ArtifactError, match=r"none.csv does not exist; `python -m analyses.evaluati"
    ):
        fig05_data_size.run(dataclasses.replace(config, scores=tmp_path / "none.csv"))


def test_fig07_alignment_refuses_two_sources(tmp_path):
    config = fig07_alignment.Config(source="published", curves=(tmp_path / "mlt.safetensors",))
    with pytest.raises(LseError, match="`--curves` and `--source published` name two sources"):
        fig07_alignment.run(config)


@pytest.mark.parametrize(
    ("script", "name"),
    [
        (fig09_overlap_nemo, "fig09_overlap_second.csv"),
        (fig10_neurons_by_layer_nemo, "fig10_neurons_by_layer_second.csv"),
        (fig11_subnetworks_nemo, "fig11_subnetworks_second.csv"),
        (fig13_small_multiples_nemo, "fig13_small_multiples_second.csv"),
    ],
)
def test_scripts_of_the_second_model_draw_the_neurons_named(script, name, neurons, tmp_path):
    written = script.run(NeuronArgs(neurons=neurons, figures=tmp_path / "figures"))
    assert name in {path.name for path in written}


def test_second_model_finds_a_second_run_or_says_what_to_give(neurons, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert second_model(NeuronArgs()).neurons.parts[-3:] == (
        "second",
        "neurons",
        "lape.safetensors",
    )
    neurons.unlink()
    with pytest.raises(ArtifactError, match=r"no second model. Name some: `--masks nemo-5`"):
        second_model(NeuronArgs())


def test_fig11_without_neurons_is_the_published_table(tmp_path):
    _, markdown = fig11_subnetworks_nemo.run(NeuronArgs(figures=tmp_path))
    assert "| Welsh | 8,239 | 126.6M | 1.03 |\n" in markdown.read_text()
