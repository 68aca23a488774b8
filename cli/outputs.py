"""Which files the results of an image go to, and whether they can be written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

# What can be saved, and the ending of its file after the image's name.
ENDINGS = {
    "labels": "_labels.tif",
    "table": "_cells.csv",
    "parquet": "_cells.parquet",
    "anndata": "_cells.h5ad",
    "overlay": "_overlay.png",
    "geojson": "_cells.geojson",
    "rois": "_rois.zip",
    "ome-zarr": "_cells.ome.zarr",
    "foreground": "_foreground.tif",
    "confidence": "_confidence.tif",
}
SEVERAL = {"maps": ("foreground", "confidence")}  # words for several kinds at once
PACKAGES = {"parquet": "pyarrow", "anndata": "anndata", "rois": "roifile", "ome-zarr": "zarr"}


class Job(NamedTuple):
    """One image file, and the files that its results go to."""

    image: Path
    name: str  # of the image in tables: without folders, if no other image has the same
    files: dict[str, Path]  # by kind of result
    manifest: Path
    series: int | None = None  # which one, of a file that holds several

    @property
    def outputs(self) -> list[Path]:
        return [*self.files.values(), self.manifest]


class Kinds(click.ParamType):
    """Kinds of results, separated by commas."""

    name = "kinds"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        kinds: list[str] = []
        for word in (word.strip() for word in value.split(",")):
            if word not in ENDINGS and word not in SEVERAL:
                known = ", ".join([*ENDINGS, *SEVERAL])
                self.fail(f"{word!r} is nothing that can be saved; choose from {known}.", param, ctx)
            kinds.extend(SEVERAL.get(word, (word,)))
        return tuple(dict.fromkeys(kinds))


def plan(
    images: Sequence[Path],
    output: Path | None,
    kinds: Sequence[str] = ("labels",),
    overlay: Path | None = None,
) -> list[Job]:
    """Give each image its output files; without `output` they go beside the image."""
    several = len(images) > 1
    names = [image.name for image in images]
    jobs = []
    for image in images:
        labels = place(image, output or image.parent, ENDINGS["labels"], several)
        names_file = output is not None and labels == output
        base = labels.with_name(labels.stem.removesuffix("_labels"))
        files = {"labels": labels} if names_file else {}
        for kind in kinds:
            files.setdefault(kind, base.with_name(f"{base.name}{ENDINGS[kind]}"))
        if "ome-zarr" in kinds and image.suffix.lower() == ".zarr":  # labels belong under their image's group
            files["ome-zarr"] = image / "labels" / "cells"
        if overlay is not None:
            files["overlay"] = place(image, overlay, ENDINGS["overlay"], several)
        name = image.name if names.count(image.name) == 1 else str(image)
        jobs.append(Job(image, name, files, base.with_name(f"{base.name}_manifest.json")))
    return jobs


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


def stem(image: Path) -> str:
    """The name without its ending; `.ome.tif` counts as one ending."""
    return image.stem.removesuffix(".ome")


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
        io.check_writable(path, folder=path.suffix == ".zarr" or path.parent.name == "labels")


def check_packages(kinds: Sequence[str]) -> None:
    """Before the work: what is to be saved may need a package that is not installed."""
    from importlib.util import find_spec

    from cellsegmenter.packages import needs

    for kind in kinds:
        if kind in PACKAGES and find_spec(PACKAGES[kind]) is None:
            raise click.UsageError(needs(f"--save {kind}", PACKAGES[kind]))
