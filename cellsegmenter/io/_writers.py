"""Writing label images, tables and overlays.  Every file is written beside its place, then moved there."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from skimage.io import imsave
from skimage.segmentation import find_boundaries

from cellsegmenter.normalize import normalize_image

from ._files import ImageFileError, replacing

__all__ = ["write_labels", "write_overlay", "write_table"]

TILE = 512  # px, of label images larger than that
MAX_OVERLAY = 4096  # px
OUTLINE_COLOURS = np.array(  # bright and apart from each other, also for most colour-blind eyes
    [(255, 194, 10), (64, 176, 255), (255, 90, 140), (110, 230, 90), (255, 140, 40), (190, 140, 255)],
    np.uint8,
)


def write_labels(path: str | Path, labels: np.ndarray, *, metadata: Mapping[str, Any] | None = None) -> None:
    """Write a label image as a compressed TIFF, uint16 if the labels fit, else uint32.

    Parameters
    ----------
    path : str or Path
    labels : ndarray (H, W) of int
        0 background, 1 .. n the objects.
    metadata : mapping, optional
        Written as JSON to the ImageDescription tag.

    Raises
    ------
    ImageFileError
        If the path cannot be written to.
    ValueError
        If `labels` is not a two-dimensional array of integers from 0.
    """
    labels = np.asarray(labels)
    if labels.ndim != 2 or labels.dtype.kind not in "ui" or labels.min(initial=0) < 0:
        raise ValueError(f"labels are {labels.dtype} of shape {labels.shape}; give (H, W) integers from 0")
    fits = labels.max(initial=0) <= np.iinfo(np.uint16).max
    with replacing(path) as temporary:
        tifffile.imwrite(
            temporary,
            labels.astype(np.uint16 if fits else np.uint32),
            compression="zlib",
            tile=(TILE, TILE) if max(labels.shape) > TILE else None,
            photometric="minisblack",
            description=json.dumps(dict(metadata or {})),
            metadata=None,
        )


def write_table(path: str | Path, table: Mapping[str, Any] | np.ndarray) -> None:
    """Write columns as CSV, with a header.

    Parameters
    ----------
    path : str or Path
    table : mapping from names to columns (n,), or structured array (n,)
        Floats are written with eight significant digits.

    Raises
    ------
    ImageFileError
        If the path cannot be written to.
    ValueError
        If the columns differ in length.
    """
    names = list(table.dtype.names or ()) if isinstance(table, np.ndarray) else list(table)
    columns = [np.asarray(table[name]) for name in names]
    if len({column.shape for column in columns}) > 1 or any(column.ndim != 1 for column in columns):
        shapes = {name: column.shape for name, column in zip(names, columns, strict=True)}
        raise ValueError(f"the columns of a table must be (n,) for one n, but are {shapes}")
    texts = [
        [f"{value:.8g}" for value in column] if column.dtype.kind == "f" else column.tolist()
        for column in columns
    ]
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(zip(*texts, strict=True))


def write_overlay(path: str | Path, image: Any, labels: np.ndarray) -> None:
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
    if Path(path).suffix.lower() != ".png":
        raise ImageFileError(f"{path} is an overlay and must end in .png")
    if tuple(image.shape[-2:]) != labels.shape:
        raise ValueError(f"image is {tuple(image.shape[-2:])} px and labels {labels.shape}; they must agree")
    step = -(-max(labels.shape) // MAX_OVERLAY)
    pixels = normalize_image(np.asarray(image[..., ::step, ::step]))
    grey = pixels if pixels.ndim == 2 else pixels.max(axis=0)
    thin = labels[::step, ::step]
    overlay = np.repeat((255 * np.clip(grey, 0, 1)).astype(np.uint8)[..., None], 3, axis=2)
    outline = find_boundaries(thin, mode="inner")
    overlay[outline] = OUTLINE_COLOURS[thin[outline] % len(OUTLINE_COLOURS)]
    with replacing(path) as temporary:
        imsave(temporary, overlay, check_contrast=False)
