"""The committed figures hold what their sources hold now.

Figures made of files in the repository are drawn again and compared, byte for byte. Those made of
runs are too where there are runs: in runs/, or in the folder that LSE_RUNS names.
"""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analyses.scores import EVALUATION, EVALUATION_SIZES
from lse_interp.artifacts.paths import RunPaths

ROOT = Path(__file__).parents[2]
FIGURES = ROOT / "figures"
RUNS = Path(os.environ.get("LSE_RUNS", ROOT / "runs"))
PATHS = RunPaths(RUNS, "embedded")


@pytest.fixture(autouse=True)
def _in_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


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


# What `make demo` trains; there may be further seeds.
_DEMO_RUNS = tuple(
    PATHS.finetune("mlt", name)
    for name in ("target", "random-layer", "random-size", "lora", "ffn", "full")
)

PUBLISHED = (
    *("fig03", "fig07", "fig11", "fig_scores"),
    *("table02", "tables03_14", "tables15_26", "tables27_38"),
)
FROM_SCORES = {
    "fig03": EVALUATION,
    "fig_scores": EVALUATION,
    "table02": EVALUATION,
    "tables03_14": EVALUATION,
    "fig05_scores": EVALUATION_SIZES,
}
FROM_RUNS = {
    "fig01": (),
    "fig02": (),
    "fig04": _DEMO_RUNS,
    "fig05": (),
    "fig06": (),
    "fig07": (PATHS.alignment("mlt"),),
    "fig08": (),
    "fig12": (),
    "fig_ablation": (),
    "table01": (),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_figures_are_up_to_date(name, draw):
    require_equal(draw(name, source="published"))


def test_the_figure_of_methods_is_up_to_date(draw):
    require_equal(draw("fig_methods"))


@pytest.mark.parametrize("name", FROM_SCORES)
def test_figures_of_task_scores_are_up_to_date(name, draw):
    if not FROM_SCORES[name].is_file():
        pytest.skip(f"{FROM_SCORES[name]} does not exist")
    require_equal(draw(name))


@pytest.mark.parametrize("name", FROM_RUNS)
def test_figures_of_runs_are_up_to_date(name, draw):
    if not PATHS.neurons.is_file():
        pytest.skip(f"{PATHS.folder} holds no artefacts; `make demo` writes them")
    if name == "fig05" and not list(PATHS.finetune("slk", "").glob("target-*000")):
        pytest.skip("`make demo` trains no run with a token budget; see Figure 5's script")
    require_close(draw(name, *FROM_RUNS[name], root=RUNS))


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
