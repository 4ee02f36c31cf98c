"""The learning rate, step by step, as transformers' schedules have it."""

import pytest
import torch
import transformers

from lse_interp.training.hyperparameters import Hyperparameters
from lse_interp.training.schedule import decay_factor, lr_scale


@pytest.mark.parametrize("warmup", [0, 1, 4, 30])
@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_lr_scale_is_that_of_transformers(schedule, warmup):
    options = Hyperparameters(schedule=schedule, warmup_steps=warmup)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    name = "constant_with_warmup" if schedule == "constant" else schedule
    theirs = transformers.get_scheduler(
        name, optimizer, num_warmup_steps=warmup, num_training_steps=17
    )
    for step in range(18):
        expected = theirs.lr_lambdas[0](step)
        assert lr_scale(step, n_steps=17, options=options) == expected


def test_decay_factor_by_hand():
    options = Hyperparameters(lr=0.1, weight_decay=0.5, warmup_steps=2)
    expected = 1.0 * (1 - 0.05 * 0.5) * (1 - 0.05)
    assert decay_factor(3, n_steps=9, options=options) == pytest.approx(expected, rel=1e-15)
    assert decay_factor(0, n_steps=9, options=options) == 1.0
