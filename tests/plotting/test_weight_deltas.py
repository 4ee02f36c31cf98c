"""Weight changes as boxes, densities, norms and neurons: the numbers and the artists."""

import logging

import matplotlib.colors
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from analyses.__main__ import main
from lse_interp.analysis.weights.deltas import OTHER_COLUMNS, UNDETERMINED, WeightDeltas
from lse_interp.analysis.weights.row_statistics import N_BINS, QUANTILES
from lse_interp.core.errors import ArtifactError, LseError
from lse_interp.models.info import ModelInfo
from lse_interp.plotting.style import PROJECTION_COLORS
from lse_interp.plotting.weight_deltas import (
    delta_frame,
    density_frame,
    describe_deltas,
    figure_name,
    neuron_delta_frame,
    plot_delta_density,
    plot_delta_norms,
    plot_deltas,
    plot_neuron_deltas,
)

D_MODEL, D_MLP = 50, 40


@pytest.fixture
def make_deltas():
    """Weight changes that are normally distributed, wider from layer to layer; none in layer 1."""

    def make(*, gated=True, n_neurons=(3, 0, 8, 5), scored=True, decay_factor=0.999, **changes):
        random = torch.Generator().manual_seed(0)
        n_layers, width = len(n_neurons), 3 if gated else 2
        info = ModelInfo("embedded", "a", "Llama", n_layers, D_MODEL, D_MLP, 1000, gated)
        std = torch.arange(1, n_layers * width + 1).reshape(n_layers, width).double() / 1000
        normal = torch.distributions.Normal(0, 1)
        inner = torch.tensor(QUANTILES, dtype=torch.float64).clamp(1e-5, 1 - 1e-5)
        empty = torch.tensor(n_neurons)[:, None] == 0
        quantiles = (std[..., None] * normal.icdf(inner)).masked_fill(empty[..., None], torch.nan)
        limit = 3 * float(std.max())
        edges = torch.linspace(-limit, limit, N_BINS + 1, dtype=torch.float64)
        share = normal.cdf(edges[1:] / std[..., None]) - normal.cdf(edges[:-1] / std[..., None])
        n_entries = torch.tensor(n_neurons)[:, None, None] * D_MODEL
        lists = tuple(torch.arange(n) for n in n_neurons)
        norms = tuple(
            std[layer][:, None] * (7 + torch.rand(width, n, generator=random).double())
            for layer, n in enumerate(n_neurons)
        )
        zeros = torch.zeros(n_layers, width, dtype=torch.int64)
        scores = tuple(torch.rand(n, generator=random).double() for n in n_neurons)
        fields = {
            "language": "mlt",
            "name": "target",
            "method": "target",
            "base": info,
            "tuned": info,
            "decay_factor": decay_factor,
            "neurons": lists,
            "neuron_norms": norms,
            "quantiles": quantiles,
            "histogram": (share * n_entries).floor().long(),
            "limit": limit,
            "mean": zeros.double().masked_fill(empty, torch.nan),
            "std": std.masked_fill(empty, torch.nan),
            "base_l2": torch.full((n_layers, width), 2.0).double() * ~empty,
            "dot": zeros.double(),
            "n_changed": zeros,
            "rest_n_changed": zeros,
            "rest_l2": zeros.double(),
            "rest_max_abs": zeros.double(),
            "others": pd.DataFrame([("norm", 4, 0, 0.0, 0.0)], columns=list(OTHER_COLUMNS)),
            "scores": scores if scored else None,
            "score_name": "lape",
            "score_unit": "nats",
        }
        return WeightDeltas(**(fields | changes))

    return make


def boxes_by_color(ax):
    boxes = {}
    for patch in ax.patches:
        boxes.setdefault(matplotlib.colors.to_hex(patch.get_facecolor()), []).append(patch)
    return boxes


def test_delta_frame_is_every_value_of_the_artefact(make_deltas):
    deltas = make_deltas()
    pd.testing.assert_frame_equal(delta_frame(deltas), deltas.to_frame())


@pytest.mark.parametrize("gated", [True, False])
def test_plot_deltas_draws_a_box_per_layer_and_projection(make_deltas, gated):
    frame = delta_frame(make_deltas(gated=gated))
    ax = plot_deltas(frame)
    boxes = boxes_by_color(ax)
    names = ["gate", "up", "down"] if gated else ["up", "down"]
    assert list(boxes) == [PROJECTION_COLORS[name] for name in names]
    # Layer 1 has no neurons.
    assert {len(found) for found in boxes.values()} == {3}
    down = boxes[PROJECTION_COLORS["down"]]
    row = frame.query("layer == 3 and projection == 'down'").iloc[0]
    heights = down[2].get_path().vertices[:, 1]
    assert (heights.min(), heights.max()) == (row["q0.25"], row["q0.75"])
    drawn = {y for line in ax.lines for y in line.get_ydata()}
    assert {row["q0.01"], row["q0.5"], row["q0.99"]} <= drawn
    assert row["q1"] not in drawn
    assert [text.get_text() for text in ax.get_legend().get_texts()] == names


def test_plot_deltas_puts_the_boxes_of_a_layer_side_by_side(make_deltas):
    boxes = boxes_by_color(plot_deltas(delta_frame(make_deltas())))
    spans = [
        (box.get_path().vertices[:, 0].min(), box.get_path().vertices[:, 0].max())
        for found in boxes.values()
        for box in found[1:2]
    ]
    assert all(left[1] < right[0] for left, right in zip(spans[:-1], spans[1:], strict=True))
    assert np.mean(spans) == pytest.approx(2)
    assert spans[0][0] > 1.5 and spans[-1][1] < 2.5


def test_plot_deltas_draws_into_given_axes_and_refuses_two_results(make_deltas):
    frame = delta_frame(make_deltas())
    _, ax = plt.subplots()
    assert plot_deltas(frame, ax=ax) is ax
    both = pd.concat([frame, delta_frame(make_deltas(name="full"))])
    for draw in (plot_deltas, plot_delta_norms):
        with pytest.raises(LseError, match=r"the frame holds mlt target, mlt full"):
            draw(both)


def test_density_frame_holds_the_histogram_and_a_density_that_integrates_to_its_share(make_deltas):
    deltas = make_deltas()
    frame = density_frame(deltas)
    assert sorted(frame["layer"].unique()) == [0, 2, 3]
    cell = frame.query("layer == 2 and projection == 'up'")
    assert cell["n_entries"].tolist() == deltas.histogram[2, 1].tolist()
    np.testing.assert_allclose(cell["low"].iloc[1:], cell["high"].iloc[:-1])
    share = deltas.histogram[2, 1].sum().item() / deltas.n_entries[2].item()
    area = (cell["density"] * (cell["high"] - cell["low"])).sum()
    assert area == pytest.approx(share, rel=1e-12)
    # The changes are normal, and smoothing flattens their peak by a little.
    std = deltas.std[2, 1].item()
    assert cell["density"].max() == pytest.approx(1 / (std * np.sqrt(2 * np.pi)), rel=0.1)


def test_plot_delta_density_draws_a_violin_per_layer_in_a_panel_per_projection(make_deltas):
    frame = density_frame(make_deltas())
    first = plot_delta_density(frame)
    axes = first.figure.axes
    assert [ax.get_title(loc="left") for ax in axes] == ["gate", "up", "down"]
    assert [len(ax.collections) for ax in axes] == [3, 3, 3]
    assert first.get_ylim() == (frame["low"].min(), frame["high"].max())
    violin = axes[1].collections[1].get_paths()[0].vertices[:, 0]
    assert (violin.min(), violin.max()) == pytest.approx((2 - 0.42, 2 + 0.42))


def test_plot_delta_norms_draws_relative_l2_and_decay(make_deltas):
    frame = delta_frame(make_deltas())
    ax = plot_delta_norms(frame)
    lines = {line.get_color(): line for line in ax.lines}
    rows = frame[frame["projection"] == "gate"]
    found = lines[PROJECTION_COLORS["gate"]].get_ydata()
    np.testing.assert_array_equal(found, rows["relative_l2"])
    assert np.isnan(found[1])
    assert lines["0.35"].get_ydata()[0] == pytest.approx(0.001)
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts == ["gate", "up", "down", "decay alone"]
    unknown = plot_delta_norms(delta_frame(make_deltas(decay_factor=None)))
    assert len(unknown.lines) == 3


def test_plot_neuron_deltas_draws_a_dot_per_neuron_with_a_score(make_deltas):
    deltas = make_deltas()
    deltas.scores[2][0] = torch.inf
    frame = neuron_delta_frame(deltas)
    assert len(frame) == 15
    ax = plot_neuron_deltas(frame)
    assert ax.get_xlabel() == "LAPE (nats)"
    dots = ax.collections[0]
    np.testing.assert_array_equal(dots.get_offsets(), frame[["lape", "norm"]])
    np.testing.assert_array_equal(dots.get_array(), frame["layer"])
    with pytest.raises(LseError, match="No neuron with a known score to draw"):
        plot_neuron_deltas(neuron_delta_frame(make_deltas(scored=False)))


def test_describe_deltas_says_what_the_rest_did(make_deltas):
    text = "embedded, Maltese target; 16 neurons of 4 layers; change of all other weights exactly 0"
    assert describe_deltas(make_deltas()) == text
    others = pd.DataFrame([("norm", 4, 1, 0.1, 0.1)], columns=list(OTHER_COLUMNS))
    moved = make_deltas(others=others, language=UNDETERMINED, name="model")
    assert describe_deltas(moved).startswith("embedded, model; ")
    assert describe_deltas(moved).endswith("other weights not 0")


def test_figure_name_names_the_run_unless_it_is_target(make_deltas):
    assert figure_name(make_deltas()) == "fig06_weight_deltas_mlt"
    assert figure_name(make_deltas(name="full"), "norms") == "fig06_weight_deltas_norms_mlt_full"


def test_fig06_draws_every_view(make_deltas, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    path = make_deltas().save(tmp_path / "target.safetensors")
    assert main(["fig06", str(path), "--figures", str(tmp_path / "figures")]) == 0
    stems = {file.stem for file in (tmp_path / "figures").iterdir()}
    names = ("", "_density", "_norms", "_neurons")
    assert stems == {f"fig06_weight_deltas{name}_mlt" for name in names}
    assert caplog.text.count("wrote") == 4


def test_fig06_names_what_writes_a_missing_artefact(draw, tmp_path):
    with pytest.raises(ArtifactError, match=r"does not exist.*python -m lse_interp.deltas"):
        draw("fig06", tmp_path / "no.safetensors")


def test_fig06_without_scores_leaves_out_the_neurons(make_deltas, draw, tmp_path):
    path = make_deltas(scored=False).save(tmp_path / "target.safetensors")
    assert len(draw("fig06", path)) == 9
