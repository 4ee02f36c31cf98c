"""Alignment over the layers and averaged: the numbers and the artists."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from lse_interp.core.errors import LseError
from lse_interp.plotting.alignment import (
    alignment_frame,
    layer_average_frame,
    plot_alignment,
    plot_layer_average,
)
from lse_interp.plotting.style import language_color


def test_alignment_frame_is_every_value_of_the_curves(make_curves):
    curves = make_curves(("base", "target"))
    pd.testing.assert_frame_equal(alignment_frame(curves), curves.to_frame())
    assert len(alignment_frame(curves)) == 2 * 3 * 4


def test_layer_average_frame_agrees_with_the_artefact(make_curves):
    curves = make_curves(("base", "target"))
    frame = layer_average_frame(alignment_frame(curves))
    assert list(frame.columns) == ["model", "language", "against", "cosine", "shuffled", "gap"]
    for value in ("cosine", "shuffled", "gap"):
        table = frame.pivot(index="model", columns="against", values=value)
        expected = curves.layer_average(value)[list(table.columns)].loc[table.index]
        np.testing.assert_allclose(table, expected, rtol=1e-12)


def test_plot_alignment_draws_a_line_and_a_faint_control_per_language(make_curves):
    frame = alignment_frame(make_curves())
    ax = plot_alignment(frame)
    strong = {line.get_label(): line for line in ax.lines if not line.get_alpha()}
    faint = [line for line in ax.lines if line.get_alpha()]
    assert list(strong) == ["Arabic", "English", "Italian"]
    assert len(faint) == 3
    rows = frame[frame["against"] == "ita"]
    np.testing.assert_array_equal(strong["Italian"].get_ydata(), rows["cosine"])
    np.testing.assert_array_equal(strong["Italian"].get_xdata(), rows["layer"])
    assert strong["Italian"].get_color() == language_color("ita")
    control = next(line for line in faint if line.get_color() == language_color("ita"))
    np.testing.assert_array_equal(control.get_ydata(), rows["shuffled"])
    assert ax.get_ylabel() == "Cosine with Maltese"
    assert ax.get_ylim() == (0, 1)


def test_plot_alignment_shades_the_interval(make_curves):
    frame = alignment_frame(make_curves(against=("ita",)))
    (shade,) = plot_alignment(frame).collections
    heights = shade.get_paths()[0].vertices[:, 1]
    assert heights.min() == frame["low"].min()
    assert heights.max() == frame["high"].max()


def test_plot_alignment_explains_the_control_in_the_legend(make_curves):
    figure = plot_alignment(alignment_frame(make_curves())).figure
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["Arabic", "English", "Italian", "not parallel"]


@pytest.mark.parametrize("n_models", [2, 4, 5])
def test_plot_alignment_gives_every_model_a_panel_on_one_scale(make_curves, n_models):
    models = tuple(f"m{i}" for i in range(n_models))
    first = plot_alignment(alignment_frame(make_curves(models)))
    axes = first.figure.axes
    assert [ax.get_title(loc="left") for ax in axes] == list(models)
    assert {ax.get_ylim() for ax in axes} == {(0, 1)}
    assert first is axes[0]


def test_plot_alignment_makes_room_for_negative_cosines(make_curves):
    frame = alignment_frame(make_curves())
    frame["shuffled"] -= 0.6
    low, high = plot_alignment(frame).get_ylim()
    assert low < frame["shuffled"].min() < 0
    assert high == 1


def test_plot_alignment_draws_into_given_axes(make_curves):
    _, ax = plt.subplots()
    frame = alignment_frame(make_curves())
    assert plot_alignment(frame, ax=ax) is ax
    assert len(ax.get_legend().get_texts()) == 4


def test_plot_alignment_refuses_several_models_in_one_axes(make_curves):
    _, ax = plt.subplots()
    frame = alignment_frame(make_curves(("base", "target")))
    with pytest.raises(LseError, match=r"the frame holds 2 \(base, target\). Leave out `ax`"):
        plot_alignment(frame, ax=ax)


def test_plot_alignment_refuses_several_languages(make_curves):
    both = [alignment_frame(make_curves(language=code)) for code in ("mlt", "slk")]
    with pytest.raises(LseError, match=r"the frame holds 2 \(mlt, slk\). Select one"):
        plot_alignment(pd.concat(both))


def test_plot_layer_average_draws_a_dot_per_language_and_the_mean(make_curves):
    curves = make_curves(("base", "target"))
    ax = plot_layer_average(layer_average_frame(alignment_frame(curves)))
    dots = {line.get_label(): line for line in ax.lines if line.get_marker() == "o"}
    assert list(dots) == ["Arabic", "English", "Italian"]
    table = curves.layer_average()
    np.testing.assert_allclose(dots["Italian"].get_ydata(), table["ita"])
    bars = [line.get_ydata()[0] for line in ax.lines if line.get_marker() != "o"]
    np.testing.assert_allclose(bars, table["mean"])
    assert [text.get_text() for text in ax.texts] == [f"{mean:.2f}" for mean in table["mean"]]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["base", "target"]


def test_plot_layer_average_of_several_languages_draws_a_dot_for_each(make_curves):
    parts = [alignment_frame(make_curves(language=code)) for code in ("mlt", "slk")]
    frame = layer_average_frame(pd.concat(parts))
    ax = plot_layer_average(frame)
    dots = {line.get_label(): line for line in ax.lines if line.get_marker() == "o"}
    assert list(dots) == ["Maltese", "Slovak"]
    expected = frame.loc[frame["language"] == "slk", "cosine"].mean()
    np.testing.assert_allclose(dots["Slovak"].get_ydata(), [expected])
