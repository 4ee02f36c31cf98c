"""What a training reports while it runs and at its end."""

import contextlib
import logging
import os
import resource
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from lse_interp.artifacts.atomic import reported
from lse_interp.core.languages import lookup
from lse_interp.subnetworks.finetune_run import FinetuneRun

__all__ = ["Scalars", "peak_memory", "report", "tensorboard"]

logger = logging.getLogger(__name__)

Scalars = Callable[[Mapping[str, float], int], None]
"""Writes numbers by name, for a step."""


@contextlib.contextmanager
def tensorboard(folder: Path | None) -> Iterator[Scalars]:
    """Open a TensorBoard log in a folder; yields what writes into it, nothing for None.

    Raises:
        WriteError: The disk is full, or the folder cannot be written to.
    """
    if folder is None:
        yield lambda values, step: None
        return
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
    path = folder / name
    with reported(path):
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard's own writers write in another thread, where a full disk is a traceback.
        file = path.open("ab")
    records = RecordWriter(file)

    def record(**content: Any) -> None:
        with reported(path):
            records.write(Event(wall_time=time.time(), **content).SerializeToString())
            file.flush()

    def write(values: Mapping[str, float], step: int) -> None:
        found = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        record(step=step, summary=Summary(value=found))

    try:
        record(file_version="brain.Event:2")
        yield write
    finally:
        # A write that failed is reported already.
        with contextlib.suppress(OSError):
            file.close()


def report(result: FinetuneRun) -> None:
    """Log how much was trained and how the losses changed."""
    before, after = (result.results[k] for k in ("base_validation_loss", "validation_loss"))
    lines = [
        f"{lookup(code).name}: {before[code]:.4f} -> {loss:.4f} ({loss - before[code]:+.4f})"
        for code, loss in after.items()
    ]
    logger.info(
        "%s, %s: %s of %s weights trained (%.2f %%); best at step %d, %s tokens\n"
        "validation loss, nats per token: %s\n%s tokens/s, peak memory %.2f GB\nwrote %s",
        lookup(result.language).name,
        result.method,
        f"{result.results['n_trainable']:,}",
        f"{result.model.n_parameters:,}",
        100 * result.results["n_trainable"] / result.model.n_parameters,
        result.results["step"],
        f"{result.results['tokens']:,}",
        "; ".join(lines),
        f"{result.results['tokens_per_second']:,.0f}",
        result.results["peak_memory_bytes"] / 1e9,
        result.folder,
    )
    if after[result.language] >= before[result.language]:
        logger.warning("no validation was better than the base model; training did not help here")


def peak_memory() -> int:
    """Return the peak memory in bytes: of the GPU if there is one, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
