"""Language models and the activation sites inside them.

The only package that knows architectures and hooking libraries. Names are imported on first use,
so that reading a site name needs no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lse_interp.models.architectures import MLPNames
    from lse_interp.models.hooked import HookedModel
    from lse_interp.models.loading import load_from_args, load_model
    from lse_interp.models.sites import SITES, parse_site, site_name

__all__ = [
    "SITES",
    "HookedModel",
    "MLPNames",
    "load_from_args",
    "load_model",
    "parse_site",
    "site_name",
]

_HOMES = {
    "HookedModel": "hooked",
    "MLPNames": "architectures",
    "load_from_args": "loading",
    "load_model": "loading",
    "SITES": "sites",
    "parse_site": "sites",
    "site_name": "sites",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
