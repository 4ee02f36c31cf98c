"""Draw figures and tables of the paper from finished artefacts and published numbers.

    python -m analyses all                        # what `make figures` runs
    python -m analyses fig06
    python -m analyses fig06 runs/my-model/deltas/mlt/target.safetensors
    python -m analyses fig08 --masks released_masks/llama-3.1-5
    python -m analyses table02 --source published
    python -m analyses gallery                    # figures/README.md
    python -m analyses demo --help                # from text to figures

Writes png, pdf and csv of a picture, markdown and csv of a table.
"""

import dataclasses
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from analyses.registry import FIGURES, Request
from lse_interp.core.cli import main_for

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Config(Request):
    """Draw."""


def run(config: Request) -> list[Path]:
    """Draw the requested figures and return the files written.

    Raises:
        LseError: no such figure, or nothing to draw it from.
    """
    from analyses.drawing import draw, draw_all
    from analyses.gallery import write_gallery

    if config.figure not in ("all", "gallery"):
        return draw(config)
    written = draw_all(config) if config.figure == "all" else []
    page = write_gallery(config.figures)
    logger.info("wrote %s", page)
    return [*written, page]


def main(argv: Sequence[str] | None = None) -> int:
    """Draw from the command line."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["demo"]:
        from analyses import demo

        return demo.main(words[1:])
    description = f"{__doc__}\nFigures: {', '.join(FIGURES)}."
    return main_for(Config, run, words, description=description)


if __name__ == "__main__":
    raise SystemExit(main())
