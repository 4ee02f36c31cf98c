"""Alignment over the layers and averaged: the numbers and the artists."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from lse_interp.analysis.cosine import STATISTICS, VECTORS
from lse_interp.core.errors import LseError
from lse_interp.plotting.alignment_curves import (
    alignment_frame,
    layer_average_frame,
    plot_alignment,
    plot_layer_average,
    plot_layer_average_panels,
)
from lse_interp.plotting.alignment_report import alignment_table, table_markdown, write_alignment
from lse_interp.plotting.style import language_color


def of_kind(frame, vectors):
    return frame[frame["vectors"] == vectors]


def test_alignment_frame_is_every_value_of_the_curves(make_curves):
    curves = make_curves(("base", "target"))
    pd.testing.assert_frame_equal(alignment_frame(curves), curves.to_frame())
    assert len(alignment_frame(curves)) == 2 * 2 * 3 * 4


def test_layer_average_frame_agrees_with_the_artefact(make_curves):
    curves = make_curves(("base", "target"))
    frame = layer_average_frame(alignment_frame(curves))
    assert list(frame.columns) == [
        *("model", "language", "against", "vectors"),
        *("cosine", "shuffled", "gap", "retrieval"),
    ]
    for vectors in VECTORS:
        for name in STATISTICS:
            part = frame[frame["vectors"] == vectors]
            table = part.pivot(index="model", columns="against", values=name)
            expected = curves.layer_average(name, vectors=vectors)
            expected = expected[list(table.columns)].loc[table.index]
            np.testing.assert_allclose(table, expected, rtol=1e-12)


def test_plot_alignment_draws_a_line_and_a_faint_control_per_language(make_curves):
    frame = of_kind(alignment_frame(make_curves()), "raw")
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
    assert ax.get_ylabel() == "Raw cosine with Maltese"
    assert ax.get_ylim() == (0, 1)


def test_plot_alignment_shades_the_interval(make_curves):
    frame = of_kind(alignment_frame(make_curves(against=("ita",))), "centred")
    (shade,) = plot_alignment(frame).collections
    heights = shade.get_paths()[0].vertices[:, 1]
    assert heights.min() == frame["cosine_low"].min()
    assert heights.max() == frame["cosine_high"].max()


def test_plot_alignment_explains_the_control_in_the_legend(make_curves):
    figure = plot_alignment(alignment_frame(make_curves())).figure
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["Arabic", "English", "Italian", "not parallel"]


@pytest.mark.parametrize("n_models", [2, 4, 5])
def test_plot_alignment_draws_centred_above_raw_and_a_column_per_model(make_curves, n_models):
    models = tuple(f"m{i}" for i in range(n_models))
    frame = alignment_frame(make_curves(models))
    first = plot_alignment(frame)
    axes = first.figure.axes
    assert [ax.get_title(loc="left") for ax in axes] == [*models, *[""] * n_models]
    labels = [axes[at].get_ylabel() for at in (0, n_models)]
    assert labels == ["Centred cosine with Maltese", "Raw cosine with Maltese"]
    for ax, kind in ((axes[0], "centred"), (axes[n_models], "raw")):
        line = next(line for line in ax.lines if line.get_label() == "Italian")
        rows = of_kind(frame, kind).query("model == 'm0' and against == 'ita'")
        np.testing.assert_array_equal(line.get_ydata(), rows["cosine"])
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
    frame = of_kind(alignment_frame(make_curves()), "raw")
    assert plot_alignment(frame, ax=ax) is ax
    assert len(ax.get_legend().get_texts()) == 4


def test_plot_alignment_refuses_several_panels_in_one_axes(make_curves):
    _, ax = plt.subplots()
    frame = alignment_frame(make_curves(("base", "target")))
    with pytest.raises(LseError, match=r"one `model`; the frame holds 2 \(base, target\)"):
        plot_alignment(frame, ax=ax)
    with pytest.raises(LseError, match=r"`vectors`; .* 2 \(centred, raw\). Select one, or leave"):
        plot_alignment(alignment_frame(make_curves()), ax=ax)


def test_plot_alignment_refuses_several_languages(make_curves):
    both = [alignment_frame(make_curves(language=code)) for code in ("mlt", "slk")]
    with pytest.raises(LseError, match=r"the frame holds 2 \(mlt, slk\). Select one"):
        plot_alignment(pd.concat(both))


def test_plot_layer_average_draws_a_dot_per_language_and_the_mean(make_curves):
    curves = make_curves(("base", "target"))
    ax = plot_layer_average(of_kind(layer_average_frame(alignment_frame(curves)), "centred"))
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
    frame = of_kind(layer_average_frame(pd.concat(parts)), "raw")
    ax = plot_layer_average(frame)
    dots = {line.get_label(): line for line in ax.lines if line.get_marker() == "o"}
    assert list(dots) == ["Maltese", "Slovak"]
    expected = frame.loc[frame["language"] == "slk", "cosine"].mean()
    np.testing.assert_allclose(dots["Slovak"].get_ydata(), [expected])


def test_plot_layer_average_draws_the_gap_on_request(make_curves):
    curves = make_curves(("base", "target"))
    frame = of_kind(layer_average_frame(alignment_frame(curves)), "raw")
    frame.loc[frame["model"] == "target", "gap"] += 5
    ax = plot_layer_average(frame, statistic="gap")
    bars = [line.get_ydata()[0] for line in ax.lines if line.get_marker() != "o"]
    np.testing.assert_allclose(bars, [30, 35])
    assert ax.get_ylabel() == "Gap, raw, mean over layers (%)"
    with pytest.raises(LseError, match="`statistic` must be one of cosine, .*; got 'gpa'"):
        plot_layer_average(frame, statistic="gpa")


def test_plot_layer_average_panels_sets_centred_left_of_raw(make_curves):
    frame = layer_average_frame(alignment_frame(make_curves(tuple(f"m{i}" for i in range(8)))))
    axes = plot_layer_average_panels(frame)
    assert [ax.get_ylabel()[:7] for ax in axes] == ["Centred", "Raw cos"]
    assert [ax.get_legend() is None for ax in axes] == [True, False]
    assert axes[0].figure is axes[1].figure


def test_alignment_table_has_a_row_per_language_and_their_mean(make_curves):
    curves = make_curves(("base", "target"))
    table = alignment_table(layer_average_frame(alignment_frame(curves)))
    assert list(table.index) == ["eng", "ita", "arb", "mean"]
    assert list(table.columns) == [
        (model, vectors, name)
        for model in ("base", "target")
        for vectors in VECTORS
        for name in STATISTICS
    ]
    for vectors in VECTORS:
        for name in STATISTICS:
            expected = curves.layer_average(name, vectors=vectors).T.to_numpy()
            found = table.xs((vectors, name), axis=1, level=("vectors", "statistic")).to_numpy()
            np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_alignment_table_is_about_one_language(make_curves):
    both = [alignment_frame(make_curves(language=code)) for code in ("mlt", "slk")]
    with pytest.raises(LseError, match="about one language; the frame holds mlt, slk"):
        alignment_table(layer_average_frame(pd.concat(both)))


def test_table_markdown_leads_with_the_centred_cosine():
    columns = pd.MultiIndex.from_product(
        [["base"], VECTORS, STATISTICS], names=["model", "vectors", "statistic"]
    )
    values = [
        [-0.001, 0.0, 31.006, 38, 80, 78.75, 1.25, 20],
        [30, -1.0, 31, 40, 80, 78, 2, 20.5],
    ]
    table = pd.DataFrame(values, index=["eng", "mean"], columns=columns, dtype=float)
    assert table_markdown(table, language="mlt") == (
        "| Maltese with | base |\n"
        "| --- | ---: |\n"
        "| English | 0.00 (80.00) |\n"
        "| Mean | 30.00 (80.00) |\n\n"
        "| Mean of | base |\n"
        "| --- | ---: |\n"
        "| centred cosine | 30.00 |\n"
        "| centred shuffled | -1.00 |\n"
        "| centred gap | 31.00 |\n"
        "| centred retrieval | 40.00 |\n"
        "| raw cosine | 80.00 |\n"
        "| raw shuffled | 78.00 |\n"
        "| raw gap | 2.00 |\n"
        "| raw retrieval | 20.50 |\n"
    )


@pytest.mark.parametrize("models", [("base",), ("base", "target")])
def test_write_alignment_writes_every_number_it_draws(make_curves, tmp_path, models):
    curves = make_curves(models)
    written = write_alignment(curves, tmp_path, text="test text", command="make it")
    names = ["fig07_alignment_mlt", "fig07c_layer_average_mlt"][: len(models)]
    pictures = [f"{name}.{suffix}" for name in names for suffix in ("png", "pdf", "csv")]
    tables = ["table_alignment_mlt.md", "table_alignment_mlt.csv"]
    assert [path.name for path in written] == pictures + tables
    assert {path.name for path in tmp_path.iterdir()} == {*pictures, *tables}
    frame = pd.read_csv(tmp_path / "fig07_alignment_mlt.csv")
    pd.testing.assert_frame_equal(frame, alignment_frame(curves))
    table = pd.read_csv(written[-1]).set_index("against")
    assert list(table)[:2] == ["base centred cosine", "base centred shuffled"]
    expected = curves.layer_average("gap")
    np.testing.assert_allclose(table[f"{models[-1]} centred gap"], expected.loc[models[-1]])
    text = written[-2].read_text()
    assert (
        "test text, 7 sentences; hook_resid_post, mean pooling, sinks left out. `make it`" in text
    )


def test_fig07_alignment_averages_over_languages_with_the_same_models(make_curves, draw, tmp_path):
    models = ("base", "target")
    paths = tuple(
        make_curves(models, language=code).save(tmp_path / f"{code}.safetensors")
        for code in ("mlt", "slk")
    )
    written = draw("fig07", *paths)
    assert [path.name for path in written[-3:]] == [
        f"fig07c_layer_average.{suffix}" for suffix in ("png", "pdf", "csv")
    ]
    assert set(pd.read_csv(written[-1])["language"]) == {"mlt", "slk"}
    # Of other models, there is nothing to average.
    make_curves(("base", "lora"), language="slk").save(paths[1])
    written = draw("fig07", *paths, figures=tmp_path / "apart")
    assert not any(path.stem == "fig07c_layer_average" for path in written)
