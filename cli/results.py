"""What `predict` finds in an image file, and the writing of it in every form."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .outputs import ENDINGS, Job

if TYPE_CHECKING:
    import numpy as np

    from cellsegmenter import CellSegmenter
    from cellsegmenter.consensus import Segmentation
    from cellsegmenter.image_consensus import ImageConsensus
    from cellsegmenter.io import ImageStack
    from cellsegmenter.store import Image

    Table = dict[str, np.ndarray]


class Seen(NamedTuple):
    """How the model saw an image, without its pixels."""

    diameters: tuple[float, ...]  # px of objects that were looked for; nan if the image was taken as it is
    scales: tuple[float, ...]  # sizes at which it was seen, over its own
    notes: tuple[str, ...]  # what was done to it, in words

    @classmethod
    def of(cls, consensus: ImageConsensus) -> Seen:
        return cls(consensus.seen.diameters, consensus.seen.scales, consensus.seen.notes)


class Plane(NamedTuple):
    """What was found in one plane of an image."""

    segmentation: Segmentation
    seen: Seen
    work_folder: Path | None  # that it was done in, if memory would not do


class Result(NamedTuple):
    """The objects of one image file, plane by plane where there are several."""

    images: ImageStack
    level: int  # the resolution of the file that was read
    planes: list[Plane]
    labels: Image  # the axes of the stack, if any, followed by (H, W); of a large image on disk
    table: Table  # one row per object, planes one after the other

    @property
    def segmentations(self) -> list[Segmentation]:
        """Of each plane."""
        return [plane.segmentation for plane in self.planes]

    @property
    def whole(self) -> np.ndarray:
        """The labels in memory, for formats that cannot be written piece by piece."""
        return self.labels[...]

    @property
    def axes(self) -> str:
        return f"{self.images.axes}YX"

    @property
    def pixel_size(self) -> float | None:
        return self.images.source.pixel_size

    @property
    def position(self) -> dict[str, int]:
        """Which slice or time was chosen, where there are several."""
        return {axis: at for axis, at in self.images.chosen.items() if axis in "ZT"}


def collect(images: ImageStack, level: int, planes: list[Plane], segmenter: CellSegmenter) -> Result:
    """Measure the objects of all planes and join the planes' label images and tables."""
    import numpy as np

    segmentations = [plane.segmentation for plane in planes]
    tables = []
    for i, segmentation in enumerate(segmentations):
        columns = segmenter.table(segmentation, images[i].array, pixel_size=images.source.pixel_size)
        n = len(columns["label"])
        position = images.position(i)
        tables.append({_column(axis): np.full(n, at) for axis, at in position.items()} | columns)
    labels: Image = segmentations[0].labels
    if images.axes:
        labels = np.stack([s.labels for s in segmentations]).reshape(*images.shape, *labels.shape)
    return Result(images, level, planes, labels, stack(tables))


def write_results(job: Job, result: Result, metadata: dict[str, Any]) -> Iterator[str]:
    """Write all files of a job but the manifest, and tell of each kind when its file is complete."""
    for kind, path in job.files.items():
        WRITERS[kind](path, result, metadata)
        yield kind


def stack(tables: Sequence[Table]) -> Table:
    """Several tables below each other; what one of them lacks, such as µm without a pixel size, is nan."""
    import numpy as np

    names = dict.fromkeys(name for table in sorted(tables, key=len, reverse=True) for name in table)
    return {
        name: np.concatenate([table.get(name, np.full(len(table["label"]), np.nan)) for table in tables])
        for name in names
    }


def with_image(table: Table, name: str) -> Table:
    """The table with the image's name in front."""
    import numpy as np

    return {"image": np.full(len(table["label"]), name), **table}


def describe(segmentation: Segmentation, seen: Seen, seconds: float, *, given: bool) -> str:
    """What was found, at which scale and resolution, which may have been given, and how long it took."""
    from cellsegmenter.wording import counted

    resolution = segmentation.resolution
    *others, last = (f"{diameter:.3g}" for diameter in seen.diameters)
    sizes = f"{', '.join(others)} and {last}" if others else last
    size = "" if seen.scales == (1.0,) else f", taken to be {sizes} px across"
    if not len(segmentation):
        return f"  no objects ({seconds:.1f} s){size}"
    interval = segmentation.count_interval
    count = "" if interval is None else f", {interval[0]} to {interval[1]} with 90 %"
    chosen = "as given" if given else "the model's own"
    if resolution.chosen_by == "auto":
        chosen = "chosen automatically"
    objects = counted(len(segmentation), "object")
    return (
        f"  {objects}{count} ({seconds:.1f} s){size}, at γ_abs = {resolution.absolute:.3g}, "
        f"{chosen}; in this image that is --gamma {resolution.gamma:.4g} ({resolution.method})"
    )


def _column(axis: str) -> str:
    return axis.lower() if axis in "ZT" else "page"


def _title(position: dict[str, int]) -> str:
    return ", ".join(f"{_column(axis)} {at}" for axis, at in position.items())


def _labels(path: Path, result: Result, metadata: dict[str, Any]) -> None:
    from cellsegmenter import io

    io.write_labels(path, result.labels, metadata=metadata, axes=result.axes, pixel_size=result.pixel_size)


def _table(path: Path, result: Result, metadata: dict[str, Any]) -> None:
    from cellsegmenter import io

    io.write_table(path, with_image(result.table, metadata["image"]))


def _overlay(path: Path, result: Result, metadata: dict[str, Any]) -> None:
    from cellsegmenter import io

    if not result.images.axes:
        io.write_overlay(path, result.images[0].array, result.labels)
        return
    planes = [
        io.Panel(_title(result.images.position(i)), image.array, segmentation.labels)
        for i, (image, segmentation) in enumerate(zip(result.images, result.segmentations, strict=True))
    ]
    io.write_montage(path, planes)


def _geojson(path: Path, result: Result, metadata: dict[str, Any]) -> None:
    from cellsegmenter import io

    io.write_geojson(path, result.whole, result.table, axes=result.axes, position=result.position)


def _rois(path: Path, result: Result, metadata: dict[str, Any]) -> None:
    from cellsegmenter import io

    io.write_rois(path, result.whole, axes=result.axes, position=result.position)


def _ome_zarr(path: Path, result: Result, metadata: dict[str, Any]) -> None:
    from cellsegmenter import io

    if path.name.endswith(ENDINGS["ome-zarr"]):
        io.write_ome_zarr(path, result.images, result.labels, result.table)
    else:  # IMAGE/labels/cells
        io.add_ome_zarr_labels(
            path.parents[1],
            result.labels,
            result.table,
            axes=result.axes,
            position=result.position,
            level=result.level,
        )


def _map(values: Callable[[Segmentation], np.ndarray]) -> Callable[[Path, Result, dict[str, Any]], None]:
    """A writer of one number for each pixel."""

    def write(path: Path, result: Result, metadata: dict[str, Any]) -> None:
        import numpy as np

        from cellsegmenter import io

        planes = np.stack([values(segmentation) for segmentation in result.segmentations])
        io.write_map(
            path, planes.reshape(result.labels.shape), axes=result.axes, pixel_size=result.pixel_size
        )

    return write


def _confidence(segmentation: Segmentation) -> np.ndarray:
    from cellsegmenter import io

    return io.confidence_map(segmentation.labels, segmentation.confidence)


def _foreground(segmentation: Segmentation) -> np.ndarray:
    import numpy as np

    # The probabilities of several objects, each rounded to a 255th, can add up to a little more than one.
    return np.minimum(segmentation.foreground_prob[...], 1)


WRITERS: dict[str, Callable[[Path, Result, dict[str, Any]], None]] = {
    "labels": _labels,
    "table": _table,
    "parquet": _table,
    "anndata": _table,
    "overlay": _overlay,
    "geojson": _geojson,
    "rois": _rois,
    "ome-zarr": _ome_zarr,
    "foreground": _map(_foreground),
    "confidence": _map(_confidence),
}
