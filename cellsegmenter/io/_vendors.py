"""CZI and ND2 files through bioio, which is optional; pixels stay on disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cellsegmenter.packages import install, needs

from ._files import ImageFileError
from ._layout import Source
from ._series import Series, choose_series
from ._units import Length, PixelSize, pixel_size

__all__ = ["list_vendor_file", "read_vendor_file"]

PACKAGES = ("bioio", "bioio-czi", "bioio-nd2")


def read_vendor_file(path: Path, series: int | str | None, level: int) -> Source:
    """One scene of a microscope's file."""
    with _opened(path) as image:
        scenes = _listed(path, image)
        scene = choose_series(path, scenes, series)
        image.set_scene(scene.number)
        levels = image.resolution_levels
        if level not in levels:
            raise ImageFileError(
                f"{path} has no level {level}; levels are {', '.join(map(str, levels))} (--level)"
            )
        image.set_resolution_level(level)
        size = _pixel_size(image)
        return Source(
            str(path),
            image.dask_data,
            image.dims.order,
            size.um,
            scene.channel_names,
            doubt=size.doubt,
            title=f"series {scene.number} ({scene.name}) of {len(scenes)}" if len(scenes) > 1 else "",
        )


def list_vendor_file(path: Path) -> list[Series]:
    """The scenes of a microscope's file; no pixel is read."""
    with _opened(path) as image:
        return _listed(path, image)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The file as bioio sees it, with every complaint about it as an error of ours."""
    try:
        from bioio import BioImage
    except ImportError:
        raise ImageFileError(f"{needs(path, *PACKAGES)}, or export it as OME-TIFF") from None
    try:
        yield BioImage(path)
    except ImageFileError:
        raise
    except Exception as error:  # each format's reader raises what it likes
        raise ImageFileError(
            f"{path} cannot be read by bioio ({error}); install its reader by {install(*PACKAGES)}, "
            "or export it as OME-TIFF"
        ) from error


def _listed(path: Path, image: Any) -> list[Series]:
    listed = []
    for number, name in enumerate(image.scenes):
        image.set_scene(number)
        names = tuple(map(str, image.channel_names or ()))
        shape, dtype = tuple(map(int, image.dask_data.shape)), str(image.dask_data.dtype)
        size = _pixel_size(image)
        listed.append(Series(number, str(name), path, image.dims.order, shape, dtype, size, names))
    return listed


def _pixel_size(image: Any) -> PixelSize:
    """Of the scene and level that are set; bioio gives µm."""
    sides = image.physical_pixel_sizes
    y, x = (Length(float(side), "µm") if side else None for side in (sides.Y, sides.X))
    return pixel_size(y, x)
