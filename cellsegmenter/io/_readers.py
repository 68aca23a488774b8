"""Reading images from TIFF, PNG, JPEG, NPY, OME-Zarr, CZI and ND2 files."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from cellsegmenter.validation import check_number

from ._channels import Channel
from ._files import SUFFIXES, ImageFileError, ImageFileWarning
from ._layout import ImageFile, ImageStack, Position, Source, choose_images
from ._ome_zarr import list_ome_zarr, read_ome_zarr
from ._ome_zarr_layout import is_zarr
from ._pictures import read_picture
from ._series import Series, choose_series
from ._tiff import list_tiff, read_tiff
from ._vendors import list_vendor_file, read_vendor_file

__all__ = ["ImageFile", "ImageStack", "list_series", "read_image", "read_images"]


def read_image(
    path: str | Path,
    *,
    series: int | str | None = None,
    axes: str | None = None,
    channel: Channel = None,
    z: int | None = None,
    t: int | None = None,
    page: int | None = None,
    level: int = 0,
    pixel_size: float | None = None,
) -> ImageFile:
    """Read one image; what its axes mean is never guessed.

    Parameters
    ----------
    path : str or Path
        TIFF (also BigTIFF, OME, ImageJ), PNG, JPEG, NPY, an OME-Zarr folder or a group inside of one (NGFF 0.1 to
        0.5, with plates and what bioformats2raw writes), or with bioio CZI and ND2.
    series : int or str, optional
        Which image of several, counted from 0, or its name, such as "A1/0" for a plate's field; `list_series` has
        them all.
    axes : str, optional
        What the axes mean, such as YX, CYX, YXC or ZYX, overruling the file.  With a C in it and without
        `channel`, all channels are read.
    channel : int, str or a sequence of them, optional
        Which channel of several, counted from 0, or its name in the file; a sequence, or "0,1", reads several, for a
        model of as many.  Of colour images also "grey", the brightness, and "haematoxylin", "eosin" or "dab", which
        separate stains of tissue as `skimage.color.rgb2hed` does: what is stained is bright.  Not needed for grey
        images that were saved as RGB.
    z, t : int, optional
        Which slice and which time of several, counted from 0.
    page : int, optional
        Which page, of a file that does not say what its pages are.
    level : int
        Of a file with several resolutions (OME-Zarr, pyramidal TIFF): 0 is the full one.
    pixel_size : float, optional
        µm per pixel of what is read, overruling the file.

    Returns
    -------
    ImageFile
        Images beyond 256 MiB stay on disk where the format allows it: uncompressed TIFF, NPY, and with zarr
        installed every TIFF and OME-Zarr.

    Raises
    ------
    ImageFileError
        If the file is missing, damaged, of an unknown kind or ambiguous; it names the remedy.

    Warns
    -----
    ImageFileWarning
        If the file gives a pixel size that cannot be used, or lacks planes that were not asked for.
    """
    return read_images(
        path,
        series=series,
        axes=axes,
        channel=channel,
        z=z,
        t=t,
        page=page,
        level=level,
        pixel_size=pixel_size,
    )[0]


def read_images(
    path: str | Path,
    *,
    series: int | str | None = None,
    axes: str | None = None,
    channel: Channel = None,
    z: Position = None,
    t: Position = None,
    page: Position = None,
    level: int = 0,
    pixel_size: float | None = None,
) -> ImageStack:
    """Read one image, or with "all" for `z`, `t` or `page` a stack of them, plane by plane.

    Parameters are those of `read_image`, where "all" stands for every position.

    Returns
    -------
    ImageStack
        A sequence of ImageFile, each read when it is asked for; of a single image a sequence of one.

    Raises
    ------
    ImageFileError
        As `read_image`.
    """
    path = Path(path)
    suffix = _checked_suffix(path)
    if suffix in READERS:
        source = READERS[suffix](path, series, level)
    else:
        if level:
            raise ImageFileError(f"{path} has a single resolution, so there is no level {level} (--level)")
        source = _read_npy(path) if suffix == ".npy" else read_picture(path)
        choose_series(path, [_only(path, source)], series)
    if pixel_size is not None:
        source = source._replace(pixel_size=float(check_number("pixel_size", pixel_size, low=1e-9)))
    elif source.doubt:
        warnings.warn(
            f"{path} {source.doubt}; results are in pixels alone, unless you give µm by pixel_size (--pixel-size)",
            ImageFileWarning,
            stacklevel=2,
        )
    return choose_images(source, axes=axes, channel=channel, z=z, t=t, page=page)


def list_series(path: str | Path) -> list[Series]:
    """The images of a file: its series, scenes, or the fields of a plate; of most files there is one.

    Parameters
    ----------
    path : str or Path
        As `read_image` takes it.

    Returns
    -------
    list of Series
        Each with its number, name, axes, sizes, channels and pixel size.  No pixel is read where the format allows it.

    Raises
    ------
    ImageFileError
        If the file is missing, damaged or of an unknown kind.
    """
    path = Path(path)
    suffix = _checked_suffix(path)
    if suffix in LISTERS:
        return LISTERS[suffix](path)
    return [_only(path, _read_npy(path) if suffix == ".npy" else read_picture(path))]


READERS = {
    ".tif": read_tiff,
    ".tiff": read_tiff,
    ".zarr": read_ome_zarr,
    ".czi": read_vendor_file,
    ".nd2": read_vendor_file,
}
LISTERS = {
    ".tif": list_tiff,
    ".tiff": list_tiff,
    ".zarr": list_ome_zarr,
    ".czi": list_vendor_file,
    ".nd2": list_vendor_file,
}


def _only(path: Path, source: Source) -> Series:
    """The image of a file that holds a single one."""
    return Series(0, "", path, source.axes, tuple(map(int, source.array.shape)), str(source.array.dtype))


def _checked_suffix(path: Path) -> str:
    """The suffix in lower case; what is not there, empty or of an unknown kind is refused."""
    suffix = path.suffix.lower()
    if not path.exists():
        raise ImageFileError(f"{path} does not exist; check the path")
    if path.is_dir():
        if not is_zarr(path):
            raise ImageFileError(f"{path} is a folder; name an image in it")
        return ".zarr"
    if suffix not in SUFFIXES:
        raise ImageFileError(f"{path} has the suffix {suffix!r}; known are {', '.join(SUFFIXES)}")
    if suffix == ".zarr":
        raise ImageFileError(f"{path} is a file, and OME-Zarr is a folder; unpack or export it again")
    if path.stat().st_size == 0:
        raise ImageFileError(f"{path} is empty; copy or export it again")
    return suffix


def _read_npy(path: Path) -> Source:
    """An array; of more than three axes the first ones have to be named by the user."""
    try:
        array: Any = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a damaged header can raise whatever its text means to Python's parser
        raise ImageFileError(
            f"{path} cannot be read as NPY ({error}); save plain numbers by numpy.save"
        ) from error
    if not 2 <= array.ndim <= 5:
        raise ImageFileError(f"{path} has {array.ndim} dimensions, shape {array.shape}; save one image alone")
    return Source(str(path), array, "QRI"[: array.ndim - 2] + "YX")
