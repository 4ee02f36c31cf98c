"""Drawing figures by name: what is read, written, and said when something is missing."""

import dataclasses
import importlib.metadata
import logging
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image

from analyses import table01_subnetworks
from analyses.__main__ import main, run
from analyses.drawing import draw_all
from analyses.gallery import write_gallery
from analyses.neuron_source import describe_neurons, read_neurons
from analyses.published import alignment_averages
from analyses.registry import FIGURES, Request
from lse_interp.analysis.overlap import measure_overlap
from lse_interp.artifacts.paths import RunPaths
from lse_interp.core.errors import ArtifactError, LseError, MismatchError
from lse_interp.core.languages import PAPER_REFERENCE, PAPER_TARGETS, RELEASED_LANGUAGES
from lse_interp.models.info import ModelInfo
from lse_interp.neurons.formats.masks_pth import RELEASED_MODELS, write_masks
from lse_interp.plotting.method_tables import RESULT_COLUMNS
from lse_interp.plotting.overlap_heatmap import overlap_frame
from lse_interp.plotting.style import figure_stem
from lse_interp.subnetworks.finetune_run import FinetuneRun

LLAMA = RELEASED_MODELS["llama-3.1-5"]


def released(path, *, n_layers=32):
    """A file in the form of the released ones: language i has i + 1 neurons in the last layer."""
    empty = torch.tensor([], dtype=torch.int64)
    masks = [
        [empty] * (n_layers - 1) + [torch.arange(i + 1)] for i, _ in enumerate(RELEASED_LANGUAGES)
    ]
    return write_masks(path, masks)


PUBLISHED = {
    "fig03_improvements_published",
    "fig07c_published",
    "fig_scores_published",
    "fig_scores_published_nemo",
}
"""The pictures that need nothing but the repository."""


def masks(path=None, **flags):
    """Read the released neurons asked for."""
    (neurons,) = read_neurons(Request("fig02", masks=path, **flags))
    return neurons


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """A folder without docs/, so that its tables are not drawn."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def info(name):
    return ModelInfo(name, None, "LlamaForCausalLM", 2, 4, 10, 1000)


def test_read_neurons_names_what_writes_a_missing_artefact(tmp_path):
    with pytest.raises(
        ArtifactError, match=r"does not exist. `make demo` writes .*lse_interp.lape"
    ):
        next(read_neurons(Request("fig02", (tmp_path / "neurons.safetensors",))))


def test_read_neurons_refuses_two_sources(tmp_path):
    request = Request("fig02", (tmp_path / "a.safetensors",), masks=tmp_path / "llama-3.1-5")
    with pytest.raises(LseError, match=r"FILE and `--masks` both name the neurons"):
        next(read_neurons(request))


def test_read_neurons_of_a_folder_needs_the_model(tmp_path):
    released(tmp_path / "llama-3.1-5")
    with pytest.raises(LseError, match=r"add --mask-model \(meta-llama/Llama-3.1-8B or mistral"):
        masks(tmp_path)
    neurons = masks(tmp_path, mask_model=LLAMA.name)
    assert neurons.model == LLAMA
    assert neurons.size("npi") == 12


def test_read_neurons_takes_the_model_from_the_file_name_or_the_flag(tmp_path):
    assert masks(released(tmp_path / "llama-3.1-5")).model == LLAMA
    other = released(tmp_path / "mine")
    assert masks(other, mask_model=LLAMA.name).model == LLAMA
    with pytest.raises(MismatchError, match="Nothing says which model .* Add --mask-model"):
        masks(other)
    with pytest.raises(MismatchError, match="each of the 40 layers"):
        masks(other, mask_model="mistralai/Mistral-Nemo-Base-2407")


def test_describe_neurons_says_model_method_and_site(neurons, tmp_path):
    assert describe_neurons(neurons) == "embedded; 4 languages; LAPE; K = 5 %; mlp.hook_act"
    assert describe_neurons(masks(released(tmp_path / "llama-3.1-5"))) == (
        "meta-llama/Llama-3.1-8B; 12 languages; released neurons, llama-3.1-5"
    )


def test_figure_stem_carries_the_name_of_other_models():
    assert figure_stem(Path("figures"), "fig", info("embedded")) == Path("figures/fig")
    assert figure_stem(Path("f"), "fig", LLAMA) == Path("f/fig_llama-3.1-8b")


def test_command_spells_what_differs_from_the_default():
    assert Request("fig08").command == "python -m analyses fig08"
    request = Request("fig08", (Path("a"), Path("b")), mask_languages=("mlt", "slk"), layer=3)
    assert request.command == "python -m analyses fig08 a b --mask-languages mlt slk --layer 3"


def test_fig08_overlap_writes_the_frame_it_draws(neurons, draw, tmp_path):
    path = neurons.save(tmp_path / "neurons.safetensors")
    png, pdf, csv = draw("fig08", path)
    assert (png.name, pdf.name) == ("fig08_overlap.png", "fig08_overlap.pdf")
    expected = overlap_frame(measure_overlap(neurons))
    pd.testing.assert_frame_equal(pd.read_csv(csv), expected, check_exact=True)


def test_main_draws_released_masks_from_the_command_line(tmp_path):
    path = released(tmp_path / "llama-3.1-5")
    argv = ["fig02", "--masks", str(path), "--figures", str(tmp_path / "figures")]
    assert main(argv) == 0
    csv = tmp_path / "figures" / "fig02_neurons_by_layer_llama-3.1-8b.csv"
    frame = pd.read_csv(csv)
    assert frame["n_neurons"].sum() == sum(range(1, 13))
    assert set(frame.loc[frame["n_neurons"] > 0, "layer"]) == {31}


def test_main_ends_a_missing_artefact_in_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["fig08"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(
        "error: runs/embedded/neurons/lape.safetensors does not exist. `make demo`"
    )
    assert error.count("\n") == 1


def test_fig07_alignment_draws_several_models_and_averages_layers(make_curves, draw, tmp_path):
    path = make_curves(("base", "target")).save(tmp_path / "mlt.safetensors")
    written = draw("fig07", path)
    assert [path.name for path in written if path.suffix == ".png"] == [
        "fig07_alignment_mlt.png",
        "fig07c_layer_average_mlt.png",
    ]
    assert len(pd.read_csv(written[2])) == 2 * 2 * 3 * 4
    assert len(pd.read_csv(written[5])) == 2 * 2 * 3


def test_fig07_alignment_names_what_writes_a_missing_artefact(draw, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtifactError, match=r"mlt.safetensors does not exist. `make demo`"):
        draw("fig07")


def test_published_averages_give_the_mean_the_paper_states():
    frame = alignment_averages()
    assert len(frame) == 12 * 6 * 9
    assert set(frame["language"]) == set(PAPER_TARGETS)
    assert set(frame["against"]) == set(PAPER_REFERENCE)
    assert not frame.duplicated(["language", "model", "against"]).any()
    # Paper, section 6.2.
    assert round(frame.loc[frame["model"] == "Target", "cosine"].mean(), 2) == 90.47


@pytest.mark.parametrize("file", RELEASED_MODELS)
def test_published_sizes_follow_from_the_number_of_neurons(file):
    model = RELEASED_MODELS[file]
    published = pd.read_csv(table01_subnetworks.PUBLISHED[model.name], dtype=str)
    assert tuple(published["language"]) == PAPER_TARGETS
    n_neurons = published["n_neurons"].astype(int)
    n_trainable = 3 * n_neurons * model.d_model
    own = pd.DataFrame(
        {
            "language": published["language"],
            "name": published["language"],
            "n_neurons": n_neurons,
            "n_trainable": n_trainable,
            "percent": 100 * n_trainable / model.n_parameters,
        }
    )
    frame = table01_subnetworks.beside_published(own, model=model.name)
    # 3 x 2028 x 5120 = 31,150,080 is 31.2 million; the paper prints 31.1.
    known = {"llama-3.1-5": [], "nemo-5": ["kat: trainable_millions 31.2, published 31.1"]}
    assert table01_subnetworks.differences(frame) == known[file]


def test_beside_published_adds_nothing_for_other_models():
    own = pd.DataFrame(
        {"language": ["slv", "mlt"], "name": ["a", "b"], "n_neurons": [1, 2]}
        | {"n_trainable": [12, 24], "percent": [1.2, 2.4]}
    )
    frame = table01_subnetworks.beside_published(own, model="embedded")
    assert frame["language"].tolist() == ["mlt", "slv"]
    assert list(frame.columns) == list(own.columns)


def test_table01_subnetworks_writes_csv_and_markdown_and_prints(neurons, tmp_path, capsys):
    path = neurons.save(tmp_path / "neurons.safetensors")
    assert main(["table01", str(path), "--figures", str(tmp_path / "figures")]) == 0
    frame = pd.read_csv(tmp_path / "figures" / "table01_subnetworks.csv").set_index("language")
    assert frame.loc["slv", ["n_neurons", "n_trainable"]].tolist() == [4, 3 * 4 * 4]
    assert frame.loc["slv", "percent"] == pytest.approx(4.8)
    text = (tmp_path / "figures" / "table01_subnetworks.md").read_text()
    assert "| Slovenian | 4 | 48 | 4.80 |\n" in text
    assert "Source: embedded; 4 languages; LAPE" in text
    assert text.startswith(capsys.readouterr().out)


def test_table01_subnetworks_counts_two_vectors_per_neuron_without_a_gate(neurons, draw, tmp_path):
    ungated = dataclasses.replace(neurons, model=dataclasses.replace(neurons.model, gated=False))
    _, csv = draw("table01", ungated.save(tmp_path / "neurons.safetensors"))
    assert pd.read_csv(csv).set_index("language").loc["slv", "n_trainable"] == 2 * 4 * 4


def test_table01_subnetworks_shows_published_numbers_beside(draw, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        markdown, _ = draw("table01", masks=released(tmp_path / "llama-3.1-5"))
    assert "| Afrikaans | 2 | 24,576 | 0.00 | 2581 | 31.7M | 0.39 |\n" in markdown.read_text()
    assert "differs: afr: n_neurons 2, published 2581" in caplog.text


def test_all_draws_what_exists_and_indexes_it(neurons, make_curves, nowhere, tmp_path, caplog):
    paths = RunPaths(tmp_path / "runs", "embedded")
    neurons.save(paths.neurons)
    make_curves().save(paths.alignment("mlt"))
    figures = tmp_path / "figures"
    with caplog.at_level(logging.INFO):
        written = run(Request("all", root=tmp_path / "runs", figures=figures))
    assert len(written) == len(set(written))
    names = {path.name for path in written}
    assert names == {path.name for path in figures.iterdir()}
    pictures = {name for name in names if name.endswith(".png")}
    assert pictures == {
        *(f"{name}.png" for name in PUBLISHED),
        "fig01_schematic.png",
        "fig02_neurons_by_layer.png",
        "fig07_alignment_mlt.png",
        "fig08_overlap.png",
        "fig12_small_multiples.png",
    }
    page = (figures / "README.md").read_text()
    for name in pictures:
        assert f"]({name})" in page
        with Image.open(figures / name) as image:
            assert image.info["Description"] in page
            assert f"`{image.info['Comment']}`" in page
    assert "| Slovenian | 4 | 48 | 4.80 |" in page
    assert "left out: " in caplog.text
    assert "ablation.safetensors does not exist" in caplog.text


def test_all_without_a_run_draws_the_published_numbers(nowhere, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        written = run(Request("all", root=tmp_path, figures=tmp_path / "figures"))
    tables = {path.stem for path in written if path.suffix == ".md"}
    assert {path.stem for path in written} == PUBLISHED | tables
    assert tables == {
        "README",
        "fig11_subnetworks_published",
        "table02_published",
        "table02_published_nemo",
        "tables03_14_published",
        "tables15_26_published",
        "tables27_38_published",
    }
    assert caplog.text.count("left out: ") == 18
    assert "`make demo` writes the artefacts of the embedded model" in caplog.text


def test_all_refuses_a_folder_without_released_neurons(tmp_path):
    request = Request("all", root=tmp_path, masks=tmp_path, figures=tmp_path / "figures")
    with pytest.raises(ArtifactError, match=r"holds no released neurons; expected llama-3.1-5 or"):
        draw_all(request)


def test_write_gallery_leaves_out_foreign_pictures(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "foreign.png")
    page = write_gallery(tmp_path).read_text()
    assert "foreign" not in page
    assert page.startswith("# Figures\n")


def test_write_gallery_opens_with_an_index_in_the_order_of_the_paper(draw, tmp_path):
    written = draw("fig07", source="published", figures=tmp_path)
    (tmp_path / "table02_published.md").write_text("| a |\n")
    (tmp_path / "tables03_14_published.md").write_text("| secret |\n")
    page = write_gallery(tmp_path).read_text()
    index, *sections = page.split("\n## ")
    rows = [line.split(" | ")[0] for line in index.splitlines() if line.startswith("| ")][2:]
    figures = [1, 2, 3, 4, 5, *range(5, 14)]
    assert rows[:15] == [*(f"| Figure {n}" for n in figures), "| Appendix B"]
    assert "[fig07c_published](fig07c_published.png)" in index
    assert "not drawn here; `python -m analyses fig09 --masks released" in index
    assert "[tables03_14_published](tables03_14_published.md)" in index
    assert [section.split("\n")[0] for section in sections] == [
        "Figure 7: Alignment averaged over the layers, as published",
        "Table 2: average scores of all methods (table02_published)",
    ]
    assert "secret" not in page
    assert written[0].is_file()


def make_run(method, *, language="mlt", seed=0, tokens=None, losses=(4.0, 3.0, 3.5)):
    rows = [(i, 100 * i, "validation", language, loss) for i, loss in enumerate(losses)]
    return FinetuneRun(
        language=language,
        method=method,
        model=info("embedded"),
        neurons=None,
        rows=None,
        base=None,
        curves=pd.DataFrame(rows, columns=["step", "tokens", "split", "language", "loss"]),
        settings={"seed": seed, "tokens": tokens},
        results={
            "validation_loss": {language: min(losses)},
            "base_validation_loss": {language: losses[0]},
        },
    )


@pytest.fixture
def trained(tmp_path):
    """Maltese and Slovak by two methods, Welsh by one, a sweep of Maltese and a run by name."""
    paths = RunPaths(tmp_path / "runs", "embedded")
    for language in ("mlt", "slk"):
        make_run("target", language=language).save(paths.finetune(language, "target"))
        make_run("random:layer", language=language).save(paths.finetune(language, "random-layer"))
    make_run("target", language="cym").save(paths.finetune("cym", "target"))
    make_run("target", seed=1).save(paths.finetune("mlt", "target-seed1"))
    make_run("target").save(paths.finetune("mlt", "target-authors"))
    for tokens in (100, 200):
        run = make_run("target", tokens=tokens, losses=(4.0, 4.0 - tokens / 200))
        run.save(paths.finetune("mlt", f"target-{tokens}"))
    return tmp_path


def test_fig04_and_appendix_b_draw_maltese_and_all_that_can_be_compared(trained, draw):
    written = [path for name in ("fig04", "figB") for path in draw(name, root=trained / "runs")]
    assert [path.name for path in written if path.suffix == ".csv"] == [
        "fig04_training_dynamics_mlt.csv",
        "figB_training_dynamics.csv",
    ]
    one, all_of_them = (pd.read_csv(path) for path in written if path.suffix == ".csv")
    assert set(one["run"]) == {"mlt/target", "mlt/target-seed1", "mlt/random-layer"}
    assert set(all_of_them["language"]) == {"mlt", "slk"}
    with Image.open(written[0]) as image:
        assert image.info["Source"] == "embedded; 3 fine-tuning runs; mlt; 2 seeds"
        assert f"fig04 --root {trained / 'runs'}" in image.info["Comment"]


def test_fig04_training_dynamics_draws_the_languages_asked_for(trained):
    figures = trained / "figures"
    argv = ["fig04", "--langs", "cy", "slk", "--root", str(trained / "runs")]
    assert main([*argv, "--figures", str(figures)]) == 0
    assert {path.stem for path in figures.iterdir()} == {
        "fig04_training_dynamics_cym",
        "fig04_training_dynamics_slk",
    }


def test_fig04_training_dynamics_draws_the_folders_given(trained, draw):
    folder = trained / "runs" / "embedded" / "finetune" / "mlt"
    runs = (folder / "target-authors", folder / "random-layer")
    *_, csv = draw("fig04", *runs)
    assert set(pd.read_csv(csv)["run"]) == set(map(str, runs))
    with pytest.raises(ArtifactError, match="No finished fine-tuning run of slk; there are .* mlt"):
        draw("fig04", *runs, langs=("slk",))


def test_fig04_training_dynamics_says_what_is_missing(trained, draw, tmp_path):
    with pytest.raises(ArtifactError, match="holds no finished fine-tuning run without a token"):
        draw("fig04", root=trained / "none")
    with pytest.raises(ArtifactError, match=r"run of lit; there are runs of mlt, cym, slk"):
        draw("fig04", root=trained / "runs", langs=("lit",))
    paths = RunPaths(tmp_path / "alone", "embedded")
    make_run("target").save(paths.finetune("mlt", "target"))
    with pytest.raises(ArtifactError, match="No language has finished runs of two methods"):
        draw("fig04", root=tmp_path / "alone")
    make_run("full").save(paths.finetune("mlt", "full"))
    with pytest.raises(ArtifactError, match="Only one language has runs of two methods"):
        draw("figB", root=tmp_path / "alone")


def test_fig05_data_size_draws_runs_with_a_budget(trained, draw):
    png, _, csv = draw("fig05", root=trained / "runs")
    assert png.name == "fig05_data_size.png"
    frame = pd.read_csv(csv)
    assert frame["tokens"].tolist() == [100, 200]
    assert frame["improvement"].tolist() == [0.5, 1.0]


def test_fig05_data_size_says_what_is_missing(trained, draw):
    root = trained / "runs"
    with pytest.raises(ArtifactError, match="None of the 2 runs .* budget is of method full"):
        draw("fig05", root=root, method="full")
    with pytest.raises(LseError, match="There is no fine-tuning method 'ful'. Did you mean full"):
        draw("fig05", root=root, method="ful")
    with pytest.raises(ArtifactError, match=r"holds no .* with a token budget. .*--n-tokens 10000"):
        draw("fig05", root=trained / "none")


def test_fig_methods_draws_and_prints_a_table_of_results(tmp_path, capsys):
    rows = [
        ("mlt", method, 0, measured, 50 + change, 50, change, change - 1, change + 1, 40)
        for method, change in (("target", -4), ("random:size", -3))
        for measured in ("mlt", "eng")
    ]
    table = tmp_path / "results.csv"
    pd.DataFrame(rows, columns=RESULT_COLUMNS).to_csv(table, index=False)
    assert main(["fig_methods", str(table), "--figures", str(tmp_path / "figures")]) == 0
    printed = capsys.readouterr().out
    assert "Change in loss in the language trained (nats/sentence)\n\n| Language |" in printed
    assert "| Maltese | **−4.00** | −3.00 |\n" in printed
    assert "\nChange in loss in English (nats/sentence)\n" in printed
    frame = pd.read_csv(tmp_path / "figures" / "fig_methods.csv")
    assert len(frame) == 6
    with Image.open(tmp_path / "figures" / "fig_methods.png") as image:
        assert image.info["Source"] == f"{table}; languages mlt; seeds 0; 40 sentences each"
        assert image.info["Description"].endswith("random neurons, without intervals.")


def test_fig_methods_says_what_is_missing(draw, tmp_path):
    with pytest.raises(ArtifactError, match=r"none.csv does not exist; give a table of results"):
        draw("fig_methods", tmp_path / "none.csv")


TOY = """
from analyses.registry import FIGURES, Figure
from lse_interp.plotting.neuron_layers import layer_frame, plot_layers
from lse_interp.plotting.picture import Picture

def draw(neurons, request):
    frame = layer_frame(neurons)
    yield Picture(name="toy", axes=plot_layers(frame), frame=frame, source="a toy", title="Toy",
                  caption="Drawn elsewhere.", model=neurons.model)

FIGURES.register("toy")(Figure("addition", "a figure from elsewhere", draw, needs="neuron_sets"))
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A figure of another package, known by its entry point alone."""
    (tmp_path / "elsewhere.py").write_text(TOY)
    point = importlib.metadata.EntryPoint("toy", "elsewhere", "lse_interp.figures")
    found = importlib.metadata.entry_points
    monkeypatch.setattr(
        importlib.metadata,
        "entry_points",
        lambda **names: [point] if names.get("group") == "lse_interp.figures" else found(**names),
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield
    FIGURES._known.pop("toy", None)
    sys.modules.pop("elsewhere", None)


def test_a_figure_of_another_package_is_listed_drawn_and_in_the_gallery(
    toy, neurons, nowhere, capsys
):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert ", toy." in " ".join(capsys.readouterr().out.split())
    assert "elsewhere" not in sys.modules
    neurons.save(RunPaths(nowhere / "runs", "embedded").neurons)
    assert main(["all"]) == 0
    assert {path.suffix for path in Path("figures").glob("toy.*")} == {".png", ".pdf", ".csv"}
    page = Path("figures/README.md").read_text()
    assert "| addition | a figure from elsewhere | [toy](toy.png) | toy | embedded, rel" in page
    assert "## Toy\n\n![Toy](toy.png)\n\nDrawn elsewhere.\n\nSource: a toy." in page


def test_every_file_of_a_figure_registers_one_and_no_other_file_does():
    homes = {figure.module for figure in FIGURES.values()}
    files = Path(table01_subnetworks.__file__).parent.glob("*.py")
    expected = {f"analyses.{path.stem}" for path in files if path.stem.startswith(("fig", "table"))}
    assert homes == expected


def test_an_unknown_figure_is_told(capsys):
    assert main(["fig99"]) == 2
    assert "There is no figure 'fig99'." in capsys.readouterr().err
