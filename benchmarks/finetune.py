"""Time and memory of one optimizer step, beside other ways to train.

    python benchmarks/finetune.py                  # a Llama of 66 million weights, on the CPU
    python benchmarks/finetune.py --shape llama-3.1-8b --device cuda --dtype bfloat16

All methods train the same model with random weights, on the same tokens: forward pass and loss,
backward pass, and the step (clipping, AdamW, weights written back). The neurons are 1 % of each
layer, so that the gradient goes through every layer: a language's own neurons gather in few. The
methods take turns; reported is the median over rounds of time / time of the first method in the
same round. The peak of memory is measured of each method alone, on the CPU in a fresh process.
The result replaces the section between the `<!-- finetune ... -->` markers of
`docs/benchmarks.md`; CPU and GPU have one each.
"""

import dataclasses
import logging
import multiprocessing
import random
import statistics
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from common import DOCS, machine, random_llama, rounds, write_section
from finetune_methods import METHODS, Method
from finetune_training import Job, Memory, Training, memory_of, release, time_step
from torch import Tensor

from lse_interp.core.cli import main_for
from lse_interp.core.errors import LseError, near_misses
from lse_interp.core.progress import progress
from lse_interp.models.hooked import HookedModel

logger = logging.getLogger(__name__)

SHAPES = {
    # d_model, layers, d_mlp, attention heads, key-value heads, vocabulary
    "llama-66m": (512, 8, 2048, 8, 8, 32_000),
    "llama-3.1-8b": (4096, 32, 14336, 32, 8, 128_256),
    "llama-2m": (128, 4, 512, 4, 2, 4_000),
}
BATCHES = {"llama-3.1-8b": ("2x512", "8x1024"), "llama-2m": ("2x64",)}


@dataclasses.dataclass(frozen=True)
class Config:
    """Compare ways to train."""

    shape: str = "llama-66m"
    """`llama-66m`, `llama-3.1-8b` or `llama-2m`: random weights in a Llama's shape."""
    batches: tuple[str, ...] | None = None
    """Sequences x tokens; by default 2x256, for `llama-3.1-8b` 2x512 and 8x1024."""
    device: str = "cpu"
    dtype: str = "float32"
    share: float = 0.01
    """Share of the neurons of each layer that is trained, in (0, 1]."""
    chunk: int = 128
    """Positions whose logits exist at a time, where the loss is taken in chunks."""
    threads: int | None = None
    """CPU threads; by default what torch chooses."""
    steps: int = 2
    """Timed steps of a method in a round, after one that is not timed."""
    seconds: float = 300.0
    """Time to spend on the rounds of each batch shape; at least 5 rounds are run."""
    quick: bool = False
    """A small model for a few seconds, without memory; writes no file."""
    out: Path = DOCS


@dataclasses.dataclass(frozen=True)
class Row:
    """What was measured of one method."""

    name: str
    n_trained: int
    memory: Memory | None
    wall: list[list[float]]
    """Seconds of each phase [round phase]; empty where memory did not suffice."""
    cpu: list[list[float]]
    """Processor seconds likewise: other processes disturb them less."""


def measure(config: Config, batch: tuple[int, int]) -> list[Row]:
    """Measure the memory of each method alone, then time those that fit in turns."""
    memory: dict[str, Memory | None] = {}
    if not _on_gpu(config) and not config.quick:
        memory = {m.name: _memory_of_fresh_process(config, m.name, batch) for m in METHODS}
    job = make_job(config, batch)
    if _on_gpu(config):
        memory = {m.name: memory_of(m, job) for m in METHODS}
    fitting = [m for m in METHODS if m.name not in memory or memory[m.name] is not None]
    n_trained = agree(job, fitting)
    seconds, least = (4.0, 2) if config.quick else (config.seconds, 5)
    times = [
        _round(fitting, job, config.steps, random.Random(seed))
        for seed in progress(rounds(seconds, least=least), config.shape, unit="round")
    ]
    return [
        Row(
            name=method.name,
            n_trained=n_trained.get(method.name, 0),
            memory=memory.get(method.name),
            wall=[taken[method.name][0] for taken in times if method in fitting],
            cpu=[taken[method.name][1] for taken in times if method in fitting],
        )
        for method in METHODS
    ]


def agree(job: Job, methods: list[Method]) -> dict[str, int]:
    """Refuse to time methods that train different things; count the weights each trains.

    Raises:
        LseError: A loss, or a gradient of the chosen neurons, differs by more than rounding does.
    """
    tolerance = 1e-4 if job.model.dtype.itemsize >= 4 else 0.1
    expected: dict[str, Tensor] = {}
    n_trained = {}
    for method in methods:
        training = Training(method, job)
        loss = training.forward()
        found = {"loss": loss.detach().float().cpu()}
        if method.same_rows:
            loss.backward()
            found["gradient"] = training.gradient()
        n_trained[method.name] = sum(leaf.numel() for leaf in training.leaves)
        training.close()
        del training, loss
        release(job.ids)
        for what, value in found.items():
            reference = expected.setdefault(what, value)
            error = float((value - reference).norm() / reference.norm())
            if not error <= tolerance:
                raise LseError(f"{method.name}: its {what} is off by {error:.1e} of its size.")
    return n_trained


def report(rows: list[Row], config: Config, batch: tuple[int, int]) -> str:
    """Write the rows of one batch shape as a Markdown table."""
    base = next(row for row in rows if row.wall)
    n_rounds = len(base.wall)
    total = [_sums(row.wall) for row in rows], [_sums(row.cpu) for row in rows]
    used = sum(map(sum, total[1])) / sum(map(sum, total[0]))
    d_model, n_layers, d_mlp, _, _, vocab = SHAPES[config.shape]
    lines = [
        f"**{config.shape}** ({n_layers} layers x {d_mlp:,} neurons, d_model {d_model:,}, "
        f"vocabulary {vocab:,}, {config.dtype}), {config.share:.1%} of the neurons, batches of "
        f"{batch[0]} x {batch[1]:,} tokens, {n_rounds} rounds of {config.steps} steps; of "
        f"{torch.get_num_threads()} CPU thread(s), {used:.2f} ran on average; ratios to "
        f"{base.name}:",
        "",
        "| method | trained, M | forward, ms | backward, ms | step, ms | tokens/s "
        "| time ratio | quartiles | CPU time ratio | peak memory, MB | peak ratio | held, MB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    return "\n".join(lines + [_line(row, base, batch) for row in rows])


def make_job(config: Config, batch: tuple[int, int]) -> Job:
    """Build a Llama with random weights on its device; draw neurons and tokens.

    Raises:
        LseError: Unknown shape.
    """
    if config.shape not in SHAPES:
        raise LseError(f"Unknown shape {config.shape!r}. {near_misses(config.shape, SHAPES)}")
    _, n_layers, d_mlp, _, _, vocab = SHAPES[config.shape]
    hf = random_llama(SHAPES[config.shape], device=config.device, dtype=config.dtype)
    ids = torch.randint(3, vocab, batch, generator=torch.Generator().manual_seed(0))
    neurons = draw_neurons(config.share, n_layers=n_layers, d_mlp=d_mlp)
    model = HookedModel(hf.train(), name=config.shape)
    return Job(model, neurons, ids.to(config.device), config.chunk)


def draw_neurons(share: float, *, n_layers: int, d_mlp: int) -> list[Tensor]:
    """Draw the same number of neurons in each layer.

    Raises:
        LseError: A share outside (0, 1].
    """
    if not 0 < share <= 1:
        raise LseError(f"`share` must be in (0, 1]; got {share}.")
    size = max(1, round(share * d_mlp))
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randperm(d_mlp, generator=generator)[:size].sort().values for _ in range(n_layers)
    ]


def run(config: Config) -> None:
    """Measure every batch shape and put the tables where they belong."""
    if config.quick:
        config = dataclasses.replace(config, shape="llama-2m", batches=None, device="cpu")
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    tables = []
    for text in config.batches or BATCHES.get(config.shape, ("2x256",)):
        batch = _batch(text)
        tables.append(report(measure(config, batch), config, batch))
        logger.info("%s", tables[-1])
    if config.quick:
        return
    kind = "GPU" if _on_gpu(config) else "CPU"
    section = "\n\n".join([f"## Fine-tuning, {kind}", _preamble(config), *tables])
    write_section(config.out, section, marker=f"<!-- finetune {kind.lower()} -->")
    logger.info("wrote %s", config.out)


def _preamble(config: Config) -> str:
    return (
        f"`python benchmarks/finetune.py --shape {config.shape}` on {machine(config.device)}, "
        f"torch {torch.__version__}. One step is forward pass and loss (cross-entropy in float32), "
        "backward pass, and step (clipping, fused AdamW, weights written back). The methods take "
        "turns; a time ratio is the median over rounds of the ratio within a round."
        " `clone and scatter` copies each dense weight in each forward pass, puts the "
        "trained rows in, and lets autograd form dense weight gradients. The neurons are spread "
        "evenly over the layers. Memory is the peak above the loaded model; `held` is what is "
        "there before the optimizer's step: leaves outside the model, gradients, optimizer state. "
        f"The chunked loss has {config.chunk} positions at a time. Where other processes shared "
        "the machine, tokens/s are too low and the ratios of wall time scatter (see the "
        "quartiles); the ratios of CPU time are then the ones to trust."
    )


def _line(row: Row, base: Row, batch: tuple[int, int]) -> str:
    if not row.wall:
        return f"| {row.name} | | out of memory |" + " |" * 9
    phases = [1e3 * statistics.median(phase) for phase in zip(*row.wall, strict=True)]
    tokens = batch[0] * batch[1] / statistics.median(_sums(row.wall))
    ratios = _ratios(row.wall, base.wall)
    low, _, high = statistics.quantiles(ratios, n=4)
    cells = [
        row.name,
        f"{row.n_trained / 1e6:.2f}",
        *(f"{phase:,.0f}" for phase in phases),
        f"{tokens:,.0f}",
        f"{statistics.median(ratios):.3f}",
        f"{low:.2f} to {high:.2f}",
        f"{statistics.median(_ratios(row.cpu, base.cpu)):.3f}",
        *_memory_cells(row, base),
    ]
    return f"| {' | '.join(cells)} |"


def _memory_cells(row: Row, base: Row) -> list[str]:
    if row.memory is None:
        return ["", "", ""]
    held = f"{row.memory.held:,.1f}"
    if row.memory.peak is None or base.memory is None or base.memory.peak is None:
        return ["", "", held]
    return [f"{row.memory.peak:,.0f}", f"{row.memory.peak / base.memory.peak:.3f}", held]


def _sums(times: list[list[float]]) -> list[float]:
    return [sum(phases) for phases in times]


def _ratios(times: list[list[float]], base: list[list[float]]) -> list[float]:
    return [a / b for a, b in zip(_sums(times), _sums(base), strict=True)]


def _round(
    methods: list[Method], job: Job, n_steps: int, rng: random.Random
) -> dict[str, tuple[list[float], list[float]]]:
    # In random order: a method pays for the memory that the one before it has touched.
    times = {}
    for method in rng.sample(methods, len(methods)):
        training = Training(method, job)
        time_step(training)
        walls, cpus = zip(*(time_step(training) for _ in range(n_steps)), strict=True)
        training.close()
        del training
        release(job.ids)
        times[method.name] = (_means(walls), _means(cpus))
    return times


def _means(steps: tuple[list[float], ...]) -> list[float]:
    return [statistics.fmean(phase) for phase in zip(*steps, strict=True)]


def _memory_of_fresh_process(config: Config, name: str, batch: tuple[int, int]) -> Memory | None:
    # Allocators keep what they have freed, so a process that has trained before says too little.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        found = pool.submit(_memory_here, config, name, batch).result()
    logger.info("%s: %s", name, found)
    return found


def _memory_here(config: Config, name: str, batch: tuple[int, int]) -> Memory | None:
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    method = next(method for method in METHODS if method.name == name)
    # First on a small model: what is imported and started on the way counts for no method.
    memory_of(method, make_job(dataclasses.replace(config, shape="llama-2m"), (2, 32)))
    return memory_of(method, make_job(config, batch))


def _on_gpu(config: Config) -> bool:
    return config.device.startswith("cuda")


def _batch(text: str) -> tuple[int, int]:
    sequences, _, tokens = text.partition("x")
    if not (sequences.isdigit() and tokens.isdigit() and int(sequences) and int(tokens) > 1):
        raise LseError(f"A batch is written as sequences x tokens, e.g. 2x256; got {text!r}.")
    return int(sequences), int(tokens)


if __name__ == "__main__":
    raise SystemExit(main_for(Config, run, description=__doc__))
