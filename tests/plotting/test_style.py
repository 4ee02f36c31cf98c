"""The theme, the hues, and what saving a figure writes."""

import inspect
import itertools
import logging

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lse_interp import plotting
from lse_interp.core.errors import LanguageError, LseError
from lse_interp.core.languages import LANGUAGES, PAPER_LANGUAGES
from lse_interp.plotting import style
from lse_interp.plotting.neuron_layers import plot_layers, plot_small_multiples
from lse_interp.training.methods import method_looks

# Machado et al. 2009, severity 1, on linear RGB.
VISIONS = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
}
TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)


def cielab(color, vision):
    rgb = np.array(mpl.colors.to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(vision @ linear, 0, 1)
    f = TO_XYZ @ seen / [0.95047, 1.0, 1.08883]
    f = np.where(f > 0.008856, np.cbrt(f), 7.787 * f + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def closest(pairs, vision):
    return min(
        np.linalg.norm(
            cielab(style.language_color(a), vision) - cielab(style.language_color(b), vision)
        )
        for a, b in pairs
    )


def test_language_styles_cover_the_paper():
    assert set(style.LANGUAGE_STYLES) == set(PAPER_LANGUAGES)


def test_language_color_tells_any_two_languages_apart():
    assert closest(itertools.combinations(PAPER_LANGUAGES, 2), VISIONS["normal"]) > 25


@pytest.mark.parametrize("vision", VISIONS)
def test_language_color_tells_languages_of_one_dash_apart_for_the_colour_blind(vision):
    dash = {code: style.LANGUAGE_STYLES[code][1] for code in PAPER_LANGUAGES}
    pairs = itertools.combinations(PAPER_LANGUAGES, 2)
    same = [(a, b) for a, b in pairs if dash[a] == dash[b]]
    assert len(same) > 20
    assert closest(same, VISIONS[vision]) > 30


def test_language_line_gives_languages_of_a_branch_different_dashes():
    for a, b in itertools.combinations(PAPER_LANGUAGES, 2):
        if LANGUAGES[a].branch == LANGUAGES[b].branch:
            assert style.language_line(a)["linestyle"] != style.language_line(b)["linestyle"]


def test_language_color_of_other_languages_depends_on_the_code_alone():
    first = style.language_color("swa")
    style.language_color("yor")
    assert style.language_color("swa") == first != style.language_color("yor")
    assert mpl.colors.is_color_like(first)


def test_language_label_keeps_an_unknown_code():
    assert style.language_label("npi") == "Nepali"
    assert style.language_label("qaa") == "qaa"
    assert style.language_label("random") == "random"


def test_language_color_is_that_of_the_language_in_any_spelling():
    for spelling in ("cy", "Welsh", "cym_Latn"):
        assert style.language_color(spelling) == style.language_color("cym")


def test_groups_that_are_no_languages_have_looks_of_their_own():
    groups = ("random", "core", "shared", "every layer")
    looks = [style.language_line(group) for group in groups]
    assert len({look["color"] for look in looks}) == len(groups)
    dashes = [style.language_line(code)["linestyle"] for code in [*PAPER_LANGUAGES, "swa", "yor"]]
    assert all(look["linestyle"] not in dashes for look in looks)
    assert style.language_line("random") == looks[0]


@pytest.mark.parametrize(("given", "size"), [(None, 8), (18, 18)])
def test_every_size_follows_the_font_size(given, size):
    with mpl.rc_context({} if given is None else {"font.size": given}):
        with style.theme():
            assert mpl.rcParams["font.size"] == size
            assert mpl.rcParams["axes.titlesize"] == pytest.approx(8.5 * size / 8)
            with style.theme():
                assert mpl.rcParams["xtick.labelsize"] == pytest.approx(7 * size / 8)
        assert style.sized(2, 1) == pytest.approx((2 * size / 8, size / 8))


def layers(languages=("mlt", "eng", "core")):
    rows = [(code, layer, 2 + layer, 0.5) for code in languages for layer in range(3)]
    return pd.DataFrame(rows, columns=["language", "layer", "n_neurons", "share"])


def test_a_drawing_takes_a_title_and_languages():
    ax = plot_layers(layers(), title="Mine", languages=["Maltese", "core"])
    assert ax.get_title(loc="left") == "Mine"
    assert [line.get_label() for line in ax.lines] == ["Maltese", "core"]
    panels = plot_small_multiples(layers(), title="Mine", languages=["en", "mt"])
    assert [panel.get_title(loc="left") for panel in panels] == ["Maltese", "English"]
    assert panels[0].figure.get_suptitle() == "Mine"
    with pytest.raises(LanguageError, match="There is no mtl to draw. Did you mean mlt"):
        plot_layers(layers(), languages=["mtl"])


def test_a_heading_is_above_the_legend_and_the_legend_above_the_panels():
    with style.theme():
        figure, axes = plt.subplots(1, 2)
        figure.legend(handles=[plt.Line2D([], [], label="a")], loc="outside upper center")
    style.drawing()(lambda frame: list(axes))(pd.DataFrame(), title="Mine")
    figure.draw_without_rendering()
    boxes = [figure._suptitle, *figure.legends, axes[0]]
    heading, legend, panel = (box.get_window_extent() for box in boxes)
    assert heading.y0 >= legend.y1 > legend.y0 >= panel.y1


def test_every_public_plot_says_that_it_takes_a_title():
    names = [name for name in plotting.__all__ if name.startswith("plot_")]
    for name in names:
        function = getattr(plotting, name)
        assert "title" in inspect.signature(function).parameters
        assert "        title: " in function.__doc__
        assert ("languages" in inspect.signature(function).parameters) == (
            "        languages: " in function.__doc__
        )


def test_projection_colors_name_the_three_projections():
    assert set(style.PROJECTION_COLORS) == {"gate", "up", "down"}
    assert len(set(style.PROJECTION_COLORS.values())) == 3


@pytest.mark.parametrize("vision", VISIONS)
def test_method_color_tells_any_two_methods_apart_for_the_colour_blind(vision):
    seen = [cielab(style.method_color(name), VISIONS[vision]) for name in method_looks()]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 25


def test_method_color_is_no_color_of_a_projection():
    normal = VISIONS["normal"]
    for method, color in itertools.product(method_looks(), style.PROJECTION_COLORS.values()):
        own = cielab(style.method_color(method), normal)
        assert np.linalg.norm(own - cielab(color, normal)) > 25


def test_method_label_of_another_method_lists_what_there_is():
    with pytest.raises(
        LseError, match="There is no fine-tuning method 'random'. Did you mean random:"
    ):
        style.method_label("random")


def test_theme_leaves_the_settings_of_others_alone():
    before = mpl.rcParams.copy()

    with style.theme():
        found = mpl.rcParams["font.size"], mpl.rcParams["font.sans-serif"]
    assert found == (8, ["DejaVu Sans"])
    assert mpl.rcParams == before


def draw():
    frame = pd.DataFrame({"x": [0, 1], "y": [1 / 3, 0.1]})
    with style.theme():
        figure, ax = plt.subplots()
        ax.plot(frame["x"], frame["y"], label="a")
    return figure, frame


def test_save_figure_writes_png_pdf_and_the_numbers(tmp_path):
    figure, frame = draw()
    stem = tmp_path / "folder" / "fig_llama-3.1"
    written = style.save_figure(figure, stem, frame=frame, source="toy; 7 sentences")
    assert [path.name for path in written] == [
        "fig_llama-3.1.png",
        "fig_llama-3.1.pdf",
        "fig_llama-3.1.csv",
    ]
    assert sorted(path.name for path in stem.parent.iterdir()) == sorted(p.name for p in written)
    read = pd.read_csv(written[2])
    pd.testing.assert_frame_equal(read, frame, check_exact=True)
    assert written[1].read_bytes().startswith(b"%PDF")


def test_save_figure_keeps_source_caption_and_command_in_the_png(tmp_path):
    figure, frame = draw()
    png, _, _ = style.save_figure(
        figure, tmp_path / "a", frame=frame, source="toy", title="T", caption="C", command="run me"
    )
    with Image.open(png) as image:
        about = dict(image.info)
    assert (about["Title"], about["Description"], about["Source"]) == ("T", "C", "toy")
    assert about["Comment"] == "run me"
    assert "Software" not in about


def test_save_figure_prints_the_source_for_saving_alone(tmp_path, monkeypatch):
    figure, frame = draw()
    seen = []
    save = figure.savefig

    def watch(*args, **kwargs):
        seen.append([text.get_text() for text in figure.texts])
        save(*args, **kwargs)

    monkeypatch.setattr(figure, "savefig", watch)
    style.save_figure(figure, tmp_path / "a", frame=frame, source="toy text", close=False)
    assert seen == [["Source: toy text"]] * 2
    assert figure.texts == []


def test_save_figure_wraps_a_long_source(tmp_path):
    figure, frame = draw()
    words = " ".join(["word"] * 200)
    png, *_ = style.save_figure(figure, tmp_path / "long", frame=frame, source=words, close=False)
    short, *_ = style.save_figure(figure, tmp_path / "short", frame=frame, source="word")
    with Image.open(png) as long_image, Image.open(short) as short_image:
        assert long_image.width < 1.1 * short_image.width
        assert long_image.height > short_image.height


def test_save_figure_of_equal_figures_gives_equal_bytes(tmp_path):
    for name in ("a", "b"):
        figure, frame = draw()
        style.save_figure(figure, tmp_path / name, frame=frame, source="toy", title="T")
    for suffix in ("png", "pdf", "csv"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
    assert b"CreationDate" not in (tmp_path / "a.pdf").read_bytes()


def test_save_figure_closes_the_figure_unless_asked(tmp_path):
    figure, frame = draw()
    style.save_figure(figure, tmp_path / "a", frame=frame, source="toy", close=False)
    assert plt.fignum_exists(figure.number)
    style.save_figure(figure, tmp_path / "a", frame=frame, source="toy")
    assert not plt.fignum_exists(figure.number)


def test_save_figure_leaves_the_old_files_when_drawing_fails(tmp_path, monkeypatch):
    figure, frame = draw()
    png, *_ = style.save_figure(figure, tmp_path / "a", frame=frame, source="toy", close=False)
    before = png.read_bytes()

    def fail(*args, **kwargs):
        raise RuntimeError("no space")

    monkeypatch.setattr(figure, "savefig", fail)
    with pytest.raises(RuntimeError, match="no space"):
        style.save_figure(figure, tmp_path / "a", frame=frame, source="new")
    assert png.read_bytes() == before
    assert figure.texts == []
    assert len(list(tmp_path.iterdir())) == 3


def test_save_figure_keeps_font_embedding_quiet(tmp_path, caplog):
    figure, frame = draw()
    with caplog.at_level(logging.INFO):
        style.save_figure(figure, tmp_path / "a", frame=frame, source="toy")
    assert caplog.records == []


def test_theme_leaves_settings_and_keeps_the_backend_interactive():
    before = dict(mpl.rcParams)
    try:
        with style.theme():
            # What the backend of Jupyter does when the first figure loads it.
            mpl.interactive(True)
        assert mpl.is_interactive()
    finally:
        mpl.interactive(before["interactive"])
    assert dict(mpl.rcParams) == before
