"""OME-Zarr folders (NGFF 0.4 and 0.5): the axes, pixel size and array of a resolution level."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cellsegmenter.packages import needs

from ._files import ImageFileError, square_pixel_size
from ._layout import Source

__all__ = ["ome_attributes", "read_ome_zarr"]

TO_MICROMETRES = {"angstrom": 1e-4, "nanometer": 1e-3, "micrometer": 1.0, "millimeter": 1e3}


def read_ome_zarr(path: Path, level: int) -> Source:
    """The first image of an OME-Zarr folder at a resolution level, 0 being the full one; stays lazy."""
    try:
        import zarr
    except ImportError:
        raise ImageFileError(needs(path, "zarr")) from None
    try:
        attributes = ome_attributes(path)
        multiscale = attributes["multiscales"][0]
        axes = "".join(axis["name"].upper() for axis in multiscale["axes"])
        levels = multiscale["datasets"]
        if 0 <= level < len(levels):
            array = zarr.open_array(path / levels[level]["path"], mode="r")
            scale = _scale(levels[level], multiscale)
    except Exception as error:  # whatever is missing or damaged in a folder of files
        raise ImageFileError(f"{path} cannot be read as OME-Zarr ({error!r}); export it again") from error
    if not 0 <= level < len(levels):
        raise ImageFileError(f"{path} has no level {level}; levels go from 0 to {len(levels) - 1} (--level)")
    sizes = [
        scale[axes.index(axis)] * TO_MICROMETRES[unit] if unit in TO_MICROMETRES else None
        for axis in "YX"
        for unit in [multiscale["axes"][axes.index(axis)].get("unit")]
    ]
    return Source(str(path), array, axes, square_pixel_size(*sizes), _channel_names(attributes))


def ome_attributes(path: Path) -> dict[str, Any]:
    """What the group says of itself: "multiscales", "omero", ... of either version of the format."""
    if (path / "zarr.json").exists():  # zarr 3, NGFF 0.5
        return json.loads((path / "zarr.json").read_text(encoding="utf-8"))["attributes"]["ome"]
    return json.loads((path / ".zattrs").read_text(encoding="utf-8"))


def _scale(level: dict[str, Any], multiscale: dict[str, Any]) -> list[float]:
    """Units per pixel on each axis: the level's own scale times the one for all levels."""
    own = _scale_of(level["coordinateTransformations"])
    common = _scale_of(multiscale.get("coordinateTransformations", []))
    if own is None:
        raise ValueError("a level without scale")
    return [a * b for a, b in zip(own, common or [1.0] * len(own), strict=True)]


def _scale_of(steps: list[dict[str, Any]]) -> list[float] | None:
    return next((list(map(float, step["scale"])) for step in steps if step["type"] == "scale"), None)


def _channel_names(attributes: dict[str, Any]) -> tuple[str, ...]:
    """The labels that "omero" gives to all channels, or none."""
    names = [channel.get("label") for channel in attributes.get("omero", {}).get("channels", [])]
    return tuple(map(str, names)) if all(names) else ()
