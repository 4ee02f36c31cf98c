"""Artefact -> DataFrame -> Axes: the only part of the package that imports matplotlib.

Per picture there is one function that turns an artefact into a DataFrame of every number drawn,
and one that draws such a DataFrame.

    from lse_interp.plotting import alignment_frame, plot_alignment
    plot_alignment(alignment_frame(curves))
"""

import importlib
from typing import Any

_MODULES = {
    "ablation_heatmap": ("ablation_frame", "plot_ablation", "plot_ablation_panels"),
    "alignment_curves": (
        "alignment_frame",
        "layer_average_frame",
        "plot_alignment",
        "plot_layer_average",
    ),
    "data_size": ("data_size_frame", "plot_data_size", "plot_data_size_panels"),
    "loss_curves": (
        *("dynamics_frame", "plot_dynamics", "plot_dynamics_panels", "plot_small_dynamics"),
    ),
    "method_comparison": ("plot_methods", "plot_methods_panels", "plot_target_against_random"),
    "method_tables": ("methods_frame", "methods_table"),
    "neuron_layers": ("layer_frame", "plot_layers", "plot_small_multiples"),
    "overlap_heatmap": ("overlap_frame", "plot_overlap", "plot_overlap_panels"),
    "style": ("language_color", "language_label", "save_figure", "theme"),
    "weight_deltas": (
        *("delta_frame", "density_frame", "neuron_delta_frame", "plot_delta_density"),
        *("plot_delta_norms", "plot_deltas", "plot_neuron_deltas"),
    ),
}
_PUBLIC = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        module = importlib.import_module(f"{__name__}.{_PUBLIC[name]}")
        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
