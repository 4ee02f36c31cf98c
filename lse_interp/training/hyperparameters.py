"""How to train: the paper's values as defaults, and what the released code does instead."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from lse_interp.core.errors import LseError, near_misses
from lse_interp.models.defaults import ModelDefaults
from lse_interp.training.methods import Method

__all__ = ["PROFILES", "Hyperparameters", "Profile"]

_OF_SOME_METHODS = ("engine", "lora_rank", "lora_alpha")
"""Fields that only methods with the flag of that name read."""
_AT_LEAST = {"block_size": 2} | dict.fromkeys(("weight_decay", "warmup_steps", "seed"), 0)
_AT_LEAST |= dict.fromkeys(
    (
        "batch_size",
        "accumulation",
        "epochs",
        "validate_every",
        "validation_sentences",
        "loss_chunk",
        "lora_rank",
    ),
    1,
)


@dataclasses.dataclass(frozen=True)
class Profile:
    """How the released code departs from the paper, or from good practice."""

    padding_is_label: bool = False
    """Padding at the end of a text counts as something to predict."""
    reencode: bool = False
    """Blocks are decoded to text and encoded again."""
    rebuild_optimizer: bool = False
    """AdamW forgets its momenta at every new best validation loss."""
    validation_sentences: int | Literal["all"] = 200
    """Validation texts of each language; `all` of them."""
    lora_rank: int = 62
    lora_alpha: float = 32.0
    lora_down: bool = False
    """LoRA on the down projection as well."""


PROFILES = {
    "fixed": Profile(),
    "authors": Profile(
        padding_is_label=True,
        reencode=True,
        rebuild_optimizer=True,
        validation_sentences="all",
        lora_rank=32,
        lora_alpha=64.0,
        lora_down=True,
    ),
}


@dataclasses.dataclass(frozen=True)
class Hyperparameters:
    """How a method is trained. Source of the defaults: paper, sections 4.1 and 4.3."""

    lr: float | None = None
    """Learning rate; by default 1e-4, and 1e-5 for `ffn` and `full`, times the factor of the
    model's defaults (10 for the embedded model, whose text is a thousandth of the paper's)."""
    weight_decay: float = 0.01
    """Decay of AdamW, on trained weights only."""
    batch_size: int = 2
    """Blocks per forward pass and process."""
    accumulation: int = 1
    """Forward passes per step."""
    block_size: int | None = None
    """Tokens per block; by default that of the model's defaults: 512, and 128 for the embedded
    model, as in its training."""
    epochs: int = 1
    """Passes over the text."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Course of the learning rate after the warm-up."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises from zero."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm, over all trained weights together."""
    validate_every: int | None = None
    """Steps between validations and checkpoints; by default that of the model's defaults: 500, and
    20 for the embedded model."""
    validation_sentences: int | Literal["all"] | None = None
    """Sentences (or documents) to validate on in each language, taken evenly from the validation
    text, or `all`; by default 200, and all with `--profile authors`."""
    engine: Literal["compact", "masked"] = "compact"
    """How chosen neurons are trained: gradients of only their rows, or masked dense gradients."""
    loss_chunk: int | None = None
    """Take the loss in chunks of so many positions: less memory for a large vocabulary."""
    checkpointing: bool = False
    """Recompute activations in the backward pass instead of keeping them."""
    lora_rank: int | None = None
    """Rank of `lora`; by default 62, or that of the model's defaults: 1 for the embedded model.
    Both give about as many weights as a subnetwork has. With `--profile authors` 32."""
    lora_alpha: float | None = None
    """Scale of `lora`; by default 32, or that of the model's defaults: 0.5 for the embedded model,
    which is 32 / 62 of its rank. With `--profile authors` 64."""
    profile: Literal["fixed", "authors"] = "fixed"
    """`authors` repeats the choices of the released code; see docs/method.md."""
    seed: int = 0
    """Seed of the order of the text, of random neurons and of LoRA's first values."""

    def replace(
        self, values: Mapping[str, Any], *, others: Iterable[str] = ()
    ) -> "Hyperparameters":
        """Return these hyper-parameters with other values.

        Args:
            values: Name -> value.
            others: More names that a caller knows, for the error.

        Raises:
            LseError: There is no such hyper-parameter.
        """
        fields = {field.name for field in dataclasses.fields(self)}
        for name in values.keys() - fields:
            known = near_misses(name, fields.union(others))
            raise LseError(f"There is no argument or hyper-parameter `{name}`. {known}")
        return dataclasses.replace(self, **values)

    @property
    def switches(self) -> Profile:
        """The choices of the profile, with the flags of the same names applied."""
        chosen = PROFILES[self.profile]
        names = ("lora_rank", "lora_alpha", "validation_sentences")
        given: dict[str, Any] = {name: getattr(self, name) for name in names}
        return dataclasses.replace(chosen, **{k: v for k, v in given.items() if v is not None})

    def with_defaults(self, method: Method, defaults: ModelDefaults) -> "Hyperparameters":
        """Fill in what depends on the method and the model; `None` has no other meaning.

        Raises:
            LseError: See `check`.
        """
        self.check(method)
        values: dict[str, Any] = {
            "lr": method.lr * defaults.lr_factor,
            "block_size": defaults.block_size,
            "validate_every": defaults.validate_every,
        }
        if self.profile == "fixed":
            lora = {"lora_rank": defaults.lora_rank, "lora_alpha": defaults.lora_alpha}
            values |= {name: value for name, value in lora.items() if name in method.flags}
        missing = {name: value for name, value in values.items() if getattr(self, name) is None}
        return dataclasses.replace(self, **missing)

    def lr_scale(self, step: int, *, n_steps: int) -> float:
        """Return the factor of the learning rate in step s, from 0, of n.

            scale(s) = s / warmup                            in the first `warmup` steps, then
            scale(s) = 1                                     constant,
            scale(s) = (n - s) / (n - warmup)                linear,
            scale(s) = (1 + cos(pi (s - warmup) / (n - warmup))) / 2    cosine.

        >>> Hyperparameters(schedule="linear").lr_scale(5, n_steps=10)
        0.5
        """
        warmup = self.warmup_steps
        if step < warmup:
            return step / warmup
        if self.schedule == "constant":
            return 1.0
        rest = max(1, n_steps - warmup)
        if self.schedule == "linear":
            return max(0.0, (n_steps - step) / rest)
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * ((step - warmup) / rest))))

    def decay_factor(self, step: int, *, n_steps: int) -> float:
        """Multiply what weight decay leaves of a weight in each of the first `step` steps."""
        assert self.lr is not None
        decay = self.lr * self.weight_decay
        scales = (self.lr_scale(s, n_steps=n_steps) for s in range(step))
        return math.prod((1.0 - decay * scale for scale in scales), start=1.0)

    def check(self, method: Method) -> None:
        """Refuse values that are out of range or contradict each other.

        Raises:
            LseError: Names all of them.
        """
        if faults := [*self._out_of_range(), *self._contradictions(method)]:
            raise LseError("\n".join(faults))

    def describe(self, method: Method) -> dict[str, Any]:
        """List the settings that the result depends on, without those of how it is computed."""
        # The hash of the validation text tells how much of it was taken.
        left_out = {"checkpointing", "loss_chunk", "validation_sentences", *_OF_SOME_METHODS}
        left_out -= set(method.flags)
        values = dataclasses.asdict(self)
        entries = {name: value for name, value in values.items() if name not in left_out}
        if "lora_rank" in method.flags:
            entries |= {k: v for k, v in dataclasses.asdict(self.switches).items() if "lora" in k}
        return entries

    def _out_of_range(self) -> list[str]:
        values = {name: getattr(self, name) for name in _AT_LEAST}
        faults = [
            f"`{name}` must be at least {_AT_LEAST[name]}; got {value}."
            for name, value in values.items()
            if value not in (None, "all") and not value >= _AT_LEAST[name]
        ]
        for name in ("lr", "lora_alpha", "max_grad_norm"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                faults.append(f"`{name}` must be above 0; got {value}.")
        return faults

    def _contradictions(self, method: Method) -> list[str]:
        faults = []
        plain = Hyperparameters()
        for name in _OF_SOME_METHODS:
            value = getattr(self, name)
            if name not in method.flags and value != getattr(plain, name):
                faults.append(
                    f"`{name}` {value} is of no use to method {method.name}. Leave it out."
                )
        if self.lr is not None and self.lr * self.weight_decay >= 1:
            faults.append(
                f"`lr` x `weight_decay` must be below 1, or decay alone turns weights around; got "
                f"{self.lr} x {self.weight_decay}."
            )
        return faults
