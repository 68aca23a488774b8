"""ImageJ's ROI files: one outline per object, named by its label, in a zip for the ROI manager."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cellsegmenter.packages import needs

from ._files import ImageFileError, replacing
from ._outlines import Outline, object_outlines
from ._stacks import LabelPlane, label_planes

__all__ = ["write_rois"]

LARGEST = 2**15 - 1  # px: what an ImageJ ROI can hold
MOVE, LINE, CLOSE = 0, 1, 4  # segments of a composite ROI's path


def write_rois(
    path: str | Path,
    labels: np.ndarray,
    *,
    axes: str = "YX",
    position: Mapping[str, int] | None = None,
) -> None:
    """Write the outlines of objects as a zip of ImageJ ROIs, which Fiji's ROI manager opens.

    Parameters
    ----------
    path : str or Path
        Ends in ``.zip``.
    labels : ndarray (H, W), or with more axes a stack of label images
        0 background.
    axes : str
        Of `labels`.
    position : mapping, optional
        Such as {"Z": 3}, where the labels are those of one slice.

    Raises
    ------
    ImageFileError
        If the path cannot be written to or does not end in ``.zip``, the image is larger than ROIs can say, or
        roifile is not installed.
    ValueError
        If labels and axes do not agree.

    Notes
    -----
    A ROI's name is its label, in a stack with the plane's position in front, such as "z3-17".  Coordinates are
    those of `write_geojson`: along the pixels' edges.  Objects with holes, or with parts that touch at corners
    only, are composite ROIs.
    """
    if Path(path).suffix.lower() != ".zip":
        raise ImageFileError(f"{path} holds ROIs and must end in .zip")
    if max(labels.shape[-2:], default=0) > LARGEST:
        raise ImageFileError(
            f"{path} cannot be written: ImageJ ROIs reach {LARGEST} px, and the image has {labels.shape[-2:]}; "
            "write GeoJSON instead"
        )
    try:
        import roifile
    except ImportError:
        raise ImageFileError(needs(path, "roifile")) from None
    rois, names = [], []
    for plane in label_planes(labels, axes, None, position):
        for outline in object_outlines(plane.labels):
            roi = _roi(outline, roifile)
            _place(roi, outline, plane, in_stack=labels.ndim > 2)
            rois.append(roi)
            names.append(f"{roi.name}.roi")
    with replacing(path) as temporary:
        roifile.roiwrite(temporary, rois, name=names, mode="w")


def _roi(outline: Outline, roifile: Any) -> Any:
    """A traced polygon, or where one ring does not do, a composite of rings."""
    if len(outline.polygons) == 1 and len(outline.polygons[0]) == 1:
        roi = roifile.ImagejRoi.frompoints(outline.polygons[0][0].astype(np.int32))
        roi.roitype = roifile.ROI_TYPE.TRACED
        roi.right, roi.bottom = roi.right - 1, roi.bottom - 1  # corners are edges here, not pixels
        return roi
    rings = [ring for rings in outline.polygons for ring in rings]
    path = np.concatenate([_path_of(ring) for ring in rings]).astype(np.float32)
    left, top = np.min([ring.min(axis=0) for ring in rings], axis=0)
    right, bottom = np.max([ring.max(axis=0) for ring in rings], axis=0)
    roi = roifile.ImagejRoi()
    roi.roitype = roifile.ROI_TYPE.RECT
    roi.left, roi.top, roi.right, roi.bottom = int(left), int(top), int(right), int(bottom)
    roi.multi_coordinates, roi.shape_roi_size = path, len(path)
    return roi


def _path_of(ring: np.ndarray) -> np.ndarray:
    """A ring as segments of a path: move to the first corner, lines to the others, close."""
    corners = [[LINE, x, y] for x, y in ring.tolist()]
    corners[0][0] = MOVE
    return np.array([*(number for corner in corners for number in corner), CLOSE], dtype=float)


def _place(roi: Any, outline: Outline, plane: LabelPlane, *, in_stack: bool) -> None:
    """Name and plane; ImageJ counts planes from 1, and 0 stands for all of them."""
    prefix = "".join(f"{axis.lower()}{at}-" for axis, at in plane.position.items()) if in_stack else ""
    roi.name = f"{prefix}{outline.label}"
    if plane.position:
        roi.c_position = 1
        roi.z_position = plane.position.get("Z", 0) + 1
        roi.t_position = plane.position.get("T", 0) + 1
