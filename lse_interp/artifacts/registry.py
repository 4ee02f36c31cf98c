"""All kinds of artefact: the class that reads one, and the command that writes it."""

import importlib
from pathlib import Path
from typing import Any

__all__ = ["CLASSES", "WRITERS", "load", "writer_command"]

WRITERS = {
    "ablation_matrix": "ablation",
    "activation_counts": "activations",
    "alignment_curves": "alignment",
    "evaluation_table": "evaluation",
    "finetune_run": "finetune",
    "loss_comparison": "comparison",
    "neuron_sets": "lape",
    "overlap_matrix": "overlap",
    "weight_deltas": "deltas",
}
"""Kind of artefact -> the command that writes it; no entry where only Python does."""

CLASSES = {
    "ablation_matrix": "analysis.ablation_matrix.AblationMatrix",
    "activation_counts": "counting.counts.ActivationCounts",
    "alignment_curves": "analysis.alignment.AlignmentCurves",
    "evaluation_table": "tasks.results.EvaluationTable",
    "finetune_run": "subnetworks.finetune_run.FinetuneRun",
    "loss_comparison": "analysis.losses.LossComparison",
    "neuron_examples": "analysis.neuron_examples.NeuronExamples",
    "neuron_sets": "neurons.sets.NeuronSets",
    "overlap_matrix": "analysis.overlap.OverlapMatrix",
    "weight_deltas": "analysis.weights.deltas.WeightDeltas",
}
"""Kind of artefact -> its class, in a module of this package that is imported when it is needed."""


def load(path: str | Path) -> Any:
    """Read an artefact of any kind, as the class that wrote it.

    Args:
        path: The file, or the folder of a fine-tuning run.

    Raises:
        ArtifactError: Missing, truncated, altered, or of an unknown kind or version.
    """
    from lse_interp.artifacts.format import read_kind
    from lse_interp.core.errors import ArtifactError, near_misses

    kind = "finetune_run" if Path(path).is_dir() else read_kind(path)
    if kind not in CLASSES:
        raise ArtifactError(
            f"{path} holds `{kind}`, of no known kind. {near_misses(kind, CLASSES)}"
        )
    module, _, name = CLASSES[kind].rpartition(".")
    return getattr(importlib.import_module(f"lse_interp.{module}"), name).load(path)


def writer_command(kind: str) -> str:
    """Spell the command that writes a kind of artefact, for messages.

    >>> writer_command("neuron_sets")
    'python -m lse_interp.lape'
    """
    return f"python -m lse_interp.{WRITERS[kind]}"
