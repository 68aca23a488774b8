"""Label images of one or several planes, taken plane by plane."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

__all__ = ["LabelPlane", "check_labels", "label_planes"]


class LabelPlane(NamedTuple):
    """One plane of a label image."""

    labels: np.ndarray  # (H, W) int, 0 background
    position: dict[str, int]  # where in the file it is, such as {"Z": 3}
    rows: slice  # of the table: the plane's objects


def check_labels(labels: np.ndarray, axes: str) -> None:
    """Refuse what is no label image of these axes.

    Raises
    ------
    ValueError
        If the array does not have an axis for each letter, the last two being Y and X, or does not hold
        integers from 0.
    """
    if labels.ndim != len(axes) or not axes.endswith("YX"):
        raise ValueError(f"labels of shape {labels.shape} do not have the axes {axes!r}; Y and X come last")
    if labels.dtype.kind not in "ui" or (labels.size and labels.min() < 0):
        raise ValueError(f"labels are {labels.dtype} of shape {labels.shape}; give integers from 0")


def label_planes(
    labels: np.ndarray,
    axes: str,
    table: Mapping[str, Any] | np.ndarray | None = None,
    position: Mapping[str, int] | None = None,
) -> Iterator[LabelPlane]:
    """The planes of a label image in row-major order, with the rows of the table that are theirs.

    Parameters
    ----------
    labels : ndarray (..., H, W) of int
        Numbered from 1 in every plane.
    axes : str
        A letter for each axis, such as ZYX.
    table : mapping from names to columns, optional
        Has one row per object, planes one after the other.
    position : mapping, optional
        Where all planes are on axes that `labels` does not have.

    Raises
    ------
    ValueError
        If labels and axes do not agree, or the table is not that of these labels.
    """
    check_labels(labels, axes)
    start = 0
    for index in np.ndindex(labels.shape[:-2]):
        plane = labels[index]
        present = np.unique(plane)
        present = present[present > 0]
        rows = slice(start, start + len(present))
        if table is not None and not np.array_equal(np.asarray(table["label"])[rows], present):
            raise ValueError("the table is not that of the labels: give one row per object, in their order")
        start = rows.stop
        yield LabelPlane(plane, dict(position or {}) | dict(zip(axes[:-2], index, strict=True)), rows)
    if table is not None and start != len(table["label"]):
        raise ValueError(f"the table has {len(table['label'])} rows for {start} objects; give one for each")
