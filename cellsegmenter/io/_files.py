"""What readers and writers share: their errors, checks of a file's size, and writing in one go."""

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
    "ImageFileWarning",
    "check_claim",
    "check_writable",
    "replacing",
    "replacing_folder",
]

SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".npy", ".zarr", ".czi", ".nd2")  # of images


class ImageFileError(ValueError):
    """A file cannot be used as asked; the message names it, what is wrong and what to do, in one line."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))  # decoders' own reasons may have several


class ImageFileWarning(UserWarning):
    """Something that a file says is not used, or a part of it is missing that was not asked for."""


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


def check_claim(path: Path, claimed: int, stored: int, ratio: int = 2**17) -> None:
    """Refuse a file whose header claims more pixels than any compression could hold in it: the memory would not do.

    Parameters
    ----------
    path : Path
    claimed, stored : int
        Bytes of the pixels, and of the files that hold them.
    ratio : int
        How many times fewer bytes a compression can need; zstandard reaches about a hundred thousand.
    """
    if claimed > max(stored, 1) * ratio:
        raise ImageFileError(
            f"{path} is damaged or truncated: it claims {claimed / 1e9:.3g} GB of pixels and holds {stored:,} bytes; "
            "copy or export it again"
        )
