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
    "language_color": "style",
    "language_label": "style",
    "layer_average_frame": "alignment",
    "layer_frame": "neurons",
    "overlap_frame": "overlap",
    "plot_ablation": "ablation",
    "plot_ablation_panels": "ablation",
    "plot_alignment": "alignment",
    "plot_layer_average": "alignment",
    "plot_layers": "neurons",
    "plot_overlap": "overlap",
    "plot_overlap_panels": "overlap",
    "plot_small_multiples": "neurons",
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
