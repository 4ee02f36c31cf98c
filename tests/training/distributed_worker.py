"""One of several processes that train together; `test_distributed.py` starts them.

Usage: distributed_worker.py FOLDER RANK N_PROCESSES
"""

import sys
from pathlib import Path

import torch
import transformers
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from lse_interp.models.hooked import HookedModel
from lse_interp.models.placement.dtensors import local_part
from lse_interp.models.placement.fsdp import load_sharded
from lse_interp.training.engines.base import NeuronRows, attach, clip_gradients
from lse_interp.training.engines.compact import CompactRows
from lse_interp.training.engines.masked_gradients import MaskedGradients
from lse_interp.training.sharded_leaves import average_gradients, shard_root
from lse_interp.training.trainee import Trainee

ENGINES = {"masked": MaskedGradients, "compact": CompactRows}


def train(job, *, folder, strategy, engine, deferred):
    """Train on this process's share of every batch; return losses, norms and whole weights."""
    model = load(folder, replicas=REPLICAS.get(strategy))
    hf, info = model.hf, model.info
    held = sum(local_part(weight)[0].nbytes for weight in hf.parameters())
    rows = NeuronRows(model, job["neurons"])
    opened, trainee, root = STRATEGIES[strategy](rows, engine=engine)
    optimizer = torch.optim.AdamW(opened.leaves().values(), lr=job["lr"], weight_decay=job["decay"])
    attach(opened, optimizer)
    losses, norms = [], []
    for step in job["batches"]:
        losses.append(backward(trainee, step, root=root, deferred=deferred))
        if strategy in REPLICAS:
            opened.before_step()
            average_gradients(opened.leaves().values())
        norms.append(clip_gradients(opened, job["max_norm"]).item())
        optimizer.step()
        optimizer.zero_grad()
    opened.close()
    weights = {name: whole(weight) for name, weight in hf.named_parameters()}
    return {
        "trajectory": {"losses": losses, "norms": norms, "weights": weights},
        "fingerprint": info.fingerprint,
        "held": held,
    }


def load(folder, *, replicas):
    def whole_model():
        hf = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float64, attn_implementation="eager"
        )
        return HookedModel(hf, name=folder.name)

    if replicas is None:
        return whole_model()
    return load_sharded(whole_model, device=torch.device("cpu"), replicas=replicas)


def replicated(rows, *, engine):
    """Return an engine, what computes the loss, and what reduces gradients: DDP."""
    opened = ENGINES[engine](rows)
    trainee = DistributedDataParallel(Trainee(rows.model.hf, opened))
    return opened, trainee, trainee


def sharded(rows, *, engine):
    """Return the same under FSDP2 by hand; the leaves of `compact` are sharded with the rest."""
    hf = rows.model.hf
    if engine == "masked":
        root = shard(hf, model=rows.model)
        opened = ENGINES[engine](rows)
        return opened, Trainee(hf, opened), root
    opened = ENGINES[engine](rows)
    trainee = shard(Trainee(hf, opened, loss_chunk=5), model=rows.model)
    return opened, trainee, trainee


def in_parts(rows, *, engine):
    """Return the same for a model that was loaded in parts; leaves are whole."""
    opened = ENGINES[engine](rows)
    trainee = Trainee(rows.model.hf, opened, loss_chunk=5)
    shard_root(trainee)
    return opened, trainee, trainee


STRATEGIES = {"ddp": replicated, "by hand": sharded, "parts": in_parts, "replicas": in_parts}
# Groups of processes, each with a model of its own to share.
REPLICAS = {"parts": 1, "replicas": 2}


def shard(root, *, model):
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for at in model.layout.blocks:
        fully_shard(model.hf.get_submodule(at.block), mesh=mesh)
    return fully_shard(root, mesh=mesh)


def backward(trainee, step, *, root, deferred):
    """Return the loss of a step over all processes, gradients left in place.

    Deferred, gradients are reduced once per step, not once per backward pass.
    """
    n_tokens = step[..., 1:].numel() // dist.get_world_size()
    total = torch.zeros((), dtype=torch.float64)
    for i, part in enumerate(step):
        mine = part[dist.get_rank() :: dist.get_world_size()]
        synchronise(root, not deferred or i == len(step) - 1)
        loss = trainee(mine, mine) / n_tokens
        loss.backward()
        total += loss.detach()
    dist.all_reduce(total)
    return total.item() / dist.get_world_size()


def synchronise(root, wanted):
    if isinstance(root, DistributedDataParallel):
        root.require_backward_grad_sync = wanted
    else:
        root.set_requires_gradient_sync(wanted)


def whole(weight):
    weight = weight.detach()
    return (weight.full_tensor() if isinstance(weight, DTensor) else weight).clone()


def main(folder, rank, n_processes):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=n_processes
    )
    job = torch.load(folder / "job.pt")
    results = {}
    for case in job["cases"]:
        family, strategy, engine, deferred = case
        results[case] = train(
            job, folder=folder / family, strategy=strategy, engine=engine, deferred=deferred
        )
    torch.save(results, folder / f"results{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
