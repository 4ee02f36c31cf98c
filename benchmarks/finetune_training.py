"""One optimizer step of a method: its three phases timed, and the memory it takes."""

import contextlib
import gc
import itertools
import time
from dataclasses import dataclass

import torch
from common import reset_peak, resident_mb
from finetune_methods import Method, Neurons
from torch import Tensor

from lse_interp.models.hooked import HookedModel
from lse_interp.training.engines.base import attach, clip_gradients
from lse_interp.training.loss import total_loss

__all__ = ["Job", "Memory", "Training", "memory_of", "release", "time_step"]


@dataclass(frozen=True)
class Job:
    """A model, the neurons to train in it, and a batch."""

    model: HookedModel
    neurons: Neurons
    ids: Tensor
    """Token ids [batch pos]."""
    chunk: int
    """Positions whose logits exist at a time, where the loss is taken in chunks."""


@dataclass(frozen=True)
class Memory:
    """Memory of a method, in MB."""

    peak: float | None
    """Peak above the loaded model; None where it cannot be measured."""
    held: float
    """Leaves outside the model, gradients and optimizer state, just before the step."""


class Training:
    """A method at work."""

    def __init__(self, method: Method, job: Job) -> None:
        self.method, self.job, self.hf = method, job, job.model.hf
        self._own = {id(weight) for weight in self.hf.parameters()}
        self.engine = method.make(job.model, job.neurons)
        self.leaves = list(self.engine.leaves().values())
        self.optimizer = torch.optim.AdamW(self.leaves, lr=1e-4, weight_decay=0.01, fused=True)
        self._detach = attach(self.engine, self.optimizer)

    def forward(self) -> Tensor:
        """Return the mean loss, in nats."""
        ids = self.job.ids
        chunk = self.job.chunk if self.method.chunked else None
        with self._autocast():
            return total_loss(self.hf, ids, ids, chunk=chunk) / (len(ids) * (ids.shape[1] - 1))

    def step(self) -> None:
        """Clip, step, write back, and forget the gradients."""
        clip_gradients(self.engine, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def gradient(self) -> Tensor:
        """Flatten the gradients of the chosen neurons, by layer, projection and neuron."""
        self.engine.before_step()
        parts = []
        for name, leaf in self.engine.leaves().items():
            assert leaf.grad is not None
            gradient = leaf.grad.mT if name.endswith(".down") else leaf.grad
            parts.append(gradient.flatten().float().cpu())
        return torch.cat(parts)

    def held_mb(self) -> float:
        """Sum leaves outside the model, gradients, and optimizer state."""
        leaves = [leaf for leaf in self.leaves if id(leaf) not in self._own]
        weights = {id(w): w for w in itertools.chain(self.hf.parameters(), self.leaves)}
        gradients = [w.grad for w in weights.values() if w.grad is not None]
        values = itertools.chain.from_iterable(s.values() for s in self.optimizer.state.values())
        state = [value for value in values if isinstance(value, Tensor)]
        return sum(tensor.nbytes for tensor in [*leaves, *gradients, *state]) / 1e6

    def close(self) -> None:
        """Leave the model plain."""
        self._detach()
        self.engine.close()
        for weight in self.hf.parameters():
            weight.grad = None

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        model = self.job.model
        if not self.method.autocast or model.dtype.itemsize >= 4:
            return contextlib.nullcontext()
        return torch.autocast(model.device.type, dtype=model.dtype)


def time_step(training: Training) -> tuple[list[float], list[float]]:
    """Run one step; return seconds and processor seconds of each phase."""
    ids = training.job.ids
    marks = [_mark(ids)]
    loss = training.forward()
    marks.append(_mark(ids))
    loss.backward()
    marks.append(_mark(ids))
    training.step()
    marks.append(_mark(ids))
    wall, cpu = zip(*marks, strict=True)
    return [b - a for a, b in itertools.pairwise(wall)], [b - a for a, b in itertools.pairwise(cpu)]


def memory_of(method: Method, job: Job) -> Memory | None:
    """Measure three steps; None where the accelerator's memory does not suffice."""
    before = _start(job.ids)
    training = None
    try:
        training = Training(method, job)
        held = [_held_in_step(training) for _ in range(3)][-1]
        found = Memory(peak=None if before is None else _peak_mb(job.ids) - before, held=held)
    except torch.OutOfMemoryError:
        found = None
    if training is not None:
        training.close()
    else:
        # There is no engine to close; the next one starts from a model whose weights all train.
        job.model.hf.requires_grad_(True)
    del training
    release(job.ids)
    return found


def release(ids: Tensor) -> None:
    """Give freed memory of the accelerator back, so that the next method finds it whole."""
    gc.collect()
    if ids.is_cuda:
        torch.cuda.empty_cache()


def _held_in_step(training: Training) -> float:
    training.forward().backward()
    held = training.held_mb()
    training.step()
    return held


def _mark(ids: Tensor) -> tuple[float, float]:
    if ids.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


def _start(ids: Tensor) -> float | None:
    release(ids)
    if ids.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 1e6
    return resident_mb(peak=False) if reset_peak() else None


def _peak_mb(ids: Tensor) -> float:
    return torch.cuda.max_memory_allocated() / 1e6 if ids.is_cuda else resident_mb(peak=True)
