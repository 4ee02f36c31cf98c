"""Validation curves and the amount of text: the numbers and the artists."""

import dataclasses
import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lse_interp.core.errors import LseError, MismatchError
from lse_interp.models.info import ModelInfo
from lse_interp.plotting.data_size import data_size_frame, plot_data_size, plot_data_size_panels
from lse_interp.plotting.loss_curves import (
    dynamics_frame,
    plot_dynamics,
    plot_dynamics_panels,
    plot_small_dynamics,
)
from lse_interp.plotting.style import language_color, method_color
from lse_interp.subnetworks.finetune_run import FinetuneRun
from lse_interp.training.methods import method_looks

INFO = ModelInfo("embedded", "abc", "LlamaForCausalLM", 2, 4, 10, 1000)


def make_run(
    method="target", *, language="mlt", seed=0, own=(4.0, 2.0, 3.0), english=None, n_tokens=None
):
    """A run with the given validation losses, one every 5 steps of 100 tokens."""
    rows = [(5 * i, 500 * i, "validation", language, loss) for i, loss in enumerate(own)]
    rows += [(5 * i, 500 * i, "validation", "eng", loss) for i, loss in enumerate(english or ())]
    rows += [(5 * i, 500 * i, "train", language, 9.0) for i in range(1, len(own))]
    return FinetuneRun(
        language=language,
        method=method,
        model=INFO,
        neurons=None,
        rows=None,
        base=None,
        curves=pd.DataFrame(rows, columns=["step", "tokens", "split", "language", "loss"]),
        settings={"seed": seed, "tokens": n_tokens},
        results={
            "validation_loss": {language: min(own)},
            "base_validation_loss": {language: own[0]},
        },
    )


def thick(ax):
    return {line.get_label(): line for line in ax.lines if not line.get_label().startswith("_")}


def thin(ax):
    return [line for line in ax.lines if line.get_alpha() is not None]


def dots(ax):
    return [line for line in ax.lines if line.get_marker() == "o"]


def test_dynamics_frame_is_every_row_of_every_run():
    runs = {"a": make_run(), "b": make_run("lora", seed=3, english=(1.0, 1.1, 1.2))}
    frame = dynamics_frame(runs)
    assert list(frame.columns) == [
        *("run", "method", "language", "seed", "measured", "split", "step", "tokens", "loss")
    ]
    assert len(frame) == sum(len(run.curves) for run in runs.values())
    rows = frame[(frame["run"] == "b") & (frame["measured"] == "eng")]
    assert rows["loss"].tolist() == [1.0, 1.1, 1.2]
    assert set(rows["seed"]) == {3}
    assert set(rows["language"]) == {"mlt"}


def test_dynamics_frame_refuses_no_runs_and_several_models():
    with pytest.raises(LseError, match="No fine-tuning runs to draw"):
        dynamics_frame({})
    other = dataclasses.replace(make_run(), model=dataclasses.replace(INFO, fingerprint="other"))
    with pytest.raises(MismatchError, match="Run b belongs to other weights") as caught:
        dynamics_frame({"a": make_run(), "b": other})
    assert caught.value.__notes__ == ["The first run is a. Draw one base model at a time."]


def test_plot_dynamics_draws_a_line_and_a_dot_per_method_and_the_base():
    runs = {"a": make_run("lora", own=(4.0, 3.0, 2.5)), "b": make_run()}
    ax = plot_dynamics(dynamics_frame(runs))
    assert set(thick(ax)) == {"Target", "LoRA"}
    line = thick(ax)["Target"]
    assert line.get_xdata().tolist() == [0, 500, 1000]
    assert line.get_ydata().tolist() == [4.0, 2.0, 3.0]
    assert line.get_color() == method_color("target")
    assert line.get_zorder() > thick(ax)["LoRA"].get_zorder()
    marked = {dot.get_color(): (*dot.get_xdata(), *dot.get_ydata()) for dot in dots(ax)}
    assert marked == {method_color("target"): (500, 2.0), method_color("lora"): (1000, 2.5)}
    (base,) = [line for line in ax.lines if line.get_linestyle() == ":"]
    assert list(base.get_ydata()) == [4.0, 4.0]
    assert not thin(ax)
    assert ax.get_ylabel() == "Validation loss (nats/token)"


def test_plot_dynamics_keeps_the_order_of_methods_in_the_legend():
    runs = {name: make_run(name) for name in ("full", "lora", "random:size", "target")}
    (legend,) = plot_dynamics(dynamics_frame(runs)).figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        *("Target", "Random (size)", "LoRA", "Full", "Base model", "Lowest in trained language")
    ]


def test_plot_dynamics_averages_seeds_where_all_of_them_are():
    runs = {
        "a": make_run(own=(4.0, 2.0, 1.0, 0.1)),
        "b": make_run(own=(4.0, 3.0, 2.0), seed=1),
    }
    ax = plot_dynamics(dynamics_frame(runs))
    assert thick(ax)["Target"].get_ydata().tolist() == [4.0, 2.5, 1.5]
    assert sorted(line.get_ydata().tolist() for line in thin(ax)) == [
        [4.0, 2.0, 1.0, 0.1],
        [4.0, 3.0, 2.0],
    ]
    (dot,) = dots(ax)
    assert list(dot.get_ydata()) == [1.5]


@settings(deadline=None, max_examples=25)
@given(
    st.lists(
        st.lists(st.floats(0.1, 9.0), min_size=2, max_size=5).map(lambda own: [5.0, *own]),
        min_size=1,
        max_size=4,
    )
)
def test_plot_dynamics_mean_agrees_with_a_slow_loop(curves):
    runs = {str(i): make_run(own=own, seed=i) for i, own in enumerate(curves)}
    _, ax = plt.subplots()
    plot_dynamics(dynamics_frame(runs), ax=ax)
    n = min(map(len, curves))
    expected = [sum(own[i] for own in curves) / len(curves) for i in range(n)]
    np.testing.assert_allclose(thick(ax)["Target"].get_ydata(), expected)
    (dot,) = dots(ax)
    assert dot.get_ydata()[0] == pytest.approx(min(expected))
    plt.close(ax.figure)


def test_plot_dynamics_marks_the_same_step_in_another_language():
    frame = dynamics_frame({"a": make_run(english=(1.0, 1.5, 0.5))})
    ax = plot_dynamics(frame, measured="eng")
    (dot,) = dots(ax)
    assert (*dot.get_xdata(), *dot.get_ydata()) == (500, 1.5)
    assert ax.get_ylabel() == "Validation loss in English (nats/token)"


def test_plot_dynamics_draws_into_given_axes():
    _, ax = plt.subplots()
    assert plot_dynamics(dynamics_frame({"a": make_run()}), ax=ax) is ax
    assert not ax.figure.legends


def test_plot_dynamics_refuses_what_it_cannot_compare():
    both = dynamics_frame({"a": make_run(), "b": make_run(language="slk")})
    with pytest.raises(LseError, match=r"the frame holds 2 \(mlt, slk\). Select one, or use"):
        plot_dynamics(both)
    with pytest.raises(LseError, match=r"in 'deu' was not measured in training mlt; there is mlt"):
        plot_dynamics(dynamics_frame({"a": make_run()}), measured="deu")
    frame = dynamics_frame({"a": make_run(), "b": make_run("full", own=(4.1, 3.0))})
    with pytest.raises(LseError, match=r"\(a: 4.0000, b: 4.1000\): they were validated on diff"):
        plot_dynamics(frame)
    frame = dynamics_frame({"a": make_run(), "b": make_run(), "c": make_run("full")})
    with pytest.raises(LseError, match="Several runs are of method target and seed 0: a, b. Their"):
        plot_dynamics(frame)
    frame = dynamics_frame({"a": make_run("dora")})
    with pytest.raises(LseError, match="There is no fine-tuning method 'dora'. Did you mean lora"):
        plot_dynamics(frame)


def test_plot_dynamics_panels_show_the_trained_language_first():
    runs = {"a": make_run(english=(1.0, 1.1, 1.2)), "b": make_run("full")}
    own, english = plot_dynamics_panels(dynamics_frame(runs))
    assert own.get_title(loc="left") == "Maltese (trained)"
    assert set(thick(own)) == {"Target", "Full"}
    assert english.get_title(loc="left") == "English"
    assert set(thick(english)) == {"Target"}
    spans = [np.ptp(ax.get_ylim()) for ax in (own, english)]
    assert spans[0] == pytest.approx(spans[1])
    assert spans[0] > 2.0
    (alone,) = plot_dynamics_panels(dynamics_frame({"b": make_run("full")}))
    assert set(thick(alone)) == {"Full"}


def test_plot_small_dynamics_gives_every_language_a_panel_in_family_order():
    codes = ("slk", "mlt", "ekk", "afr", "slv")
    runs = {code: make_run(language=code, own=(4.0, 1.0 + i)) for i, code in enumerate(codes)}
    axes = plot_small_dynamics(dynamics_frame(runs))
    assert [ax.get_title(loc="left") for ax in axes] == [
        *("Maltese", "Afrikaans", "Slovak", "Slovenian", "Estonian")
    ]
    assert thick(axes[2])["Target"].get_ydata().tolist() == [4.0, 1.0]
    assert axes[0].figure.axes == axes


def sweep(language="mlt", *, seeds=(0,), gain=0.5):
    return {
        f"{language}-{n}-{seed}": make_run(
            language=language, seed=seed, own=(4.0, 4.0 - gain * i - 0.1 * seed), n_tokens=n
        )
        for (i, n), seed in itertools.product(enumerate((100, 200, 400)), seeds)
    }


def test_data_size_frame_is_base_less_loss_of_the_weights_kept():
    frame = data_size_frame(sweep(gain=1.0))
    assert frame["tokens"].tolist() == [100, 200, 400]
    np.testing.assert_allclose(frame["improvement"], [0.0, 1.0, 2.0])
    np.testing.assert_allclose(frame["percent"], [0.0, 25.0, 50.0])
    np.testing.assert_allclose(frame["base"] - frame["loss"], frame["improvement"])


def test_data_size_frame_refuses_a_run_without_a_budget():
    with pytest.raises(LseError, match=r"Run a has no token budget. Give runs of .* --n-tokens"):
        data_size_frame({"a": make_run()})


@pytest.mark.parametrize("value", ["improvement", "percent"])
def test_plot_data_size_draws_the_mean_of_seeds_and_every_run(value):
    frame = data_size_frame(sweep(seeds=(0, 1)) | sweep("slk"))
    ax = plot_data_size(frame, value=value)
    line = thick(ax)["Maltese"]
    rows = frame[frame["language"] == "mlt"]
    expected = [rows.loc[rows["tokens"] == n, value].mean() for n in (100, 200, 400)]
    np.testing.assert_allclose(line.get_ydata(), expected)
    assert line.get_color() == language_color("mlt")
    assert [len(dots.get_offsets()) for dots in ax.collections] == [6, 3]
    (legend,) = ax.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["Maltese", "Slovak"]


def test_plot_data_size_panels_show_nats_and_percent():
    nats, percent = plot_data_size_panels(data_size_frame(sweep()))
    assert nats.get_ylabel() == "Fall in validation loss (nats/token)"
    assert percent.get_ylabel() == "Fall in validation loss (%)"
    assert len(nats.figure.legends) == 1


def test_plot_data_size_refuses_another_value_and_several_methods():
    frame = data_size_frame(sweep())
    with pytest.raises(
        LseError, match="`value` must be one of improvement, percent, points; got 'loss'"
    ):
        plot_data_size(frame, value="loss")
    with pytest.raises(LseError, match="One Axes shows one method; the frame holds 2"):
        plot_data_size(pd.concat([frame, frame.assign(method="full")]))


def test_method_styles_name_every_method():
    assert list(method_looks()) == [
        *("target", "random:layer", "random:size", "random:activity", "lora", "ffn", "full")
    ]
