"""Time and memory of LAPE on synthetic counts of a large model in many languages.

    python benchmarks/lape.py --n-languages 100 --n-layers 32 --d-mlp 14336

builds activation counts in memory (not timed), calls `identify`, and prints its seconds, the peak
resident memory of the whole process (counts included), and the seconds of saving and loading.
"""

import dataclasses
import logging
import resource
import tempfile
import time
from pathlib import Path

import torch

from lse_interp.core.cli import main_for
from lse_interp.core.languages import LANGUAGES
from lse_interp.counting.counts import ActivationCounts
from lse_interp.models.info import ModelInfo
from lse_interp.neurons.identify import identify
from lse_interp.neurons.sets import NeuronSets

logger = logging.getLogger(__name__)

N_TOKENS = 1_000_000


@dataclasses.dataclass(frozen=True)
class Config:
    """Time `identify` on synthetic counts; the defaults are Llama-3.1-8B in 100 languages."""

    n_languages: int = 100
    n_layers: int = 32
    d_mlp: int = 14336
    k: float = 0.05
    threads: int = 2
    """CPU threads torch may use."""
    save: bool = True
    """Also time `save` and `load` of the result."""
    seed: int = 0


def synthetic_counts(config: Config) -> dict[str, ActivationCounts]:
    """Draw counts whose probabilities look like those of a model: most neurons rarely active."""
    torch.manual_seed(config.seed)
    grid = (1, config.n_layers, config.d_mlp)
    model = ModelInfo("synthetic", None, "none", config.n_layers, 4096, config.d_mlp, 8_000_000_000)
    common = torch.rand(grid).pow(3)
    counts = {}
    for language in list(LANGUAGES)[: config.n_languages]:
        own = common * torch.rand(grid)
        counts[language] = ActivationCounts(
            language=language,
            model=model,
            site="mlp.hook_act",
            shard_n_positive=(own * N_TOKENS).long(),
            shard_activation_sum=torch.zeros(grid, dtype=torch.float64),
            shard_n_tokens=torch.tensor([N_TOKENS]),
        )
    return counts


def run(config: Config) -> None:
    """Build, time, report."""
    torch.set_num_threads(config.threads)
    counts = synthetic_counts(config)
    logger.info(
        "%d languages x %d layers x %d neurons, %d threads; peak %.2f GB with the counts built",
        len(counts),
        config.n_layers,
        config.d_mlp,
        config.threads,
        _peak_gb(),
    )
    start = time.perf_counter()
    neurons = identify(counts, k=config.k)
    logger.info("identify: %.2f s, peak %.2f GB", time.perf_counter() - start, _peak_gb())
    logger.info("union %d neurons", int(neurons.union().sum()))
    if config.save:
        _time_files(neurons)


def _time_files(neurons: NeuronSets) -> None:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        path = neurons.save(Path(folder) / "neurons.safetensors")
        saved = time.perf_counter()
        NeuronSets.load(path)
        loaded = time.perf_counter()
        logger.info(
            "save: %.2f s, %.0f MB; load: %.2f s; peak %.2f GB",
            saved - start,
            path.stat().st_size / 1e6,
            loaded - saved,
            _peak_gb(),
        )


def _peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


if __name__ == "__main__":
    raise SystemExit(main_for(Config, run, description=__doc__))
