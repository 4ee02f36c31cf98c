"""The training loop: AdamW over the leaves of an engine, on one process or several.

The optimizer sees only the leaves, every block is read once per epoch, the loss is exact over
accumulation and processes, the validation loss is a mean over tokens, and a loss that is not a
number stops the run before it reaches the weights. At every validation the run is saved, so that it
can be resumed bit by bit.
"""

import contextlib
import logging
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, distributed
from torch.nn.parallel import DistributedDataParallel

from lse_interp.core.errors import ActivationError
from lse_interp.core.processes import Processes
from lse_interp.core.progress import Progress, progress
from lse_interp.models.architectures import HFModel
from lse_interp.subnetworks.finetune_run import CURVE_COLUMNS
from lse_interp.training.batch_order import batches_of_epoch, n_batches, take
from lse_interp.training.checkpoints import CheckpointStore, State
from lse_interp.training.engines.base import Engine, attach, clip_gradients
from lse_interp.training.hyperparameters import Hyperparameters
from lse_interp.training.reporting import Scalars, peak_memory, tensorboard
from lse_interp.training.sharded_leaves import (
    average_gradients,
    by_kind,
    gathered,
    hand_out,
    is_sharded,
    make_moments,
    moments,
    release,
)
from lse_interp.training.token_blocks import Text, TokenBlocks
from lse_interp.training.trainee import Trainee, over_processes, recomputed

__all__ = ["Trained", "train"]

logger = logging.getLogger(__name__)

_LEAF, _MOMENT, _RANDOM = "leaf/", "adamw/", "random/"


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
    text: Text,
    options: Hyperparameters,
    language: str,
    store: CheckpointStore,
    resume_from: State | None = None,
    log_folder: Path | None = None,
) -> Trained:
    """Train the leaves of an engine, and leave the best of them in the model.

    Args:
        hf: A transformers model, or a peft model around one; its blocks may be sharded.
        engine: Holds the weights to train.
        text: Text to train on, and to validate on.
        options: Hyper-parameters with all defaults filled in.
        language: Of the training text; its validation loss decides which weights are best.
        store: Where checkpoints go.
        resume_from: The state of the checkpoint in `store`; None starts from the beginning.
        log_folder: Where TensorBoard logs go; None writes none.

    Raises:
        ActivationError: A loss or its gradient stopped being a number; says at which step.
        ArtifactError: The checkpoint is damaged.
        WriteError: A checkpoint or a log could not be written.
        UnsupportedModelError: `loss_chunk` with a model that scales or caps its logits.
    """
    with contextlib.ExitStack() as is_training:
        is_training.enter_context(torch.random.fork_rng())
        is_training.callback(hf.train, hf.training)
        torch.manual_seed(options.seed)
        scalars = is_training.enter_context(tensorboard(log_folder))
        loop = _Loop(
            Trainee(hf, engine, loss_chunk=options.loss_chunk), engine, text, options,
            language=language, store=store, scalars=scalars,
        )  # fmt: skip
        is_training.callback(attach(engine, loop.optimizer))
        is_training.enter_context(recomputed(hf, wanted=options.checkpointing))
        loop.run(resume_from)
    return loop.result()


@dataclass(eq=False)
class _Loop:
    trainee: Trainee
    engine: Engine
    text: Text
    options: Hyperparameters
    _: KW_ONLY
    language: str
    store: CheckpointStore
    scalars: Scalars

    def __post_init__(self) -> None:
        options, trainee = self.options, self.trainee
        assert options.lr is not None
        assert options.validate_every is not None
        self.processes = Processes.find()
        self.is_sharded = is_sharded(trainee.parameters())
        self.model = over_processes(trainee)
        trainee.require_chunkable()
        self.device = next(trainee.hf.parameters()).device
        self.lr, self.validate_every = options.lr, options.validate_every
        # A divisor, so that a checkpoint never falls between two entries of the log.
        self.log_every = math.gcd(self.validate_every, max(1, self.validate_every // 10))
        self.n_batches = n_batches(
            len(self.text.training), batch_size=options.batch_size, world=self.processes.world
        )
        self.steps_per_epoch = math.ceil(self.n_batches / options.accumulation)
        self.n_steps = options.epochs * self.steps_per_epoch
        self.optimizer = torch.optim.AdamW(
            [{"params": kind} for kind in by_kind(self.engine.leaves().values())],
            lr=self.lr,
            weight_decay=options.weight_decay,
            fused=True,
        )
        self.state = State()
        self.logged_loss = torch.tensor(0.0, device=self.device)
        self.seconds, self.n_tokens = 0.0, 0
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def run(self, resume_from: State | None) -> None:
        """Take all steps that are left."""
        if self.processes.is_main:
            self._announce()
        if resume_from is None:
            self._validate()
        else:
            self._restore(resume_from)
        self.trainee.train()
        n_left, is_main = self.n_steps - self.state.step, self.processes.is_main
        for batches in progress(
            self._steps(), "training", unit="step", total=n_left, shown=is_main, announced=False
        ):
            began = time.perf_counter()
            norm = self._step(batches)
            self.seconds += time.perf_counter() - began
            step = self.state.step
            if step % self.log_every == 0:
                self._log(norm)
            if step % self.validate_every == 0 or step == self.n_steps:
                self._validate()
                self._save()

    def _announce(self) -> None:
        """Say how much there is to do."""
        logger.info(
            "training %s: %s steps over %s tokens; every %s steps, validation on %s",
            self.language,
            f"{self.n_steps:,}",
            f"{self.options.epochs * self.text.training.n_labels:,}",
            f"{self.validate_every:,}",
            " and ".join(
                f"{blocks.n_labels:,} tokens of {code}"
                for code, blocks in self.text.validation.items()
            ),
        )

    def result(self) -> Trained:
        """Put the best weights into the model; return what was found on the way."""
        state = self.state
        best = self.store.load_best() if self.processes.is_main else None
        hand_out(best, self.engine.leaves())
        self.engine.after_step()
        curves = pd.DataFrame(state.curves, columns=list(CURVE_COLUMNS))
        validated = curves[curves["split"] == "validation"]
        at_best, at_start = (validated[validated["step"] == s] for s in (state.best_step, 0))
        results = {
            "step": state.best_step,
            "tokens": int(at_best["tokens"].iloc[0]),
            "validation_loss": dict(zip(at_best["language"], at_best["loss"], strict=True)),
            "base_validation_loss": dict(zip(at_start["language"], at_start["loss"], strict=True)),
            "decay_factor": self.options.decay_factor(state.best_step, n_steps=self.n_steps),
            "tokens_per_second": self.n_tokens / max(self.seconds, 1e-9),
            "peak_memory_bytes": peak_memory(),
        }
        # The main process may delete the checkpoints once all have read the best.
        self.processes.wait()
        return Trained(curves, results)

    def _steps(self) -> Iterator[list[TokenBlocks]]:
        """Yield the batches of every step that is left."""
        n_parts = self.options.accumulation
        for epoch in range(self.state.step // self.steps_per_epoch, self.options.epochs):
            batches = batches_of_epoch(
                len(self.text.training),
                batch_size=self.options.batch_size,
                seed=self.options.seed,
                epoch=epoch,
                rank=self.processes.rank,
                world=self.processes.world,
            )
            done = self.state.step - epoch * self.steps_per_epoch
            for start in range(done * n_parts, len(batches), n_parts):
                parts = batches[start : start + n_parts]
                yield [take(self.text.training, indices) for indices in parts]

    def _step(self, batches: list[TokenBlocks]) -> Tensor:
        """Take one step; return the norm of its gradient."""
        world = self.processes.world
        n_tokens = torch.tensor(sum(b.n_labels for b in batches), device=self.device)
        if world > 1:
            distributed.all_reduce(n_tokens)
        for at, batch in enumerate(batches):
            with self._reducing(wanted=at == len(batches) - 1):
                # The gradients of the processes are averaged, hence the factor.
                loss = self.model(*_on(batch, self.device)) / n_tokens * world
                loss.backward()
            self._require_number(loss.detach(), f"The loss of step {self.state.step + 1}")
            self.logged_loss += loss.detach()
        if self.is_sharded:
            self.engine.before_step()
            average_gradients(self.engine.leaves().values())
        norm = clip_gradients(self.engine, self.options.max_grad_norm)
        self._require_number(norm, f"The norm of the gradient of step {self.state.step + 1}")
        scale = self.options.lr_scale(self.state.step, n_steps=self.n_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * scale
        self.optimizer.step()
        self.trainee.zero_grad()
        self.state.step += 1
        self.state.tokens += int(n_tokens)
        self.n_tokens += int(n_tokens)
        return norm

    def _reducing(self, *, wanted: bool) -> contextlib.AbstractContextManager[None]:
        """Reduce gradients over processes once per step; FSDP2 does so in every backward pass."""
        if wanted or not isinstance(self.model, DistributedDataParallel):
            return contextlib.nullcontext()
        return self.model.no_sync()

    def _log(self, norm: Tensor) -> None:
        total = self.logged_loss.clone()
        self.logged_loss.zero_()
        if self.processes.world > 1:
            distributed.all_reduce(total)
        loss = (total / self.processes.world).item() / self.log_every
        state = self.state
        state.curves.append((state.step, state.tokens, "train", self.language, loss))
        lr = self.optimizer.param_groups[0]["lr"]
        self._write({"loss": loss, "grad_norm": float(norm), "learning_rate": lr}, prefix="train/")

    def _validate(self) -> None:
        """Measure nats per token in every language, and keep the weights if they are the best."""
        state, first = self.state, self.language
        total, is_main = sum(map(len, self.text.validation.values())), self.processes.is_main
        with Progress(
            "validation", total=total, unit="block", shown=is_main, announced=False
        ) as bar:
            losses = {
                code: self._mean_loss(blocks, bar) for code, blocks in self.text.validation.items()
            }
        if self.is_sharded:
            release(self.trainee)
        # Devices of different kinds differ in the last bits, and all must agree on what is best.
        losses = self.processes.decide(lambda: losses)
        for code, loss in losses.items():
            self._require_number(loss, f"The validation loss of {code} after step {state.step}")
        for code in sorted(losses, key=lambda code: (code != first, code)):
            state.curves.append((state.step, state.tokens, "validation", code, losses[code]))
        self._write(
            {"loss": losses[first]} | {f"loss_{code}": loss for code, loss in losses.items()},
            prefix="eval/",
        )
        if self.processes.is_main:
            shown = "  ".join(f"{code} {loss:.4f}" for code, loss in losses.items())
            tokens = f"{state.tokens:,}"
            logger.info("step %4d  %9s tokens  validation %s", state.step, tokens, shown)
        if state.step and losses[first] < state.best_loss:
            state.best_step, state.best_loss = state.step, losses[first]
            leaves = gathered(self.engine.leaves(), keep=self.processes.is_main)
            if self.processes.is_main:
                self.store.save_best(leaves, step=state.step)
            if self.options.switches.rebuild_optimizer:
                self.optimizer.state.clear()

    @torch.no_grad()
    def _mean_loss(self, blocks: TokenBlocks, bar: Progress) -> float:
        was_training, total = self.trainee.training, 0.0
        self.trainee.eval()
        for start in range(0, len(blocks), self.options.batch_size):
            part = slice(start, start + self.options.batch_size)
            batch = TokenBlocks(blocks.ids[part], blocks.labels[part])
            total += float(self.trainee(*_on(batch, self.device)))
            bar.advance(len(batch))
        self.trainee.train(was_training)
        return total / blocks.n_labels

    def _save(self) -> None:
        is_main = self.processes.is_main
        leaves = self.engine.leaves()
        held: dict[str, Tensor] = {_LEAF + name: leaf for name, leaf in leaves.items()}
        held |= {_MOMENT + name: value for name, value in moments(self.optimizer, leaves).items()}
        tensors = gathered(held, keep=is_main)
        for rank, states in enumerate(self.processes.gather(_random_states())):
            tensors |= {f"{_RANDOM}{rank}/{kind}": value for kind, value in states.items()}
        if is_main:
            self.store.save(tensors, state=self.state)
        self.processes.wait()

    def _restore(self, state: State) -> None:
        tensors = self.store.load() if self.processes.is_main else None
        names = self.processes.decide(lambda: list(tensors or ()))
        leaves = self.engine.leaves()
        held = {_LEAF + name: leaf.detach() for name, leaf in leaves.items()}
        wanted = [name.removeprefix(_MOMENT) for name in names if name.startswith(_MOMENT)]
        made = make_moments(self.optimizer, leaves, wanted)
        hand_out(tensors, held | {_MOMENT + name: value for name, value in made.items()})
        self.engine.after_step()
        random = self.processes.decide(
            lambda: {n: v for n, v in (tensors or {}).items() if n.startswith(_RANDOM)}
        )
        own = f"{_RANDOM}{self.processes.rank}/"
        _set_random_states({n.removeprefix(own): v for n, v in random.items() if n.startswith(own)})
        self.state = state

    def _write(self, values: Mapping[str, float], *, prefix: str) -> None:
        values = {prefix + name: value for name, value in values.items()}
        self.scalars(values | {"train/tokens": self.state.tokens}, self.state.step)

    def _require_number(self, value: Tensor | float, what: str) -> None:
        if not math.isfinite(number := float(value)):
            raise ActivationError(
                f"{what} is {number}, so training ends here. Its last checkpoint, if it came to "
                f"one, stays in {self.store.folder}. Lower --lr, or train in bfloat16 or float32."
            )


def _on(blocks: TokenBlocks, device: torch.device) -> tuple[Tensor, Tensor]:
    return blocks.ids.long().to(device), blocks.labels.long().to(device)


def _random_states() -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _set_random_states(states: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
