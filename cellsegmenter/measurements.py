"""What is measured of every object of a label image: place, shape and intensity."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage
from skimage.measure import regionprops_table

from cellsegmenter.validation import check_number

__all__ = ["measure_objects"]

# Our column: the property of scikit-image behind it, which differ where skimage's name has changed over time.
SHAPE = {
    "label": "label",
    "bbox": "bbox",
    "centroid": "centroid",
    "area": "area",
    "eccentricity": "eccentricity",
    "axis_major_length": "axis_major_length",
    "axis_minor_length": "axis_minor_length",
    "orientation": "orientation",
    "perimeter": "perimeter",
    "solidity": "solidity",
    "equivalent_diameter": "equivalent_diameter_area",
}
INTENSITY = {
    "mean_intensity": "intensity_mean",
    "min_intensity": "intensity_min",
    "max_intensity": "intensity_max",
    "std_intensity": "intensity_std",
}
# Columns that are lengths, and so also given in µm where the pixel size is known.
LENGTHS = ("axis_major_length", "axis_minor_length", "perimeter", "equivalent_diameter")
BAND = 1024  # rows that are measured at once: bounds what is held of an image that loads lazily


class Band(NamedTuple):
    """Objects that begin in a range of rows."""

    first_row: int
    labels: np.ndarray  # (rows, width) int: these objects alone


def measure_objects(labels: Any, image: Any, *, pixel_size: float | None = None) -> dict[str, np.ndarray]:
    """Place, shape and intensity of each object, by scikit-image's `regionprops_table`.

    Parameters
    ----------
    labels : array-like (H, W) of int
        0 background, 1..n the objects.
    image : array-like (H, W) or (C, H, W)
        The intensities; both are read band by band, so that large images may stay on disk.
    pixel_size : float, optional
        µm per pixel, of square pixels.

    Returns
    -------
    dict of str to ndarray (n,)
        One row per object, in the order of the labels.  In pixels, rows before columns: label; bbox-0..3
        (first row and column, and one past the last ones); centroid-0, centroid-1; area; eccentricity (0
        circle .. 1 line); axis_major_length, axis_minor_length (of the ellipse with the same second moments);
        orientation (of the major axis, radians from the rows' direction, counter-clockwise); perimeter;
        solidity (area over that of the convex hull); equivalent_diameter (of the circle of equal area).
        With `pixel_size` also centroid_um-0, centroid_um-1 (µm), area_um2 (µm²), axis_major_length_um,
        axis_minor_length_um, perimeter_um, equivalent_diameter_um (µm).  mean_intensity, min_intensity,
        max_intensity, std_intensity, in the image's units; of several channels one column each
        (mean_intensity-0, ...).

    Raises
    ------
    ValueError
        If image and labels differ in size, or the pixel size is not positive.
    """
    if tuple(image.shape[-2:]) != labels.shape:
        raise ValueError(
            f"image is {tuple(image.shape[-2:])} px and labels {labels.shape}; they must be of the same size"
        )
    n_channels = None if len(image.shape) == 2 else int(image.shape[0])
    parts = [_measure_band(band, image) for band in _bands(labels)] or [
        _measure_band(Band(0, np.zeros((1, 1), np.int32)), np.zeros((*image.shape[:-2], 1, 1), np.float32))
    ]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.argsort(joined["label"], kind="stable")
    columns = {name: values[order] for name, values in joined.items()}
    shape = {name: columns[name] for name in columns if not name.startswith(tuple(INTENSITY.values()))}
    table = {_rename(name, SHAPE): values for name, values in shape.items()}
    if pixel_size is not None:
        table |= _in_micrometres(table, check_number("pixel_size", pixel_size, low=1e-9))
    for ours, theirs in INTENSITY.items():
        if n_channels in (None, 1):
            table[ours] = columns[theirs if n_channels is None else f"{theirs}-0"]
        else:
            table |= {f"{ours}-{c}": columns[f"{theirs}-{c}"] for c in range(n_channels or 0)}
    return table


def _bands(labels: Any) -> Iterator[Band]:
    """The objects in groups by the row they begin in, each group cut out of the label image."""
    first, last = _extents(labels)
    for start in range(0, labels.shape[0], BAND):
        here = (first >= start) & (first < start + BAND)
        if here.any():
            top, bottom = int(first[here].min()), int(last[here].max())
            belongs = np.concatenate([[False], here])
            cut = np.asarray(labels[top:bottom])
            yield Band(top, np.where(belongs[cut], cut, 0))


def _extents(labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """First row of each label, -1 if it does not occur, and one past the last; found band by band."""
    first, last = np.full(0, -1), np.zeros(0, dtype=np.int64)
    for start in range(0, labels.shape[0], BAND):
        boxes = ndimage.find_objects(np.asarray(labels[start : start + BAND]))
        new = max(len(boxes) - len(first), 0)
        first, last = np.append(first, np.full(new, -1)), np.append(last, np.zeros(new, dtype=np.int64))
        for number, box in enumerate(boxes):
            if box is not None:
                first[number] = start + box[0].start if first[number] < 0 else first[number]
                last[number] = start + box[0].stop
    return first, last


def _measure_band(band: Band, image: Any) -> dict[str, np.ndarray]:
    """scikit-image's columns, in the rows of the whole image."""
    pixels = np.asarray(image[..., band.first_row : band.first_row + len(band.labels), :])
    if pixels.ndim == 3:
        pixels = np.moveaxis(pixels, 0, -1)
    columns = regionprops_table(
        band.labels,
        intensity_image=pixels if pixels.dtype.kind == "f" else pixels.astype(np.float32),
        properties=(*SHAPE.values(), *INTENSITY.values()),
    )
    for name in ("bbox-0", "bbox-2", "centroid-0"):
        columns[name] = columns[name] + band.first_row
    return columns


def _rename(name: str, names: dict[str, str]) -> str:
    """Our name of scikit-image's column."""
    stem, dash, number = name.partition("-")
    ours = {theirs: ours for ours, theirs in names.items()}
    return f"{ours[stem]}{dash}{number}"


def _in_micrometres(table: dict[str, np.ndarray], pixel_size: float) -> dict[str, np.ndarray]:
    """Columns of their own for what has a length or an area."""
    in_um = {f"centroid_um-{axis}": table[f"centroid-{axis}"] * pixel_size for axis in (0, 1)}
    in_um["area_um2"] = table["area"] * pixel_size**2
    return in_um | {f"{name}_um": table[name] * pixel_size for name in LENGTHS}
