import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import Normalize

from lse_interp.analysis.ablation_matrix import AblationMatrix
from lse_interp.core.errors import ArtifactError, LseError
from lse_interp.models.info import ModelInfo
from lse_interp.plotting.ablation_heatmap import ablation_frame, plot_ablation, plot_ablation_panels


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def matrix(*, control=True, ablated=("slv", "mlt", "slk"), measured=("slv", "kat", "slk", "mlt")):
    """Rows and columns out of family order; the neurons of slk are none."""
    rng = np.random.default_rng(0)
    intact = torch.from_numpy(50 + rng.random((len(measured), 5)))
    rise = torch.from_numpy(rng.normal(1, 1, (2, len(ablated), len(measured), 5)))
    n_neurons = torch.tensor([0 if code == "slk" else 7 for code in ablated])
    rise[:, n_neurons == 0] = 0
    return AblationMatrix(
        ablated=ablated,
        measured=measured,
        intact=intact,
        without=intact + rise[0],
        without_random=intact + rise[1] if control else None,
        n_neurons=n_neurons,
        model=ModelInfo("toy", "abc", "LlamaForCausalLM", 2, 4, 10, 1000),
        method="hand",
        site="mlp.hook_post",
        neurons="aa",
        text="bb",
        control="layer" if control else None,
        n_controls=1 if control else 0,
        seed=0,
    )


def cells(ax):
    (mesh,) = (artist for artist in ax.collections if hasattr(artist, "get_coordinates"))
    return np.asarray(mesh.get_array()), mesh


def test_ablation_frame_lists_every_cell_in_family_order():
    found = ablation_frame(matrix())
    assert found["ablated"].unique().tolist() == ["mlt", "slk", "slv"]
    assert found["measured"].tolist() == ["mlt", "slk", "slv", "kat"] * 3
    source = matrix()
    cell = found.set_index(["ablated", "measured"]).loc[("slv", "kat")]
    assert cell["relative_increase"] == source.relative_increase[0, 1]
    expected = source.control_increase[0, 1] / source.base_loss[1]
    assert cell["control_relative_increase"] == pytest.approx(float(expected))


@pytest.mark.parametrize("value", ["relative_increase", "loss_increase", "control_increase"])
def test_plot_ablation_draws_the_frame_around_zero(value):
    frame = ablation_frame(matrix())
    ax = plot_ablation(frame, value=value)
    drawn, mesh = cells(ax)
    assert np.array_equal(drawn.ravel(), frame[value])
    assert isinstance(mesh.norm, Normalize)
    assert mesh.norm.vmax == -mesh.norm.vmin == frame[value].abs().max()
    assert [label.get_text() for label in ax.get_xticklabels()] == ["mlt", "slk", "slv", "kat"]
    # Row 0 is on top.
    assert ax.get_ylim() == (3, 0)


def test_plot_ablation_frames_each_language_itself():
    ax = plot_ablation(ablation_frame(matrix()))
    assert [patch.get_xy() for patch in ax.patches] == [(0, 0), (1, 1), (2, 2)]
    few = plot_ablation(ablation_frame(matrix(ablated=("slv",))))
    assert [patch.get_xy() for patch in few.patches] == [(2, 0)]


def test_plot_ablation_marks_languages_without_neurons():
    ax = plot_ablation(ablation_frame(matrix()))
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == ["Maltese", "Slovak (no neurons)", "Slovenian"]


def test_plot_ablation_panels_share_one_scale():
    frame = ablation_frame(matrix())
    panels = plot_ablation_panels(frame)
    meshes = [cells(ax)[1] for ax in panels]
    assert np.array_equal(cells(panels[1])[0].ravel(), frame["control_relative_increase"])
    limit = frame[["relative_increase", "control_relative_increase"]].abs().to_numpy().max()
    assert [mesh.norm.vmax for mesh in meshes] == [limit, limit]
    assert panels[0].figure is panels[1].figure


def test_plot_ablation_panels_without_a_control_are_one():
    (ax,) = plot_ablation_panels(ablation_frame(matrix(control=False)))
    assert cells(ax)[0].shape == (3, 4)


def test_plot_ablation_of_no_effect_at_all():
    ax = plot_ablation(ablation_frame(matrix(ablated=("slk",))))
    assert (cells(ax)[0] == 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"value": "loss"}, "`value` must be one of relative_increase, .*; got 'loss'"),
        ({"value": "control_increase"}, "No control_increase here: .* without a control"),
    ],
)
def test_plot_ablation_refuses_bad_input(options, message):
    with pytest.raises(LseError, match=message):
        plot_ablation(ablation_frame(matrix(control=False)), **options)


def test_fig_ablation_writes_picture_and_numbers(draw, tmp_path):
    path = matrix().save(tmp_path / "ablation.safetensors")
    written = draw("fig_ablation", path)
    assert [file.name for file in written] == [
        f"fig_ablation_toy.{s}" for s in ("png", "pdf", "csv")
    ]
    assert all(file.stat().st_size > 500 for file in written)
    assert written[2].read_text().count("\n") == 13


def test_fig_ablation_says_what_writes_the_artefact(draw, tmp_path):
    with pytest.raises(
        ArtifactError, match=r"none.safetensors does not exist.*lse_interp.ablation"
    ):
        draw("fig_ablation", tmp_path / "none.safetensors")
