"""Overlap triangles: the numbers and the artists."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest

from lse_interp.analysis.overlap import measure_overlap
from lse_interp.core.errors import LseError
from lse_interp.core.languages import LANGUAGES, PAPER_LANGUAGES, family_order
from lse_interp.plotting.overlap_heatmap import overlap_frame, plot_overlap, plot_overlap_panels


def spread(codes, *, d_mlp=400):
    """Sets of ten neurons, each sharing five with the next language."""
    return {code: [list(range(5 * i % d_mlp, 5 * i % d_mlp + 10))] for i, code in enumerate(codes)}


def cells(ax):
    """The coloured cells of the pairs, [row column]."""
    return ax.collections[0].get_array()


def test_overlap_frame_holds_every_pair_once_and_each_language_with_itself(neurons):
    frame = overlap_frame(measure_overlap(neurons))
    codes = family_order(neurons)
    expected = [(a, b) for i, a in enumerate(codes) for b in codes[i:]]
    assert list(zip(frame["language"], frame["other"], strict=True)) == expected
    at = frame.set_index(["language", "other"])
    assert at.loc[("slk", "slv"), "intersection"] == 3
    assert at.loc[("slk", "slv"), "jaccard"] == 3 / 5
    assert at.loc[("slk", "slv"), "ratio_by_layer"] == pytest.approx(3 / 0.8)
    assert at.loc[("slv", "slv"), "intersection"] == 4
    assert at.loc[("slv", "slv"), "jaccard"] == 1
    assert np.isnan(at.loc[("slv", "slv"), "ratio"])
    assert np.isnan(at.loc[("ekk", "ekk"), "jaccard"])


def test_overlap_frame_of_one_language_has_its_own_row_alone(make_neurons):
    frame = overlap_frame(measure_overlap(make_neurons({"mlt": [[1, 2]]})))
    assert frame[["language", "other", "intersection"]].to_numpy().tolist() == [["mlt", "mlt", 2]]
    assert "ratio_by_layer" in frame.columns


def test_plot_overlap_colours_the_lower_triangle_alone(neurons):
    ax = plot_overlap(overlap_frame(measure_overlap(neurons)))
    found = np.ma.filled(cells(ax), np.nan)
    none = np.nan
    expected = [
        [none, none, none, none],
        [0, none, none, none],
        [0, 3, none, none],
        [0, 0, 0, none],
    ]
    np.testing.assert_array_equal(found, expected)
    assert [tick.get_text() for tick in ax.get_yticklabels()] == [
        "Maltese",
        "Slovak",
        "Slovenian",
        "Estonian",
    ]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["mlt", "slk", "slv", "ekk"]


def test_plot_overlap_writes_counts_and_each_languages_own_number(neurons):
    ax = plot_overlap(overlap_frame(measure_overlap(neurons)))
    written = {text.get_position(): text.get_text() for text in ax.texts}
    assert written[(1.5, 2.5)] == "3"
    assert written[(2.5, 2.5)] == "4"
    assert (2.5, 1.5) not in written


def test_plot_overlap_scales_by_the_pairs_and_not_by_the_diagonal(make_neurons):
    frame = overlap_frame(measure_overlap(make_neurons(spread(["slk", "slv", "mkd"]), d_mlp=400)))
    norm = plot_overlap(frame).collections[0].norm
    assert (norm.vmin, norm.vmax) == (0, 5)


@pytest.mark.parametrize(("value", "text"), [("jaccard", ".60"), ("ratio_by_layer", "3.8")])
def test_plot_overlap_writes_other_values_off_the_diagonal(neurons, value, text):
    ax = plot_overlap(overlap_frame(measure_overlap(neurons)), value=value)
    written = {text.get_position(): text.get_text() for text in ax.texts}
    assert written[(1.5, 2.5)] == text
    assert (2.5, 2.5) not in written


def test_plot_overlap_writes_a_dash_where_a_ratio_is_unknown(neurons):
    ax = plot_overlap(overlap_frame(measure_overlap(neurons)), value="ratio")
    written = {text.get_position(): text.get_text() for text in ax.texts}
    assert written[(0.5, 3.5)] == "-"
    # Nothing shared, and less than one neuron expected.
    assert written[(0.5, 1.5)] == "-"


def test_plot_overlap_centres_ratios_on_one(neurons):
    norm = plot_overlap(overlap_frame(measure_overlap(neurons)), value="ratio").collections[0].norm
    assert isinstance(norm, mpl.colors.LogNorm)
    assert norm.vmin * norm.vmax == pytest.approx(1)
    assert norm(1.0) == pytest.approx(0.5)
    assert norm(0.0) == 0.0


def test_plot_overlap_names_the_branches_in_family_order(make_neurons):
    frame = overlap_frame(measure_overlap(make_neurons(spread(PAPER_LANGUAGES), d_mlp=400)))
    ax = plot_overlap(frame)
    branches = [text.get_text() for text in ax.texts if text.get_style() == "italic"]
    expected = list(dict.fromkeys(LANGUAGES[code].branch for code in family_order(PAPER_LANGUAGES)))
    assert branches == expected
    sizes = [text.get_fontsize() for text in ax.texts]
    assert len(sizes) == 21 * 22 / 2 + len(branches)
    assert min(sizes) >= 4.5


def test_plot_overlap_draws_into_given_axes(neurons):
    _, ax = plt.subplots()
    assert plot_overlap(overlap_frame(measure_overlap(neurons)), ax=ax) is ax


def test_plot_overlap_of_one_language_and_of_unrelated_sets_has_a_scale(make_neurons):
    for lists in ({"mlt": [[1]]}, {"mlt": [[1]], "ekk": [[2]]}):
        frame = overlap_frame(measure_overlap(make_neurons(lists)))
        for value in ("intersection", "jaccard", "ratio"):
            norm = plot_overlap(frame, value=value).collections[0].norm
            assert norm.vmax > norm.vmin


@pytest.fixture
def many_frame(make_neurons):
    codes = list(LANGUAGES)[:128]
    return overlap_frame(measure_overlap(make_neurons(spread(codes, d_mlp=800), d_mlp=800)))


def families_of(frame):
    codes = family_order(frame["language"].unique())
    return list(dict.fromkeys(LANGUAGES[code].family for code in codes))


def beside(ax):
    """The families named along the vertical axis, in their order."""
    return [text.get_text() for text in ax.texts if text.get_ha() == "right"]


def test_plot_overlap_of_many_languages_drops_numbers_and_names_families(many_frame):
    ax = plot_overlap(many_frame)
    assert max(ax.figure.get_size_inches()) <= 14
    written = {text.get_text() for text in ax.texts}
    assert not any(text.replace(".", "").isdigit() for text in written)
    assert cells(ax).count() == 128 * 127 / 2
    assert beside(ax) == families_of(many_frame)
    # Codes, which fit; names would not.
    codes = family_order(many_frame["language"].unique())
    assert [tick.get_text() for tick in ax.get_yticklabels()] == codes
    assert min(tick.get_fontsize() for tick in ax.get_yticklabels()) >= 4.5


def test_plot_overlap_panels_of_many_languages_name_what_fits(many_frame):
    large, *small = plot_overlap_panels(many_frame)
    assert len(large.get_yticklabels()) == 128
    for ax in small:
        assert ax.get_yticklabels() == []
        named = beside(ax)
        assert "Indo-European" in named
        assert "Japonic" not in named
        assert set(named) <= set(families_of(many_frame))


@pytest.mark.parametrize("panel", [0, 1])
def test_plot_overlap_of_many_languages_leaves_no_text_on_another(many_frame, panel):
    ax = plot_overlap_panels(many_frame)[panel]
    ax.figure.draw_without_rendering()
    texts = [*ax.get_yticklabels(), *(text for text in ax.texts if text.get_ha() == "right")]
    boxes = [text.get_window_extent() for text in texts]
    for at, one in enumerate(boxes):
        for other in boxes[at + 1 :]:
            apart = one.x1 <= other.x0 or other.x1 <= one.x0
            # Letters are lower than the line they stand in.
            assert apart or min(one.y1, other.y1) - max(one.y0, other.y0) < 0.3 * one.height


def test_plot_overlap_names_no_family_beside_few_languages(make_neurons):
    codes = family_order(LANGUAGES)[:48]
    frame = overlap_frame(measure_overlap(make_neurons(spread(codes, d_mlp=800), d_mlp=800)))
    assert beside(plot_overlap(frame)) == []


def test_plot_overlap_refuses_an_unknown_value(neurons):
    with pytest.raises(LseError, match=r"`value` must be one of intersection, .* got 'jacard'"):
        plot_overlap(overlap_frame(measure_overlap(neurons)), value="jacard")


def test_plot_overlap_panels_shows_counts_jaccard_and_ratio(neurons):
    axes = plot_overlap_panels(overlap_frame(measure_overlap(neurons)))
    assert [ax.get_title(loc="left") for ax in axes] == [
        "Shared neurons",
        "Jaccard index",
        "Ratio to chance",
    ]
    assert len({ax.figure for ax in axes}) == 1
    assert cells(axes[1])[2, 1] == 3 / 5
    assert cells(axes[2])[2, 1] == pytest.approx(3 / 0.8)


def test_plot_overlap_puts_languages_of_unknown_families_last(make_neurons):
    frame = overlap_frame(
        measure_overlap(make_neurons(spread(("tlh", "mlt", "qaa", "slk")), d_mlp=400))
    )
    assert frame["language"].unique().tolist() == ["mlt", "slk", "tlh", "qaa"]
    names = [label.get_text() for label in plot_overlap(frame).get_yticklabels()]
    assert {"Maltese", "Slovak", "Klingon", "qaa"} & set(names)


def test_plot_overlap_of_many_languages_names_the_unknown_family_too(make_neurons):
    codes = [*family_order(LANGUAGES)[:47], *(f"qa{letter}" for letter in "abcdefg")]
    ax = plot_overlap(overlap_frame(measure_overlap(make_neurons(spread(codes), d_mlp=400))))
    assert "unknown" in {text.get_text() for text in ax.texts}
