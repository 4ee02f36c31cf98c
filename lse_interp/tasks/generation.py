"""How answers are generated. Source: paper, appendix C.3."""

from typing import Any

__all__ = ["STOPS", "generation_settings"]

STOPS: tuple[str, ...] = (
    "\n",
    "\n\n",
    "Question:",
    "Q:",
    "Answer:",
    "A:",
    "Translation:",
    "The translation",
    "Translate:",
    "Summary:",
    "The summary",
    "Summarize:",
    "Passage:",
    "The passage",
    "Text:",
    "Options:",
    "The options",
    "The choices",
    "Choices:",
    "Context:",
    "The context",
    "The problem",
    "Problem:",
    "\n\nQuestion",
    "\n\nAnswer",
    "</s>",
    "<|endoftext|>",
    "Human:",
    "Assistant:",
)
"""What ends an answer, in the paper's order. An answer that begins with a newline is therefore
empty, and so is one that begins with `A:`."""


def generation_settings() -> dict[str, Any]:
    """Return how text is generated, in the terms of lm-evaluation-harness."""
    return {
        # The likeliest token is taken; nothing is drawn.
        "do_sample": False,
        "temperature": 0.0,
        "max_gen_toks": 128,
        "until": list(STOPS),
        "repetition_penalty": 1.1,
    }
