"""Where the artefacts of one model live."""

import dataclasses
import re
from pathlib import Path

from lse_interp.core.cli import DEFAULT_MODEL

__all__ = ["DEFAULT_SELECTOR", "RunPaths"]

DEFAULT_SELECTOR = "lape"
"""The default way to choose neurons."""


@dataclasses.dataclass(frozen=True)
class RunPaths:
    """Where the artefacts of one model live: `root/<model>/...`."""

    root: Path
    model: str

    @property
    def folder(self) -> Path:
        """The folder that holds every artefact of this model."""
        path = Path(self.model).expanduser()
        # What `load_model` reads as a path: every spelling of one folder is one model.
        is_path = self.model.startswith((".", "/", "~")) or any(
            file.is_file() for file in (path, path / "config.json", path / "adapter_config.json")
        )
        name = str(path.resolve()) if is_path else self.model
        return Path(self.root) / re.sub(r"[^\w.-]+", "--", name.strip("/"))

    @property
    def model_flag(self) -> str:
        """How a suggested command line names this model: ` --model X`, nothing for the default."""
        return "" if self.model == DEFAULT_MODEL else f" --model {self.model}"

    def counts(self, language: str) -> Path:
        """Activation counts of one language."""
        return self.folder / "counts" / f"{language}.safetensors"

    @property
    def neurons(self) -> Path:
        """The neuron sets of the default selector."""
        return self.neurons_of(DEFAULT_SELECTOR)

    def neurons_of(self, selector: str) -> Path:
        """The neuron sets that a selector chose."""
        return self.folder / "neurons" / f"{selector}.safetensors"

    @property
    def overlap(self) -> Path:
        """The overlap matrix."""
        return self.folder / "overlap.safetensors"

    def alignment(self, language: str) -> Path:
        """Alignment curves of one language."""
        return self.folder / "alignment" / f"{language}.safetensors"

    def finetune(self, language: str, name: str) -> Path:
        """Folder of one fine-tuning run."""
        return self.folder / "finetune" / language / name

    def comparison(self, language: str) -> Path:
        """Losses of the models tuned to one language."""
        return self.folder / "comparison" / f"{language}.safetensors"

    def evaluation(self, language: str) -> Path:
        """Task scores of the models tuned to one language."""
        return self.folder / "evaluation" / f"{language}.safetensors"

    def deltas(self, language: str, name: str) -> Path:
        """Weight changes of one fine-tuning run."""
        return self.folder / "deltas" / language / f"{name}.safetensors"
