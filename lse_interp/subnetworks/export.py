"""A trained subnetwork for other programs: a plain Hugging Face folder, or a PEFT LoRA adapter.

The change of n rows of a matrix W is the product of a one-hot [out n] and the deltas [n in], and
that of n columns the product of deltas [out n] and a one-hot [n in]. So a subnetwork is a LoRA
adapter of rank n (2n if gate and up are one matrix), without approximation.

    export(model, run, "out/maltese")
    export(model, run, "out/maltese-lora", format="lora")

    AutoModelForCausalLM.from_pretrained("out/maltese")
    PeftModel.from_pretrained(base, "out/maltese-lora")
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from lse_interp.artifacts.atomic import write_folder
from lse_interp.core.errors import ArtifactError, LseError, near_misses
from lse_interp.models.hooked import HookedModel
from lse_interp.models.mlp_weights import row_slices
from lse_interp.subnetworks.apply import applied, label, require_base, with_subnetworks
from lse_interp.subnetworks.finetune_run import FinetuneRun

__all__ = ["export"]


def export(model: HookedModel, run: FinetuneRun, folder: str | Path, *, format: str = "hf") -> Path:
    """Write a run for other programs; the model in memory does not change.

    `hf` is a whole model with its tokenizer, as transformers loads it. `lora` is an adapter that
    `PeftModel.from_pretrained` loads. It computes base + delta where the run holds their rounded
    sum: in float64 the logits agree within 1e-12 of their size, in float32 within 1e-5, and merging
    adds one rounding per weight. Layers without trained neurons get no module.

    Args:
        model: The base model of the run.
        run: A run that trained chosen neurons.
        folder: Where to write; must not exist, or be empty.
        format: `hf` or `lora`.

    Returns:
        The folder.

    Raises:
        MismatchError: The run was made from another model.
        LseError: An unknown format; the run has no rows, or for `lora` no neuron; runs are applied
            to the model; for `hf`, the model has no tokenizer.
        ArtifactError: `folder` exists and is not empty.
    """
    writers = {"hf": _hf_writer, "lora": _lora_writer}
    if format not in writers:
        raise LseError(
            f"`format` must be hf or lora; got {format!r}. {near_misses(format, writers)}"
        )
    require_base(model, run)
    if others := applied(model):
        names = ", ".join(label(other) for other in others)
        raise LseError(
            f"{model.name} has runs applied ({names}), and an export holds one run. Remove them "
            "first; or write the whole model with model.hf.save_pretrained."
        )
    write, folder = writers[format](model, run), Path(folder)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise ArtifactError(f"{folder} exists and is not empty. Give another folder, or remove it.")
    return write_folder(folder, write)


def _hf_writer(model: HookedModel, run: FinetuneRun) -> Callable[[Path], None]:
    if model.tokenizer is None:
        raise LseError(
            f"{model.name} has no tokenizer to write with the weights. Wrap the model with one: "
            "HookedModel(hf, tokenizer)."
        )

    def write(path: Path) -> None:
        with with_subnetworks(model, run):
            model.hf.save_pretrained(path)
        model.tokenizer.save_pretrained(path)
        model.write_defaults(path)

    return write


def _lora_writer(model: HookedModel, run: FinetuneRun) -> Callable[[Path], None]:
    factors, ranks = _factors(model, run)
    if not ranks:
        raise LseError(f"{label(run)} trained no neuron, so an adapter would be empty.")

    def write(path: Path) -> None:
        _lora_config(model, ranks).save_pretrained(path)
        save_file(factors, path / "adapter_model.safetensors", metadata={"format": "pt"})

    return write


def _factors(model: HookedModel, run: FinetuneRun) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Return the tensors of the adapter by name, and the rank of each module."""
    factors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    assert run.neurons is not None
    for layer, (neurons, deltas) in enumerate(zip(run.neurons, run.deltas, strict=True)):
        if not len(neurons):
            continue
        parts: dict[str, list[tuple[Tensor, Tensor]]] = {}
        sources = row_slices(model, layer)
        for name, source, delta in zip(run.model.projections, sources, deltas, strict=True):
            width = model.hf.get_parameter(source.name).shape[source.neuron_dim]
            one_hot = torch.zeros(len(neurons), width, dtype=delta.dtype)
            one_hot[torch.arange(len(neurons)), neurons + source.start] = 1
            # down reads the neurons, gate and up write them.
            pair = (one_hot, delta.mT) if name == "down" else (delta, one_hot.mT)
            parts.setdefault(source.name.removesuffix(".weight"), []).append(pair)
        for module, pairs in parts.items():
            prefix = f"base_model.model.{module}"
            factors[f"{prefix}.lora_A.weight"] = torch.cat([a for a, _ in pairs]).contiguous()
            factors[f"{prefix}.lora_B.weight"] = torch.cat(
                [b for _, b in pairs], dim=1
            ).contiguous()
            ranks[module] = len(factors[f"{prefix}.lora_A.weight"])
    return factors, ranks


def _lora_config(model: HookedModel, ranks: Mapping[str, int]) -> Any:
    from peft import LoraConfig

    # Keys are regular expressions; a scaling of alpha / rank = 1 leaves the deltas as they are.
    pattern = {re.escape(module): rank for module, rank in ranks.items()}
    return LoraConfig(
        base_model_name_or_path=model.hf.config.name_or_path or model.name,
        task_type="CAUSAL_LM",
        inference_mode=True,
        r=max(ranks.values()),
        lora_alpha=max(ranks.values()),
        lora_dropout=0.0,
        target_modules=sorted(ranks),
        rank_pattern=pattern,
        alpha_pattern=pattern,
        fan_in_fan_out=model.layout.transposed,
    )
