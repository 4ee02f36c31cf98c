"""Draw one figure or all of them: find what they need, save what they yield."""

import dataclasses
import itertools
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from analyses.artefacts import find
from analyses.registry import FIGURES, Figure, Request
from lse_interp.core.errors import ArtifactError, LseError
from lse_interp.neurons.formats.masks_pth import RELEASED_MODELS

__all__ = ["draw", "draw_all"]

logger = logging.getLogger(__name__)

_SECOND = "nemo-5"


def draw(request: Request, *, show: bool = True) -> list[Path]:
    """Draw one figure and return the files written.

    Args:
        request: which figure, and from what.
        show: whether tables are printed too.

    Raises:
        ArtifactError: nothing to draw, or a file that cannot be read.
        LseError: no such figure, no published numbers, or two sources.
    """
    written = []
    for drawn in _drawn(FIGURES[request.figure], request):
        written += (files := drawn.save(request.figures, command=request.command))
        if show:
            sys.stdout.write(drawn.printed)
        logger.info("wrote %s", files[0])
    return written


def draw_all(request: Request) -> list[Path]:
    """Draw every figure that has something to draw; name those that have not.

    Raises:
        ArtifactError: `masks` holds no released file.
        LseError: two sources that contradict each other.
    """
    if request.paths or request.published:
        raise LseError("`all` draws every source there is; name files for one figure.")
    written = []
    masks = _masks(request)
    for name in FIGURES:
        for one in _requests(FIGURES[name], dataclasses.replace(request, figure=name), masks):
            try:
                written += draw(one, show=False)
            except ArtifactError as error:
                logger.info("left out: %s", error)
    return written


def _drawn(figure: Figure, request: Request) -> Iterator[Any]:
    own = bool(request.paths) or request.masks is not None
    if request.published and own:
        given = "FILE" if request.paths else "--masks"
        raise LseError(f"`{given}` and `--source published` name two sources; give one of them.")
    if request.published or (figure.model == "second" and figure.published and not own):
        if figure.published is None:
            with_numbers = ", ".join(name for name in FIGURES if FIGURES[name].published)
            raise LseError(
                f"The paper prints no numbers of {request.figure}; it does of {with_numbers}."
            )
        return figure.published()
    return itertools.chain.from_iterable(
        figure.draw(found, request) for found in find(figure, request)
    )


def _requests(figure: Figure, request: Request, masks: list[Path]) -> Iterator[Request]:
    """Yield a request for the run, for the published numbers, and for each released file."""
    plain = dataclasses.replace(request, masks=None)
    if figure.model == "first":
        yield plain
    if figure.published is not None:
        yield dataclasses.replace(plain, source="published", model=Request.model, root=Request.root)
    if figure.needs == "neuron_sets":
        for path in masks:
            if (path.name == _SECOND) == (figure.model == "second"):
                yield dataclasses.replace(request, masks=path)


def _masks(request: Request) -> list[Path]:
    if request.masks is None:
        return []
    folder = request.masks
    found = [folder / name for name in RELEASED_MODELS if (folder / name).is_file()]
    if not found:
        raise ArtifactError(
            f"{folder} holds no released neurons; expected {' or '.join(RELEASED_MODELS)}."
        )
    return found
