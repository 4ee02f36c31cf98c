"""Models that come with a package, by name."""

from collections.abc import Callable
from pathlib import Path

from lse_interp.core.errors import LseError
from lse_interp.models.packaged import gemma_3_270m

__all__ = ["PACKAGED", "packaged_folder"]


def _embedded() -> Path:
    return Path(__file__).parent / "embedded"


PACKAGED: dict[str, Callable[[], Path]] = {
    "embedded": _embedded,
    gemma_3_270m.NAME: gemma_3_270m.folder,
}
"""Name -> what returns its folder in transformers format. One line here adds a model."""

_FILES = ("config.json", "model.safetensors", "tokenizer.json")


def packaged_folder(name: str) -> Path | None:
    """Return the folder of a packaged model; None for any other name.

    Raises:
        LseError: Its package is not installed, or files of the model are missing.
    """
    if name not in PACKAGED:
        return None
    folder = PACKAGED[name]()
    if missing := [file for file in _FILES if not (folder / file).is_file()]:
        raise LseError(
            f"The {name} model is incomplete: {', '.join(missing)} missing from {folder}. "
            "Delete that folder if it is in a cache, else reinstall the package."
        )
    return folder
