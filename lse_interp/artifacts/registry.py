"""Which command writes each kind of artefact."""

__all__ = ["WRITERS"]

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
