"""The course of the learning rate, and what weight decay leaves of a weight.

    scale(s) = s / warmup                            in the first `warmup` steps, then
    scale(s) = 1                                     constant,
    scale(s) = (n - s) / (n - warmup)                linear,
    scale(s) = (1 + cos(pi (s - warmup) / (n - warmup))) / 2    cosine,

for step s, from 0, of n steps.
"""

import math

from lse_interp.training.hyperparameters import Hyperparameters

__all__ = ["decay_factor", "lr_scale"]


def lr_scale(step: int, *, n_steps: int, options: Hyperparameters) -> float:
    """Return the factor of the learning rate in a step.

    Args:
        step: Number of steps taken before.
        n_steps: Number of steps of the whole run.
        options: The schedule and its warm-up.

    >>> lr_scale(5, n_steps=10, options=Hyperparameters(schedule="linear"))
    0.5
    """
    warmup = options.warmup_steps
    if step < warmup:
        return step / warmup
    if options.schedule == "constant":
        return 1.0
    rest = max(1, n_steps - warmup)
    if options.schedule == "linear":
        return max(0.0, (n_steps - step) / rest)
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * ((step - warmup) / rest))))


def decay_factor(step: int, *, n_steps: int, options: Hyperparameters) -> float:
    """Multiply what weight decay leaves of a weight in each of the first `step` steps."""
    assert options.lr is not None
    decay = options.lr * options.weight_decay
    factors = (
        1.0 - decay * lr_scale(taken, n_steps=n_steps, options=options) for taken in range(step)
    )
    return math.prod(factors, start=1.0)
