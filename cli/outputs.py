"""Where the results of an image go, and the writing of them: shared by `predict` and `demo`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

if TYPE_CHECKING:
    import numpy as np

    from cellsegmenter import CellSegmenter
    from cellsegmenter.consensus import Segmentation

    Table = dict[str, np.ndarray]


class Job(NamedTuple):
    """One image and the files that its results go to."""

    image: Path
    labels: Path
    overlay: Path | None

    @property
    def outputs(self) -> list[Path]:
        return [self.labels] if self.overlay is None else [self.labels, self.overlay]


def plan(images: Sequence[Path], output: Path | None, overlay: Path | None) -> list[Job]:
    """Give each image its output files; without `output` the labels go beside the image."""
    several = len(images) > 1
    return [
        Job(
            image=image,
            labels=place(image, output or image.parent, "_labels.tif", several),
            overlay=None if overlay is None else place(image, overlay, "_overlay.png", several),
        )
        for image in images
    ]


def place(image: Path, target: Path, ending: str, several: bool) -> Path:
    """The file for one image's result: the target itself, or a file named after the image in that folder."""
    if target.is_dir() or not target.suffix:
        return target / f"{stem(image)}{ending}"
    if several:
        raise click.UsageError(f"Several images need a folder to write to, and {target} names a file.")
    wanted = ending.partition(".")[2]
    if not target.suffix.lower().startswith(f".{wanted}"):  # .tiff will do for .tif
        raise click.UsageError(f"{target} must end in .{wanted}, or name a folder.")
    return target


def check_outputs(paths: Sequence[Path], inputs: Sequence[Path]) -> None:
    """Before the work: nothing may be written over an input, twice, or where it cannot be written."""
    from cellsegmenter import io

    taken = {path.resolve() for path in inputs}
    for path in paths:
        if path.resolve() in taken:
            raise click.UsageError(
                f"{path} would be written over an input or a second time; name another file."
            )
        taken.add(path.resolve())
        io.check_writable(path)


def stem(image: Path) -> str:
    """The name without its ending; `.ome.tif` counts as one ending."""
    return image.stem.removesuffix(".ome")


def write_results(
    job: Job, pixels: np.ndarray, segmentation: Segmentation, segmenter: CellSegmenter
) -> Table:
    """Write the label image and the overlay of one image; give its table, with the image's name in front."""
    import numpy as np

    from cellsegmenter import io

    resolution = segmentation.resolution
    metadata = {
        "model": segmenter.card_["name"],
        "method": resolution.method,
        "gamma_abs": resolution.absolute,
        "gamma": resolution.gamma,
        "cutoff_distance": resolution.cutoff_distance,
    }
    io.write_labels(job.labels, segmentation.labels, metadata=metadata)
    if job.overlay is not None:
        io.write_overlay(job.overlay, pixels, segmentation.labels)
    columns = segmenter.table(segmentation, pixels)
    return {"image": np.full(len(columns["label"]), job.image.name), **columns}


def describe(segmentation: Segmentation, seconds: float) -> str:
    """What was found, at which resolution, and how long it took."""
    resolution = segmentation.resolution
    if not len(segmentation):
        return f"  no objects ({seconds:.1f} s)"
    chosen = "chosen automatically" if resolution.chosen_by == "auto" else "as given"
    return (
        f"  {len(segmentation)} objects ({seconds:.1f} s) at γ_abs = {resolution.absolute:.3g}, {chosen}; "
        f"in this image that is --gamma {resolution.gamma:.4g} ({resolution.method})"
    )


def stack(tables: Sequence[Table]) -> Table:
    """Several images' tables below each other."""
    import numpy as np

    return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
