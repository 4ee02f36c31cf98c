"""The small artefacts of the plotting tests, and the way to draw them."""

from tests.plotting.conftest import _closed, draw, make_curves, make_neurons, neurons

__all__ = ["_closed", "draw", "make_curves", "make_neurons", "neurons"]
