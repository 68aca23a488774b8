"""Where the images of an OME-Zarr are: a single one, the series of bioformats2raw, the fields of a plate or well."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cellsegmenter.files import text_of

from ._files import ImageFileError
from ._ome_xml import OmeImage, parse_ome_xml

__all__ = ["Group", "find_groups", "is_zarr", "ome_attributes", "outermost", "zarr_array"]

MARKS = ("zarr.json", ".zgroup", ".zattrs", ".zarray")  # of a group or an array in a folder
XML_PLACES = ("OME/METADATA.ome.xml", "METADATA.ome.xml")  # the second by bioformats2raw before 0.3
# What the first two versions of NGFF mean, which do not name their axes.
UNNAMED_AXES = "tczyx"


class Group(NamedTuple):
    """The folder of one image, and what the folders above it say of it."""

    path: Path
    name: str = ""  # "A1/0" for the first field of a well, or the name in the OME-XML
    well: str = ""
    field: str = ""
    xml: OmeImage | None = None  # as bioformats2raw writes it


def find_groups(path: Path) -> list[Group]:
    """The images in a folder of OME-Zarr, which may be a part of a larger one.

    Raises
    ------
    ImageFileError
        If there is none.
    """
    groups = list(_groups(path))
    if not groups:
        part = "an array of one resolution; name the folder above it, and the resolution by level (--level)"
        remedy = part if zarr_array(path)[0] else "no image by the rules of OME-Zarr; export it again"
        raise ImageFileError(f"{path} holds {remedy}")
    described = _described(path)
    return [
        group._replace(
            xml=described.get(group.path), name=group.name or _name(described.get(group.path), group, path)
        )
        for group in groups
    ]


def ome_attributes(path: Path) -> dict[str, Any]:
    """What a group says of itself in any version: "multiscales", "plate", "omero", ...; {} if nothing.

    The axes of "multiscales" are in the form of NGFF 0.4, a dict for each, whichever the version.
    """
    attributes = _json(path / "zarr.json").get("attributes", {}) or _json(path / ".zattrs")
    attributes = attributes.get("ome", attributes)
    for multiscale in attributes.get("multiscales", []):
        axes = multiscale.get("axes")
        if axes is None and str(multiscale.get("version", "0.1")) in ("0.1", "0.2"):
            axes = UNNAMED_AXES
        if axes is not None:
            multiscale["axes"] = [{"name": axis} if isinstance(axis, str) else axis for axis in axes]
    return attributes


def outermost(path: Path) -> Path:
    """The folder of the whole OME-Zarr that a folder of an image is a part of."""
    for start in (path, path.absolute()):  # the path as it was given, if it reaches that far
        inside = [part for part in (start, *start.parents) if part.suffix.lower() == ".zarr"]
        if inside:
            return inside[-1]
    while _is_marked(path.absolute().parent):
        path = path.absolute().parent
    return path


def is_zarr(path: Path) -> bool:
    """Whether a path names a zarr folder, or a group inside of one."""
    return _is_marked(path) or any(
        part.suffix.lower() == ".zarr" for part in (path, *path.absolute().parents) if part.is_dir()
    )


def zarr_array(path: Path) -> tuple[tuple[int, ...], str]:
    """The sizes and the type of the array in a folder; () and "" if there is none."""
    described = _json(path / ".zarray") or _json(path / "zarr.json")
    dtype = described.get("data_type") or described.get("dtype")
    return tuple(map(int, described.get("shape", ()))), str(np.dtype(dtype)) if isinstance(dtype, str) else ""


def _is_marked(path: Path) -> bool:
    return any((path / name).exists() for name in MARKS)


def _groups(path: Path) -> Iterator[Group]:
    attributes = ome_attributes(path)
    if "multiscales" in attributes:
        yield Group(path)
    elif "plate" in attributes:
        yield from _fields_of_plate(path, attributes["plate"])
    elif "well" in attributes:
        yield from _fields(path, path.parent.name + path.name)
    elif (listed := _listed_parts(path)) is not None:
        yield from map(Group, listed)
    else:
        for part in _parts(path):
            inner = ome_attributes(part)
            if "multiscales" in inner:
                yield Group(part)
            elif "well" in inner:
                yield from _fields(part, path.name + part.name)


def _fields_of_plate(path: Path, plate: dict[str, Any]) -> Iterator[Group]:
    for well in plate["wells"]:
        yield from _fields(path / well["path"], well["path"].replace("/", ""))


def _fields(well: Path, name: str) -> Iterator[Group]:
    """The fields of a well; of one that is missing the place where the first should be, to be refused when read."""
    images = ome_attributes(well).get("well", {}).get("images", [{"path": "0"}])
    for image in images:
        yield Group(well / image["path"], f"{name}/{image['path']}", name, image["path"])


def _listed_parts(path: Path) -> list[Path] | None:
    """The folders of the images in the order of bioformats2raw's list and of its OME-XML, if there is one."""
    listed = ome_attributes(path / "OME").get("series")
    return None if listed is None else [path / str(part) for part in listed]


def _parts(path: Path) -> list[Path]:
    """The folders in a group, by number or name."""
    parts = [part for part in path.iterdir() if part.is_dir() and part.name not in ("OME", "labels")]
    return sorted(parts, key=lambda part: (not part.name.isdecimal(), part.name.zfill(12)))


def _described(path: Path) -> dict[Path, OmeImage]:
    """Each image's part of the OME-XML that lies in this folder or one above it."""
    for root in (path, *path.parents[:4]):
        for place in XML_PLACES:
            if (root / place).is_file():
                return _described_by(root, place, (root / place).stat().st_mtime_ns)
        if root.suffix.lower() == ".zarr":
            break
    return {}


@lru_cache(maxsize=2)  # of a plate, every field asks for it
def _described_by(root: Path, place: str, changed: int) -> dict[Path, OmeImage]:
    """The images of a root and what an OME-XML in it says of them, in the same order."""
    images = parse_ome_xml((root / place).read_bytes())
    paths = _listed_parts(root) or [group.path for group in _groups(root)]
    return dict(zip(paths, images, strict=False))


def _name(xml: OmeImage | None, group: Group, path: Path) -> str:
    if xml is not None and xml.name:
        return xml.name
    return "" if group.path == path else text_of(group.path.relative_to(path).as_posix())


def _json(path: Path) -> dict[str, Any]:
    """A file of metadata; {} if there is none, or nothing of a kind that could be understood."""
    if not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}
