"""Neurons over the layers: the numbers and the artists."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lse_interp.core.errors import LseError
from lse_interp.core.languages import LANGUAGES, family_order
from lse_interp.plotting.neuron_layers import (
    _n_columns,
    describe_layers,
    layer_frame,
    plot_layers,
    plot_small_multiples,
)
from lse_interp.plotting.style import language_color


def test_layer_frame_counts_every_layer_of_every_language(neurons):
    frame = layer_frame(neurons)
    assert list(frame.columns) == ["language", "layer", "n_neurons", "share"]
    assert frame["language"].unique().tolist() == ["mlt", "slk", "slv", "ekk"]
    counts = frame.pivot(index="language", columns="layer", values="n_neurons")
    assert counts.loc["slv"].tolist() == [3, 1]
    assert counts.loc["mlt"].tolist() == [0, 1]
    shares = frame.pivot(index="language", columns="layer", values="share")
    assert shares.loc["slv"].tolist() == [0.75, 0.25]
    assert shares.loc["ekk"].isna().all()


def test_layer_frame_adds_up_to_the_sizes(neurons):
    totals = layer_frame(neurons).groupby("language")["n_neurons"].sum()
    assert totals.to_dict() == {code: neurons.size(code) for code in neurons}


@pytest.mark.parametrize("value", ["n_neurons", "share"])
def test_plot_layers_draws_one_line_per_language(neurons, value):
    frame = layer_frame(neurons)
    ax = plot_layers(frame, value=value)
    lines = {line.get_label(): line for line in ax.lines}
    assert list(lines) == ["Maltese", "Slovak", "Slovenian", "Estonian"]
    for code, label in (("slv", "Slovenian"), ("ekk", "Estonian")):
        expected = frame.loc[frame["language"] == code, value].to_numpy(dtype=float)
        np.testing.assert_array_equal(lines[label].get_ydata(), expected)
        assert lines[label].get_color() == language_color(code)
    assert ax.get_ylim()[0] == 0
    assert ax.get_xlim() == (0, 1)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list(lines)


@pytest.fixture
def many(make_neurons):
    """Sets of 128 languages: language i has i % 5 neurons in layer 0 and one in layer 1."""
    known = [code for code in LANGUAGES if LANGUAGES[code].family != "unknown"]
    named = ("Dravidian", "Turkic")
    codes = sorted(known, key=lambda code: LANGUAGES[code].family not in named)[:128]
    return make_neurons({code: [list(range(i % 5)), [i % 7]] for i, code in enumerate(codes)})


def test_plot_layers_of_many_languages_names_families_and_their_medians(many):
    frame = layer_frame(many)
    ax = plot_layers(frame)
    families = pd.Series({code: LANGUAGES[code].family for code in many})
    named = {line.get_label(): line for line in ax.lines if line.get_label()[0] != "_"}
    assert len(ax.lines) == 128 + len(named)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list(named)
    assert len(named) <= 10
    dravidian = families.index[families == "Dravidian"]
    expected = frame[frame["language"].isin(dravidian)].groupby("layer")["n_neurons"].median()
    np.testing.assert_array_equal(
        named[f"Dravidian ({len(dravidian)})"].get_ydata(), expected.to_numpy()
    )
    counted = [int(label.rsplit("(")[1].rstrip(")")) for label in named]
    assert sum(counted) == 128
    small = families.value_counts()
    assert list(named)[-1] == f"other families ({small[small < 3].sum()})"


def test_describe_layers_says_what_a_thick_line_is_where_there_are_any(neurons, many):
    assert describe_layers(layer_frame(neurons)) == "Neurons of 4 languages in each layer."
    found = describe_layers(layer_frame(many))
    assert found.startswith("Neurons of 128 languages in each layer. Thin, one line per language; ")


def test_plot_layers_draws_a_language_of_many_in_the_colour_of_its_family(many):
    ax = plot_layers(layer_frame(many))
    thin = dict(zip(family_order(many), ax.lines, strict=False))
    bold = {line.get_label().split(" (")[0]: line.get_color() for line in ax.lines[128:]}
    assert thin["tur"].get_color() == thin["kaz"].get_color() == bold["Turkic"]
    assert thin["kat"].get_color() == thin["jpn"].get_color() == bold["other families"]
    assert len(set(bold.values())) == len(bold)


def test_plot_layers_fits_the_legend_of_many_languages_into_the_picture(many):
    figure = plot_layers(layer_frame(many)).figure
    figure.draw_without_rendering()
    legend = figure.axes[0].get_legend().get_window_extent()
    assert 0 <= legend.y0 < legend.y1 <= figure.bbox.y1
    assert legend.x1 <= figure.bbox.x1 + 1
    assert figure.get_figwidth() <= 7


def test_plot_layers_names_48_languages_and_families_of_more(make_neurons):
    def n_entries(n):
        codes = list(LANGUAGES)[:n]
        ax = plot_layers(layer_frame(make_neurons({code: [[0], [1]] for code in codes})))
        return len(ax.get_legend().get_texts())

    assert n_entries(48) == 48
    assert n_entries(49) < 10


def test_plot_layers_of_many_languages_outside_the_crosswalk_makes_one_family(make_neurons):
    codes = [f"q{a}{b}" for a in "abcdefg" for b in "abcdefgh"]
    ax = plot_layers(layer_frame(make_neurons({code: [[0], [1]] for code in codes})))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["unknown (56)"]


def test_plot_small_multiples_of_many_languages_keeps_titles_apart(make_neurons):
    codes = list(LANGUAGES)[-64:]
    axes = plot_small_multiples(layer_frame(make_neurons({code: [[0], [1]] for code in codes})))
    figure = axes[0].figure
    figure.draw_without_rendering()
    assert len(axes) == 64
    boxes = [ax._left_title.get_window_extent() for ax in axes]
    rows = {}
    for box in boxes:
        rows.setdefault(round(box.y0), []).append(box)
    for row in rows.values():
        row.sort(key=lambda box: box.x0)
        for left, right in zip(row, row[1:], strict=False):
            assert left.x1 < right.x0


def test_plot_layers_gives_a_language_the_same_line_whoever_else_is_there(neurons):
    frame = layer_frame(neurons)
    alone = plot_layers(frame[frame["language"] == "slv"]).lines[0]
    among = next(line for line in plot_layers(frame).lines if line.get_label() == "Slovenian")
    assert (alone.get_color(), alone.get_linestyle()) == (among.get_color(), among.get_linestyle())


def test_plot_layers_draws_into_given_axes(neurons):
    _, axes = plt.subplots(1, 2)
    assert plot_layers(layer_frame(neurons), ax=axes[1]) is axes[1]
    assert len(axes[0].lines) == 0


def test_plot_layers_refuses_an_unknown_value(neurons):
    with pytest.raises(LseError, match=r"`value` must be one of n_neurons, share; got 'shares'"):
        plot_layers(layer_frame(neurons), value="shares")


def test_plot_small_multiples_draws_one_panel_per_language_on_shared_axes(neurons):
    frame = layer_frame(neurons)
    axes = plot_small_multiples(frame)
    assert [ax.get_title(loc="left") for ax in axes] == [
        "Maltese",
        "Slovak",
        "Slovenian",
        "Estonian",
    ]
    assert [bar.get_height() for bar in axes[2].patches] == [3, 1]
    assert {mpl.colors.to_hex(bar.get_facecolor()) for bar in axes[2].patches} == {
        language_color("slv")
    }
    assert [ax.texts[0].get_text() for ax in axes] == ["1", "4", "4", "0"]
    assert len({ax.get_ylim() for ax in axes}) == len({ax.get_xlim() for ax in axes}) == 1
    assert axes[0].figure.axes == axes


def test_plot_small_multiples_labels_the_lowest_panel_of_each_column(make_neurons):
    codes = list(LANGUAGES)[:5]
    axes = plot_small_multiples(layer_frame(make_neurons({code: [[0], [1]] for code in codes})))
    axes[0].figure.draw_without_rendering()
    for ax in axes:
        labelled = any(text.get_visible() and text.get_text() for text in ax.get_xticklabels())
        assert labelled
    assert len(axes) == 5


@settings(max_examples=60, deadline=None, derandomize=True)
@given(n=st.integers(1, 150))
def test_n_columns_never_leaves_a_row_empty(n):
    columns = _n_columns(n)
    rows = -(-n // columns)
    assert 1 <= columns <= max(4, 13)
    assert n <= rows * columns < n + columns


def test_n_columns_fills_the_grids_of_the_paper_and_of_the_embedded_run():
    assert (_n_columns(12), _n_columns(21)) == (4, 7)
