"""What counting a large model should take: operations from its shape, an assumed speed per GPU.

    python benchmarks/estimate.py

Builds the models on the meta device, so their parameters and operations are counted and not
guessed; hours follow from `--tflops`, which is an assumption: measure yours with
`python benchmarks/counting.py --models random-8b --device cuda --dtype bfloat16 --block-size 512`.
The result replaces the section between the `<!-- estimate -->` markers of `docs/scaling.md`.
"""

import dataclasses
import logging
import math
from pathlib import Path

from common import DOCS, forward_flops, random_llama, write_section

from lse_interp.core.cli import main_for

logger = logging.getLogger(__name__)

MARKER = "<!-- estimate -->"

# d_model, layers, d_mlp, attention heads, key-value heads, vocabulary
_SHAPES = {
    "Llama-3.1-8B": (4096, 32, 14336, 32, 8, 128_256),
    "Llama-3.1-70B": (8192, 80, 28672, 64, 8, 128_256),
}
_BYTES_PER_COUNT = 16  # an int64 and a float64
_BYTES_PER_TOKEN = 5  # an int32 and a bool
_ROOM = 0.9  # of a GPU's memory, for weights


@dataclasses.dataclass(frozen=True)
class Config:
    """Estimate counting of large models."""

    n_languages: int = 100
    n_tokens: int = 100 * 2**20 // 8
    """Per language; by default the paper's 100 MB of int64 ids."""
    n_shards: int = 8
    batch_size: int = 8
    block_size: int = 512
    gpus: tuple[int, ...] = (1, 8, 16)
    gpu_gb: float = 80.0
    tflops: tuple[int, ...] = (200, 300, 400)
    """Operations per second that a GPU keeps up while it is busy, in 10^12."""
    out: Path = DOCS.with_name("scaling.md")


@dataclasses.dataclass(frozen=True)
class Estimate:
    """One model."""

    name: str
    n_parameters: int
    n_neurons: int
    flops_per_token: int
    activation_bytes: int

    @property
    def weight_gb(self) -> float:
        """Weights in bfloat16."""
        return 2 * self.n_parameters / 1e9

    def gpus_per_copy(self, gpu_gb: float) -> int:
        """GPUs that the weights need, with room for the rest."""
        return math.ceil(self.weight_gb / (_ROOM * gpu_gb))


def estimate(name: str, config: Config) -> Estimate:
    """Count parameters and operations of a model by its shape."""
    d_model, n_layers, d_mlp, *_ = _SHAPES[name]
    hf = random_llama(_SHAPES[name], device="meta", dtype="bfloat16")
    flops = forward_flops(hf, config.block_size)
    n_positions = config.batch_size * config.block_size
    return Estimate(
        name=name,
        n_parameters=sum(weight.numel() for weight in hf.parameters()),
        n_neurons=n_layers * d_mlp,
        # Counting ends behind the last gate.
        flops_per_token=flops - 2 * 2 * d_model * d_mlp,
        # Gate, up, their product and a comparison; some copies of the residual stream.
        activation_bytes=n_positions * 2 * (4 * d_mlp + 8 * d_model),
    )


def hours(found: Estimate, config: Config) -> list[str]:
    """Lay out the time by number of GPUs, where a copy of the model fits into them."""
    total = config.n_languages * config.n_tokens * found.flops_per_token
    per_copy = found.gpus_per_copy(config.gpu_gb)
    lines = []
    for n_gpus in config.gpus:
        # Of the GPUs that share one copy, one computes at a time.
        copies = n_gpus // per_copy
        if copies:
            times = [total / (copies * rate * 1e12) / 3600 for rate in config.tflops]
            cells = " | ".join(f"{time:.1f}" for time in times)
            lines.append(f"| {found.name} | {n_gpus} | {copies} x {per_copy} | {cells} |")
    return lines


def sizes(found: Estimate, config: Config) -> str:
    """Lay out memory and disk of one model."""
    counts_gb = config.n_shards * found.n_neurons * _BYTES_PER_COUNT / 1e9
    cells = [
        f"{found.n_parameters / 1e9:.2f}",
        f"{found.flops_per_token / 1e9:.1f}",
        f"{found.weight_gb:.1f}",
        f"{found.n_neurons * _BYTES_PER_COUNT / 1e6:.0f}",
        f"{found.activation_bytes / 1e9:.1f}",
        f"{counts_gb * 1e3:.0f}",
        f"{counts_gb * config.n_languages:.1f}",
    ]
    return f"| {found.name} | {' | '.join(cells)} |"


def run(config: Config) -> None:
    """Estimate every model and put the tables where they belong."""
    found = [estimate(name, config) for name in _SHAPES]
    rates = " | ".join(f"{rate} TFLOP/s" for rate in config.tflops)
    text_mb = 2 * config.n_tokens * _BYTES_PER_TOKEN / 1e6
    parts = [
        f"`python benchmarks/estimate.py`: {config.n_languages} languages x "
        f"{config.n_tokens:,} tokens, blocks of {config.block_size}, bfloat16, GPUs of "
        f"{config.gpu_gb:.0f} GB. Parameters and operations are counted on the model's shape; the "
        "speeds are assumptions, and nothing in the next table was measured.",
        f"Hours of counting, if a busy GPU keeps up so many operations per second:\n\n"
        f"| model | GPUs | copies x GPUs each | {rates} |\n"
        f"|---|---:|---:|{'---:|' * len(config.tflops)}\n"
        + "\n".join(line for one in found for line in hours(one, config)),
        f"Memory and disk, with {config.n_shards} shards and batches of {config.batch_size} "
        "blocks:\n\n"
        "| model | parameters, 10^9 | GFLOP per token | weights, GB | counters per copy, MB "
        "| activations per copy, GB | counts of a language, MB | of all languages, GB |\n"
        f"|---|{'---:|' * 7}\n" + "\n".join(sizes(one, config) for one in found),
        f"Each process holds two languages of text on the host, {text_mb:.0f} MB: one that is "
        "counted, and one that is packed.",
    ]
    section = "\n\n".join(parts)
    logger.info("%s", section)
    write_section(config.out, section, marker=MARKER)
    logger.info("wrote %s", config.out)


if __name__ == "__main__":
    raise SystemExit(main_for(Config, run, description=__doc__))
