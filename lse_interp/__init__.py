"""Find, train and understand the neurons a language model keeps for a language.

Names are resolved on first use (PEP 562), so `import lse_interp` stays cheap and
`python -m lse_interp.<command>` runs each command as a fresh module.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "AblationMatrix": "analysis.ablation_matrix",
    "ActivationCounts": "counting.counts",
    "AlignmentCurves": "analysis.alignment",
    "Corpus": "data.corpora",
    "EvaluationTable": "tasks.results",
    "FinetuneRun": "subnetworks.finetune_run",
    "HookedModel": "models.hooked",
    "Hyperparameters": "training.hyperparameters",
    "Language": "core.languages",
    "LossComparison": "analysis.losses",
    "LseError": "core.errors",
    "MLPNames": "models.architectures",
    "ModelDefaults": "models.defaults",
    "ModelInfo": "models.info",
    "NeuronExamples": "analysis.neuron_examples",
    "NeuronSets": "neurons.sets",
    "OverlapMatrix": "analysis.overlap",
    "ParallelText": "data.parallel",
    "WeightDeltas": "analysis.weights.deltas",
    "ablate": "analysis.neuron_edits",
    "amplify": "analysis.neuron_edits",
    "apply_subnetwork": "subnetworks.apply",
    "collect_examples": "analysis.example_collection",
    "compare_losses": "analysis.losses",
    "count_activations": "counting.count",
    "depth_profile": "neurons.sizes",
    "embed": "analysis.sentence_vectors",
    "evaluate": "tasks.evaluation",
    "export": "subnetworks.export",
    "family_order": "core.languages",
    "finetune_language": "training.finetune_language",
    "identify": "neurons.identify",
    "lape_scores": "neurons.selectors.lape",
    "load": "artifacts.registry",
    "load_corpus": "data.corpora",
    "load_model": "models.loading",
    "load_parallel": "data.parallel",
    "load_tuned": "subnetworks.load_tuned",
    "lookup": "core.languages",
    "measure_ablation": "analysis.ablation",
    "measure_alignment": "analysis.alignment",
    "measure_overlap": "analysis.overlap",
    "merge": "counting.counts",
    "perplexity": "analysis.losses",
    "promoted_tokens": "analysis.promoted_tokens",
    "questions_of": "tasks.questions",
    "related_summary": "analysis.overlap",
    "remove_subnetwork": "subnetworks.apply",
    "sentence_losses": "analysis.losses",
    "shared_neurons": "subnetworks.apply",
    "subnetwork_sizes": "neurons.sizes",
    "weight_deltas": "analysis.weights.compare",
    "window_values": "analysis.example_windows",
    "with_subnetworks": "subnetworks.apply",
}

__all__ = ["__version__", *sorted(_PUBLIC)]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        module = importlib.import_module(f"{__name__}.{_PUBLIC[name]}")
        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
