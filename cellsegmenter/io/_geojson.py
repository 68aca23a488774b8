"""QuPath's GeoJSON: every object a polygon with its measurements."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ._files import replacing
from ._outlines import Outline, object_outlines
from ._stacks import LabelPlane, label_planes

__all__ = ["write_geojson"]

# Columns that say which object it is or where, which the polygon says already.
NO_MEASUREMENTS = ("image", "label", "z", "t", "page", "bbox", "centroid", "centroid_um")


def write_geojson(
    path: str | Path,
    labels: np.ndarray,
    table: Mapping[str, Any] | np.ndarray | None = None,
    *,
    axes: str = "YX",
    position: Mapping[str, int] | None = None,
) -> None:
    """Write objects as a GeoJSON FeatureCollection that QuPath opens as detections.

    Parameters
    ----------
    path : str or Path
    labels : ndarray (H, W), or with more axes a stack of label images
        0 background.
    table : mapping from names to columns (n,), optional
        One row per object in the order of the labels; its numbers become the objects' measurements.
    axes : str
        Of `labels`; QuPath knows Z and T.
    position : mapping, optional
        Such as {"Z": 3}, where the labels are those of one slice.

    Raises
    ------
    ImageFileError
        If the path cannot be written to.
    ValueError
        If labels, axes and table do not agree.

    Notes
    -----
    Coordinates are (x, y) in pixels along the pixels' edges: rasterising a polygon by the pixels' centres gives
    the label back.  An object whose parts touch at corners only is a MultiPolygon.  Values that are not finite
    are left out, as JSON has none.
    """
    names = [] if table is None else _measurement_names(table)
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        separator = "\n"
        for plane in label_planes(labels, axes, table, position):
            values = (
                {name: np.asarray(table[name])[plane.rows] for name in names} if table is not None else {}
            )
            for row, outline in enumerate(object_outlines(plane.labels)):
                numbers = {name: float(f"{column[row]:.8g}") for name, column in values.items()}
                feature = _feature(
                    outline, plane, {name: number for name, number in numbers.items() if np.isfinite(number)}
                )
                file.write(separator + json.dumps(feature, separators=(",", ":")))
                separator = ",\n"
        file.write("\n]}\n")


def _measurement_names(table: Mapping[str, Any] | np.ndarray) -> list[str]:
    """The columns of numbers that say more than which object it is and where."""
    names = list(table.dtype.names or ()) if isinstance(table, np.ndarray) else list(table)
    return [
        name
        for name in names
        if name.partition("-")[0] not in NO_MEASUREMENTS and np.asarray(table[name]).dtype.kind in "buif"
    ]


def _feature(outline: Outline, plane: LabelPlane, measurements: dict[str, float]) -> dict[str, Any]:
    polygons = [[_closed(ring) for ring in rings] for rings in outline.polygons]
    single = len(polygons) == 1
    geometry: dict[str, Any] = {
        "type": "Polygon" if single else "MultiPolygon",
        "coordinates": polygons[0] if single else polygons,
    }
    if plane.position:
        geometry["plane"] = {"c": -1, "z": plane.position.get("Z", 0), "t": plane.position.get("T", 0)}
    properties: dict[str, Any] = {"objectType": "detection", "name": str(outline.label)}
    if measurements:
        properties["measurements"] = measurements
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def _closed(ring: np.ndarray) -> list[list[int]]:
    """The ring with its first corner at the end again, as GeoJSON has it."""
    return [*ring.tolist(), ring[0].tolist()]
