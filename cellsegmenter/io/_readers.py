"""Reading one image from a TIFF, PNG, NPY or OME-Zarr file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from skimage.io import imread

from ._files import SUFFIXES, ImageFileError
from ._layout import ImageFile, Source, choose_image
from ._tiff import read_tiff

__all__ = ["ImageFile", "read_image"]

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def read_image(
    path: str | Path, *, axes: str | None = None, channel: int | None = None, page: int | None = None
) -> ImageFile:
    """Read one image; what its axes mean is never guessed.

    Parameters
    ----------
    path : str or Path
        TIFF (also OME, ImageJ), PNG, NPY, or an OME-Zarr folder.
    axes : str, optional
        What the axes mean, such as YX, CYX, YXC or ZYX, overruling the file.  With a C in it and without
        `channel`, all channels are read.
    channel : int, optional
        Which channel of several, counted from 0.  Not needed for grey images that were saved as RGB.
    page : int, optional
        Which slice, time or page of several, counted from 0.

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
    path = Path(path)
    suffix = path.suffix.lower()
    if not path.exists():
        raise ImageFileError(f"{path} does not exist; check the path")
    if path.is_dir() and suffix != ".zarr":
        raise ImageFileError(f"{path} is a folder; name an image in it")
    if suffix not in SUFFIXES:
        raise ImageFileError(f"{path} has the suffix {suffix!r}; known are {', '.join(SUFFIXES)}")
    if path.is_file() and path.stat().st_size == 0:
        raise ImageFileError(f"{path} is empty; copy or export it again")
    if suffix in (".tif", ".tiff"):
        source, page = read_tiff(path, page)
    else:
        source = {".png": _read_png, ".npy": _read_npy, ".zarr": _read_ome_zarr}[suffix](path)
    return choose_image(source, axes=axes, channel=channel, page=page)


def _read_png(path: Path) -> Source:
    with open(path, "rb") as file:
        if file.read(len(PNG_SIGNATURE)) != PNG_SIGNATURE:
            raise ImageFileError(f"{path} is not a PNG file in spite of its name; export it again")
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
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ImageFileError(
            f"{path} cannot be read as NPY ({error}); save plain numbers by numpy.save"
        ) from error
    if array.ndim not in (2, 3):
        raise ImageFileError(f"{path} has {array.ndim} dimensions, shape {array.shape}; save one image alone")
    return Source(str(path), array, "YX" if array.ndim == 2 else "QYX")


def _read_ome_zarr(path: Path) -> Source:
    """The full resolution of the first image of an OME-Zarr folder (NGFF 0.4 or 0.5)."""
    try:
        import zarr
    except ImportError:
        raise ImageFileError(f"{path} needs a further package; run: pip install zarr") from None
    try:
        multiscale = _multiscale(path)
        axes = [axis["name"].upper() for axis in multiscale["axes"]]
        level = multiscale["datasets"][0]
        array = zarr.open_array(path / level["path"], mode="r")
        scale = next(step["scale"] for step in level["coordinateTransformations"] if step["type"] == "scale")
    except Exception as error:  # whatever is missing or damaged in a folder of files
        raise ImageFileError(f"{path} cannot be read as OME-Zarr ({error!r}); export it again") from error
    in_micrometres = multiscale["axes"][axes.index("X")].get("unit") == "micrometer"
    return Source(str(path), array, "".join(axes), float(scale[axes.index("X")]) if in_micrometres else None)


def _multiscale(path: Path) -> dict[str, Any]:
    """The description of the first image."""
    if (path / "zarr.json").exists():  # zarr 3
        attributes = json.loads((path / "zarr.json").read_text())["attributes"]["ome"]
    else:
        attributes = json.loads((path / ".zattrs").read_text())
    return attributes["multiscales"][0]
