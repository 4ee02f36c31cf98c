"""What a training says while it runs, and about itself afterwards."""

import logging
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm.auto import tqdm
from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback

from lse_interp.artifacts.provenance import readable
from lse_interp.core.errors import LseError
from lse_interp.subnetworks.finetune_run import CURVE_COLUMNS

__all__ = ["Progress", "curves_from", "peak_memory", "tensorboard"]

logger = logging.getLogger(__name__)

_LOSS = "eval_loss_"


class Progress(TrainerCallback):
    """One bar over the steps, one line per validation, and the time the steps took."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._began = 0.0
        self._bar: tqdm | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the bar."""
        disable = True if os.environ.get("CI") or not state.is_world_process_zero else None
        self._bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            desc="training",
            unit="step",
            leave=False,
            disable=disable,
        )

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self._began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop the clock and move the bar."""
        self.seconds += time.perf_counter() - self._began
        if self._bar is not None:
            self._bar.update()

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Log the losses."""
        if not state.is_world_process_zero:
            return
        metrics: dict[str, float] = kwargs["metrics"]
        losses = {name: value for name, value in metrics.items() if name.startswith(_LOSS)}
        logger.info(
            "step %4d  %9s tokens  validation %s",
            state.global_step,
            f"{state.num_input_tokens_seen:,}",
            "  ".join(f"{name.removeprefix(_LOSS)} {value:.4f}" for name, value in losses.items()),
        )

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()


def tensorboard(folder: Path | None) -> list[TrainerCallback]:
    """Return the callback that writes TensorBoard logs into a folder; none for None.

    Raises:
        LseError: The folder has letters that the locale of this process does not.
    """
    if folder is None:
        return []
    from torch.utils.tensorboard import SummaryWriter

    try:
        return [TensorBoardCallback(SummaryWriter(log_dir=str(folder)))]
    except UnicodeEncodeError as error:
        raise LseError(
            f"TensorBoard cannot write into {readable(str(folder))} under a locale that lacks its "
            f"letters ({sys.getfilesystemencoding()}). Set PYTHONUTF8=1, or a UTF-8 locale."
        ) from error


def curves_from(history: list[dict[str, float]], *, language: str) -> pd.DataFrame:
    """Turn the log of Trainer into loss curves.

    `language` is that of the training text; its validation loss comes first, the others follow by
    code. Trainer's own order is another after resuming.
    """
    rows = []
    for entry in history:
        at = (entry["step"], entry["tokens"])
        if "loss" in entry:
            rows.append((*at, "train", language, entry["loss"]))
        rows += [
            (*at, "validation", name.removeprefix(_LOSS), value)
            for name, value in sorted(entry.items(), key=lambda item: _place(item[0], language))
            if name.startswith(_LOSS)
        ]
    return pd.DataFrame(rows, columns=list(CURVE_COLUMNS))


def _place(name: str, language: str) -> tuple[bool, str]:
    return name != f"{_LOSS}{language}", name


def peak_memory() -> int:
    """Return the most bytes held: on the GPU where there is one, else by the process, ever."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
