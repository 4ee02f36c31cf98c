"""What the loop calls: a model with its loss and its leaves, on one process or several."""

import contextlib
from collections.abc import Iterator

from jaxtyping import Float, Int64
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from lse_interp.models.architectures import HFModel
from lse_interp.training.engines.base import Engine
from lse_interp.training.loss import check_chunked, total_loss
from lse_interp.training.sharded_leaves import is_sharded, shard_root

__all__ = ["Trainee", "over_processes", "recomputed"]


class Trainee(nn.Module):
    """A model, its loss, and the leaves where the forward pass reads them.

    Args:
        hf: A transformers model, or a peft model around one.
        engine: Holds the weights to train.
        loss_chunk: See `total_loss`.
    """

    def __init__(self, hf: HFModel, engine: Engine, *, loss_chunk: int | None = None) -> None:
        super().__init__()
        self.hf = hf
        self.rows = engine.module
        self.loss_chunk = loss_chunk

    def forward(
        self, ids: Int64[Tensor, "batch pos"], labels: Int64[Tensor, "batch pos"]
    ) -> Float[Tensor, ""]:
        """Sum the loss over the labels, in nats."""
        return total_loss(self.hf, ids, labels, chunk=self.loss_chunk)

    def require_chunkable(self) -> None:
        """Refuse `loss_chunk` if it would give another loss; see `check_chunked`."""
        if self.loss_chunk is not None:
            check_chunked(self.hf)


def over_processes(trainee: Trainee) -> nn.Module:
    """Return what computes the loss on this process's batches and reduces gradients.

    A model in parts (FSDP2) reduces its own. A whole one is wrapped in DDP.
    """
    if is_sharded(trainee.parameters()):
        shard_root(trainee, "require_chunkable")
        return trainee
    if distributed.is_available() and distributed.is_initialized():
        return DistributedDataParallel(trainee, broadcast_buffers=False)
    return trainee


@contextlib.contextmanager
def recomputed(hf: HFModel, *, wanted: bool = True) -> Iterator[None]:
    """Recompute activations in the backward passes of a `with` block, if that is wanted.

    transformers makes the embeddings require gradients along with it, which would force the
    backward pass through every layer below the lowest that is trained; here they do not.
    """
    if not wanted:
        yield
        return
    # transformers below 5.23 speaks of gradients, and 6 of activations alone.
    kind = "activation" if hasattr(hf, "activation_checkpointing_enable") else "gradient"
    getattr(hf, f"{kind}_checkpointing_enable")({"use_reentrant": False})
    hf.disable_input_require_grads()
    try:
        yield
    finally:
        getattr(hf, f"{kind}_checkpointing_disable")()
