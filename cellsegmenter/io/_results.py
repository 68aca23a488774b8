"""Results of ours: the mark that their files carry, and how they are known again among images."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

import tifffile
from PIL.PngImagePlugin import PngImageFile, PngInfo

from cellsegmenter.files import path_from_text

from ._tiff import tiff_complaints

__all__ = ["CREATOR", "MANIFEST_ENDING", "MARK", "is_result", "marked_png", "recorded_results"]

MARK = "cellsegmenter result"  # the software, in TIFF and PNG
MANIFEST_ENDING = "_manifest.json"
CREATOR = {"name": MARK}  # the attribute `_creator` of an OME-Zarr group


def is_result(path: Path, recorded: Collection[str] = ()) -> bool:
    """Whether a file or OME-Zarr folder is no image but a result of ours.

    Its name does not tell: it is marked, or a manifest beside it names it, which holds for a result that was changed
    in another program.

    Parameters
    ----------
    path : Path
    recorded : collection of str
        What `recorded_results` says of its folder.
    """
    if path.name in recorded:
        return True
    try:
        if path.is_dir():
            return json.loads((path / ".zattrs").read_text(encoding="utf-8"))["_creator"] == CREATOR
        if path.suffix.lower() == ".png":
            with PngImageFile(path) as picture:  # of any size, which Pillow's `open` would warn of
                return picture.info.get("Software") == MARK
        if path.suffix.lower() in (".tif", ".tiff"):
            with tiff_complaints(), tifffile.TiffFile(path) as file:
                return file.pages.first.software == MARK
    except Exception:  # a broken file is complained of where it is read
        return False
    return False


def recorded_results(folder: Path) -> set[str]:
    """The names of all results that manifests in a folder speak of."""
    names: set[str] = set()
    for manifest in folder.glob(f"*{MANIFEST_ENDING}"):
        try:
            record = json.loads(manifest.read_text(encoding="utf-8"))
            for part in (record, *record.get("earlier", [])):
                names.update(path_from_text(file).name for file in part["outputs"].values())
        except (OSError, ValueError, AttributeError, KeyError, TypeError):
            continue  # another program's
    return names


def marked_png() -> PngInfo:
    """The mark of a picture, for Pillow's `pnginfo`."""
    info = PngInfo()
    info.add_text("Software", MARK)
    return info
