"""What a TIFF file says of its images: OME, ImageJ and plain tags; and which planes of an OME set are not there."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tifffile

from ._layout import Missing
from ._ome_xml import OmeImage, parse_ome_xml
from ._units import UNCALIBRATED, Length, PixelSize, pixel_size, printed_pixel_size

__all__ = ["TiffImage", "images_of", "missing_planes"]

RESOLUTION_UNITS = {2: "inch", 3: "cm"}  # of the tag; 1 is none


class TiffImage(NamedTuple):
    """One image of a TIFF file, and what the file says of it."""

    at: int | None  # of its pages in tifffile's list; None if they are in other files, which are missing
    name: str
    height: int  # px
    width: int
    pixel_size: PixelSize
    channel_names: tuple[str, ...] = ()
    files: tuple[str, ...] = ()  # of its set

    def absent(self, path: Path) -> str:
        """The names of the first files of its set that are not beside this one."""
        absent = [file for file in self.files if not (path.parent / file).exists()]
        return ", ".join([*absent[:3], *["…"][: len(absent) > 3]])


def images_of(file: tifffile.TiffFile, path: Path) -> list[TiffImage]:
    """All images, in the order of the OME-XML if there is one."""
    described = parse_ome_xml(file.ome_metadata or "") if file.is_ome else []
    all_pages = file.series
    if not all_pages:
        raise ValueError("it holds no image")
    if all_pages[0].kind == "ome" and described:
        return [_described(image, index) for image, index in _matched(described, all_pages)]
    images = [_plain(file, index, pages) for index, pages in enumerate(all_pages)]
    # What follows is OME-XML that does not fit the file.  A file of its own that was renamed has all planes; one of a
    # set that was taken out has not.
    if len(described) == len(images) == 1 and _n_planes(described[0]) == len(file.pages):
        return [_described(described[0], 0)]
    if described and not any((path.parent / name).exists() for image in described for name in image.files):
        return [_described(image, None) for image in described if image.files] or images
    return images


def _n_planes(image: OmeImage) -> int:
    return prod(image.sizes[axis] for axis in "ZCT")


def _described(image: OmeImage, index: int | None) -> TiffImage:
    sizes, size, names = image.sizes, image.pixel_size, image.channel_names
    return TiffImage(index, image.name, sizes["Y"], sizes["X"], size, names, image.files)


def _matched(
    described: list[OmeImage], all_pages: list[tifffile.TiffPageSeries]
) -> list[tuple[OmeImage, int | None]]:
    """Each image of the OME-XML with its pages; tifffile leaves out images that it finds no page of."""
    if len(described) == len(all_pages):
        return [(image, index) for index, image in enumerate(described)]
    matched, index = [], 0
    for image in described:
        fits = index < len(all_pages) and _fits(image, all_pages[index])
        matched.append((image, index if fits else None))
        index += fits
    return matched


def _fits(image: OmeImage, pages: tifffile.TiffPageSeries) -> bool:
    sizes = dict(zip(pages.axes, pages.shape, strict=True))
    return (pages.name or "") == image.name and all(sizes.get(axis, 1) == image.sizes[axis] for axis in "YX")


def _plain(file: tifffile.TiffFile, index: int, pages: tifffile.TiffPageSeries) -> TiffImage:
    sizes = dict(zip(pages.axes, map(int, pages.shape), strict=True))
    return TiffImage(index, str(pages.name or ""), sizes["Y"], sizes["X"], _tagged_size(file, pages))


def _tagged_size(file: tifffile.TiffFile, pages: tifffile.TiffPageSeries) -> PixelSize:
    """From ImageJ's metadata or the tags of a resolution."""
    tags = pages.keyframe.tags
    fractions = [tags.valueof(f"{axis}Resolution", default=(0, 1)) for axis in "YX"]
    if not all(pixels and units for pixels, units in fractions):
        return PixelSize()
    y, x = (pixels / units for pixels, units in fractions)
    unit = RESOLUTION_UNITS.get(int(tags.valueof("ResolutionUnit", default=2)), "")
    if file.is_imagej:
        unit = str((file.imagej_metadata or {}).get("unit", "")).strip()
        if unit.lower() in UNCALIBRATED:
            return PixelSize()
        if unit.lower() not in ("inch", "inches", "cm"):
            return pixel_size(Length(1 / y, unit), Length(1 / x, unit))
    return printed_pixel_size(y, x, unit) if unit else PixelSize()


def missing_planes(path: Path, pages: tifffile.TiffPageSeries, image: TiffImage) -> Missing | None:
    """Which planes of an OME image are in no file; tifffile fills them with zeros."""
    if pages.kind not in ("ome", "mmstack"):  # of others all pages are there
        return None
    planes = np.array([page is None for page in pages.pages])
    if not planes.any():
        return None
    shape = tuple(map(int, pages.shape[: len(pages.shape) - len(pages.keyframe.shape)]))
    planes = planes.reshape(shape) if prod(shape) == planes.size else np.ones((), bool)
    return Missing(planes, image.absent(path))
