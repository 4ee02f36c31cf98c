"""The schematic: its frame, its marks at their true places, its numbers, and what it refuses."""

import dataclasses

import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex

from lse_interp.core.errors import LseError
from lse_interp.plotting.schematic import plot_schematic, schematic_frame
from lse_interp.plotting.style import PROJECTION_COLORS


def texts(ax):
    return [text.get_text() for text in ax.texts]


def marks(ax, color):
    """Per collection of marks in one colour, where its lines lie along the neuron axis."""
    found = []
    for lines in ax.collections:
        if isinstance(lines, LineCollection) and to_hex(lines.get_color()[0]) == color:
            upright = [line[0][0] == line[1][0] for line in lines.get_segments()]
            axis = 0 if all(upright) else 1
            found.append([line[0][axis] for line in lines.get_segments()])
    return found


def test_schematic_frame_lists_every_neuron(neurons):
    frame = schematic_frame(neurons, "slv")
    assert frame.to_dict("list") == {
        "language": ["slv"] * 4,
        "layer": [0, 0, 0, 1],
        "neuron": [0, 1, 2, 5],
    }


def test_plot_schematic_marks_each_neuron_at_its_place(neurons):
    ax = plot_schematic(schematic_frame(neurons, "slv"), model=neurons.model)
    for name in ("gate", "up", "down"):
        first, second, full = marks(ax, PROJECTION_COLORS[name])
        assert (len(first), len(second), len(full)) == (3, 1, 3)
        # Neurons 0, 1, 2 and 5 of 10: a tenth of the axis apart, and the last five tenths away.
        width = first[1] - first[0]
        assert first[2] - first[1] == pytest.approx(width)
        assert second[0] - first[0] == pytest.approx(5 * width)
        # The same, along the rows of gate and up (from above) and the columns of down.
        assert full[2] - full[1] == pytest.approx(full[1] - full[0])
        assert (full[1] > full[0]) == (name == "down")


def test_plot_schematic_counts_what_is_trained_and_frozen(neurons):
    ax = plot_schematic(schematic_frame(neurons, "slv"), model=neurons.model)
    found = texts(ax)
    # 4 neurons x 3 vectors x d_model 4, of 1000 parameters.
    assert "trained: 4 neurons × 3 × 4 = 48 parameters (4.80 %)" in found
    assert "frozen: the other 952 parameters (95.20 %)" in found
    assert "Slovenian: 4 of 20 MLP neurons" in found
    assert "MLP of layer 0: 3 of 10 neurons" in found


def test_plot_schematic_without_a_gate_has_two_projections(neurons):
    model = dataclasses.replace(neurons.model, gated=False)
    ax = plot_schematic(schematic_frame(neurons, "slv"), model=model, layer=1)
    assert marks(ax, PROJECTION_COLORS["gate"]) == []
    assert "trained: 4 neurons × 2 × 4 = 32 parameters (3.20 %)" in texts(ax)
    assert "act(up)" in texts(ax)
    assert "MLP of layer 1: 1 of 10 neurons" in texts(ax)


def test_plot_schematic_refuses_what_cannot_be_drawn(neurons):
    with pytest.raises(LseError, match="No neurons to draw: the language has none"):
        plot_schematic(schematic_frame(neurons, "ekk"), model=neurons.model)
    frame = schematic_frame(neurons, "mlt")
    with pytest.raises(LseError, match="No neurons in layer 0 to draw; there are some in layers 1"):
        plot_schematic(frame, model=neurons.model, layer=0)
    with pytest.raises(LseError, match="reach layer 1, neuron 9; embedded has 2 layers of 9 neuro"):
        plot_schematic(frame, model=dataclasses.replace(neurons.model, d_mlp=9))
