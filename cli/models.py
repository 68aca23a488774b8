"""Which model a command works with, and how it takes an image file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cellsegmenter import CellSegmenter
    from cellsegmenter.io import ImageFile


# What stands for the built-in model where a file could be named.
BUILT_IN = Path("nuclei")


def load_model(path: Path | None) -> CellSegmenter:
    """The model in a file of `cellseg fit`, or without one the model that is built in."""
    from cellsegmenter import CellSegmenter

    return CellSegmenter.pretrained() if path is None else CellSegmenter.load(path)


def channel_axis(image: ImageFile) -> int | None:
    """Where the channels of an image from a file are, as the estimator asks for it."""
    return image.axes.index("C") if "C" in image.axes else None
