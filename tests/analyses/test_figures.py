"""The figures: what they write, and what they say when something is missing."""

import pandas as pd
import pytest
import torch
from PIL import Image

from analyses.fig03_improvements import describe_decreases, published_improvements
from lse_interp.core.errors import ArtifactError, LanguageError, LseError
from lse_interp.models.info import ModelInfo
from lse_interp.neurons.sets import NeuronSets
from lse_interp.tasks.results import FRAME_COLUMNS


@pytest.fixture
def second(tmp_path):
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


def test_fig01_schematic_writes_layers_and_neurons(second, draw):
    png, _, csv = draw("fig01", second, langs=("sk",))
    assert png.name == "fig01_schematic_slk_second.png"
    assert pd.read_csv(csv)[["layer", "neuron"]].values.tolist() == [[0, 1], [0, 2], [1, 5], [1, 6]]
    with Image.open(png) as image:
        assert f"fig01 {second} --langs sk --figures" in image.info["Comment"]
    with pytest.raises(LanguageError):
        draw("fig01", second, langs=("isl",))


@pytest.mark.parametrize("flag", [False, True])
def test_fig03_improvements_reads_a_table_of_scores(flag, scores, draw):
    png, _, csv = draw("fig03", source=str(scores)) if flag else draw("fig03", scores)
    assert png.name == "fig03_improvements_scores.png"
    assert pd.read_csv(csv)[["improvement", "low", "high"]].values.tolist() == [[4, 3, 5]]
    with Image.open(png) as image:
        assert image.info["Source"] == f"{scores}; 1 language; seed 0"
        assert str(scores) in image.info["Comment"]


@pytest.mark.parametrize("name", ["fig03", "fig_scores"])
def test_pictures_of_scores_name_what_writes_a_missing_table(name, draw, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ArtifactError, match=r"docs/evaluation.csv does not exist.*evaluation_resul"
    ):
        draw(name)
    # Another model has scores in its run folder.
    with pytest.raises(ArtifactError, match=r"runs/other/evaluation does not exist"):
        draw(name, model="other")


def test_published_improvements_are_differences_of_the_tables():
    frame = published_improvements()
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
        describe_decreases(frame)
    )


def test_fig_scores_draws_both_published_models(draw):
    written = draw("fig_scores", source="published")
    llama, nemo = (pd.read_csv(path) for path in written if path.suffix == ".csv")
    assert (len(llama), len(nemo)) == (12 * 6, 12 * 3)
    # Belebele has no Welsh.
    assert set(llama.loc[llama["row"] == "BELEBELE", "n_languages"]) == {11}


def test_fig05_scores_draws_task_scores(scores, draw, tmp_path):
    table = pd.read_csv(scores)
    table = pd.concat([table.assign(tokens=tokens) for tokens in (100, 200)])
    sizes = tmp_path / "sizes.csv"
    table.to_csv(sizes, index=False)
    png, _, csv = draw("fig05_scores", sizes)
    assert png.name == "fig05_data_size_scores.png"
    assert pd.read_csv(csv)[["tokens", "points"]].values.tolist() == [[100, 4], [200, 4]]
    with pytest.raises(ArtifactError, match="has no scores of method full"):
        draw("fig05_scores", sizes, method="full")
    with pytest.raises(
        ArtifactError, match=r"none.csv does not exist; `python -m analyses.evaluati"
    ):
        draw("fig05_scores", tmp_path / "none.csv")
    with pytest.raises(ArtifactError, match=r"is about embedded; name a table of other"):
        draw("fig05_scores", model="other")


def test_two_sources_are_refused(draw, tmp_path):
    with pytest.raises(LseError, match="`FILE` and `--source published` name two sources"):
        draw("fig07", tmp_path / "mlt.safetensors", source="published")
    with pytest.raises(LseError, match="`--masks` and `--source published` name two sources"):
        draw("fig11", masks=tmp_path / "nemo-5", source="published")


def test_a_figure_without_published_numbers_says_which_have_some(draw):
    with pytest.raises(LseError, match="prints no numbers of fig06; it does of fig03, fig07, fig_"):
        draw("fig06", source="published")


@pytest.mark.parametrize(
    ("figure", "name"),
    [
        ("fig09", "fig09_overlap_second.csv"),
        ("fig10", "fig10_neurons_by_layer_second.csv"),
        ("fig11", "fig11_subnetworks_second.csv"),
        ("fig13", "fig13_small_multiples_second.csv"),
    ],
)
def test_figures_of_the_second_model_draw_the_neurons_named(figure, name, second, draw):
    assert name in {path.name for path in draw(figure, second)}


def test_figures_of_the_second_model_find_a_second_run_or_say_what_to_give(
    second, draw, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert draw("fig09")[0].name == "fig09_overlap_second.png"
    second.unlink()
    with pytest.raises(ArtifactError, match=r"no second model. Name some: `--masks nemo-5`"):
        draw("fig09")


def test_fig11_without_neurons_is_the_published_table(draw):
    markdown, _ = draw("fig11")
    assert "| Welsh | 8,239 | 126.6M | 1.03 |\n" in markdown.read_text()
