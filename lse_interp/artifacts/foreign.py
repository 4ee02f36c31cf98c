"""Files that other programs wrote with torch or numpy; no code in them is run."""

import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lse_interp.core.errors import ArtifactError

__all__ = ["numbers", "read_foreign"]

# What the pickle of a numpy number or array names; none of it runs code.
_NUMPY: list[Any] = [
    np.ndarray,
    np.dtype,
    np.int64(0).__reduce__()[0],
    np.zeros(0).__reduce__()[0],
    bytes,  # of an empty array
    *{type(np.dtype(code)) for code in "?bhilqBHILQefd"},
]


def read_foreign(path: str | Path, *, what: str) -> Any:
    """Read lists, dicts, tensors and numbers: from `.npz`, or what `torch.save` wrote.

    Args:
        path: The file.
        what: What it should hold, as it should read in the message.

    Raises:
        ArtifactError: Missing, truncated or altered, or it holds other objects.
    """
    path = Path(path)
    if not path.is_file():
        inside = sorted(p.name for p in path.iterdir()) if path.is_dir() else []
        hint = f" It is a folder; give one of its files: {', '.join(inside)}." if inside else ""
        raise ArtifactError(f"{path} is not a file of {what}.{hint}")
    try:
        _check_zip(path)
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return dict(arrays)
        with warnings.catch_warnings(), torch.serialization.safe_globals(_NUMPY):
            # The unpickler warns about the content of a damaged file before it fails.
            warnings.simplefilter("ignore")
            return torch.load(path, weights_only=True, map_location="cpu")
    # A damaged pickle raises whatever its opcodes run into.
    except Exception as error:
        # torch's own text advises to load the file with its code.
        refused = re.search(r"unsupported (global:? )?\w+ \S+", f"{error}", re.IGNORECASE)
        reason = refused[0] if refused else (f"{error}" or type(error).__name__).splitlines()[0]
        raise ArtifactError(
            f"{path} cannot be read as {what}. It is truncated, of another kind than torch.save, "
            "numpy (.npz) and safetensors write, or holds more than tensors, lists, dicts and "
            "numbers: other objects may be code, which is never run. Take the original file, or "
            f"save plain tensors. ({reason})"
        ) from error


def numbers(values: Any, *, what: str) -> Tensor:
    """Return what a file or a caller has as a tensor: a list, an array, a table, a tensor.

    Raises:
        ArtifactError: Something else than numbers in rows of one length.
    """
    try:
        if not isinstance(values, Tensor):
            array = np.asarray(values)
            values = torch.as_tensor(array.astype(array.dtype.newbyteorder("=")))
        return values.detach().cpu().to_dense()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArtifactError(f"{what} must be numbers, in rows of one length ({error}).") from error


def _check_zip(path: Path) -> None:
    """Compare what is packed with its checksums, which torch itself does not."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as packed:
            if (damaged := packed.testzip()) is not None:
                raise zipfile.BadZipFile(f"{damaged} does not have its checksum")
