"""Time and memory of counting activations, compared with the bare model and other ways to count.

    python benchmarks/counting.py                          # the embedded model and a wider one
    python benchmarks/counting.py --models random-8b --device cuda --dtype bfloat16

Every method counts the same tokens through the same weights: for each neuron, how often its gate
is above 0 and the sum of its values. The methods take turns, so that whatever else the machine
does falls on all of them; reported is the median over rounds of time / time of the bare forward
pass (no language-model head) in the same round, under the same attention implementation. The
result replaces the section between the `<!-- counting -->` markers of `docs/benchmarks.md`.
"""

import dataclasses
import gc
import logging
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from common import (
    DOCS,
    forward_flops,
    machine,
    matmul_peak,
    random_llama,
    reset_peak,
    resident_mb,
    rounds,
    write_section,
)
from counting_methods import METHODS, Step, ours
from torch import Tensor

from lse_interp.core.cli import main_for
from lse_interp.core.errors import LseError, near_misses
from lse_interp.core.progress import progress
from lse_interp.models.backends._firing import share_tensors
from lse_interp.models.hooked import HookedModel
from lse_interp.models.loading import load_model

logger = logging.getLogger(__name__)

SHAPES = {
    # d_model, layers, d_mlp, attention heads, key-value heads, vocabulary
    "random-23m": (512, 4, 2048, 8, 4, 8_000),
    "random-8b": (4096, 32, 14336, 32, 8, 128_256),
}
MARKER = "<!-- counting -->"


@dataclasses.dataclass(frozen=True)
class Config:
    """Compare ways to count activations."""

    models: tuple[str, ...] = ("embedded", "random-23m")
    """`random-23m`, `random-8b` (random weights in a Llama's shape), or anything that
    `load_model` takes."""
    device: str = "cpu"
    dtype: str = "float32"
    batch_size: int = 8
    block_size: int = 128
    threads: int | None = None
    """CPU threads; by default what torch chooses."""
    seconds: float = 100.0
    """Time to spend on each model; at least 5 rounds are run."""
    quick: bool = False
    """The embedded model for 15 seconds; writes no file."""
    out: Path = DOCS


@dataclasses.dataclass(frozen=True)
class Row:
    """What was measured of one method."""

    name: str
    attention: str
    wall: list[float]
    """Seconds per batch, by round."""
    cpu: list[float]
    """Processor seconds per batch, by round: other processes disturb them less."""
    peak_mb: float | None
    """Peak memory above the loaded model; None where it cannot be measured."""


def measure(model: HookedModel, config: Config, *, seconds: float) -> list[Row]:
    """Check that the methods agree, then time them in turns."""
    eager = HookedModel(share_tensors(model.hf), model.tokenizer, name=model.name)
    eager.hf.set_attn_implementation("eager")
    model.hf.set_attn_implementation("sdpa")
    subject = {"sdpa": model, "eager": eager}
    generator = torch.Generator().manual_seed(0)
    shape = (config.batch_size, config.block_size)
    vocab = model.hf.config.vocab_size
    ids = torch.randint(3, vocab, shape, generator=generator).to(model.device)

    agree(subject, ids)
    peaks = [_peak_mb(method.make, subject[method.attention], ids) for method in METHODS]
    steps = [method.make(subject[method.attention]) for method in METHODS]
    measured = [
        _round(steps, ids, random.Random(seed))
        for seed in progress(rounds(seconds), model.name, unit="round")
    ]
    return [
        Row(
            name=method.name,
            attention=method.attention,
            wall=[times[i][0] for times in measured],
            cpu=[times[i][1] for times in measured],
            peak_mb=peaks[i],
        )
        for i, method in enumerate(METHODS)
    ]


def agree(subject: dict[str, HookedModel], ids: Tensor) -> None:
    """Refuse to time methods that count different things.

    Raises:
        LseError: A count differs by more than rounding explains: 0.5 % of the tokens.
    """
    expected = ours(subject["eager"])(ids)
    assert expected is not None
    for method in METHODS:
        found = method.make(subject[method.attention])(ids)
        if found is None:
            continue
        worst = int((found[0] - expected[0]).abs().max())
        if worst > 0.005 * ids.numel():
            raise LseError(f"{method.name} counts other things: a count is off by {worst}.")


def report(model: HookedModel, rows: list[Row], config: Config) -> str:
    """Write the rows of one model as a Markdown table."""
    n_tokens = config.batch_size * config.block_size
    base = {row.attention: row for row in rows if row.name.startswith("bare")}
    used = sum(map(sum, (row.cpu for row in rows))) / sum(map(sum, (row.wall for row in rows)))
    peak = max(matmul_peak(config.device, config.dtype) for _ in range(3))
    lines = [
        f"**{model.name}** ({model.n_layers} layers x {model.d_mlp:,} neurons, d_model "
        f"{model.d_model}, {config.dtype}), batches of {config.batch_size} x "
        f"{config.block_size} tokens, {len(rows[0].wall)} rounds; "
        f"of {torch.get_num_threads()} CPU thread(s), {used:.2f} ran on average. Of the measured "
        f"matmul peak, {peak / 1e12:.3g} TFLOP/s, {_shares_of(peak, model, rows, config)}:",
        "",
        "| method | attention | tokens/s | time / bare | quartiles | CPU time / bare "
        "| peak memory, MB |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        ratios = [a / b for a, b in zip(row.wall, base[row.attention].wall, strict=True)]
        cpu = [a / b for a, b in zip(row.cpu, base[row.attention].cpu, strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4)
        peak = "" if row.peak_mb is None else f"{row.peak_mb:,.0f}"
        quartiles = f"{low:.2f} to {high:.2f}"
        lines.append(
            f"| {row.name} | {row.attention} | {n_tokens / statistics.median(row.wall):,.0f} "
            f"| {statistics.median(ratios):.3f} | {quartiles} "
            f"| {statistics.median(cpu):.3f} | {peak} |"
        )
    return "\n".join(lines)


def _shares_of(peak: float, model: HookedModel, rows: list[Row], config: Config) -> str:
    """Say which part of the peak the bare forward and counting reach."""
    flops = forward_flops(model.hf, config.block_size)
    # Counting ends behind the last gate.
    flops_of = {"bare": flops, "lse_interp": flops - 2 * 2 * model.d_model * model.d_mlp}
    n_tokens = config.batch_size * config.block_size
    shares = []
    for row in rows[:2]:
        per_second = flops_of[row.name.split()[0]] * n_tokens / statistics.median(row.wall)
        shares.append(f"{row.name} reaches {100 * per_second / peak:.0f} %")
    return " and ".join(shares)


def run(config: Config) -> None:
    """Measure every model and put the tables where they belong."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    models = ("embedded",) if config.quick else config.models
    tables = []
    for name in models:
        model = _model(name, config)
        rows = measure(model, config, seconds=15.0 if config.quick else config.seconds)
        tables.append(report(model, rows, config))
        logger.info("%s", tables[-1])
    if config.quick:
        return
    section = "\n\n".join(["## Counting activations", _preamble(config), *tables])
    write_section(config.out, section, marker=MARKER)
    logger.info("wrote %s", config.out)


def _preamble(config: Config) -> str:
    return (
        f"`python benchmarks/counting.py` on {machine(config.device)}, torch {torch.__version__}. "
        "The methods take turns; `time / bare` is the median over rounds of the time of a method "
        "/ that of the bare forward pass in the same round. Memory is the peak above the loaded "
        "model. Where other processes shared the machine, tokens/s are too low and the ratios of "
        "wall time scatter (see the quartiles); the ratios of CPU time are then the ones to trust. "
        "lse_interp and nnsight end the pass behind the last gate, before the last up and down "
        "projections, which hides part of what counting costs where layers are few. "
        "TransformerLens counts `hook_pre`, which has the sign of the others' `hook_act`, and "
        "computes the logits."
    )


def _model(name: str, config: Config) -> HookedModel:
    if name not in SHAPES and name.startswith("random"):
        raise LseError(f"Unknown shape {name!r}. {near_misses(name, SHAPES)}")
    if name not in SHAPES:
        return load_model(name, device=config.device, dtype=config.dtype)
    hf = random_llama(SHAPES[name], device=config.device, dtype=config.dtype)
    return HookedModel(hf.eval(), name=name)


def _round(steps: list[Step], ids: Tensor, rng: random.Random) -> list[tuple[float, float]]:
    # In random order: a method pays for the memory that the one before it has touched.
    times = {i: _time(steps[i], ids) for i in rng.sample(range(len(steps)), len(steps))}
    return [times[i] for i in range(len(steps))]


def _time(step: Step, ids: Tensor) -> tuple[float, float]:
    if ids.is_cuda:
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter(), time.process_time()
    step(ids)
    if ids.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


def _peak_mb(make: Callable[[HookedModel], Step], model: HookedModel, ids: Tensor) -> float | None:
    """Measure the peak memory of one batch above what is allocated before it."""
    if ids.is_cuda:
        gc.collect()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        make(model)(ids)
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    if not reset_peak():
        return None
    before = resident_mb(peak=False)
    make(model)(ids)
    return resident_mb(peak=True) - before


if __name__ == "__main__":
    raise SystemExit(main_for(Config, run, description=__doc__))
