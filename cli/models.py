"""Which model a command works with, and how it takes an image file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from cellsegmenter import CellSegmenter
    from cellsegmenter.io import ImageFile


# What stands for the built-in model where a file could be named.
BUILT_IN = Path("nuclei")


def load_model(path: Path | None) -> CellSegmenter:
    """The model in a file of `cellseg fit`, or without one the model that is built in."""
    from cellsegmenter import CellSegmenter

    return CellSegmenter.pretrained() if path is None else CellSegmenter.load(path)


def take_channels(segmenter: CellSegmenter, image: ImageFile, path: Path) -> None:
    """Make a model ready for an image with the channels that it knows.

    Raises
    ------
    click.ClickException
        If the image has others.
    """
    axis = channel_axis(image)
    n = 1 if axis is None else int(image.array.shape[axis])
    known = segmenter.n_channels_in_
    if n != known:
        read = f"{path} is read with {n} channel{'s' if n > 1 else ''}, and the model takes {known}"
        remedy = "one by --channel N" if known == 1 else "as many, in the order of the fit, by --channel 0,1"
        raise click.ClickException(f"{read}; choose {remedy}.")
    segmenter.set_params(channel_axis=axis)


def channel_axis(image: ImageFile) -> int | None:
    """Where the channels of an image from a file are, as the estimator asks for it."""
    return image.axes.index("C") if "C" in image.axes else None
