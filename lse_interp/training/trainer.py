"""transformers' Trainer over the leaves of an engine.

The optimizer sees the leaves, checkpoints hold these alone and are written whole or not at all,
every block is read once per epoch, the loss is exact over accumulation and processes, the
validation loss is a mean over tokens, and a loss that is not a number stops the run before it
reaches the weights.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed, nn
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME

from lse_interp.core.errors import ActivationError
from lse_interp.core.processes import Processes
from lse_interp.data.packing import IGNORE
from lse_interp.models.architectures import HFModel
from lse_interp.models.placement.dtensors import whole
from lse_interp.training.batch_order import BatchesInTurn, training_batches
from lse_interp.training.checkpoints import CheckpointStore
from lse_interp.training.engines.base import Engine, attach, clip_gradients
from lse_interp.training.hyperparameters import Hyperparameters
from lse_interp.training.loss import check_chunked, total_loss
from lse_interp.training.sharded_leaves import (
    average_gradients,
    by_kind,
    gathered_state,
    hand_out,
    is_sharded,
    own_state,
    release,
)
from lse_interp.training.token_blocks import TokenBlocks

__all__ = ["RowTrainer", "Trainee", "set_leaves"]

_LEAVES = "leaves.safetensors"


class Trainee(nn.Module):
    """What Trainer trains: a model, its loss, and the leaves where the forward pass reads them."""

    accepts_loss_kwargs = True
    _is_accelerate_prepared = False

    def __init__(self, hf: HFModel, engine: Engine, *, loss_chunk: int | None = None) -> None:
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

    def require_chunkable(self) -> None:
        """Refuse `loss_chunk` where it would give another loss; see `check_chunked`."""
        check_chunked(self.hf)


class RowTrainer(Trainer):
    """Trainer whose optimizer and checkpoints hold an engine's leaves."""

    model: Trainee
    optimizer: Any
    lr_scheduler: Any
    train_dataset: Any
    eval_dataset: Any

    def set_up(
        self,
        engine: Engine,
        *,
        options: Hyperparameters,
        store: CheckpointStore,
        log_folder: Path | None,
    ) -> None:
        """Say what is trained, how, and where it is kept."""
        self.engine, self.options, self.store = engine, options, store
        self._log_folder = log_folder
        self.detach = lambda: None
        self._folder = store.folder
        self._blocks_in_parts = is_sharded(self.model.parameters())

    def _move_model_to_device(self, model: nn.Module, device: torch.device) -> None:
        # What is sharded was made where it belongs, and cannot be moved.
        if not is_sharded(model.parameters()):
            super()._move_model_to_device(model, device)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Make AdamW over the leaves, and run the engine around its steps."""
        if self.optimizer is None:
            self.optimizer = torch.optim.AdamW(
                [{"params": kind} for kind in by_kind(self.engine.leaves().values())],
                lr=self.args.learning_rate,
                weight_decay=self.args.weight_decay,
                fused=True,
            )
            self.detach = attach(self.engine, self.optimizer)
        return self.optimizer

    def get_train_dataloader(self) -> DataLoader:
        """Read every block once per epoch, whatever the number of processes."""
        blocks, args = self.train_dataset, self.args
        batches = BatchesInTurn(
            len(blocks),
            batch_size=args.train_batch_size,
            seed=args.seed,
            epoch=lambda: self.state.global_step // n_steps,
            rank=args.process_index,
            world=args.world_size,
        )
        n_steps = math.ceil(len(batches) / args.gradient_accumulation_steps)
        return training_batches(
            blocks,
            batches,
            collate=self.data_collator,
            pin_memory=args.device.type == "cuda",
        )

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Take one step; a loss that is not a number ends the run."""
        loss = super().training_step(*args, **kwargs)
        self._require_number(loss, "The loss")
        return loss

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        self.accelerator.unscale_gradients(self.optimizer)
        if self._blocks_in_parts:
            self.engine.before_step()
            average_gradients(self.engine.leaves().values())
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
        losses = _of_main(
            {
                language: _mean_loss(self.model, blocks, batch_size=self.args.eval_batch_size)
                for language, blocks in self.eval_dataset.items()
            }
        )
        if self._blocks_in_parts:
            release(self.model)
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
        """Log, with the tokens read so far."""
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
            leaves = self._whole_leaves()
            if self.args.should_save:
                self.store.save_best(leaves, step=self.state.global_step)
            if self.options.switches.rebuild_optimizer:
                self.optimizer.state.clear()
        return is_best

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self._to_save = self._whole_leaves()
        if self.args.should_save:
            with self.store.staged(self.state.global_step) as staging:
                self._write_checkpoint(model, staging)
        else:
            self._write_checkpoint(model, self.store.staging)
        self._folder = self.store.folder
        del self._to_save

    def _write_checkpoint(self, model: nn.Module, folder: Path) -> None:
        """Write this process's part; the main one makes the folder and renames it when all did."""
        Processes.find().wait()
        self._folder = folder
        super()._save_checkpoint(model, None)
        Processes.find().wait()

    def _whole_leaves(self) -> dict[str, Tensor]:
        """Bring all leaves to the host of the main process; every process lends its parts."""
        leaves = {}
        for name, leaf in self.engine.leaves().items():
            gathered = whole(leaf.detach())
            if self.args.should_save:
                leaves[name] = gathered.cpu()
        return leaves

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._folder)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        # Trainer asks every process.
        if not self.args.should_save:
            return
        folder = Path(output_dir or self._folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self._to_save, folder / _LEAVES)

    def _load_from_checkpoint(self, checkpoint: str, model: nn.Module | None = None) -> None:
        leaves = load_file(Path(checkpoint) / _LEAVES) if self.args.should_save else None
        set_leaves(self.engine, leaves)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        state = gathered_state(self.optimizer, self.engine.leaves(), keep=self.args.should_save)
        if self.args.should_save:
            torch.save(state, Path(output_dir) / OPTIMIZER_NAME)
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        # Mapped, so that each process reads its own part alone.
        state = torch.load(Path(checkpoint) / OPTIMIZER_NAME, map_location="cpu", mmap=True)
        own = own_state(self.optimizer, self.engine.leaves(), state)
        self.optimizer.load_state_dict(own)
        schedule = torch.load(Path(checkpoint) / SCHEDULER_NAME)
        # One entry per group of the optimizer, all alike; how leaves are held decides how many.
        n = len(self.optimizer.param_groups)
        self.lr_scheduler.load_state_dict(
            {key: v[:1] * n if isinstance(v, list) else v for key, v in schedule.items()}
        )

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


def set_leaves(engine: Engine, values: Mapping[str, Tensor] | None) -> None:
    """Give all processes the leaves that the main process has, and write them into the model."""
    hand_out(values, engine.leaves())
    engine.after_step()


def _of_main(losses: dict[str, float]) -> dict[str, float]:
    """Return the main process's losses in all processes, which then decide alike what is best."""
    if not distributed.is_initialized():
        return losses
    # Devices of different kinds differ in the last bits.
    told = [losses]
    distributed.broadcast_object_list(told)
    return told[0]


@torch.no_grad()
def _mean_loss(model: Trainee, blocks: TokenBlocks, *, batch_size: int) -> float:
    was_training = model.training
    model.eval()
    device = next(model.hf.parameters()).device
    total = 0.0
    for start in range(0, len(blocks), batch_size):
        part = slice(start, start + batch_size)
        ids, labels = blocks.ids[part].long().to(device), blocks.labels[part].long().to(device)
        total += float(model(ids, labels, num_items_in_batch=1)["loss"])
    model.train(was_training)
    return total / blocks.n_labels
