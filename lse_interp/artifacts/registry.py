"""Which command writes each kind of artefact."""

__all__ = ["WRITERS", "writer_command"]

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
"""Kind of artefact -> the stage that makes it."""


def writer_command(kind: str) -> str:
    """Spell the command that writes a kind of artefact, for messages.

    >>> writer_command("neuron_sets")
    'python -m lse_interp.lape'
    """
    return f"python -m lse_interp.{WRITERS[kind]}"
