"""OME-Zarr folders (NGFF 0.1 to 0.5): the axes, pixel size and array of a resolution level."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

from cellsegmenter.packages import needs

from ._files import ImageFileError, check_claim
from ._layout import Source
from ._ome_zarr_layout import Group, find_groups, ome_attributes, zarr_array
from ._series import MOST_NAMED, Series, choose_series
from ._units import Length, PixelSize, pixel_size

__all__ = ["list_ome_zarr", "read_ome_zarr"]

METADATA = {"zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata"}
AXIS_LETTERS = {"channel": "C", "time": "T"}  # of axes whose name is a word
UNKNOWN = "QRIJK"  # letters of axes that the file does not name


def read_ome_zarr(path: Path, series: int | str | None, level: int) -> Source:
    """One image of an OME-Zarr folder at a resolution level, 0 being the full one; stays lazy."""
    try:
        import zarr
    except ImportError:
        raise ImageFileError(needs(path, "zarr")) from None
    with _complaints(path):
        groups = find_groups(path)
        number = choose_series(path, _listed(groups, MOST_NAMED), series).number
        group = groups[number]
        attributes = ome_attributes(group.path)
        if "multiscales" not in attributes:
            raise ImageFileError(f"{group.path} is missing or incomplete; copy or export it again")
        levels = attributes["multiscales"][0]["datasets"]
        if not levels:
            raise ValueError("no resolution is listed")
        if not 0 <= level < len(levels):
            raise ImageFileError(
                f"{path} has no level {level}; levels go from 0 to {len(levels) - 1} (--level)"
            )
        folder = group.path / levels[level]["path"]
        array = zarr.open_array(folder, mode="r")
        _check_stored(folder, array)
        size = _pixel_size(group, attributes, level)
        return Source(
            str(group.path),
            array,
            _axes(attributes, array.ndim),
            size.um,
            _channel_names(group, attributes),
            doubt=size.doubt,
            title=f"series {number} ({group.name}) of {len(groups)}" if len(groups) > 1 else group.name,
        )


def list_ome_zarr(path: Path) -> list[Series]:
    """The images in an OME-Zarr folder; no pixel is read."""
    with _complaints(path):
        return _listed(find_groups(path))


@contextmanager
def _complaints(path: Path) -> Iterator[None]:
    try:
        yield
    except ImageFileError:
        raise
    except Exception as error:  # whatever is missing or damaged in a folder of files
        raise ImageFileError(
            f"{path} cannot be read as OME-Zarr ({error!r}); copy or export it again"
        ) from error


def _listed(groups: list[Group], detailed: int | None = None) -> list[Series]:
    """The images, the first few of them with sizes: a plate has thousands, and looking into each takes time."""
    listed = [
        Series(number, group.name, group.path, well=group.well, field=group.field)
        for number, group in enumerate(groups)
    ]
    seen = [_with_sizes(series, group) for series, group in zip(listed[:detailed], groups, strict=False)]
    return [*seen, *listed[len(seen) :]]


def _with_sizes(series: Series, group: Group) -> Series:
    """With what the folder of the image says; one that is damaged is listed without."""
    try:
        attributes = ome_attributes(group.path)
        folder = group.path / attributes["multiscales"][0]["datasets"][0]["path"]
        shape, dtype = zarr_array(folder)
        return series._replace(
            axes=_axes(attributes, len(shape)),
            shape=shape,
            dtype=dtype,
            pixel_size=_pixel_size(group, attributes, 0),
            channel_names=_channel_names(group, attributes),
        )
    except Exception:  # it is refused with the reason when it is read
        return series


def _axes(attributes: dict[str, Any], ndim: int) -> str:
    """A letter for each axis."""
    axes = attributes["multiscales"][0].get("axes")
    if axes is None:
        return UNKNOWN[: ndim - 2] + "YX"
    if len(axes) != ndim:
        raise ValueError(f"an array of {ndim} dimensions with {len(axes)} axes")
    spare = iter(UNKNOWN)
    return "".join(
        name.upper() if len(name) == 1 else AXIS_LETTERS.get(axis.get("type", ""), "") or next(spare)
        for axis in axes
        for name in [str(axis["name"])]
    )


def _pixel_size(group: Group, attributes: dict[str, Any], level: int) -> PixelSize:
    """Of a level, as NGFF says or else the OME-XML beside it."""
    multiscale = attributes["multiscales"][0]
    axes = {
        str(axis["name"]).lower(): (i, axis.get("unit"))
        for i, axis in enumerate(multiscale.get("axes") or [])
    }
    scales = [_scale(multiscale, multiscale["datasets"][at]) for at in (0, level)]
    size = PixelSize()
    if all(scales) and {"y", "x"} <= axes.keys():
        full, here = scales
        # Without a unit a scale of one says nothing, and that of a coarser level only how much coarser it is.
        sides = [Length(here[i], unit or "") for i, unit in (axes["y"], axes["x"]) if unit or full[i] != 1]
        size = pixel_size(*sides) if len(sides) == 2 else PixelSize()
    if size.um is None and group.xml is not None and group.xml.pixel_size.um is not None:
        widths = [zarr_array(group.path / multiscale["datasets"][at]["path"])[0][-1] for at in (0, level)]
        return group.xml.pixel_size.times(widths[0] / widths[1])
    return size


def _scale(multiscale: dict[str, Any], dataset: dict[str, Any]) -> list[float]:
    """Units per pixel on each axis: the level's own scale times the one for all levels; [] if none is given."""
    own = _scale_of(dataset.get("coordinateTransformations") or [])
    common = _scale_of(multiscale.get("coordinateTransformations") or [])
    if not own or not common:
        return own or common
    return [a * b for a, b in zip(own, common, strict=True)]


def _scale_of(steps: list[dict[str, Any]]) -> list[float]:
    return next((list(map(float, step["scale"])) for step in steps if step.get("type") == "scale"), [])


def _channel_names(group: Group, attributes: dict[str, Any]) -> tuple[str, ...]:
    """The labels that "omero" gives to all channels, or the names in the OME-XML beside it, or none."""
    names = [channel.get("label") for channel in (attributes.get("omero") or {}).get("channels", [])]
    if names and all(names):
        return tuple(map(str, names))
    return group.xml.channel_names if group.xml is not None else ()


def _check_stored(folder: Path, array: Any) -> None:
    """Refuse an array that is not there: chunks that are missing are read as zeros, which would be counted as such."""
    claimed = prod(map(int, array.shape)) * array.dtype.itemsize
    stored = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            if name not in METADATA:
                stored += os.path.getsize(os.path.join(parent, name))
        if stored * 2**17 > claimed:
            return
    if not stored and claimed:
        raise ImageFileError(
            f"{folder} holds no pixels: its chunks are missing, or all of them are blank; copy or export it again"
        )
    check_claim(folder, claimed, stored)
