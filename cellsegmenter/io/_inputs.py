"""Which image files an argument means: files, folders and patterns, without results of ours."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from ._files import SUFFIXES, ImageFileError
from ._ome_zarr_layout import is_zarr
from ._results import is_result, recorded_results

__all__ = ["Inputs", "expand_inputs", "find_inputs", "image_stem"]

_PREVIEW_SUFFIXES = (".png", ".jpg", ".jpeg")  # of an image of the same name in one of the other formats

_LISTED = 5  # names in a message


class Inputs(NamedTuple):
    """What some paths stand for, and what was left out of folders and patterns."""

    files: list[Path]  # in the order given, each once
    results: list[Path]  # written by us
    previews: list[Path]  # pictures such as a.png beside a.tif

    def left_out(self) -> Iterator[str]:
        """What was left out, in sentences."""
        if self.results:
            yield f"left out, as results and no images: {_listed(self.results)}"
        if self.previews:
            yield f"left out, as previews of images of the same name: {_listed(self.previews)}; name them to use them"


def find_inputs(paths: Iterable[str | Path]) -> Inputs:
    """The image files that files, folders and patterns such as ``plate/*.tif`` stand for, and what is left out.

    A folder stands for its image files by name, without its subfolders; a ``.zarr`` folder, and every folder
    inside of one, is an image itself.  Neither folders nor patterns stand for results of ours, nor for a picture
    ``a.png`` beside ``a.tif``.  A file that is named itself is always an input.

    Raises
    ------
    ImageFileError
        If a path does not exist, or a folder or pattern yields no image.
    """
    files: dict[Path, None] = {}
    results: dict[Path, None] = {}
    previews: dict[Path, None] = {}
    for path in map(Path, paths):
        if path.is_dir() and not is_zarr(path):
            candidates = sorted(path.iterdir())
            missing = f"{path} is a folder without images; looked for {', '.join(SUFFIXES)}"
        elif glob.has_magic(str(path)) and not path.exists():
            candidates = sorted(map(Path, glob.glob(str(path))))
            missing = f"{path} matches no image; looked for {', '.join(SUFFIXES)}"
        elif path.exists():
            files[path] = None
            continue
        else:
            raise ImageFileError(f"{path} does not exist; check the path")
        found = _sorted_out(candidates)
        if not found.files:
            raise ImageFileError("; ".join([missing, *found.left_out(), "check the path"]))
        for group, more in zip((files, results, previews), found, strict=True):
            group.update(dict.fromkeys(more))
    return Inputs(list(files), _not_in(results, files), _not_in(previews, files))


def expand_inputs(paths: Iterable[str | Path]) -> list[Path]:
    """The files of `find_inputs`.

    Returns
    -------
    list of Path
        In the order given, each file once.

    Raises
    ------
    ImageFileError
        If a path does not exist, or a folder or pattern yields no image.
    """
    return find_inputs(paths).files


def image_stem(path: Path) -> str:
    """The name of an image without its ending; ``.ome.tif`` counts as one ending."""
    return path.stem.removesuffix(".ome")


def _listed(paths: list[Path]) -> str:
    """The first few of many names."""
    more = len(paths) - _LISTED
    return ", ".join(map(str, paths[:_LISTED])) + (f" and {more} more" if more > 0 else "")


def _not_in(paths: Iterable[Path], files: dict[Path, None]) -> list[Path]:
    return [path for path in paths if path not in files]


def _sorted_out(candidates: Iterable[Path]) -> Inputs:
    """Images, results and previews among the files of folders."""
    images: list[Path] = []
    results: list[Path] = []
    recorded: dict[Path, set[str]] = {}
    for path in candidates:
        if path.name.startswith(".") or path.suffix.lower() not in SUFFIXES:
            continue
        if path.parent not in recorded:
            recorded[path.parent] = recorded_results(path.parent)
        (results if is_result(path, recorded[path.parent]) else images).append(path)
    full = {(path.parent, image_stem(path)) for path in images if not _is_picture(path)}
    previews = [path for path in images if _is_picture(path) and (path.parent, image_stem(path)) in full]
    return Inputs(_not_in(images, dict.fromkeys(previews)), results, previews)


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in _PREVIEW_SUFFIXES
