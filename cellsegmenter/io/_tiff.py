"""TIFF files: axes, pixel size and channel names from OME or ImageJ metadata; large ones stay on disk."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from cellsegmenter.packages import needs

from ._files import ImageFileError, square_pixel_size
from ._layout import LARGE, Position, Source

__all__ = ["read_tiff"]

MICROMETRES = {"µm": 1.0, "μm": 1.0, "\\u00b5m": 1.0, "um": 1.0, "micron": 1.0, "nm": 1e-3, "mm": 1e3}


def read_tiff(path: Path, page: Position, level: int) -> tuple[Source, Position]:
    """The content of a TIFF file, and the page that is still to be chosen from it.

    Of a file whose pages differ in size, `page` chooses the image at once; of one with several resolutions,
    `level` chooses one, 0 being the full.
    """
    with _complaints() as complaints:
        try:
            with tifffile.TiffFile(path) as file:
                number, page = _choose_series(file, path, page)
                array = _array_of(file, path, number, level)
                pixel_size = _pixel_size(file)
                if pixel_size is not None:
                    full, read = file.series[number], file.series[number].levels[level]
                    pixel_size *= full.shape[full.axes.index("X")] / read.shape[read.axes.index("X")]
                axes = file.series[number].axes
                source = Source(str(path), array, axes, pixel_size, _channel_names(file))
        except ImageFileError:
            raise
        except Exception as error:  # tifffile and the decoders raise whatever fits: zlib.error, KeyError, ...
            raise ImageFileError(_remedy(path, str(error))) from error
    if any("invalid page offset" in complaint for complaint in complaints):
        raise ImageFileError(f"{path} is truncated: pages are missing; copy or export it again")
    return source, page


def _choose_series(file: tifffile.TiffFile, path: Path, page: Position) -> tuple[int, Position]:
    """Which series of images of one size: if there are several, `page` says so and is used up."""
    if not file.series:
        raise ImageFileError(f"{path} holds no image; export it again")
    if len(file.series) == 1:
        return 0, page
    sizes = ", ".join(f"{i}: {series.shape}" for i, series in enumerate(file.series))
    if not isinstance(page, int) or not 0 <= page < len(file.series):
        raise ImageFileError(f"{path} holds images of several sizes ({sizes}); choose one by page (--page)")
    return page, None


def _array_of(file: tifffile.TiffFile, path: Path, number: int, level: int) -> Any:
    """The pixels of a series: read if they are few, else mapped or through zarr, where that is possible."""
    levels = file.series[number].levels
    if not 0 <= level < len(levels):
        raise ImageFileError(f"{path} has no level {level}; levels go from 0 to {len(levels) - 1} (--level)")
    series = levels[level]
    if series.nbytes <= LARGE:
        return series.asarray()
    if series.dataoffset is not None:  # contiguous and not compressed
        dtype = series.dtype.newbyteorder(file.byteorder)
        return np.memmap(path, dtype, "r", series.dataoffset, series.shape)
    try:
        import zarr
    except ImportError:
        return series.asarray()
    store = tifffile.imread(path, aszarr=True, series=number, level=level)
    array = zarr.open_array(store, mode="r")
    weakref.finalize(array, store.close)  # else the file would stay open
    for corner in (0, -1):  # a missing decoder and a truncated file show now, not after hours
        array[(corner,) * array.ndim]
    return array


def _remedy(path: Path, reason: str) -> str:
    """What went wrong, and what helps."""
    if "imagecodecs" in reason:
        return needs(f"{path} has a compression that", "imagecodecs")
    if "not a TIFF" in reason:
        return f"{path} is not a TIFF file in spite of its name; export it again or correct its suffix"
    return f"{path} cannot be read, it may be damaged or truncated ({reason}); copy or export it again"


@contextmanager
def _complaints() -> Iterator[list[str]]:
    """What tifffile logs, collected instead of printed."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("tifffile")
    propagates = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield messages
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagates


def _pixel_size(file: tifffile.TiffFile) -> float | None:
    """µm per pixel from OME or ImageJ metadata; None if the file does not say or pixels are not square."""
    if file.is_ome:
        pixels = _ome_pixels(file)
        return square_pixel_size(*(_physical_size(pixels, axis) for axis in "YX"))
    if file.is_imagej:
        factor = MICROMETRES.get(str((file.imagej_metadata or {}).get("unit", "")).lower())
        tags = file.pages.first.tags
        per_unit = [tags.valueof(f"{axis}Resolution", default=(0, 1)) for axis in "YX"]
        if factor and all(pixels for pixels, _ in per_unit):
            return square_pixel_size(*(factor * units / pixels for pixels, units in per_unit))
    return None


def _physical_size(pixels: dict[str, Any], axis: str) -> float | None:
    """µm per pixel along an axis, as OME says; of y, if left out, that of x."""
    size = pixels.get(f"PhysicalSize{axis}", pixels.get("PhysicalSizeX"))
    unit = pixels.get(f"PhysicalSize{axis}Unit", pixels.get("PhysicalSizeXUnit", "µm"))
    factor = MICROMETRES.get(str(unit).lower())
    return float(size) * factor if size and factor else None


def _channel_names(file: tifffile.TiffFile) -> tuple[str, ...]:
    """The names OME gives to all channels, or none."""
    channels = _ome_pixels(file).get("Channel", []) if file.is_ome else []
    names = [channel.get("Name") for channel in (channels if isinstance(channels, list) else [channels])]
    return tuple(map(str, names)) if all(names) else ()


def _ome_pixels(file: tifffile.TiffFile) -> dict[str, Any]:
    """The Pixels element of the first image."""
    images = tifffile.xml2dict(file.ome_metadata or "")["OME"].get("Image", {})
    return (images[0] if isinstance(images, list) else images).get("Pixels", {})
