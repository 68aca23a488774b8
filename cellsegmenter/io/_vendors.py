"""CZI and ND2 files through bioio, which is optional; pixels stay on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cellsegmenter.packages import install, needs

from ._files import ImageFileError, square_pixel_size
from ._layout import Position, Source

__all__ = ["read_vendor_file"]

PACKAGES = ("bioio", "bioio-czi", "bioio-nd2")


def read_vendor_file(path: Path, page: Position, level: int) -> tuple[Source, Position]:
    """The content of a microscope's file, and the page that is still to be chosen from it.

    Of a file with several scenes, `page` chooses the scene at once.
    """
    try:
        from bioio import BioImage
    except ImportError:
        raise ImageFileError(f"{needs(path, *PACKAGES)}, or export it as OME-TIFF") from None
    try:
        image = BioImage(path)
        page = _choose_scene(image, path, page)
        levels = image.resolution_levels
        if level in levels:
            image.set_resolution_level(level)
            array, axes = image.dask_data, image.dims.order
            size, names = image.physical_pixel_sizes, image.channel_names
    except ImageFileError:
        raise
    except Exception as error:  # each format's reader raises what it likes
        raise ImageFileError(
            f"{path} cannot be read by bioio ({error}); install its reader by {install(*PACKAGES)}, "
            "or export it as OME-TIFF"
        ) from error
    if level not in levels:
        raise ImageFileError(
            f"{path} has no level {level}; levels are {', '.join(map(str, levels))} (--level)"
        )
    pixel_size = square_pixel_size(size.Y, size.X)
    return Source(str(path), array, axes, pixel_size, tuple(map(str, names or ()))), page


def _choose_scene(image: Any, path: Path, page: Position) -> Position:
    """Set the scene that `page` names, if there are several, and use it up."""
    if len(image.scenes) == 1:
        return page
    if not isinstance(page, int) or not 0 <= page < len(image.scenes):
        listed = ", ".join(f"{i}: {name}" for i, name in enumerate(image.scenes))
        raise ImageFileError(f"{path} holds several scenes ({listed}); choose one by page (--page)")
    image.set_scene(page)
    return None
