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

import torch
from tqdm.auto import tqdm

from lse_interp.core.languages import lookup
from lse_interp.subnetworks.finetune_run import FinetuneRun

__all__ = ["Scalars", "peak_memory", "progress_bar", "report", "tensorboard"]

logger = logging.getLogger(__name__)

Scalars = Callable[[Mapping[str, float], int], None]
"""Writes numbers by name, for a step."""


def progress_bar(n_steps: int, *, done: int, is_main: bool) -> tqdm:
    """Return a bar over the steps; silent in CI and in other processes than the main one."""
    disable = True if os.environ.get("CI") or not is_main else None
    return tqdm(
        total=n_steps, initial=done, desc="training", unit="step", leave=False, disable=disable
    )


@contextlib.contextmanager
def tensorboard(folder: Path | None) -> Iterator[Scalars]:
    """Open a TensorBoard log in a folder; yields what writes into it, nothing for None."""
    if folder is None:
        yield lambda values, step: None
        return
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    folder.mkdir(parents=True, exist_ok=True)
    name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
    # TensorBoard's own writers write in another thread, where a full disk is a traceback.
    with (folder / name).open("ab", buffering=0) as file:
        records = RecordWriter(file)

        def write(values: Mapping[str, float], step: int) -> None:
            found = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
            event = Event(wall_time=time.time(), step=step, summary=Summary(value=found))
            records.write(event.SerializeToString())

        version = Event(wall_time=time.time(), file_version="brain.Event:2")
        records.write(version.SerializeToString())
        yield write


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
