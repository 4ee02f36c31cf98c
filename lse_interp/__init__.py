"""Find, train and understand the neurons a language model keeps for a language.

Names are resolved on first use (PEP 562), so `import lse_interp` stays cheap and
`python -m lse_interp.<stage>` runs each stage as a fresh module.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "AblationMatrix": "ablation",
    "ActivationCounts": "activations",
    "AlignmentCurves": "alignment",
    "EvaluationTable": "core.evaluations",
    "FinetuneRun": "core.finetune_runs",
    "HookedModel": "models",
    "Hyperparameters": "training.options",
    "Language": "core.languages",
    "LossComparison": "comparison",
    "LseError": "core.errors",
    "ModelInfo": "core.artifacts",
    "NeuronSets": "core.neurons",
    "OverlapMatrix": "overlap",
    "WeightDeltas": "deltas",
    "apply_subnetwork": "models.subnetworks",
    "compare_losses": "comparison",
    "conflicts": "models.subnetworks",
    "count_activations": "activations",
    "evaluate": "evaluation",
    "export": "models.exporting",
    "family_order": "core.languages",
    "finetune_language": "finetune",
    "identify": "lape",
    "lape_scores": "lape",
    "load_corpus": "data",
    "load_model": "models",
    "load_parallel": "data",
    "load_tuned": "models.tuned",
    "lookup": "core.languages",
    "measure_ablation": "ablation",
    "measure_alignment": "alignment",
    "measure_overlap": "overlap",
    "questions_of": "evaluation_tasks.questions",
    "remove_subnetwork": "models.subnetworks",
    "subnetworks": "models.subnetworks",
    "weight_deltas": "deltas",
}

__all__ = ["__version__", *sorted(_PUBLIC)]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        module = importlib.import_module(f"{__name__}.{_PUBLIC[name]}")
        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
