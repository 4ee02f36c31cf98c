"""The training loop: transformers' Trainer, over the leaves of an engine.

Trainer does what it is good at: accumulation, schedules, mixed devices, DDP, logging, state and
resuming; `trainer.py` says what differs here. A sharded model (FSDP2) is trained as it is.
"""

import math
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from transformers import PrinterCallback, TrainingArguments

from lse_interp.core.errors import ArtifactError
from lse_interp.core.processes import Processes
from lse_interp.models.architectures import HFModel
from lse_interp.training.checkpoints import CheckpointStore
from lse_interp.training.engines.base import Engine
from lse_interp.training.hyperparameters import Hyperparameters
from lse_interp.training.progress import Progress, curves_from, peak_memory, tensorboard
from lse_interp.training.sharded_leaves import is_sharded, shard_root
from lse_interp.training.token_blocks import TokenBlocks
from lse_interp.training.trainer import RowTrainer, Trainee, set_leaves

__all__ = ["Trained", "checkpoint_activations", "train"]


@dataclass(frozen=True)
class Trained:
    """How a training went. The engine's leaves, and so the model, hold the best weights."""

    curves: pd.DataFrame
    """Columns `CURVE_COLUMNS`."""
    results: Mapping[str, Any]
    """As in `FinetuneRun.results`, without `n_trainable`."""


def train(
    hf: HFModel,
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
        hf: A transformers model, or a peft model around one; its blocks may be sharded.
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
    trainee = Trainee(hf, engine, loss_chunk=options.loss_chunk)
    if is_sharded(hf.parameters()):
        shard_root(trainee, "require_chunkable")
        # To accelerate: otherwise it would ask DDP to hold whole what is in parts.
        trainee._is_accelerate_prepared = True
    if options.loss_chunk is not None:
        trainee.require_chunkable()
    if options.checkpointing:
        checkpoint_activations(hf)
    progress = Progress()
    with store.guarded("the TensorBoard logs", folder=log_folder):
        callbacks = [progress, *tensorboard(log_folder)]
    trainer = RowTrainer(
        model=trainee,
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
    except pickle.UnpicklingError as error:
        raise ArtifactError(
            f"{resume_from} cannot be read: it holds more than tensors, which may be code; it was "
            "not run. Start the run afresh with --overwrite."
        ) from error
    finally:
        trainer.detach()
        if options.checkpointing:
            _checkpointing(hf, "disable")()
    result = _result(trainer, engine, language=language, seconds=progress.seconds)
    # The main process may delete the checkpoints once all have read the best.
    Processes.find().wait()
    return result


def checkpoint_activations(hf: HFModel) -> None:
    """Recompute activations in the backward pass, without asking for gradients of the input.

    transformers makes the embeddings require gradients along with it, which would force the
    backward pass through every layer below the lowest that is trained.
    """
    _checkpointing(hf, "enable")({"use_reentrant": False})
    hf.disable_input_require_grads()


def _checkpointing(hf: HFModel, change: Literal["enable", "disable"]) -> Callable[..., None]:
    # transformers below 5.23 speaks of gradients, and 6 of activations alone.
    return getattr(hf, f"activation_checkpointing_{change}", None) or getattr(
        hf, f"gradient_checkpointing_{change}"
    )


def _arguments(
    options: Hyperparameters, folder: Path, *, device: torch.device
) -> TrainingArguments:
    assert options.validate_every is not None
    assert options.lr is not None
    schedule: str = options.schedule
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


def _result(trainer: RowTrainer, engine: Engine, *, language: str, seconds: float) -> Trained:
    history = trainer.state.log_history
    store, is_main = trainer.store, trainer.args.should_save
    step = store.best_step()
    set_leaves(engine, store.load_best() if is_main else None)
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


def _decay_factor(trainer: RowTrainer, step: int) -> float:
    """Multiply what weight decay leaves of a weight in each of the first `step` steps."""
    scale = trainer.lr_scheduler.lr_lambdas[0]
    decay = trainer.args.learning_rate * trainer.args.weight_decay
    return math.prod(1.0 - decay * scale(taken) for taken in range(step))
