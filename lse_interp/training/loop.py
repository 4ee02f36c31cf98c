"""The training loop: transformers' Trainer, over the leaves of an engine.

Trainer does what it is good at: order of the text, accumulation, schedules, mixed devices, DDP,
logging, state and resuming. What differs here: the optimizer sees the engine's leaves, checkpoints
hold these alone and are written whole or not at all, the loss is exact over accumulation, the
validation loss is a mean over tokens, and a loss that is not a number stops the run before it
reaches the weights.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainingArguments

from lse_interp.core.errors import ActivationError
from lse_interp.data.blocks import IGNORE
from lse_interp.training.checkpoints import CheckpointStore, wait_for_all
from lse_interp.training.engines import Engine, attach, clip_gradients
from lse_interp.training.loss import check_chunked, total_loss
from lse_interp.training.options import Hyperparameters
from lse_interp.training.reporting import Progress, curves_from, peak_memory, tensorboard
from lse_interp.training.text import TokenBlocks

__all__ = ["Trainee", "Trained", "checkpoint_activations", "train"]

_LEAVES = "leaves.safetensors"


@dataclass(frozen=True)
class Trained:
    """How a training went. The engine's leaves, and so the model, hold the best weights."""

    curves: pd.DataFrame
    """Columns `CURVE_COLUMNS`."""
    results: Mapping[str, Any]
    """As in `FinetuneRun.results`, without `n_trainable`."""


class Trainee(nn.Module):
    """What Trainer trains: a model, its loss, and the leaves where the forward pass reads them."""

    accepts_loss_kwargs = True

    def __init__(self, hf: nn.Module, engine: Engine, *, loss_chunk: int | None = None) -> None:
        super().__init__()
        self.hf = hf
        self.rows = engine.module
        self.loss_chunk = loss_chunk

    def forward(
        self, input_ids: Tensor, labels: Tensor, num_items_in_batch: Tensor | int | None = None
    ) -> dict[str, Tensor]:
        """Return the mean loss in nats per token, over the step where its size is given."""
        total = total_loss(self.hf, input_ids, labels, chunk=self.loss_chunk)
        if num_items_in_batch is None:
            num_items_in_batch = (labels[:, 1:] != IGNORE).sum().clamp(min=1)
        return {"loss": total / num_items_in_batch}


def train(
    hf: nn.Module,
    engine: Engine,
    *,
    training: TokenBlocks,
    validation: Mapping[str, TokenBlocks],
    options: Hyperparameters,
    language: str,
    store: CheckpointStore,
    resume_from: Path | None = None,
    log_folder: Path | None = None,
) -> Trained:
    """Train the leaves of an engine, and leave the best of them in the model.

    Args:
        hf: A transformers model, or a peft model around one.
        engine: What is trained.
        training: Text to train on.
        validation: Language -> text; the first language decides which weights are best.
        options: Completed hyper-parameters (see `Hyperparameters.completed`).
        language: Of the training text, as the curves name it.
        store: Where checkpoints go.
        resume_from: A checkpoint of the same run to go on from.
        log_folder: Where TensorBoard logs go; None writes none.

    Raises:
        ActivationError: A loss or its gradient stopped being a number; says at which step.
        LseError: A checkpoint could not be written.
        UnsupportedModelError: `loss_chunk` with a model that scales or caps its logits.
    """
    if options.loss_chunk is not None:
        check_chunked(hf)
    if options.checkpointing:
        checkpoint_activations(hf)
    progress = Progress()
    with store.guarded("the TensorBoard logs", folder=log_folder):
        callbacks = [progress, *tensorboard(log_folder)]
    trainer = _RowTrainer(
        model=Trainee(hf, engine, loss_chunk=options.loss_chunk),
        args=_arguments(options, store.folder, device=next(hf.parameters()).device),
        train_dataset=training,
        eval_dataset=dict(validation),
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.set_up(engine, options=options, store=store, log_folder=log_folder)
    trainer.args.eval_on_start = resume_from is None
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        trainer.train(resume_from_checkpoint=None if resume_from is None else str(resume_from))
    finally:
        trainer.detach()
        if options.checkpointing:
            hf.activation_checkpointing_disable()
    result = _result(trainer, engine, language=language, seconds=progress.seconds)
    # The main process may delete the checkpoints once all have read the best.
    wait_for_all()
    return result


def checkpoint_activations(hf: nn.Module) -> None:
    """Recompute activations in the backward pass, without asking for gradients of the input.

    transformers makes the embeddings require gradients along with it, which would force the
    backward pass through every layer below the lowest that is trained.
    """
    hf.activation_checkpointing_enable({"use_reentrant": False})
    hf.disable_input_require_grads()


class _RowTrainer(Trainer):
    """Trainer whose optimizer and checkpoints hold an engine's leaves."""

    def set_up(
        self,
        engine: Engine,
        *,
        options: Hyperparameters,
        store: CheckpointStore,
        log_folder: Path | None,
    ) -> None:
        self.engine, self.options, self.store = engine, options, store
        self._log_folder = log_folder
        self.detach = lambda: None
        self._folder = store.folder

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            self.optimizer = torch.optim.AdamW(
                list(self.engine.leaves().values()),
                lr=self.args.learning_rate,
                weight_decay=self.args.weight_decay,
                fused=True,
            )
            self.detach = attach(self.engine, self.optimizer)
        return self.optimizer

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        loss = super().training_step(*args, **kwargs)
        self._require_number(loss, "The loss")
        return loss

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        self.accelerator.unscale_gradients(self.optimizer)
        norm = clip_gradients(self.engine, self.args.max_grad_norm)
        self._require_number(norm, "The norm of the gradient")
        return norm

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Measure nats per token in every language of the validation text."""
        losses = {
            language: _mean_loss(self.model, blocks, batch_size=self.args.eval_batch_size)
            for language, blocks in self.eval_dataset.items()
        }
        for language, loss in losses.items():
            self._require_finite(
                loss,
                f"The validation loss of {language} is {loss} after step {self.state.global_step}.",
            )
        metrics = {f"{metric_key_prefix}_loss_{code}": loss for code, loss in losses.items()}
        # The first language is the one that decides.
        metrics[f"{metric_key_prefix}_loss"] = next(iter(losses.values()))
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        logs["tokens"] = self.state.num_input_tokens_seen
        with self.store.guarded("the TensorBoard logs", folder=self._log_folder):
            super().log(logs)

    def _track_num_input_tokens(self, inputs: dict[str, Tensor]) -> None:
        count = (inputs["labels"] != IGNORE).sum()
        if self.args.world_size > 1:
            count = self.accelerator.gather(count.to(self.args.device)).sum()
        self.state.num_input_tokens_seen += int(count)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        is_best = super()._determine_best_metric(metrics, trial)
        # The store knows the step; Trainer would look for a checkpoint of its own.
        self.state.best_global_step = None
        if is_best:
            leaves = {name: leaf.detach() for name, leaf in self.engine.leaves().items()}
            if self.args.should_save:
                self.store.save_best(leaves, step=self.state.global_step)
            if self.options.switches.rebuild_optimizer:
                self.optimizer.state.clear()
        return is_best

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        if self.args.should_save:
            with self.store.staged(self.state.global_step) as staging:
                self._write_checkpoint(model, staging)
        else:
            self._write_checkpoint(model, self.store.staging)
        self._folder = self.store.folder

    def _write_checkpoint(self, model: nn.Module, folder: Path) -> None:
        """Write this process's part; the main one makes the folder and renames it when all did."""
        wait_for_all()
        self._folder = folder
        super()._save_checkpoint(model, None)
        wait_for_all()

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._folder)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        folder = Path(output_dir or self._folder)
        folder.mkdir(parents=True, exist_ok=True)
        leaves = {name: leaf.detach().cpu() for name, leaf in self.engine.leaves().items()}
        save_file(leaves, folder / _LEAVES)

    def _load_from_checkpoint(self, checkpoint: str, model: nn.Module | None = None) -> None:
        _set_leaves(self.engine, load_file(Path(checkpoint) / _LEAVES))

    def _require_number(self, value: Tensor, what: str) -> None:
        self._require_finite(
            float(value),
            f"{what} is {float(value)} at step {self.state.global_step + 1}. The weights are those "
            "before that step.",
        )

    def _require_finite(self, value: float, what: str) -> None:
        if not math.isfinite(value):
            last = self.store.last()
            left = f"The last checkpoint is {last}." if last else "There is no checkpoint yet."
            raise ActivationError(f"{what} {left} Lower --lr, or train in bfloat16 or float32.")


def _arguments(
    options: Hyperparameters, folder: Path, *, device: torch.device
) -> TrainingArguments:
    assert options.validate_every is not None
    schedule = options.schedule
    if schedule == "constant" and options.warmup_steps:
        schedule = "constant_with_warmup"
    args = TrainingArguments(
        output_dir=str(folder),
        learning_rate=options.lr,
        weight_decay=options.weight_decay,
        per_device_train_batch_size=options.batch_size,
        per_device_eval_batch_size=options.batch_size,
        gradient_accumulation_steps=options.accumulation,
        num_train_epochs=options.epochs,
        lr_scheduler_type=schedule,
        warmup_steps=options.warmup_steps,
        max_grad_norm=options.max_grad_norm,
        eval_strategy="steps",
        eval_steps=options.validate_every,
        save_strategy="steps",
        save_steps=options.validate_every,
        save_total_limit=None,
        logging_strategy="steps",
        # A divisor, so that a checkpoint never falls between two entries of the log.
        logging_steps=math.gcd(options.validate_every, max(1, options.validate_every // 10)),
        logging_nan_inf_filter=False,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        seed=options.seed,
        data_seed=options.seed,
        use_cpu=device.type == "cpu",
        remove_unused_columns=False,
        report_to=[],
        disable_tqdm=True,
        ddp_find_unused_parameters=False,
    )
    # One process trains on one device; Trainer would spread the batch over all it sees.
    args._n_gpu = min(args.n_gpu, 1)
    return args


@torch.no_grad()
def _mean_loss(model: Trainee, blocks: TokenBlocks, *, batch_size: int) -> float:
    was_training = model.training
    model.eval()
    device = next(model.hf.parameters()).device
    total = 0.0
    for start in range(0, len(blocks), batch_size):
        part = slice(start, start + batch_size)
        ids, labels = blocks.ids[part].long().to(device), blocks.labels[part].long().to(device)
        total += float(total_loss(model.hf, ids, labels, chunk=model.loss_chunk))
    model.train(was_training)
    return total / blocks.n_labels


@torch.no_grad()
def _set_leaves(engine: Engine, values: Mapping[str, Tensor]) -> None:
    for name, leaf in engine.leaves().items():
        leaf.copy_(values[name])
    engine.after_step()


def _result(trainer: _RowTrainer, engine: Engine, *, language: str, seconds: float) -> Trained:
    history = trainer.state.log_history
    leaves, step = trainer.store.load_best()
    _set_leaves(engine, leaves)
    curves = curves_from(history, language=language)
    at_best = curves[(curves["split"] == "validation") & (curves["step"] == step)]
    at_start = curves[(curves["split"] == "validation") & (curves["step"] == 0)]
    n_new = trainer.state.num_input_tokens_seen - trainer._initial_num_input_tokens_seen
    results = {
        "step": step,
        "tokens": int(at_best["tokens"].iloc[0]),
        "validation_loss": dict(zip(at_best["language"], at_best["loss"], strict=True)),
        "base_validation_loss": dict(zip(at_start["language"], at_start["loss"], strict=True)),
        "decay_factor": _decay_factor(trainer, step),
        "tokens_per_second": n_new / max(seconds, 1e-9),
        "peak_memory_bytes": peak_memory(),
    }
    return Trained(curves, results)


def _decay_factor(trainer: _RowTrainer, step: int) -> float:
    """Multiply what weight decay leaves of a weight in each of the first `step` steps."""
    (scale,) = trainer.lr_scheduler.lr_lambdas
    decay = trainer.args.learning_rate * trainer.args.weight_decay
    return math.prod(1.0 - decay * scale(taken) for taken in range(step))
