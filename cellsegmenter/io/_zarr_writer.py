"""OME-Zarr (NGFF) out: labels under the group of their image, and a new group for an image that has none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cellsegmenter.files import text_of
from cellsegmenter.packages import needs

from ._files import ImageFileError, replacing_folder
from ._layout import ImageStack
from ._ome_zarr_layout import ome_attributes
from ._results import CREATOR
from ._stacks import check_labels

__all__ = ["LABELS_NAME", "add_ome_zarr_labels", "write_ome_zarr"]

LABELS_NAME = "cells"
CHUNK = 512  # px
SMALLEST = 256  # px: no further level of a pyramid below this
AXIS_TYPES = {"C": "channel", "T": "time"}  # others are space
SHOWN = ("area", "confidence")  # columns of the table that viewers show when a label is pointed at


class Grid(NamedTuple):
    """The axes of an array, with the size and origin of its pixels at full resolution."""

    axes: list[dict[str, Any]]  # as NGFF describes them: name, type, unit
    scale: list[float]  # units per pixel
    origin: list[float]  # of the first pixel, units


class Arranged(NamedTuple):
    """Labels in the order of an image's axes, read band by band."""

    labels: Any  # array-like, its last two axes being rows and columns
    order: list[int]  # of its axes
    missing: tuple[int, ...]  # axes that it lacks, of size 1

    @property
    def shape(self) -> tuple[int, ...]:
        sizes = [int(self.labels.shape[axis]) for axis in self.order]
        for axis in self.missing:
            sizes.insert(axis, 1)
        return tuple(sizes)

    def rows(self, band: slice) -> np.ndarray:
        pixels = np.asarray(self.labels[..., band, :])
        check_labels(pixels, "." * (pixels.ndim - 2) + "YX")
        return np.expand_dims(pixels.transpose(self.order), self.missing)


def write_ome_zarr(
    path: str | Path,
    images: ImageStack,
    labels: Any,
    table: Mapping[str, Any] | None = None,
) -> None:
    """Write an image and its labels as OME-Zarr (NGFF 0.4, in zarr's format 2, which all viewers read).

    Parameters
    ----------
    path : str or Path
        Ends in ``.zarr``; an older one is replaced.
    images : ImageStack
        As `read_images` gives it; copied band by band.
    labels : array-like, the axes of the stack followed by (H, W)
        Copied band by band, too.
    table : mapping from names to columns, optional
        Its areas and confidences are written as properties of the labels.

    Raises
    ------
    ImageFileError
        If the path cannot be written to, or zarr is not installed.
    ValueError
        If images and labels differ in size.
    """
    zarr = _zarr(path)
    first = images[0]
    axes = images.axes + first.axes
    shape = (*images.shape, *map(int, first.array.shape))
    if labels.shape != (*images.shape, *shape[-2:]):
        raise ValueError(f"labels of shape {labels.shape} are not those of images of shape {shape}")
    grid = _grid(axes, first.pixel_size)
    with replacing_folder(path) as temporary:
        root = zarr.open_group(temporary, mode="w", zarr_format=2)
        full = _array(root, "0", shape, np.dtype(first.array.dtype))
        for i, at in enumerate(np.ndindex(images.shape)):
            array = images[i].array
            for rows in _bands(shape[-2]):
                full[(*at, Ellipsis, rows, slice(None))] = np.asarray(array[..., rows, :])
        n_levels = _add_levels(root, _mean_of_four)
        name = text_of(Path(path).name.partition(".")[0])
        root.attrs.update({"multiscales": [_multiscale(name, grid, n_levels, "0.4")], "_creator": CREATOR})
        label_grid = _grid(images.axes + "YX", first.pixel_size)
        in_order = Arranged(labels, list(range(len(labels.shape))), ())
        _write_labels(zarr, root, in_order, label_grid, table, "0.4")


def add_ome_zarr_labels(
    path: str | Path,
    labels: Any,
    table: Mapping[str, Any] | None = None,
    *,
    axes: str = "YX",
    position: Mapping[str, int] | None = None,
    level: int = 0,
) -> Path:
    """Write labels under the group of an OME-Zarr image, as ``labels/cells``; the pixels stay as they are.

    Parameters
    ----------
    path : str or Path
        Of the image's group, NGFF 0.1 to 0.5; labels are written as 0.5 where the image is, else as 0.4.
    labels : array-like (..., H, W)
        0 background; read band by band, so that it may stay on disk.
    table : mapping from names to columns, optional
        Its areas and confidences are written as properties of the labels.
    axes : str
        Of `labels`.
    position : mapping, optional
        Such as {"Z": 3}, where the labels are those of one slice of the image.
    level : int
        The image's resolution that the labels are at.

    Returns
    -------
    Path
        Of the labels' group; an older one of this name is replaced.

    Raises
    ------
    ImageFileError
        If this is no OME-Zarr image, nothing can be written, or zarr is not installed.
    ValueError
        If labels and axes do not agree.
    """
    zarr = _zarr(path)
    if len(labels.shape) != len(axes) or not axes.endswith("YX"):
        raise ValueError(f"labels of shape {labels.shape} do not have the axes {axes!r}; Y and X come last")
    try:
        attributes = ome_attributes(Path(path))
        multiscale = attributes["multiscales"][0]
        grid = _grid_of_level(multiscale, level, position or {})
    except (OSError, KeyError, IndexError, TypeError, ValueError) as error:
        raise ImageFileError(f"{path} cannot be read as OME-Zarr ({error!r}); export it again") from error
    names = [axis["name"].upper() for axis in grid.axes]
    order = [axes.index(name) for name in names if name in axes]
    missing = tuple(i for i, name in enumerate(names) if name not in axes)  # axes of a single position here
    version = "0.5" if (Path(path) / "zarr.json").exists() else "0.4"
    root = zarr.open_group(path, mode="r+")
    arranged = Arranged(labels, order, missing)
    _write_labels(zarr, root, arranged, grid, table, version)
    return Path(path) / "labels" / LABELS_NAME


def _zarr(path: str | Path) -> Any:
    """The package, or an error that says how to get it."""
    try:
        import zarr
    except ImportError:
        raise ImageFileError(needs(path, "zarr")) from None
    return zarr


def _grid(axes: str, pixel_size: float | None) -> Grid:
    """Axes with µm, if the pixel size is known, along rows and columns."""
    described: list[dict[str, Any]] = []
    for axis in axes:
        unit = {"unit": "micrometer"} if axis in "YX" and pixel_size else {}
        described.append({"name": axis.lower(), "type": AXIS_TYPES.get(axis, "space"), **unit})
    scale = [(pixel_size or 1.0) if axis in "YX" else 1.0 for axis in axes]
    return Grid(described, scale, [0.0] * len(axes))


def _grid_of_level(multiscale: dict[str, Any], level: int, position: Mapping[str, int]) -> Grid:
    """The image's own axes but for channels, at one of its levels; a chosen slice lies where it was."""
    kept = [i for i, axis in enumerate(multiscale["axes"]) if axis["name"] != "c"]
    steps = multiscale["datasets"][level].get("coordinateTransformations", [])
    common = multiscale.get("coordinateTransformations", [])
    scale, origin = [1.0] * len(multiscale["axes"]), [0.0] * len(multiscale["axes"])
    for step in [*steps, *common]:
        if step["type"] == "scale":
            scale = [a * b for a, b in zip(scale, step["scale"], strict=True)]
            origin = [a * b for a, b in zip(origin, step["scale"], strict=True)]
        elif step["type"] == "translation":
            origin = [a + b for a, b in zip(origin, step["translation"], strict=True)]
    axes = [multiscale["axes"][i] for i in kept]
    at = [position.get(axis["name"].upper(), 0) for axis in axes]
    return Grid(
        axes,
        [float(scale[i]) for i in kept],
        [float(origin[i] + k * scale[i]) for i, k in zip(kept, at, strict=True)],
    )


def _write_labels(
    zarr: Any, root: Any, labels: Arranged, grid: Grid, table: Mapping[str, Any] | None, version: str
) -> None:
    """The group ``labels/cells`` of an image's group, written beside its place and then moved there."""
    parent = root.require_group("labels")
    folder = Path(str(root.store.root)) / "labels" / LABELS_NAME
    with replacing_folder(folder) as temporary:
        group = zarr.open_group(temporary, mode="w", zarr_format=root.metadata.zarr_format)
        shape = labels.shape
        highest = max((int(labels.rows(band).max(initial=0)) for band in _bands(shape[-2])), default=0)
        fits = highest <= np.iinfo(np.uint16).max
        full = _array(group, "0", shape, np.dtype(np.uint16 if fits else np.uint32))
        for band in _bands(shape[-2]):
            full[..., band, :] = labels.rows(band)
        n_levels = _add_levels(group, lambda pixels: pixels[..., ::2, ::2])
        description: dict[str, Any] = {"version": version, "source": {"image": "../../"}}
        if table is not None:
            description["properties"] = _properties(table)
        multiscale = _multiscale(LABELS_NAME, grid, n_levels, version)
        attributes = {"multiscales": [multiscale], "image-label": description}
        group.attrs.update(attributes if version == "0.4" else {"ome": {"version": version, **attributes}})
    listed = (
        parent.attrs.get("labels", []) if version == "0.4" else parent.attrs.get("ome", {}).get("labels", [])
    )
    names = {"labels": [*(name for name in listed if name != LABELS_NAME), LABELS_NAME]}
    parent.attrs.update(names if version == "0.4" else {"ome": {"version": version, **names}})


def _array(group: Any, name: str, shape: tuple[int, ...], dtype: np.dtype) -> Any:
    """A chunked, compressed array in the group, one file for each chunk in nested folders as NGFF wants."""
    chunks = (1,) * (len(shape) - 2) + tuple(max(1, min(CHUNK, size)) for size in shape[-2:])
    two = group.metadata.zarr_format == 2
    return group.create_array(
        name,
        shape=shape,
        chunks=chunks,
        dtype=dtype,
        fill_value=0,
        chunk_key_encoding={"name": "v2" if two else "default", "separator": "/"},
    )


def _add_levels(group: Any, halved: Any) -> int:
    """Halve rows and columns until little is left, each level from the one before; how many levels there are."""
    level = 0
    while max(group[str(level)].shape[-2:]) > SMALLEST:
        finer = group[str(level)]
        height, width = (-(-size // 2) for size in finer.shape[-2:])
        coarser = _array(group, str(level + 1), (*finer.shape[:-2], height, width), finer.dtype)
        for rows in _bands(height):
            coarser[..., rows, :] = halved(finer[..., 2 * rows.start : 2 * rows.stop, :])
        level += 1
    return level + 1


def _mean_of_four(pixels: np.ndarray) -> np.ndarray:
    """Half as many rows and columns; the last ones count twice if their number is odd."""
    odd = [(0, 0)] * (pixels.ndim - 2) + [(0, size % 2) for size in pixels.shape[-2:]]
    even = np.pad(pixels, odd, mode="edge")
    mean = np.mean([even[..., i::2, j::2] for i in (0, 1) for j in (0, 1)], axis=0)
    return (np.rint(mean) if pixels.dtype.kind in "bui" else mean).astype(pixels.dtype)


def _bands(height: int) -> Iterator[slice]:
    """All rows, as many at once as a chunk has."""
    return (slice(top, min(top + CHUNK, height)) for top in range(0, height, CHUNK))


def _multiscale(name: str, grid: Grid, n_levels: int, version: str) -> dict[str, Any]:
    """The description of a pyramid."""
    datasets = []
    for level in range(n_levels):
        scale = [
            value * 2**level if axis["name"] in "yx" else value
            for axis, value in zip(grid.axes, grid.scale, strict=True)
        ]
        steps: list[dict[str, Any]] = [{"type": "scale", "scale": scale}]
        if any(grid.origin):
            steps.append({"type": "translation", "translation": grid.origin})
        datasets.append({"path": str(level), "coordinateTransformations": steps})
    said = {"version": version} if version == "0.4" else {}
    return {**said, "name": name, "axes": grid.axes, "datasets": datasets}


def _properties(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What viewers show of an object."""
    shown = [name for name in SHOWN if name in table]
    return [
        {"label-value": int(label)} | {name: float(f"{table[name][row]:.6g}") for name in shown}
        for row, label in enumerate(table["label"])
    ]
