"""How to train: the paper's values as defaults, and what the released code does instead."""

import dataclasses
from typing import Any, Literal

from lse_interp.core.errors import LseError

__all__ = ["DENSE_METHODS", "METHODS", "NEURON_METHODS", "Hyperparameters", "Profile"]

METHODS = ("target", "random", "ffn", "full", "lora")
NEURON_METHODS = ("target", "random")
DENSE_METHODS = ("ffn", "full")


@dataclasses.dataclass(frozen=True)
class Profile:
    """Where the released code departs from the paper, or from good practice."""

    padding_is_label: bool = False
    """Padding at the end of a text counts as something to predict."""
    reencode: bool = False
    """Blocks are decoded to text and encoded again."""
    rebuild_optimizer: bool = False
    """AdamW starts afresh, without momenta, at every new best validation loss."""
    lora_rank: int = 62
    lora_alpha: float = 32.0
    lora_down: bool = False
    """LoRA on the down projection as well."""


_PROFILES = {
    "fixed": Profile(),
    "authors": Profile(
        padding_is_label=True,
        reencode=True,
        rebuild_optimizer=True,
        lora_rank=32,
        lora_alpha=64.0,
        lora_down=True,
    ),
}


@dataclasses.dataclass(frozen=True)
class Hyperparameters:
    """How a method is trained. Source of the defaults: paper, sections 4.1 and 4.3."""

    lr: float | None = None
    """Learning rate; by default 1e-4, and 1e-5 for `ffn` and `full`. For the embedded model, whose
    text is a thousandth of the paper's, ten times that."""
    weight_decay: float = 0.01
    """Decay of AdamW, on trained weights alone."""
    batch_size: int = 2
    """Blocks per forward pass and process."""
    accumulation: int = 1
    """Forward passes per step."""
    block_size: int | None = None
    """Tokens per block; by default 512, and 128 for the embedded model, as in its training."""
    epochs: int = 1
    """Passes over the text."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Course of the learning rate after the warm-up."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises from zero."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm, over all trained weights together."""
    validate_every: int | None = None
    """Steps between validations and checkpoints; by default 500, and 20 for the embedded model."""
    engine: Literal["compact", "hooks"] = "compact"
    """How chosen neurons are trained: gradients of their rows alone, or masked dense gradients."""
    loss_chunk: int | None = None
    """Take the loss in chunks of so many positions: less memory for a large vocabulary."""
    checkpointing: bool = False
    """Recompute activations in the backward pass instead of keeping them."""
    lora_rank: int | None = None
    """Rank of `lora`; by default 62, and 32 with `--profile authors`. For the embedded model 1: as
    many weights as a subnetwork has, which is how the paper came to 62."""
    lora_alpha: float | None = None
    """Scale of `lora`; by default 32, and 64 with `--profile authors`. For the embedded model 0.5,
    which is 32 / 62 of its rank."""
    profile: Literal["fixed", "authors"] = "fixed"
    """`authors` repeats the choices of the released code; see docs/method.md."""
    seed: int = 0
    """Of the order of the text, random neurons and LoRA's first values."""

    @property
    def switches(self) -> Profile:
        """What the profile stands for, with the LoRA flags applied."""
        chosen = _PROFILES[self.profile]
        given: dict[str, Any] = {"lora_rank": self.lora_rank, "lora_alpha": self.lora_alpha}
        return dataclasses.replace(chosen, **{k: v for k, v in given.items() if v is not None})

    def completed(self, method: str, *, embedded: bool) -> "Hyperparameters":
        """Fill in what depends on the method and the model.

        Raises:
            LseError: values out of range or that contradict each other; all of them are named.
        """
        self._check(method)
        lr = 1e-5 if method in DENSE_METHODS else 1e-4
        defaults: dict[str, Any] = {
            "lr": 10 * lr if embedded else lr,
            "block_size": 128 if embedded else 512,
            "validate_every": 20 if embedded else 500,
        }
        if embedded and method == "lora" and self.profile == "fixed":
            defaults |= {"lora_rank": 1, "lora_alpha": 0.5}
        missing = {k: v for k, v in defaults.items() if getattr(self, k) is None}
        return dataclasses.replace(self, **missing)

    def describe(self, method: str) -> dict[str, Any]:
        """List what the result depends on; how it is computed is left out."""
        entries = dataclasses.asdict(self)
        for name in ("checkpointing", "loss_chunk", "lora_rank", "lora_alpha"):
            del entries[name]
        if method not in NEURON_METHODS:
            del entries["engine"]
        if method == "lora":
            entries |= {k: v for k, v in dataclasses.asdict(self.switches).items() if "lora" in k}
        return entries

    def _check(self, method: str) -> None:
        faults = [*self._out_of_range(), *self._contradictions(method)]
        if faults:
            raise LseError("\n".join(faults))

    def _out_of_range(self) -> list[str]:
        faults = []
        for name in ("lr", "lora_alpha", "max_grad_norm"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                faults.append(f"`{name}` must be above 0; got {value}.")
        for name in ("weight_decay", "warmup_steps", "seed"):
            if not getattr(self, name) >= 0:
                faults.append(f"`{name}` must be at least 0; got {getattr(self, name)}.")
        for name in (
            "batch_size",
            "accumulation",
            "epochs",
            "validate_every",
            "loss_chunk",
            "lora_rank",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                faults.append(f"`{name}` must be at least 1; got {value}.")
        if self.block_size is not None and self.block_size < 2:
            faults.append(f"`block_size` must be at least 2; got {self.block_size}.")
        return faults

    def _contradictions(self, method: str) -> list[str]:
        faults = []
        if method not in METHODS:
            return [f"`method` must be one of {', '.join(METHODS)}; got {method!r}."]
        if self.engine == "hooks" and method not in NEURON_METHODS:
            faults.append(
                f"`engine` hooks trains chosen neurons; method {method} chooses none. Leave it out."
            )
        if method != "lora" and (self.lora_rank is not None or self.lora_alpha is not None):
            faults.append(f"`lora_rank` and `lora_alpha` need method lora; got {method}.")
        if self.lr is not None and self.lr * self.weight_decay >= 1:
            faults.append(
                f"`lr` x `weight_decay` must be below 1, or decay alone turns weights around; got "
                f"{self.lr} x {self.weight_decay}."
            )
        return faults
