"""The comparison of methods: averages, markdown and artists."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lse_interp.core.errors import LseError
from lse_interp.plotting.method_comparison import (
    plot_methods,
    plot_methods_panels,
    plot_target_against_random,
)
from lse_interp.plotting.method_tables import RESULT_COLUMNS, methods_frame, methods_table
from lse_interp.plotting.style import language_color

LOSSES = {
    ("mlt", "target"): -4.0,
    ("mlt", "random:layer"): -1.0,
    ("mlt", "full"): -6.0,
    ("slk", "target"): -2.0,
    ("slk", "random:layer"): -3.0,
    ("slk", "full"): -5.0,
}


def row(language, method, change, *, seed=0, measured=None, against="base", base=50.0):
    measured = measured or language
    values = (base + change, base, change, change - 0.5, change + 0.25, 40)
    return dict(
        zip(RESULT_COLUMNS, (language, method, seed, measured, *values), strict=True),
        against=against,
    )


@pytest.fixture
def results():
    own = [row(*key, change) for key, change in LOSSES.items()]
    english = [row(*key, -change / 2, measured="eng") for key, change in LOSSES.items()]
    return pd.DataFrame(own + english).drop(columns="against")


@pytest.fixture
def paired(results):
    """With the comparison of target and random itself, and so its interval."""
    pairs = [
        row("mlt", "target", -3.0, against="random:layer", base=49.0),
        row("slk", "target", 1.0, against="random:layer", base=47.0),
    ]
    return pd.concat([results, pd.DataFrame(pairs)], ignore_index=True)


def at(frame, **keys):
    for name, value in keys.items():
        frame = frame[frame[name] == value]
    assert len(frame) == 1
    return frame.iloc[0]


def test_methods_frame_orders_languages_methods_and_measured(results):
    frame = methods_frame(results.sample(frac=1, random_state=0))
    base = frame[frame["against"] == "base"]
    assert list(base[["language", "method", "measured"]].itertuples(index=False, name=None)) == [
        (language, method, measured)
        for language, method in LOSSES
        for measured in (language, "eng")
    ]


def test_methods_frame_sets_target_beside_random_without_bounds(results):
    frame = methods_frame(results)
    pair = at(frame, language="mlt", measured="mlt", against="random:layer")
    assert (pair["method"], pair["loss"], pair["reference"]) == ("target", 46.0, 49.0)
    assert pair["difference"] == -3.0
    assert np.isnan(pair["low"])


def test_methods_frame_prefers_the_comparison_in_the_table(paired):
    pair = at(methods_frame(paired), language="mlt", measured="mlt", against="random:layer")
    assert (pair["difference"], pair["low"], pair["high"]) == (-3.0, -3.5, -2.75)
    # English was not compared there.
    english = at(methods_frame(paired), language="mlt", measured="eng", against="random:layer")
    assert english["difference"] == 1.5
    assert np.isnan(english["low"])


@settings(deadline=None, max_examples=25)
@given(st.lists(st.floats(-20, 20), min_size=1, max_size=5))
def test_methods_frame_averages_seeds(changes):
    results = pd.DataFrame([row("mlt", "lora", c, seed=i) for i, c in enumerate(changes)])
    (found,) = methods_frame(results).itertuples()
    mean = sum(changes) / len(changes)
    assert found.n_seeds == len(changes)
    np.testing.assert_allclose(
        [found.loss, found.reference, found.difference, found.low, found.high],
        [50 + mean, 50, mean, mean - 0.5, mean + 0.25],
        atol=1e-9,
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="low"), "needs the columns .* n_sentences; low missing"),
        (lambda t: t.iloc[:0], "has no rows"),
        (
            lambda t: t.assign(method="loar"),
            "There is no fine-tuning method 'loar'. Did you mean lora",
        ),
        (lambda t: pd.concat([t, t]), "has two rows of mlt, target, 0, mlt, base"),
        (lambda t: t.assign(difference=-t["difference"]), "`difference` should be loss - base; m"),
    ],
)
def test_methods_frame_refuses_bad_tables(results, change, message):
    with pytest.raises(LseError, match=message):
        methods_frame(change(results))


def test_methods_table_is_languages_by_methods(results):
    assert methods_table(methods_frame(results)) == (
        "| Language | Target | Random (layer) | Full |\n"
        "| --- | ---: | ---: | ---: |\n"
        "| Maltese | −4.00 | −1.00 | **−6.00** |\n"
        "| Slovak | −2.00 | −3.00 | **−5.00** |\n"
        "| **Mean** | −3.00 | −2.00 | −5.50 |\n"
        "| Target is lower |  | 1 of 2 | 0 of 2 |\n"
    )


def test_methods_table_counts_intervals_that_exclude_zero(paired):
    last = methods_table(methods_frame(paired)).splitlines()[-1]
    assert last == "| Target is lower |  | 1 of 2 (1 clearly) | 0 of 2 |"
    unclear = paired.assign(high=paired["high"].where(paired["against"] != "random:layer", 0.5))
    last = methods_table(methods_frame(unclear)).splitlines()[-1]
    assert last == "| Target is lower |  | 1 of 2 (0 clearly) | 0 of 2 |"


def test_methods_table_of_another_language_leaves_gaps_blank(results):
    gap = results[~((results["language"] == "slk") & (results["method"] == "full"))]
    table = methods_table(methods_frame(gap), measured="eng")
    assert "| Slovak | **+1.00** | +1.50 |  |\n" in table
    assert "| Target is lower |  | 1 of 2 | 1 of 1 |\n" in table
    with pytest.raises(LseError, match="in 'deu'; there is the languages trained, eng"):
        methods_table(methods_frame(results), measured="deu")


def dots(ax):
    return [line for line in ax.lines if line.get_marker() in ("o", "s", "^")]


def test_plot_methods_draws_a_dot_per_language_and_the_mean(results):
    ax = plot_methods(methods_frame(results))
    assert [tick.get_text() for tick in ax.get_xticklabels()] == [
        *("Target", "Random\n(layer)", "Full")
    ]
    found = {(dot.get_color(), round(dot.get_xdata()[0])): dot.get_ydata()[0] for dot in dots(ax)}
    methods = ("target", "random:layer", "full")
    assert found == {
        (language_color(code), place): LOSSES[code, method]
        for code, (place, method) in itertools.product(("mlt", "slk"), enumerate(methods))
    }
    bars = [line.get_ydata()[0] for line in ax.lines if line.get_color() == "0.1"]
    assert bars == [-3.0, -2.0, -5.5]
    assert [text.get_text() for text in ax.texts] == ["−3.00", "−2.00", "−5.50"]
    intervals = [tuple(line.get_ydata()) for line in ax.lines if line.get_alpha()]
    assert (-4.5, -3.75) in intervals
    (legend,) = ax.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["Maltese", "Slovak"]


def test_plot_methods_draws_another_language_into_given_axes(results):
    _, ax = plt.subplots()
    assert plot_methods(methods_frame(results), measured="eng", ax=ax) is ax
    assert sorted(dot.get_ydata()[0] for dot in dots(ax)) == [0.5, 1.0, 1.5, 2.0, 2.5, 3.0]


def test_plot_target_against_random_draws_differences_and_intervals(paired):
    ax = plot_target_against_random(methods_frame(paired))
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["Maltese", "Slovak", "Mean"]
    assert [dot.get_xdata()[0] for dot in dots(ax)] == [-3.0, 1.0, -1.0]
    assert [round(dot.get_ydata()[0]) for dot in dots(ax)] == [0, 1, 2]
    intervals = [tuple(line.get_xdata()) for line in ax.lines if line.get_alpha()]
    assert intervals == [(-3.5, -2.75), (0.5, 1.25)]


def test_plot_target_against_random_tells_the_controls_apart(results):
    more = results[results["method"] == "random:layer"].assign(method="random:size")
    ax = plot_target_against_random(methods_frame(pd.concat([results, more])))
    assert {dot.get_marker() for dot in dots(ax)} == {"o", "s"}
    heights = [dot.get_ydata()[0] for dot in dots(ax)]
    assert len(set(heights)) == len(heights) == 6
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts == ["Random (layer)", "Random (size)"]


def test_plot_target_against_random_needs_a_control(results):
    frame = methods_frame(results[results["method"] != "random:layer"])
    with pytest.raises(LseError, match="No language has both a target run and a random control"):
        plot_target_against_random(frame)


def test_plot_methods_panels_show_trained_english_and_random(results):
    frame = methods_frame(results)
    axes = plot_methods_panels(frame)
    assert [ax.get_title(loc="left") for ax in axes] == [
        *("In the language trained", "In English", "Against random")
    ]
    without = methods_frame(results[results["method"] != "random:layer"])
    axes = plot_methods_panels(without)
    assert [ax.get_title(loc="left") for ax in axes] == ["In the language trained", "In English"]
    assert len(axes[0].figure.legends) == 1
