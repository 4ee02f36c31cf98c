"""What the benchmarks share: the machine, resident memory, a section of a document."""

import ctypes
import gc
import os
import platform
import re
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import transformers

from lse_interp.artifacts.atomic import write_atomic
from lse_interp.core.errors import LseError

__all__ = [
    "DOCS",
    "forward_flops",
    "machine",
    "matmul_peak",
    "random_llama",
    "reset_peak",
    "resident_mb",
    "rounds",
    "write_section",
]

DOCS = Path(__file__).parent.parent / "docs" / "benchmarks.md"


def write_section(path: Path, section: str, *, marker: str) -> None:
    """Replace what stands between the markers of a file; append both where there are none.

    Raises:
        LseError: The file has one marker, or more than two.
    """
    text = path.read_text(encoding="utf-8") if path.exists() else "# Benchmarks\n"
    parts = text.split(marker)
    if len(parts) == 1:
        parts = [text.rstrip("\n") + "\n\n", "", "\n"]
    if len(parts) != 3:
        raise LseError(f"{path} should have two markers {marker}; it has {len(parts) - 1}.")
    text = marker.join([parts[0], f"\n{section}\n", parts[2]])
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def machine(device: str) -> str:
    """Name what the measurement ran on."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", info.read_text()) if info.exists() else None
    name = found[1] if found else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} thread(s)"


def random_llama(
    shape: tuple[int, int, int, int, int, int], *, device: str, dtype: str
) -> transformers.PreTrainedModel:
    """Build a Llama with random weights on its device.

    Args:
        shape: d_model, layers, d_mlp, attention heads, key-value heads, vocabulary.
        device: Where the weights are made.
        dtype: Their type, e.g. `bfloat16`.
    """
    d_model, n_layers, d_mlp, n_heads, n_kv_heads, vocab = shape
    config = transformers.LlamaConfig(
        vocab_size=vocab,
        hidden_size=d_model,
        intermediate_size=d_mlp,
        num_hidden_layers=n_layers,
        num_attention_heads=n_heads,
        num_key_value_heads=n_kv_heads,
        max_position_embeddings=2048,
    )
    torch.manual_seed(0)
    with torch.device(device):
        return transformers.AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))


def forward_flops(hf: transformers.PreTrainedModel, n_pos: int, *, head: bool = False) -> int:
    """Count the floating-point operations of a forward pass per token.

    Multiplications and additions of the linear maps, and of attention over the positions up to a
    token; everything else is left out.

    Args:
        hf: The model; one on the meta device will do.
        n_pos: Positions per sequence.
        head: Whether the logits are computed.
    """
    config = hf.config
    lm_head = hf.get_output_embeddings()
    linear = sum(
        module.weight.numel()
        for module in hf.modules()
        if hasattr(module, "weight")
        and module.weight.ndim == 2
        and not isinstance(module, torch.nn.Embedding)
        and (head or module is not lm_head)
    )
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    attended = (n_pos + 1) / 2
    attention = 2 * config.num_hidden_layers * config.num_attention_heads * width * attended
    return round(2 * (linear + attention))


def matmul_peak(device: str, dtype: str, *, repeats: int = 10) -> float:
    """Return the operations per second of the fastest of some square matrix products."""
    best = 0.0
    for size in (8192, 16384) if device.startswith("cuda") else (512, 1024, 2048):
        a, b = (torch.randn(size, size, device=device, dtype=getattr(torch, dtype)) for _ in "ab")
        for _ in range(repeats):
            began = time.perf_counter()
            a @ b
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            best = max(best, 2 * size**3 / (time.perf_counter() - began))
    return best


def rounds(seconds: float, *, least: int = 5) -> Iterator[int]:
    """Count rounds until the time is up, and at least so many."""
    end, done = time.perf_counter() + seconds, 0
    while done < least or time.perf_counter() < end:
        yield done
        done += 1


def reset_peak() -> bool:
    """Forget the peak of resident memory; tell whether this machine can."""
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
        return False
    # Give freed memory back first, or it hides what is allocated anew; 5 resets the peak.
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    reset.write_text("5")
    return True


def resident_mb(*, peak: bool) -> float:
    """Return the resident memory of this process now, or its peak."""
    field = "VmHWM" if peak else "VmRSS"
    found = re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1e3
