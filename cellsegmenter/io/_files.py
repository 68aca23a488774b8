"""Paths: which files an argument means, whether a result can be written, and writing it in one go."""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cellsegmenter.files import in_one_go, path_beside

__all__ = [
    "SUFFIXES",
    "ZARR_MARKS",
    "ImageFileError",
    "ImageFileWarning",
    "check_claim",
    "check_writable",
    "expand_inputs",
    "is_zarr",
    "replacing",
    "replacing_folder",
]

SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".npy", ".zarr", ".czi", ".nd2")
ZARR_MARKS = ("zarr.json", ".zgroup", ".zattrs", ".zarray")
# Results, which are no input when a folder is expanded.
RESULT_ENDINGS = ("_labels.tif", "_foreground.tif", "_confidence.tif", "_overlay.png", "_cells.ome.zarr")


class ImageFileError(ValueError):
    """A file cannot be used as asked; the message names it, what is wrong and what to do, in one line."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))  # decoders' own reasons may have several


class ImageFileWarning(UserWarning):
    """Something that a file says is not used, or a part of it is missing that was not asked for."""


def expand_inputs(paths: Iterable[str | Path]) -> list[Path]:
    """The image files that files, folders and patterns such as ``plate/*.tif`` stand for.

    A folder stands for its image files by name, without its subfolders; a ``.zarr`` folder, and every folder
    inside of one, is an image itself.
    Neither folders nor patterns stand for results of ours (``_labels.tif``, ``_overlay.png``, ...).

    Returns
    -------
    list of Path
        In the order given, each file once.

    Raises
    ------
    ImageFileError
        If a path does not exist, or a folder or pattern yields no image.
    """
    files: dict[Path, None] = {}
    for path in map(Path, paths):
        if path.is_dir() and not is_zarr(path):
            found = [file for file in sorted(path.iterdir()) if _is_input(file)]
            missing = f"{path} is a folder without images; looked for {', '.join(SUFFIXES)}"
        elif glob.has_magic(str(path)) and not path.exists():
            found = [file for file in map(Path, sorted(glob.glob(str(path)))) if _is_input(file)]
            missing = f"{path} matches no image; looked for {', '.join(SUFFIXES)}"
        else:
            found = [path] if path.exists() else []
            missing = f"{path} does not exist"
        if not found:
            raise ImageFileError(f"{missing}; check the path")
        files.update(dict.fromkeys(found))
    return list(files)


def is_zarr(path: Path) -> bool:
    """Whether a path names a zarr folder, or a group inside of one."""
    marked = any((path / name).exists() for name in ZARR_MARKS)
    return marked or any(
        part.suffix.lower() == ".zarr" for part in (path, *path.absolute().parents) if part.is_dir()
    )


def _is_input(path: Path) -> bool:
    hidden_or_result = path.name.startswith(".") or path.name.endswith(RESULT_ENDINGS)
    return path.suffix.lower() in SUFFIXES and not hidden_or_result


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
        If the path is a folder, lies under a file, or permissions forbid it.
    """
    path = Path(path)
    if path.is_dir() and not folder:
        raise ImageFileError(f"{path} is a folder; name a file in it")
    if path.exists() and not os.access(path, os.W_OK):
        raise ImageFileError(f"{path} is write-protected; choose another file")
    parent = next(parent for parent in path.absolute().parents if parent.exists())
    if not parent.is_dir():
        raise ImageFileError(f"{path} cannot be written: {parent} is a file, not a folder")
    try:  # permissions alone do not tell: file systems can be read-only, full, or virtual
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        raise ImageFileError(f"{path} cannot be written: {parent}: {error.strerror}") from error


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
    try:
        yield temporary
        if path.exists():
            shutil.rmtree(path)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
