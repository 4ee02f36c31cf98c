"""Artefact -> DataFrame -> Axes: the only part of the package that imports matplotlib.

Per picture there is one function that turns an artefact into a DataFrame of every number drawn,
and one that draws such a DataFrame.

    from lse_interp.plotting import alignment_frame, plot_alignment
    plot_alignment(alignment_frame(curves))
"""

import importlib
from typing import Any

_PUBLIC = {
    "ablation_frame": "ablation",
    "alignment_frame": "alignment",
    "data_size_frame": "data_size",
    "delta_frame": "deltas",
    "density_frame": "deltas",
    "dynamics_frame": "training",
    "language_color": "style",
    "language_label": "style",
    "layer_average_frame": "alignment",
    "layer_frame": "neurons",
    "methods_frame": "method_tables",
    "methods_table": "method_tables",
    "neuron_delta_frame": "deltas",
    "overlap_frame": "overlap",
    "plot_ablation": "ablation",
    "plot_ablation_panels": "ablation",
    "plot_alignment": "alignment",
    "plot_data_size": "data_size",
    "plot_data_size_panels": "data_size",
    "plot_delta_density": "deltas",
    "plot_delta_norms": "deltas",
    "plot_deltas": "deltas",
    "plot_dynamics": "training",
    "plot_dynamics_panels": "training",
    "plot_layer_average": "alignment",
    "plot_layers": "neurons",
    "plot_methods": "methods",
    "plot_methods_panels": "methods",
    "plot_neuron_deltas": "deltas",
    "plot_overlap": "overlap",
    "plot_overlap_panels": "overlap",
    "plot_small_dynamics": "training",
    "plot_small_multiples": "neurons",
    "plot_target_against_random": "methods",
    "save_figure": "style",
    "theme": "style",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        module = importlib.import_module(f"{__name__}.{_PUBLIC[name]}")
        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
