"""Models that come with a package, by name."""

from pathlib import Path

from lse_interp.core.errors import LseError

__all__ = ["PACKAGED", "packaged_folder"]

PACKAGED: dict[str, Path] = {"embedded": Path(__file__).parent / "embedded"}
"""Name -> folder in transformers format. One line here adds a model."""

_FILES = ("config.json", "model.safetensors", "tokenizer.json")


def packaged_folder(name: str) -> Path | None:
    """Return the folder of a packaged model; None for any other name.

    Raises:
        LseError: Files of the model are missing.
    """
    folder = PACKAGED.get(name)
    if folder is None:
        return None
    if missing := [file for file in _FILES if not (folder / file).is_file()]:
        raise LseError(
            f"The {name} model is incomplete: {', '.join(missing)} missing from {folder}. "
            "Reinstall the package."
        )
    return folder
