"""Pictures of task scores: averages by hand, what is left out, and what is drawn."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex

from lse_interp.core.errors import LseError
from lse_interp.plotting.data_size import data_size_scores_frame, plot_data_size_panels
from lse_interp.plotting.scores import (
    improvements_frame,
    plot_improvements_panels,
    plot_scores_panels,
    scores_frame,
)
from lse_interp.plotting.style import language_color, method_color

NAN = float("nan")


def row(method, task, score, base, *, half=1.0, language="mlt", seed=0, **other):
    change = NAN if method == "base" else score - base
    return {
        "language": language,
        "method": method,
        "seed": seed,
        "row": task,
        "group": "target",
        "unit": "%",
        "headline": True,
        "score": score,
        "stderr": 2.0,
        "base": NAN if method == "base" else base,
        "difference": change,
        "low": change - half,
        "high": change + half,
        **other,
    }


def table():
    """Two target tasks and a general one; Maltese has two seeds, Slovak one."""
    general = {"group": "general"}
    return pd.DataFrame(
        [
            row("base", "A", 10, NAN),
            row("base", "B", 20, NAN),
            row("base", "G", 50, NAN, **general),
            row("target", "A", 14, 10, half=3),
            row("target", "A", 16, 10, half=3, seed=1),
            row("target", "B", 21, 20, half=4),
            row("target", "B", 23, 20, half=4, seed=1),
            row("target", "G", 47, 50, **general),
            row("target", "G", 47, 50, seed=1, **general),
            row("target", "L", 99, 0, unit="nats"),
            row("target", "A", 0, 10, headline=False),
            row("full", "A", 11, 10),
            row("base", "A", 30, NAN, language="slk"),
            row("target", "A", 30, 30, language="slk"),
        ]
    )


def test_improvements_frame_averages_tasks_and_seeds():
    frame = improvements_frame(table()).set_index(["tasks", "language", "method"])
    target = frame.loc[("target", "mlt", "target")]
    # Tasks gain 5 and 2; bounds of 3 and 4 join to the root of 9 + 16, over 2 tasks.
    assert target[["n_tasks", "n_seeds", "improvement"]].tolist() == [2, 2, 3.5]
    assert target[["low", "high"]].tolist() == pytest.approx([1.0, 6.0])
    # With the general task, which loses 3.
    assert frame.loc[("all", "mlt", "target"), "improvement"] == pytest.approx(4 / 3)
    assert frame.loc[("target", "mlt", "full"), "improvement"] == 1
    assert frame.loc[("target", "slk", "target"), "improvement"] == 0


def test_improvements_frame_without_bounds_has_none():
    frame = improvements_frame(table().assign(low=NAN, high=NAN))
    assert frame[["low", "high"]].isna().all(axis=None)
    assert frame["improvement"].notna().all()


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.floats(-50, 50), st.floats(0, 20)), min_size=1, max_size=6))
def test_improvements_frame_lies_within_its_tasks(tasks):
    rows = [row("target", f"t{at}", gain, 0, half=half) for at, (gain, half) in enumerate(tasks)]
    (found,) = improvements_frame(pd.DataFrame(rows)).to_dict("records")
    gains, halves = np.array(tasks).T
    assert gains.min() - 1e-9 <= found["improvement"] <= gains.max() + 1e-9
    assert found["high"] - found["low"] <= 2 * halves.max() + 1e-9


def test_frames_refuse_tables_with_nothing_to_average():
    with pytest.raises(LseError, match="lacks the columns headline, unit"):
        improvements_frame(table().drop(columns=["unit", "headline"]))
    with pytest.raises(LseError, match="no model besides the base model"):
        improvements_frame(table()[lambda frame: frame["method"] == "base"])
    with pytest.raises(LseError, match="no headline score in points or percent"):
        scores_frame(table().assign(unit="nats"))
    with pytest.raises(
        LseError, match="There is no fine-tuning method 'targt'. Did you mean target"
    ):
        scores_frame(table().replace("target", "targt"))


def test_scores_frame_averages_languages_and_seeds():
    frame = scores_frame(table()).set_index(["row", "method"])
    # Maltese (14 + 16) / 2, Slovak 30; errors of 2 and 2 join to the root of 8, over 2.
    found = frame.loc[("A", "target")]
    assert found[["n_languages", "n_seeds", "score"]].tolist() == [2, 2, 22.5]
    assert found["stderr"] == pytest.approx(np.sqrt(8) / 2)
    assert frame.loc[("G", "base"), ["n_languages", "score"]].tolist() == [1, 50]
    assert list(frame.index) == [
        *(("A", "base"), ("A", "target"), ("A", "full")),
        *(("B", "base"), ("B", "target")),
        *(("G", "base"), ("G", "target")),
    ]


def drawn(ax, color):
    """The x of single dots in a colour."""
    return [
        line.get_xdata()[0]
        for line in ax.lines
        if to_hex(line.get_color()) == color and len(line.get_xdata()) == 1
    ]


def test_plot_improvements_draws_a_dot_per_language_and_other_methods():
    frame = improvements_frame(table())
    ax = plot_improvements_panels(frame, others=True)[0]
    assert drawn(ax, language_color("mlt")) == [3.5]
    assert drawn(ax, language_color("slk")) == [0]
    assert drawn(ax, method_color("full")) == [1]
    assert drawn(ax, "#1a1a1a") == [1.75]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["Maltese", "Slovak", "Mean"]
    with pytest.raises(LseError, match="No target fine-tuning was measured"):
        plot_improvements_panels(frame[frame["method"] == "full"])


def test_plot_improvements_panels_names_the_tasks_and_the_models():
    frame = improvements_frame(table())
    models = pd.concat([frame.assign(model="one"), frame.assign(model="two")])
    axes = plot_improvements_panels(models)
    titles = [ax.get_title(loc="left") for ax in axes]
    assert titles == ["Target-language tasks (1 or 2)", "All tasks (1 or 3)"]
    (legend,) = axes[0].figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["one", "two"]
    assert len(plot_improvements_panels(frame[frame["tasks"] == "target"])) == 1


def test_plot_scores_draws_a_dot_per_method_and_a_line_at_base():
    ax, general = plot_scores_panels(scores_frame(table()))
    assert sorted(drawn(ax, method_color("target"))) == [22, 22.5]
    lines = [
        line.get_xdata()[0]
        for line in ax.lines
        if to_hex(line.get_color()) == "#262626" and len(set(line.get_xdata())) == 1
    ]
    assert sorted(lines) == [20, 20]
    assert drawn(general, method_color("target")) == [47]


def test_data_size_scores_frame_averages_per_amount_of_text():
    scores = pd.DataFrame(
        [
            row("base", "A", 10, NAN, tokens=NAN),
            row("target", "A", 11, 10, tokens=100),
            row("target", "A", 14, 10, tokens=200),
        ]
    )
    frame = data_size_scores_frame(scores)
    assert frame["tokens"].tolist() == [100, 200]
    assert frame["points"].tolist() == [1, 4]
    (ax,) = plot_data_size_panels(frame)
    assert ax.get_ylabel() == "Improvement over base (points)"
    with pytest.raises(LseError, match="lacks the column tokens"):
        data_size_scores_frame(table())
    with pytest.raises(LseError, match="no model besides the base model"):
        data_size_scores_frame(scores[:1])
