"""Writing label images and maps.  Every file is written beside its place, then moved there."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from ._files import replacing
from ._results import MARK
from ._stacks import check_labels

__all__ = ["confidence_map", "write_labels", "write_map"]

TILE = 512  # px, of images larger than that
BIG = 2**31  # bytes: compressed sizes are not known beforehand, so BigTIFF well before its limit of 4 GiB


def write_labels(
    path: str | Path,
    labels: Any,
    *,
    metadata: Mapping[str, Any] | None = None,
    axes: str = "YX",
    pixel_size: float | None = None,
) -> None:
    """Write a label image as a compressed TIFF, uint16 if the labels fit, else uint32.

    Parameters
    ----------
    path : str or Path
    labels : array-like (H, W) of int, or with more axes a stack of label images
        0 background, 1 .. n the objects.  What is no ndarray but can be sliced is read piece by piece.
    metadata : mapping, optional
        Written as JSON to the ImageDescription tag.
    axes : str
        Of `labels`.
    pixel_size : float, optional
        µm per pixel, written to the resolution tags.

    Raises
    ------
    ImageFileError
        If the path cannot be written to.
    ValueError
        If `labels` is not an array of integers from 0 with these axes.
    """
    on_disk = hasattr(labels, "shape") and not isinstance(labels, np.ndarray)
    if on_disk and axes == "YX" and max(labels.shape) > TILE:
        _stream_tiff(path, labels, dict(metadata or {}), pixel_size)
        return
    labels = np.asarray(labels)
    check_labels(labels, axes)
    fits = labels.max(initial=0) <= np.iinfo(np.uint16).max
    _write_tiff(path, labels.astype(np.uint16 if fits else np.uint32), dict(metadata or {}), pixel_size)


def write_map(
    path: str | Path, values: np.ndarray, *, axes: str = "YX", pixel_size: float | None = None
) -> None:
    """Write a map of probabilities as a compressed TIFF of float32.

    Parameters
    ----------
    path : str or Path
    values : ndarray (H, W) of float, or with more axes a stack of maps
    axes : str
        Of `values`.
    pixel_size : float, optional
        µm per pixel, written to the resolution tags.

    Raises
    ------
    ImageFileError
        If the path cannot be written to.
    ValueError
        If the axes do not fit.
    """
    if values.ndim != len(axes):
        raise ValueError(f"a map of shape {values.shape} does not have the axes {axes!r}")
    _write_tiff(path, values.astype(np.float32), {}, pixel_size)


def confidence_map(labels: Any, confidence: np.ndarray) -> np.ndarray:
    """The confidence of the object that a pixel belongs to, 0 where there is none.

    Parameters
    ----------
    labels : ndarray (H, W) of int, 0..n
    confidence : ndarray (n,)
        Of the objects in the order of their labels.

    Returns
    -------
    ndarray (H, W) of float32
    """
    return np.concatenate([[0], confidence]).astype(np.float32)[np.asarray(labels)]


def _write_tiff(
    path: str | Path, pixels: np.ndarray, metadata: dict[str, Any], pixel_size: float | None
) -> None:
    """One page for each plane, in tiles if large; beyond what TIFF can address, as BigTIFF."""
    tile = (TILE, TILE) if max(pixels.shape[-2:]) > TILE else None
    with replacing(path) as temporary:
        tifffile.imwrite(
            temporary, pixels, bigtiff=pixels.nbytes > BIG, tile=tile, **_tiff_options(metadata, pixel_size)
        )


def _stream_tiff(path: str | Path, labels: Any, metadata: dict[str, Any], pixel_size: float | None) -> None:
    """Label images that stay on disk, tile by tile."""
    height, width = labels.shape
    highest = 0
    for row in range(0, height, TILE):
        band = np.asarray(labels[row : row + TILE])
        check_labels(band, "YX")
        highest = max(highest, int(band.max()))
    dtype = np.dtype(np.uint16 if highest <= np.iinfo(np.uint16).max else np.uint32)

    def tiles() -> Iterator[np.ndarray]:
        for row in range(0, height, TILE):
            band = np.asarray(labels[row : row + TILE]).astype(dtype)
            for column in range(0, width, TILE):
                yield np.ascontiguousarray(band[:, column : column + TILE])

    with replacing(path) as temporary:
        tifffile.imwrite(
            temporary,
            tiles(),
            shape=(height, width),
            dtype=dtype,
            bigtiff=height * width * dtype.itemsize > BIG,
            tile=(TILE, TILE),
            **_tiff_options(metadata, pixel_size),
        )


def _tiff_options(metadata: dict[str, Any], pixel_size: float | None) -> dict[str, Any]:
    per_cm = None if pixel_size is None else (1e4 / pixel_size, 1e4 / pixel_size)
    return {
        "compression": "zlib",
        "photometric": "minisblack",
        "resolution": per_cm,
        "resolutionunit": None if per_cm is None else "CENTIMETER",
        "description": json.dumps(metadata),
        "software": MARK,
        "metadata": None,
    }
