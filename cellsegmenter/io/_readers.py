"""Reading images from TIFF, PNG, JPEG, NPY, OME-Zarr, CZI and ND2 files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from skimage.io import imread

from cellsegmenter.validation import check_number

from ._files import SUFFIXES, ImageFileError
from ._layout import ImageFile, ImageStack, Position, Source, choose_images
from ._ome_zarr import read_ome_zarr
from ._tiff import read_tiff
from ._vendors import read_vendor_file

__all__ = ["ImageFile", "ImageStack", "read_image", "read_images"]

SIGNATURES = {".png": b"\x89PNG\r\n\x1a\n", ".jpg": b"\xff\xd8\xff", ".jpeg": b"\xff\xd8\xff"}


def read_image(
    path: str | Path,
    *,
    axes: str | None = None,
    channel: int | str | None = None,
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
        TIFF (also BigTIFF, OME, ImageJ), PNG, JPEG, NPY, an OME-Zarr folder, or with bioio CZI and ND2.
    axes : str, optional
        What the axes mean, such as YX, CYX, YXC or ZYX, overruling the file.  With a C in it and without
        `channel`, all channels are read.
    channel : int or str, optional
        Which channel of several, counted from 0, or its name in the file.  Not needed for grey images that were saved
        as RGB.
    z, t : int, optional
        Which slice and which time of several, counted from 0.
    page : int, optional
        Which page, of a file that does not say what its pages are or whose images differ in size.
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
    """
    return read_images(
        path, axes=axes, channel=channel, z=z, t=t, page=page, level=level, pixel_size=pixel_size
    )[0]


def read_images(
    path: str | Path,
    *,
    axes: str | None = None,
    channel: int | str | None = None,
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
    suffix = path.suffix.lower()
    _check_path(path, suffix)
    if suffix in (".tif", ".tiff"):
        source, page = read_tiff(path, page, level)
    elif suffix == ".zarr":
        source = read_ome_zarr(path, level)
    elif suffix in (".czi", ".nd2"):
        source, page = read_vendor_file(path, page, level)
    else:
        if level:
            raise ImageFileError(f"{path} has a single resolution, so there is no level {level} (--level)")
        source = _read_npy(path) if suffix == ".npy" else _read_picture(path, suffix)
    if pixel_size is not None:
        source = source._replace(pixel_size=float(check_number("pixel_size", pixel_size, low=1e-9)))
    return choose_images(source, axes=axes, channel=channel, z=z, t=t, page=page)


def _check_path(path: Path, suffix: str) -> None:
    """Refuse what is not there, empty or of an unknown kind."""
    if not path.exists():
        raise ImageFileError(f"{path} does not exist; check the path")
    if path.is_dir() and suffix != ".zarr":
        raise ImageFileError(f"{path} is a folder; name an image in it")
    if suffix not in SUFFIXES:
        raise ImageFileError(f"{path} has the suffix {suffix!r}; known are {', '.join(SUFFIXES)}")
    if path.is_file() and path.stat().st_size == 0:
        raise ImageFileError(f"{path} is empty; copy or export it again")


def _read_picture(path: Path, suffix: str) -> Source:
    """A PNG or JPEG file."""
    signature = SIGNATURES[suffix]
    with open(path, "rb") as file:
        if file.read(len(signature)) != signature:
            kind = "PNG" if suffix == ".png" else "JPEG"
            raise ImageFileError(f"{path} is not a {kind} file in spite of its name; export it again")
    try:
        pixels = imread(path)
    except Exception as error:  # the decoder's own errors differ by version
        raise ImageFileError(
            f"{path} cannot be read, it may be truncated ({error}); copy or export it again"
        ) from error
    if pixels.ndim == 3 and pixels.shape[-1] == 2:  # grey and alpha
        pixels = pixels[..., 0]
    return Source(str(path), pixels, "YX" if pixels.ndim == 2 else "YXS")


def _read_npy(path: Path) -> Source:
    """An array; of more than three axes the first ones have to be named by the user."""
    try:
        array: Any = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ImageFileError(
            f"{path} cannot be read as NPY ({error}); save plain numbers by numpy.save"
        ) from error
    if not 2 <= array.ndim <= 5:
        raise ImageFileError(f"{path} has {array.ndim} dimensions, shape {array.shape}; save one image alone")
    return Source(str(path), array, "QRI"[: array.ndim - 2] + "YX")
