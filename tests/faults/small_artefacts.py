"""One small artefact of every kind, and a comparison of whatever loading gives."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch

from lse_interp.analysis.ablation_matrix import AblationMatrix
from lse_interp.analysis.alignment import AlignmentCurves
from lse_interp.analysis.losses import LossComparison
from lse_interp.analysis.neuron_examples import NeuronExamples
from lse_interp.analysis.overlap import OverlapMatrix, measure_overlap
from lse_interp.analysis.weights.compare import weight_deltas
from lse_interp.analysis.weights.deltas import WeightDeltas
from lse_interp.counting.counts import ActivationCounts
from lse_interp.counting.shard_store import Shard, ShardStore
from lse_interp.models.hooked import HookedModel
from lse_interp.models.info import ModelInfo
from lse_interp.neurons.sets import NeuronSets
from lse_interp.subnetworks.finetune_run import CURVE_COLUMNS, FinetuneRun
from lse_interp.tasks.results import EvaluationTable, Measure
from lse_interp.training.checkpoints import CheckpointStore
from tests.subnetworks.making_runs import make_run
from tests.tiny_models import tiny_hf

INFO = ModelInfo("tiny", "f" * 16, "LlamaForCausalLM", 2, 4, 6, 1000)
SETTINGS = {"n_tokens": 100, "text": "aa"}


def random(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def indices(*lists):
    return tuple(torch.tensor(layer, dtype=torch.int64) for layer in lists)


def counts():
    n_positive = (random(2, 2, 6) * 50).long()
    return ActivationCounts(
        language="mlt",
        model=INFO,
        site="mlp.hook_act",
        shard_n_positive=n_positive,
        shard_activation_sum=random(2, 2, 6, seed=1),
        shard_n_tokens=torch.tensor([50, 50]),
        provenance={"settings": SETTINGS},
    )


def neurons():
    return NeuronSets(
        indices={"mlt": indices([0, 3], []), "eng": indices([3], [1, 5])},
        model=INFO,
        site="mlp.hook_act",
        method="lape",
        thresholds={"k": 0.25},
        scores=random(2, 6),
        probability=random(2, 2, 6),
    )


def finetune_run():
    return FinetuneRun(
        language="mlt",
        method="target",
        model=INFO,
        neurons=indices([0, 3], [2]),
        rows=tuple(random(3, n, 4).float() for n in (2, 1)),
        base=tuple(random(3, n, 4, seed=1).float() for n in (2, 1)),
        curves=pd.DataFrame([(0, 0, "validation", "mlt", 2.5)], columns=list(CURVE_COLUMNS)),
        settings=SETTINGS,
        results={"step": 0},
    )


def record():
    """A run of whole matrices, which carries no rows."""
    return dataclasses.replace(finetune_run(), method="full", neurons=None, rows=None, base=None)


def alignment():
    estimate = random(1, 2, 4, 2, 2)
    return AlignmentCurves(
        models=("tiny",),
        infos=(INFO,),
        language="mlt",
        against=("eng", "deu"),
        site="hook_resid_post",
        pooling="mean",
        sinks="drop",
        n_sentences=4,
        text="aa",
        n_bootstrap=10,
        seed=0,
        estimate=estimate,
        low=estimate / 2,
        high=estimate / 2 + 0.5,
        n_sinks=torch.ones(1, 2, 2, dtype=torch.int64),
    )


def comparison():
    return LossComparison(
        models=("base", "target"),
        methods=("base", "target"),
        seeds=(0, 0),
        fingerprints=("aa", "bb"),
        language="mlt",
        measured=("mlt", "eng"),
        losses=random(2, 2, 3),
        text="aa",
    )


def evaluation():
    measure = Measure(
        task="flores_mlt_eng",
        row="FLORES TG→EN",
        label="FLORES mlt→eng",
        group="target",
        language="eng",
        metric="bleu",
        unit="BLEU",
        higher_is_better=True,
        headline=True,
        text="01",
    )
    return EvaluationTable(
        models=("base", "target"),
        methods=("base", "target"),
        seeds=(0, 0),
        fingerprints=("aa", "bb"),
        language="mlt",
        measures=(measure,),
        scores=(random(2, 4),),
    )


def ablation():
    intact = random(3, 2) + 1
    return AblationMatrix(
        ablated=("mlt", "eng"),
        measured=("mlt", "eng", "kat"),
        intact=intact,
        without=intact + random(2, 3, 2),
        without_random=None,
        n_neurons=torch.tensor([2, 3]),
        model=INFO,
        method="lape",
        site="mlp.hook_post",
        neurons="aa",
        text="bb",
        control=None,
        n_controls=0,
        seed=0,
    )


def examples():
    return NeuronExamples(
        languages=("mlt", "kat"),
        model=INFO,
        site="mlp.hook_act",
        block=8,
        sample=4,
        seed=0,
        documents={"mlt": ("Xita.", ""), "kat": ("წვიმა.",)},
        lengths={"mlt": (3, 0), "kat": (4,)},
        values=random(5, 2, 2, 6, 3).float(),
        positions=(random(5, 2, 2, 6, 3, seed=1) * 4).int() - 1,
    )


def deltas():
    base = HookedModel(tiny_hf("llama"), name="tiny")
    return weight_deltas(base, make_run(base))


def _save_shard(value, folder):
    ShardStore(folder, SETTINGS).save(3, value)
    return folder / "00003.safetensors"


def _save_best(value, folder):
    CheckpointStore(folder, {}).save_best(value, step=2)
    return folder / "best.safetensors"


def _file(value, folder):
    return value.save(folder / "artefact.safetensors")


def _run(value, folder):
    return value.save(folder)


KINDS = {
    "counts": (counts, _file, ActivationCounts.load),
    "neurons": (neurons, _file, NeuronSets.load),
    "overlap": (lambda: measure_overlap(neurons()), _file, OverlapMatrix.load),
    "alignment": (alignment, _file, AlignmentCurves.load),
    "comparison": (comparison, _file, LossComparison.load),
    "evaluation": (evaluation, _file, EvaluationTable.load),
    "ablation": (ablation, _file, AblationMatrix.load),
    "examples": (examples, _file, NeuronExamples.load),
    "deltas": (deltas, _file, WeightDeltas.load),
    "finetune run": (finetune_run, _run, FinetuneRun.load),
    "finetune record": (record, _run, FinetuneRun.load),
    "counting shard": (
        lambda: Shard((random(2, 6) * 9).long(), random(2, 6), 9),
        _save_shard,
        lambda path: ShardStore(path.parent, SETTINGS).load(3),
    ),
    "best weights": (
        lambda: {"0": random(3, 2, 4)},
        _save_best,
        lambda path: CheckpointStore(path.parent, {}).load_best(),
    ),
}
"""Kind -> make one, save it into a folder and return its file, load that file."""


def saved(kind: str, folder: Path) -> Path:
    """Save a small artefact of a kind; return its file."""
    make, save, _ = KINDS[kind]
    folder.mkdir(parents=True, exist_ok=True)
    return save(make(), folder)


def load(kind: str, path: Path):
    """Load what `saved` wrote."""
    return KINDS[kind][2](path)


def same(a, b) -> bool:
    """Compare bit by bit, whatever the two are made of; the time and place of saving aside."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and _octets(a) == _octets(b)
    if isinstance(a, pd.DataFrame):
        return a.equals(b)
    if dataclasses.is_dataclass(a):
        names = [field.name for field in dataclasses.fields(a) if field.name != "folder"]
        return all(same(getattr(a, name), getattr(b, name)) for name in names)
    if isinstance(a, Mapping):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def _octets(tensor):
    # A single entry may have any stride, and be called contiguous.
    whole = tensor.clone(memory_format=torch.contiguous_format).reshape(-1)
    return whole.view(torch.uint8).numpy().tobytes()
