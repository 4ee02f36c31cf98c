"""GGUF files: unpacked once into an ordinary folder in transformers format, kept in a cache.

The weights are unpacked to float32, so nothing is rounded a second time: 4 bytes a parameter on
disk. `LSE_CACHE` names the folder of the cache (by default `~/.cache/lse_interp`).
"""

import hashlib
import importlib.util
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lse_interp.artifacts.atomic import write_folder
from lse_interp.artifacts.locks import locked
from lse_interp.core.errors import LseError

__all__ = ["as_plain_model", "find_gguf", "unpack_once", "unpacked_folder"]

logger = logging.getLogger(__name__)

_BYTES_PER_PARAMETER = 4


def find_gguf(path: Path) -> Path | None:
    """Return the GGUF file that a path means: the file itself, or the only one in a folder.

    Raises:
        LseError: A folder without a `config.json` that holds several.
    """
    if path.is_file():
        return path if path.suffix.lower() == ".gguf" else None
    if not path.is_dir() or (path / "config.json").is_file():
        return None
    files = sorted(path.glob("*.gguf"))
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise LseError(f"{path} holds {len(files)} GGUF files ({names}). Give the path of one.")
    return files[0] if files else None


def unpacked_folder(file: Path) -> Path:
    """Return the ordinary folder of a GGUF file; it is made at first use.

    Raises:
        LseError: See `unpack_once`.
    """
    about = file.stat()
    key = f"{file.resolve()} {about.st_size} {about.st_mtime_ns}"
    name = f"{file.stem}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    return unpack_once(name, lambda temporary: file, what=str(file))


def unpack_once(name: str, get: Callable[[Path], Path], *, what: str) -> Path:
    """Return a folder of the cache; unpack a GGUF file into it at first use.

    Processes that ask for the same folder wait for the first, and a killed one leaves nothing.

    Args:
        name: Of the folder.
        get: Returns the GGUF file; gets a temporary folder in which it may make it.
        what: The model in words.

    Raises:
        LseError: The package `gguf` is missing, the file cannot be read, transformers does not
            know its architecture, or there is no room.
    """
    folder = _cache() / name
    if folder.is_dir():
        return folder
    if importlib.util.find_spec("gguf") is None:
        raise LseError(f"Reading {what} needs the package gguf: pip install 'lse-interp[gemma]'.")
    with locked(folder, what=f"the folder of {what}"):
        if folder.is_dir():
            return folder

        def write(temporary: Path) -> None:
            work = temporary / ".gguf"
            work.mkdir()
            file = get(work)
            _check_room(file, folder.parent)
            logger.info("unpacking %s into %s, once (about a minute for 270M)", what, folder)
            _unpack(file, temporary)
            shutil.rmtree(work)

        write_folder(folder, write)
    return folder


def as_plain_model(hf: Any) -> Any:
    """Take the marks of GGUF off a model whose weights were unpacked, in place.

    transformers refuses to save a model that carries them, although its weights are plain tensors.
    """
    quantizer = getattr(hf, "hf_quantizer", None)
    about = getattr(quantizer, "quantization_config", None)
    if getattr(about, "quant_method", None) != "gguf":
        return hf
    for name in ("hf_quantizer", "quantization_method"):
        if name in vars(hf):
            delattr(hf, name)
    hf.is_quantized = False
    if hasattr(hf.config, "quantization_config"):
        del hf.config.quantization_config
    return hf


def _unpack(file: Path, folder: Path) -> None:
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options: dict[str, Any] = {"gguf_file": file.name}
    # Newer versions of transformers can keep the weights packed.
    packed = getattr(transformers, "GgufConfig", None)
    plain: dict[str, Any] = {"quantization_config": packed(dequantize=True)} if packed else {}
    auto: Any = AutoModelForCausalLM
    try:
        hf, report = auto.from_pretrained(
            file.parent, dtype=torch.float32, output_loading_info=True, **options, **plain
        )
        tokenizer = AutoTokenizer.from_pretrained(file.parent, **options)
    except (OSError, ValueError, KeyError, IndexError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise LseError(f"Cannot read {file.name} as a GGUF file: {reason}") from error
    if missing := sorted(report["missing_keys"]):
        raise LseError(f"{file.name} lacks {len(missing)} tensors of its model, e.g. {missing[0]}.")
    as_plain_model(hf).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # transformers adds tokens to some vocabularies, for which the model has no embedding.
    path, n_rows = folder / "tokenizer.json", hf.get_input_embeddings().weight.shape[0]
    saved = json.loads(path.read_text(encoding="utf-8"))
    saved["added_tokens"] = [token for token in saved["added_tokens"] if token["id"] < n_rows]
    path.write_text(json.dumps(saved, ensure_ascii=False), encoding="utf-8")


def _check_room(file: Path, folder: Path) -> None:
    from gguf import GGUFReader

    try:
        tensors = GGUFReader(file).tensors
        n_parameters = sum(int(tensor.n_elements) for tensor in tensors)
    except (ValueError, KeyError, IndexError) as error:
        raise LseError(f"Cannot read {file.name} as a GGUF file: {error}") from error
    needed, free = n_parameters * _BYTES_PER_PARAMETER, shutil.disk_usage(folder).free
    if free < needed:
        raise LseError(
            f"Unpacking {file.name} needs {needed / 1e9:.1f} GB in {folder}; {free / 1e9:.1f} GB "
            "are free. Make room, or set LSE_CACHE to a folder on another disk."
        )


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(os.environ.get("LSE_CACHE") or Path(base) / "lse_interp").expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    return folder
