"""PNG and JPEG files, of any size and depth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from imagecodecs import png_decode
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from ._files import ImageFileError, check_claim
from ._layout import Source

__all__ = ["read_picture"]

SIGNATURES = {"PNG": b"\x89PNG\r\n\x1a\n", "JPEG": b"\xff\xd8\xff"}
RATIO = 1100  # neither format can hold more bytes of pixels in one byte


def read_picture(path: Path) -> Source:
    """The pixels of a PNG or JPEG file in their own depth; alpha beside grey is left out."""
    kind = "PNG" if path.suffix.lower() == ".png" else "JPEG"
    with open(path, "rb") as file:
        if file.read(8)[: len(SIGNATURES[kind])] != SIGNATURES[kind]:
            raise ImageFileError(f"{path} is not a {kind} file in spite of its name; export it again")
    try:
        pixels = _decoded_png(path) if kind == "PNG" else _decoded_jpeg(path)
    except ImageFileError:
        raise
    except Exception as error:  # the decoders' own errors differ by version
        raise ImageFileError(
            f"{path} cannot be read, it may be truncated ({error}); copy or export it again"
        ) from error
    if pixels.ndim == 3 and pixels.shape[-1] == 2:  # grey and alpha
        pixels = pixels[..., 0]
    return Source(str(path), pixels, "YX" if pixels.ndim == 2 else "YXS")


# Pillow's classes for one format do not refuse large pictures, as its `open` does: the user named this one.
def _decoded_png(path: Path) -> np.ndarray:
    with PngImageFile(path) as header:  # which checks the header's checksum
        width, height = header.size
    check_claim(path, width * height // 8, path.stat().st_size, RATIO)  # a pixel may have a single bit
    return png_decode(path.read_bytes())


def _decoded_jpeg(path: Path) -> np.ndarray:
    with JpegImageFile(path) as picture:
        check_claim(path, picture.width * picture.height, path.stat().st_size, RATIO)
        return np.asarray(picture)
