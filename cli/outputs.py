"""Which files the results of an image go to, and whether they can be written."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from .series import Input

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
FILE_SUFFIXES = {Path(ending).suffix for ending in ENDINGS.values()} | {".tiff", ".jpg"}
SEVERAL = {"maps": ("foreground", "confidence")}  # words for several kinds at once
PACKAGES = {"parquet": "pyarrow", "anndata": "anndata", "rois": "roifile", "ome-zarr": "zarr"}


class Job(NamedTuple):
    """One image, and the files that its results go to."""

    image: Path  # its file or folder
    name: str  # of the image in tables: without folders, if no other image has the same
    files: dict[str, Path]  # by kind of result
    manifest: Path
    series: int | None = None  # which one, of a file that holds several
    mask: Path | None = None  # an image that says where nothing is looked for

    @property
    def outputs(self) -> list[Path]:
        return [*self.files.values(), self.manifest]


class Target(NamedTuple):
    """Where results go: a file, or a folder."""

    path: Path
    is_folder: bool = False  # said so by a slash at the end, though it need not exist yet

    def holds(self, n_images: int) -> bool:
        """Whether this is a folder for the results of so many images, rather than the file of one."""
        if self.is_folder or self.path.is_dir() or not self.path.suffix:
            return True
        return n_images > 1 and self.path.suffix.lower() not in FILE_SUFFIXES


class TargetPath(click.ParamType):
    """A file or a folder to write to."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Target:
        if isinstance(value, Target):
            return value
        return Target(Path(value), str(value).endswith(("/", os.sep)))


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
    inputs: Sequence[Input],
    output: Target | None,
    kinds: Sequence[str] = ("labels",),
    overlay: Target | None = None,
) -> list[Job]:
    """Give each image its output files; without `output` they go beside the image.

    Images from several folders keep them apart: under `output`, their folders are mirrored.
    """
    from cellsegmenter.io import MANIFEST_ENDING, image_stem

    titles = Counter(image.title for image in inputs)
    jobs = []
    for image, folder in zip(inputs, mirrored_folders([image.named for image in inputs]), strict=True):
        if output is None:
            labels = image.named.with_name(f"{image_stem(image.named)}{ENDINGS['labels']}")
        else:
            labels = place(image.named, output, ENDINGS["labels"], folder, len(inputs))
        names_file = output is not None and labels == output.path
        base = labels.with_name(labels.stem.removesuffix("_labels"))
        files = {"labels": labels} if names_file else {}
        for kind in kinds:
            files.setdefault(kind, base.with_name(f"{base.name}{ENDINGS[kind]}"))
        if "ome-zarr" in kinds and image.path.is_dir():  # an OME-Zarr, which holds its own labels
            files["ome-zarr"] = image.path / "labels" / "cells"
        if overlay is not None:
            files["overlay"] = place(image.named, overlay, ENDINGS["overlay"], folder, len(inputs))
        name = image.title if titles[image.title] == 1 else image.place
        manifest = base.with_name(f"{base.name}{MANIFEST_ENDING}")
        jobs.append(Job(image.path, name, files, manifest, image.series))
    _refuse_collisions(inputs, jobs)
    return jobs


def mirrored_folders(images: Sequence[Path]) -> list[Path]:
    """For each image the part of its folder that tells it from those of the others; empty if all lie in one."""
    folders = [os.path.abspath(image.parent) for image in images]
    common = os.path.commonpath(folders)
    return [Path(os.path.relpath(folder, common)) for folder in folders]


def place(image: Path, target: Target, ending: str, folder: Path, n_images: int) -> Path:
    """The file for one image's result: the target itself, or a file named after the image below that folder."""
    from cellsegmenter.io import image_stem

    if target.holds(n_images):
        return target.path / folder / f"{image_stem(image)}{ending}"
    if n_images > 1:
        raise click.UsageError(f"Several images need a folder to write to, and {target.path} names a file.")
    wanted = ending.partition(".")[2]
    if not target.path.suffix.lower().startswith(f".{wanted}"):  # .tiff will do for .tif
        raise click.UsageError(f"{target.path} must end in .{wanted}, or in / to name a folder.")
    return target.path


def _refuse_collisions(inputs: Sequence[Input], jobs: Sequence[Job]) -> None:
    """Two images of one name in one folder, such as a.tif and a.npy, would have the same results."""
    owners: dict[str, Input] = {}
    for image, job in zip(inputs, jobs, strict=True):
        for path in job.outputs:
            owner = owners.setdefault(os.path.abspath(path), image)
            if owner is not image:
                raise click.UsageError(
                    f"{owner.place} and {image.place} would both be written to {path}; rename one of them, or "
                    "segment them one by one with another -o."
                )


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
