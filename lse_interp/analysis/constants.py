"""Defaults that a measurement and its command share; a module that imports nothing heavy."""

from typing import Final

from lse_interp.core.cli import SentenceArgs

__all__ = [
    "AGAINST",
    "BATCH_SIZE",
    "N_BOOTSTRAP",
    "N_CONTROLS",
    "N_SENTENCES",
    "POOLING",
    "SINKS",
    "SITE",
]

AGAINST = ("eng",)
"""Languages in which a comparison looks for forgetting."""

BATCH_SIZE = SentenceArgs.batch_size
"""Sentences per forward pass."""

N_BOOTSTRAP = 1000
"""Resamples behind an interval."""

N_CONTROLS = 1
"""Draws of random neurons that a control averages."""

N_SENTENCES = 48
"""Sentences on which an ablation is measured, if there are as many."""

SITE: Final = "hook_resid_post"
"""Where in each block a sentence is read."""

POOLING: Final = "mean"
"""How the text tokens of a sentence become one vector."""

SINKS: Final = "drop"
"""What happens to positions of massive norm, which carry no sentence."""
