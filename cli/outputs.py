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
    """Give each image its output files, refusing what would overwrite an input or another output."""
    several = len(images) > 1
    jobs = [
        Job(
            image=image,
            labels=place(image, output, "_labels.tif", several)
            or image.with_name(f"{stem(image)}_labels.tif"),
            overlay=place(image, overlay, "_overlay.png", several),
        )
        for image in images
    ]
    taken = {image.resolve() for image in images}
    for path in (path for job in jobs for path in job.outputs):
        if path.resolve() in taken:
            raise click.UsageError(
                f"{path} would be written over an input or a second time; choose another -o."
            )
        taken.add(path.resolve())
    return jobs


def place(image: Path, target: Path | None, ending: str, several: bool) -> Path | None:
    """The file for one image's result: the target itself, or a file named after the image in that folder."""
    if target is None or (target.suffix and not target.is_dir() and not several):
        return target
    if target.suffix and not target.is_dir():
        raise click.UsageError(f"Several images need a folder to write to, and {target} names a file.")
    return target / f"{stem(image)}{ending}"


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
