"""ModelDefaults: how a model is read and trained where nobody says otherwise.

A model's folder may hold a `defaults.json` with any of the fields; what it leaves out has the
general value below. Functions and commands both read these, so the same weights behave the same
however they are named.
"""

import dataclasses
import json
from pathlib import Path
from typing import Literal

from lse_interp.core.errors import LseError, near_misses

__all__ = ["FILE_NAME", "ModelDefaults"]

FILE_NAME = "defaults.json"


@dataclasses.dataclass(frozen=True)
class ModelDefaults:
    """The defaults of one model; the values here are the general ones."""

    block_size: int = 512
    """Positions per sequence, in counting and in training."""
    bos: str | tuple[int, ...] = "auto"
    """What the model reads before text: `auto`, `none`, `config` or token ids."""
    bos_at: Literal["block", "document"] = "block"
    """Where packed text has it."""
    n_tokens: int = 1_000_000
    """Text tokens that are counted per language."""
    lr_factor: float = 1.0
    """Multiplies the paper's learning rates."""
    validate_every: int = 500
    """Steps between validations."""
    lora_rank: int | None = None
    """Rank of LoRA; None takes that of the profile."""
    lora_alpha: float | None = None
    """Scale of LoRA; None takes that of the profile."""
    tasks: tuple[str, ...] = ("paper",)
    """Tasks that the model is asked."""
    parallel: str | None = None
    """Sentences whose loss is measured with the tasks; None measures none."""

    @classmethod
    def read(cls, folder: str | Path) -> "ModelDefaults":
        """Read the defaults of the model in a folder; the general ones where it has no such file.

        Raises:
            LseError: The file is not JSON, or has an entry that is not a field here.
        """
        path = Path(folder) / FILE_NAME
        if not path.is_file():
            return cls()
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise LseError(f"{path} must be a JSON object of defaults: {error}.") from error
        known = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                near = near_misses(name, known)
                raise LseError(f"{path} has the entry {name!r}, which is no default. {near}")
        lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return cls(**values | lists)

    def write(self, folder: str | Path) -> None:
        """Write the defaults into the folder of a model; nothing if they are the general ones."""
        general = ModelDefaults()
        values = {
            name: value
            for name, value in dataclasses.asdict(self).items()
            if value != getattr(general, name)
        }
        if values:
            text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
            (Path(folder) / FILE_NAME).write_text(text, encoding="utf-8")
