"""Pictures to look at: images with the outlines of their objects, one by one or many on a sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from skimage.segmentation import find_boundaries

from cellsegmenter.normalize import normalize_image
from cellsegmenter.polarity import looks_dark_on_bright

from ._files import ImageFileError, replacing
from ._results import marked_png

__all__ = ["Panel", "shown_grey", "write_montage", "write_overlay"]

MAX_OVERLAY = 4096  # px
OUTLINE_COLOURS = np.array(  # bright and apart from each other, also for most colour-blind eyes
    [(255, 194, 10), (64, 176, 255), (255, 90, 140), (110, 230, 90), (255, 140, 40), (190, 140, 255)],
    np.uint8,
)
GAP = 4  # px of white between the panels of a montage
TEXT_COLOUR, TEXT_SHADOW = (255, 255, 255), (0, 0, 0)


class Panel(NamedTuple):
    """One picture of a montage."""

    title: str
    image: Any  # array-like (H, W) or (C, H, W)
    labels: Any  # array-like (H, W) of int


def write_overlay(path: str | Path, image: Any, labels: Any) -> None:
    """Write a PNG of the image with the objects' outlines in colour.

    Parameters
    ----------
    path : str or Path
        Ends in ``.png``.
    image : array-like (H, W) or (C, H, W)
        Of several channels the brightest counts.  Images beyond 4096 px are thinned out.
    labels : ndarray (H, W) of int

    Raises
    ------
    ImageFileError
        If the path cannot be written to or is not a PNG's.
    ValueError
        If image and labels differ in size.
    """
    _check_path(path)
    step = -(-max(labels.shape) // MAX_OVERLAY)
    _save(path, Image.fromarray(_outlined(image, labels, step)))


def write_montage(path: str | Path, panels: Sequence[Panel]) -> None:
    """Write a PNG of many images of one size with their objects' outlines, row by row, each with its title.

    Parameters
    ----------
    path : str or Path
        Ends in ``.png``.
    panels : sequence of Panel
        Such as the planes of a stack; normalised each by itself, and thinned out until all fit into 4096 px.

    Raises
    ------
    ImageFileError, ValueError
        As `write_overlay`.
    """
    _check_path(path)
    height, width = panels[0].labels.shape
    n_columns = _columns(len(panels), height, width)
    n_rows = -(-len(panels) // n_columns)
    step = -(-max(n_rows * height, n_columns * width) // MAX_OVERLAY)
    sheet = None
    for i, panel in enumerate(panels):
        picture = Image.fromarray(_outlined(panel.image, panel.labels, step))
        if sheet is None:
            size = (n_columns * (picture.width + GAP) - GAP, n_rows * (picture.height + GAP) - GAP)
            sheet = Image.new("RGB", size, "white")
        _write_title(picture, panel.title)
        row, column = divmod(i, n_columns)
        sheet.paste(picture, (column * (picture.width + GAP), row * (picture.height + GAP)))
    assert sheet is not None
    _save(path, sheet)


def shown_grey(pixels: np.ndarray, statistics: Any = None) -> np.ndarray:
    """An image (H, W) or (C, H, W) to look at, (H, W) in 0..1: normalised, of several channels the brightest.

    Dark objects on a bright background stay dark, between the first and the 99th percentile.  `statistics` are those of
    the whole image, where this is a part of it.
    """
    if looks_dark_on_bright(pixels):
        low, high = np.nanpercentile(pixels, [1, 99], axis=(-2, -1), keepdims=True)
        normal = (pixels.astype(np.float32) - low) / np.maximum(high - low, 1e-6)
    else:
        normal = normalize_image(pixels, statistics=statistics)
    return np.clip(np.nan_to_num(normal if normal.ndim == 2 else normal.max(axis=0)), 0, 1)


def _columns(n: int, height: int, width: int) -> int:
    """How many panels to put side by side for a sheet about as wide as high, rather wider as screens are."""
    return min(n, math.ceil(math.sqrt(n * height / width)))


def _write_title(picture: Image.Image, title: str) -> None:
    """In the upper left corner; the shadow makes it readable on bright images, too."""
    size = min(32, max(8, picture.height // 16))
    ImageDraw.Draw(picture).text(
        (size // 3, size // 4),
        title,
        fill=TEXT_COLOUR,
        font=ImageFont.load_default(size),
        stroke_width=1,
        stroke_fill=TEXT_SHADOW,
    )


def _outlined(image: Any, labels: Any, step: int) -> np.ndarray:
    """Every `step`-th pixel of an image as RGB uint8 (h, w, 3), the rims of objects in colour."""
    if tuple(image.shape[-2:]) != tuple(labels.shape):
        raise ValueError(f"image is {tuple(image.shape[-2:])} px and labels {labels.shape}; they must agree")
    grey = shown_grey(np.asarray(image[..., ::step, ::step]))
    thin = labels[::step, ::step]
    overlay = np.repeat((255 * grey).astype(np.uint8)[..., None], 3, axis=2)
    outline = find_boundaries(thin, mode="inner")
    overlay[outline] = OUTLINE_COLOURS[thin[outline] % len(OUTLINE_COLOURS)]
    return overlay


def _check_path(path: str | Path) -> None:
    if Path(path).suffix.lower() != ".png":
        raise ImageFileError(f"{path} is an overlay and must end in .png")


def _save(path: str | Path, picture: Image.Image) -> None:
    with replacing(path) as temporary:
        picture.save(temporary, format="PNG", pnginfo=marked_png())
