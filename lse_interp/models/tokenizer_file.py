"""Reading a tokenizer so that it is the one in its file.

transformers builds some tokenizers from the class that goes with the model, and takes only the
vocabulary from `tokenizer.json`. A model that was adapted to another tokenizer then reads other
tokens, without a word. So what transformers loads is compared with the file.
"""

import logging
from pathlib import Path
from typing import Any

from lse_interp.core.errors import LseError
from lse_interp.models.checkpoint import find_file, from_pretrained, options

__all__ = ["PROBE", "read_tokenizer"]

_log = logging.getLogger(__name__)

_FILE = "tokenizer.json"

PROBE = """Il-kelb jibżgħu; Łódź, žluťoučký kůň, İstanbul, ẞ ﬁ é
 Съешь ещё Γειά σου გამარჯობა Բարեւ  مرحبا، بِالعالم שָׁלוֹם नमस्ते দেশ தமிழ் ไทย ພາສາລາວ မြန်မာ ខ្មែរ
\t你好，世界。ひらがなカタカナ 한국어 ሰላም ᏣᎳᎩ  x   y\r
 don't "quote" (a_b) C++ 3.14 20,000 ½ № € \\ https://x.org 👩‍👩‍👧 😀 𝒳\u00a0\u200b\n\n z
 1234567890 ١٢٣٤٥ २०२४ DON'T e\u0301 \u0958 \u1100\u1161 အလုပ္သမား"""
"""Text of many scripts, on which a tokenizer and its file are compared."""

_N_WORDS = 2000


def read_tokenizer(source: str, *, revision: str | None = None) -> Any:
    """Read the tokenizer of a local folder or a hub id.

    Where its `tokenizer.json` reads or writes a text of many scripts, or words of its own
    vocabulary, differently from what transformers loads, the file is used as it is, with the
    special tokens and settings of `tokenizer_config.json`, and a warning says so.

    Raises:
        LseError: There is no tokenizer, or it cannot be read.
    """
    from transformers import AutoTokenizer
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    path = find_file(source, _FILE, revision=revision)
    if path is not None:
        tokenizer = _like_its_file(source, path, revision=revision)
        # With a tokenizer.json, transformers drops what tokenizer_config.json says about BOS.
        settings = get_tokenizer_config(source, revision=revision)
        tokenizer.init_kwargs["add_bos_token"] = settings.get("add_bos_token")
        return tokenizer
    tokenizer = from_pretrained(AutoTokenizer, source, "tokenizer", **options(revision))
    # Where the files are absent, transformers makes a tokenizer of special tokens alone.
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        raise LseError(
            f"{source} holds no tokenizer: expected {_FILE}, found a vocabulary of special "
            "tokens alone. Save it there with tokenizer.save_pretrained."
        )
    return tokenizer


def _like_its_file(source: str, path: Path, *, revision: str | None) -> Any:
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    tokenizer = None
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **options(revision))
        found = f"transformers reads text differently, as a {type(tokenizer).__name__}"
    except Exception as error:  # A class may raise anything for a file that is not its own.
        found = f"transformers cannot read it: {error}"
    if type(tokenizer) is PreTrainedTokenizerFast:
        return tokenizer  # The one class that takes the file as it is.
    try:
        file = Tokenizer.from_file(str(path))
    except Exception as error:  # All that tokenizers raises.
        raise LseError(f"{path} is no tokenizer: {error}. Save it again, or copy it.") from error
    file.no_truncation()
    file.no_padding()
    if tokenizer is not None and _is_file(tokenizer, file, exactly=True):
        return tokenizer
    tokenizer = from_pretrained(PreTrainedTokenizerFast, source, "tokenizer", **options(revision))
    if not _is_file(tokenizer, file):
        raise LseError(
            f"The tokenizer of {source} reads text differently from its own {path}. Check "
            "tokenizer_config.json, or save the tokenizer again."
        )
    _log.warning("The tokenizer of %s is used as in its %s (%s).", source, _FILE, found)
    return tokenizer


def _is_file(tokenizer: Any, file: Any, *, exactly: bool = False) -> bool:
    """Whether a tokenizer reads and writes as its file does; exactly: and has no more tokens.

    A class may add special tokens of its own, which the model has no embedding for.
    """
    numbers = sorted(file.get_vocab(with_added_tokens=False).values())
    # What one merges into a word, another may split.
    words = [file.decode([n]) for n in numbers[:: 1 + len(numbers) // _N_WORDS]]
    probe = " ".join([PROBE, *words])
    ids = file.encode(probe, add_special_tokens=False).ids
    text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return (
        (not exactly or len(tokenizer) == file.get_vocab_size())
        and tokenizer(probe, add_special_tokens=False, verbose=False)["input_ids"] == ids
        and tokenizer(probe, verbose=False)["input_ids"] == file.encode(probe).ids
        and text == file.decode(ids, skip_special_tokens=False)
        and all(
            tokenizer.convert_tokens_to_ids(token.content) == number
            for number, token in file.get_added_tokens_decoder().items()
        )
    )
