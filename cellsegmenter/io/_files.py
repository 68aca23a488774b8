"""Paths of results: whether they can be written, and writing them in one go."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cellsegmenter.files import in_one_go, named_errors, path_beside

__all__ = [
    "SUFFIXES",
    "ImageFileError",
    "check_writable",
    "replacing",
    "replacing_folder",
    "square_pixel_size",
]

SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".npy", ".zarr", ".czi", ".nd2")  # of images


class ImageFileError(ValueError):
    """A file cannot be used as asked; the message names it, what is wrong and what to do."""


def check_writable(path: str | Path, *, folder: bool = False) -> None:
    """Refuse a path that nothing can be written to, before the work is done.

    Missing folders are fine: the writers make them.

    Parameters
    ----------
    path : str or Path
    folder : bool
        Whether a folder is to be written, such as OME-Zarr, which replaces an older one.

    Raises
    ------
    ImageFileError
        If the path is a folder, lies under a file, has too long a name, or permissions forbid it.
    """
    path = Path(path)
    parent = next(parent for parent in path.absolute().parents if _exists(parent))
    _check_names(path.absolute(), parent)
    if path.is_dir() and not folder:
        raise ImageFileError(f"{path} is a folder; name a file in it")
    if path.exists() and not os.access(path, os.W_OK):
        raise ImageFileError(f"{path} is write-protected; choose another file")
    if not parent.is_dir():
        raise ImageFileError(f"{path} cannot be written: {parent} is a file, not a folder")
    try:  # permissions alone do not tell: file systems can be read-only, full, or virtual
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        raise ImageFileError(f"{path} cannot be written: {parent}: {error.strerror}") from error


def _exists(path: Path) -> bool:
    """Whether there is such a file or folder; one with too long a name cannot be."""
    try:
        return path.exists()
    except OSError:
        return False


def _check_names(path: Path, parent: Path) -> None:
    """Refuse names below an existing folder that its file system has no room for."""
    for name in path.relative_to(parent).parts:
        try:
            os.lstat(parent / name)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise ImageFileError(
                    f"{path} cannot be written: {name!r} has {len(os.fsencode(name))} bytes, which are too many for "
                    "the file system; choose a shorter name with -o, or rename the image"
                ) from error


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """As `cellsegmenter.files.in_one_go`, for a path of the user's: it is checked, and its folder is made."""
    check_writable(path)
    path = Path(path).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    with in_one_go(path) as temporary:
        yield temporary


@contextmanager
def replacing_folder(path: str | Path) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its place, and that of an older one, once it is complete."""
    path = Path(path).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path_beside(path)
    older = path_beside(temporary)
    try:
        with named_errors(path, temporary):
            yield temporary
            if path.exists():
                os.replace(path, older)
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(older, ignore_errors=True)


def square_pixel_size(y: float | None, x: float | None) -> float | None:
    """µm per pixel, if both sides agree to one percent; areas and lengths mean nothing on other grids."""
    if not x or not y or abs(y - x) > 0.01 * x:
        return None
    return float(x)
