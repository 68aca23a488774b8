"""TIFF files: which images they hold, and their pixels; large ones stay on disk."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from ._files import ImageFileError, check_claim
from ._layout import LARGE, Source
from ._series import Series, choose_series
from ._tiff_metadata import TiffImage, images_of, missing_planes

__all__ = ["list_tiff", "read_tiff", "tiff_complaints"]

# How many times fewer bytes a page can need: without compression, and by LZW, deflate (two numbers) and PackBits.
RATIOS = {1: 1, 5: 4096, 8: 1100, 32946: 1100, 32773: 128}


def read_tiff(path: Path, series: int | str | None, level: int) -> Source:
    """One image of a TIFF file: `series` chooses of several, `level` of several resolutions, 0 being the full."""
    with _opened(path) as file:
        images = images_of(file, path)
        number = choose_series(path, _listed(path, file, images), series).number
        image = images[number]
        if image.at is None:
            absent = image.absent(path)
            place = f"in files that are missing beside it: {absent}" if absent else "in no file"
            raise ImageFileError(
                f"{path}: the pixels of image {number} are {place}; copy or export them again"
            )
        full = file.series[image.at]
        if not 0 <= level < len(full.levels):
            raise ImageFileError(
                f"{path} has no level {level}; levels go from 0 to {len(full.levels) - 1} (--level)"
            )
        chosen = full.levels[level]
        size = image.pixel_size.times(_width(full) / _width(chosen))
        name = f" ({image.name})" if image.name else ""
        return Source(
            str(path),
            _array_of(path, image, chosen, level),
            full.axes,
            size.um,
            image.channel_names,
            doubt=size.doubt,
            title=f"series {number}{name} of {len(images)}" if len(images) > 1 else "",
            missing=missing_planes(path, chosen, image),
        )


def list_tiff(path: Path) -> list[Series]:
    """The images of a TIFF file; no pixel is read."""
    with _opened(path) as file:
        return _listed(path, file, images_of(file, path))


def _listed(path: Path, file: tifffile.TiffFile, images: list[TiffImage]) -> list[Series]:
    listed = []
    for number, image in enumerate(images):
        known = Series(
            number, image.name, path, pixel_size=image.pixel_size, channel_names=image.channel_names
        )
        if image.at is not None:
            pages = file.series[image.at]
            shape = tuple(map(int, pages.shape))
            known = known._replace(axes=pages.axes, shape=shape, dtype=str(pages.dtype))
        listed.append(known)
    return listed


@contextmanager
def _opened(path: Path) -> Iterator[tifffile.TiffFile]:
    """The file, with every complaint about it as an error of ours."""
    with tiff_complaints() as complaints:
        try:
            with tifffile.TiffFile(path) as file:
                yield file
        except ImageFileError:
            raise
        except Exception as error:  # tifffile and the decoders raise whatever fits: zlib.error, KeyError, ...
            raise ImageFileError(_remedy(path, str(error) or type(error).__name__)) from error
    if any("invalid page offset" in complaint for complaint in complaints):
        raise ImageFileError(f"{path} is truncated: pages are missing; copy or export it again")


def _width(pages: tifffile.TiffPageSeries) -> int:
    return int(dict(zip(pages.axes, pages.shape, strict=True))["X"])


def _array_of(path: Path, image: TiffImage, pages: tifffile.TiffPageSeries, level: int) -> Any:
    """The pixels of a level: read if they are few, else mapped or through zarr, where that is possible."""
    _check_claims(path, image, pages)
    if pages.nbytes <= LARGE:
        return pages.asarray()
    if pages.dataoffset is not None:  # contiguous and not compressed
        order = pages.keyframe.parent.byteorder
        return np.memmap(path, pages.dtype.newbyteorder(order), "r", pages.dataoffset, pages.shape)
    try:
        import zarr
    except ImportError:
        return pages.asarray()
    store = tifffile.imread(path, aszarr=True, series=image.at, level=level)
    array = zarr.open_array(store, mode="r")
    weakref.finalize(array, store.close)  # else the file would stay open
    for corner in (0, -1):  # a damaged or truncated file shows now, not after hours
        array[(corner,) * array.ndim]
    return array


def _check_claims(path: Path, image: TiffImage, pages: tifffile.TiffPageSeries) -> None:
    """Refuse what claims more bytes than the file and those of its set hold, before memory is taken for them."""
    keyframe = pages.keyframe
    if keyframe.dtype is None:
        raise ValueError("pixels of an unknown type")
    files = {path, *(path.parent / name for name in image.files)}
    stored = sum(file.stat().st_size for file in files if file.is_file())
    segment = prod(map(int, keyframe.chunks)) * keyframe.dtype.itemsize
    check_claim(path, max(int(pages.nbytes), segment), stored)
    if all(keyframe.databytecounts):  # none was left out for being blank
        check_claim(path, int(keyframe.nbytes), stored, RATIOS.get(int(keyframe.compression), 2**17))
    for page in pages.pages:
        if page is not None:
            check_claim(path, max(page.databytecounts, default=0), stored, ratio=1)


def _remedy(path: Path, reason: str) -> str:
    """What went wrong, and what helps."""
    if "not a TIFF" in reason:
        return f"{path} is not a TIFF file in spite of its name; export it again or correct its suffix"
    if "imagecodecs" in reason:
        return f"{path} has a compression that cannot be read here ({reason}); export it with LZW, deflate or none"
    return f"{path} cannot be read, it may be damaged or truncated ({reason}); copy or export it again"


@contextmanager
def tiff_complaints() -> Iterator[list[str]]:
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
