"""The committed figures hold what their sources hold now.

Figures made of files in the repository are drawn again and compared, byte for byte. Those made of
runs are too where there are runs: in runs/, or in the folder that LSE_RUNS names.
"""

import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from analyses import (
    fig01_schematic,
    fig02_neurons_by_layer,
    fig03_improvements,
    fig04_training_dynamics,
    fig05_data_size,
    fig06_weight_deltas,
    fig07_alignment,
    fig08_overlap,
    fig11_subnetworks_nemo,
    fig12_small_multiples,
    fig_ablation,
    fig_methods,
    fig_scores,
    table01_subnetworks,
)
from analyses.scores import EVALUATION, EVALUATION_SIZES
from analyses.sources import NeuronArgs
from lse_interp.artifacts.paths import RunPaths

ROOT = Path(__file__).parents[2]
FIGURES = ROOT / "figures"
RUNS = Path(os.environ.get("LSE_RUNS", ROOT / "runs"))
PATHS = RunPaths(RUNS, "embedded")


@pytest.fixture(autouse=True)
def _in_repository(monkeypatch):
    monkeypatch.chdir(ROOT)
    yield
    plt.close("all")


def committed(name):
    return pd.read_csv(FIGURES / f"{name}.csv")


def require_equal(written):
    """Compare every csv with its committed twin, up to the last digits of a sum."""
    paths = [path for path in written if path.suffix == ".csv"]
    assert paths
    for path in paths:
        new, old = (pd.read_csv(folder / path.name) for folder in (path.parent, FIGURES))
        pd.testing.assert_frame_equal(new, old, rtol=1e-10, obj=path.name)


def require_close(written):
    """Compare every csv with its committed twin, up to what other rounding does to a training.

    The number of threads and the processor change the last bits of a step, and 170 steps let them
    grow to some 1e-3 of a loss.
    """
    paths = [path for path in written if path.suffix == ".csv"]
    assert paths
    for path in paths:
        # A run given by its folder is named by it.
        new, old = (
            pd.read_csv(folder / path.name).drop(columns="run", errors="ignore")
            for folder in (path.parent, FIGURES)
        )
        numbers = old.select_dtypes("number").columns
        pd.testing.assert_frame_equal(new.drop(columns=numbers), old.drop(columns=numbers))
        for name in numbers:
            spread = max(float(np.nanmax(np.abs(old[name]))), 1e-12)
            np.testing.assert_allclose(
                new[name], old[name], rtol=0, atol=0.02 * spread, err_msg=f"{path.name}: {name}"
            )


FROM_FILES = {
    "fig03_published": lambda to: fig03_improvements.run(
        fig03_improvements.Config(source="published", figures=to)
    ),
    "fig07_published": lambda to: fig07_alignment.run(
        fig07_alignment.Config(source="published", figures=to)
    ),
    "fig11_published": lambda to: fig11_subnetworks_nemo.run(NeuronArgs(figures=to)),
    "fig_scores_published": lambda to: fig_scores.run(
        fig_scores.Config(source="published", figures=to)
    ),
    "fig_methods": lambda to: fig_methods.run(fig_methods.Config(figures=to)),
}

FROM_SCORES = {
    "fig03": (EVALUATION, lambda to: fig03_improvements.run(fig03_improvements.Config(figures=to))),
    "fig_scores": (EVALUATION, lambda to: fig_scores.run(fig_scores.Config(figures=to))),
    "fig05_scores": (
        EVALUATION_SIZES,
        lambda to: fig05_data_size.run(fig05_data_size.Config(metric="score", figures=to)),
    ),
}


def _neurons(to):
    return NeuronArgs(neurons=PATHS.neurons, figures=to)


# What `make demo` trains; there may be further seeds.
_DEMO_RUNS = tuple(
    PATHS.finetune("mlt", name)
    for name in ("target", "random-layer", "random-size", "lora", "ffn", "full")
)

FROM_RUNS = {
    "fig01": lambda to: fig01_schematic.run(fig01_schematic.Config(source=_neurons(to))),
    "fig02": lambda to: fig02_neurons_by_layer.run(_neurons(to)),
    "fig04": lambda to: fig04_training_dynamics.run(
        fig04_training_dynamics.Config(runs=_DEMO_RUNS, figures=to)
    ),
    "fig05": lambda to: fig05_data_size.run(fig05_data_size.Config(root=RUNS, figures=to)),
    "fig06": lambda to: fig06_weight_deltas.run(
        fig06_weight_deltas.Config(deltas=(PATHS.deltas("mlt", "target"),), figures=to)
    ),
    "fig07": lambda to: fig07_alignment.run(
        fig07_alignment.Config(curves=(PATHS.alignment("mlt"),), figures=to)
    ),
    "fig08": lambda to: fig08_overlap.run(_neurons(to)),
    "fig12": lambda to: fig12_small_multiples.run(_neurons(to)),
    "fig_ablation": lambda to: fig_ablation.run(
        fig_ablation.Config(ablation=PATHS.folder / "ablation.safetensors", figures=to)
    ),
    "table01": lambda to: table01_subnetworks.run(table01_subnetworks.Config(source=_neurons(to))),
}


@pytest.mark.parametrize("name", FROM_FILES)
def test_figures_of_files_in_the_repository_are_up_to_date(name, tmp_path):
    require_equal(FROM_FILES[name](tmp_path))


@pytest.mark.parametrize("name", FROM_SCORES)
def test_figures_of_task_scores_are_up_to_date(name, tmp_path):
    source, draw = FROM_SCORES[name]
    if not source.is_file():
        pytest.skip(f"{source} does not exist")
    require_equal(draw(tmp_path))


@pytest.mark.parametrize("name", FROM_RUNS)
def test_figures_of_runs_are_up_to_date(name, tmp_path):
    if not PATHS.neurons.is_file():
        pytest.skip(f"{PATHS.folder} holds no artefacts; `make demo` writes them")
    if name == "fig05" and not list(PATHS.finetune("slk", "").glob("target-*000")):
        pytest.skip("`make demo` trains no run with a token budget; see Figure 5's script")
    require_close(FROM_RUNS[name](tmp_path))


def test_figures_of_neurons_agree_with_each_other():
    sizes = committed("table01_subnetworks").set_index("language")["n_neurons"]
    for name in ("fig02_neurons_by_layer", "fig12_small_multiples"):
        totals = committed(name).groupby("language")["n_neurons"].sum()
        assert totals.to_dict() == sizes.to_dict(), name
    overlap = committed("fig08_overlap")
    own = overlap[overlap.iloc[:, 0] == overlap.iloc[:, 1]]
    assert own.set_index(own.columns[0])["intersection"].to_dict() == sizes.to_dict()


def test_the_schematic_holds_the_neurons_that_the_layers_count():
    schematic = committed("fig01_schematic")
    layers = committed("fig02_neurons_by_layer")
    maltese = layers[layers["language"] == "mlt"].set_index("layer")["n_neurons"]
    drawn = schematic["layer"].value_counts().reindex(maltese.index, fill_value=0)
    assert set(schematic["language"]) == {"mlt"}
    assert drawn.to_dict() == maltese.to_dict()


def test_published_averages_of_target_tasks_are_those_of_table_2():
    drawn = committed("fig_scores_published").set_index(["row", "method"])["score"]
    printed = pd.read_csv(ROOT / "analyses" / "paper" / "table02.csv")
    printed = printed[~printed["is_average"] & (printed["group"] == "target")]
    printed = printed.set_index(["row", "method"])["score"]
    np.testing.assert_allclose(drawn[printed.index], printed, atol=0.0101)
    assert len(printed) == 6 * 6
