"""The closed set of activation sites, each with its equation.

With x the input of the MLP of block l, and act the model's activation function:

| site                             | gated MLP            | ungated MLP  | shape             |
|----------------------------------|----------------------|--------------|-------------------|
| `blocks.{l}.mlp.hook_pre`        | g = gate(x)          | u = up(x)    | batch pos neuron  |
| `blocks.{l}.mlp.hook_pre_linear` | u = up(x)            | (none)       | batch pos neuron  |
| `blocks.{l}.mlp.hook_act`        | act(g)               | act(u)       | batch pos neuron  |
| `blocks.{l}.mlp.hook_post`       | act(g) * u           | act(u)       | batch pos neuron  |
| `blocks.{l}.hook_mlp_out`        | down(act(g) * u)     | down(act(u)) | batch pos d_model |
| `blocks.{l}.hook_resid_post`     | stream after block l | same         | batch pos d_model |

Names follow TransformerLens, except `hook_act`, which has no hook point there. The equation
decides, not the name: every backend gives these values. `hook_mlp_out` is the output of the down
projection, before any norm, scale or residual addition that follows it. In post-norm models, such
as Gemma 2, TransformerLens uses the name for what is behind them.

Three families compute more than the equations say:

- BitNet puts a norm before the down projection. `hook_post` is act(g) * u, before the norm.
- Falcon-H1 scales the gate, and Gemma 3n sets small gates to zero, before the activation function.
  `hook_pre` is gate(x), and `hook_act` is what the activation function returns.
- Gemma 3n passes four streams from block to block. `hook_resid_post` is the one that attention and
  MLP read and write.
"""

import re

from lse_interp.core.errors import ActivationError, near_misses

__all__ = ["SITES", "parse_site", "site_name"]

SITES: tuple[str, ...] = (
    "mlp.hook_pre",
    "mlp.hook_pre_linear",
    "mlp.hook_act",
    "mlp.hook_post",
    "hook_mlp_out",
    "hook_resid_post",
)

_FULL_NAME = re.compile(r"blocks\.(\d+)\.(.+)")


def site_name(kind: str, layer: int) -> str:
    """Name the site of one kind in one block.

    >>> site_name("mlp.hook_act", 3)
    'blocks.3.mlp.hook_act'

    Args:
        kind: One of `SITES`.
        layer: Block index, 0 at the input.

    Returns:
        The full site name.

    Raises:
        ActivationError: `kind` is not in the closed set, or `layer` is negative.
    """
    _check_kind(kind)
    if layer < 0:
        raise ActivationError(f"A layer is counted from 0 at the input; got {layer}.")
    return f"blocks.{layer}.{kind}"


def parse_site(name: str) -> tuple[str, int]:
    """Split a full site name into its kind and layer, the inverse of `site_name`.

    >>> parse_site("blocks.3.mlp.hook_act")
    ('mlp.hook_act', 3)

    Args:
        name: A full site name.

    Returns:
        The kind (one of `SITES`) and the layer.

    Raises:
        ActivationError: `name` is not `blocks.{layer}.{kind}` with a known kind.
    """
    match = _FULL_NAME.fullmatch(name)
    if match is None:
        raise ActivationError(
            "A site is written blocks.{layer}.{kind}, e.g. blocks.0.mlp.hook_act; "
            f"got {name!r}."
        )
    _check_kind(match[2])
    return match[2], int(match[1])


def _check_kind(kind: str) -> None:
    if kind not in SITES:
        raise ActivationError(f"Unknown activation site {kind!r}. {near_misses(kind, SITES)}")
