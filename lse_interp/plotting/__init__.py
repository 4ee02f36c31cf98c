"""Artefact -> DataFrame -> Axes: the only part of the package that imports matplotlib.

Per picture there is one function that turns an artefact into a DataFrame of every number drawn,
and one that draws such a DataFrame.

    from lse_interp.plotting import alignment_frame, plot_alignment
    plot_alignment(alignment_frame(curves))
"""

import importlib
from typing import Any

_PUBLIC = {
    "ablation_frame": "ablation_heatmap",
    "alignment_frame": "alignment_curves",
    "data_size_frame": "data_size",
    "delta_frame": "weight_deltas",
    "density_frame": "weight_deltas",
    "dynamics_frame": "loss_curves",
    "language_color": "style",
    "language_label": "style",
    "layer_average_frame": "alignment_curves",
    "layer_frame": "neuron_layers",
    "methods_frame": "method_tables",
    "methods_table": "method_tables",
    "neuron_delta_frame": "weight_deltas",
    "overlap_frame": "overlap_heatmap",
    "plot_ablation": "ablation_heatmap",
    "plot_ablation_panels": "ablation_heatmap",
    "plot_alignment": "alignment_curves",
    "plot_data_size": "data_size",
    "plot_data_size_panels": "data_size",
    "plot_delta_density": "weight_deltas",
    "plot_delta_norms": "weight_deltas",
    "plot_deltas": "weight_deltas",
    "plot_dynamics": "loss_curves",
    "plot_dynamics_panels": "loss_curves",
    "plot_layer_average": "alignment_curves",
    "plot_layers": "neuron_layers",
    "plot_methods": "method_comparison",
    "plot_methods_panels": "method_comparison",
    "plot_neuron_deltas": "weight_deltas",
    "plot_overlap": "overlap_heatmap",
    "plot_overlap_panels": "overlap_heatmap",
    "plot_small_dynamics": "loss_curves",
    "plot_small_multiples": "neuron_layers",
    "plot_target_against_random": "method_comparison",
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
