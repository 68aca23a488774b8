"""Which mask belongs to which image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from . import options
from .series import Input

mask = click.option(
    "--mask",
    type=options.FILE,
    metavar="FILE|FOLDER",
    help="An image of the same size that is 0 where nothing is to be looked for; for several images a folder of masks "
    "with the same names.",
)


def masks_of(mask: Path | None, inputs: Sequence[Input]) -> list[Path | None]:
    """The mask of each image: the file that was given, or those in a folder that are named as the images are.

    Raises
    ------
    click.UsageError
        If there is none for an image, or one file for several images.
    """
    from cellsegmenter import io

    if mask is None:
        return [None] * len(inputs)
    if not mask.is_dir() or mask.suffix == ".zarr":
        if len(inputs) > 1:
            raise click.UsageError(
                f"--mask {mask} is one file for {len(inputs)} images; give a folder of masks with the same names."
            )
        return [mask]
    known: dict[str, list[Path]] = {}
    for file in (file for group in io.find_inputs([mask]) for file in group):  # of any kind that is listed
        known.setdefault(io.image_stem(file), []).append(file)
    found: list[Path | None] = []
    for image in inputs:
        masks = known.get(io.image_stem(image.named), [])
        if len(masks) != 1:
            names = " and ".join(path.name for path in masks) or "none"
            raise click.UsageError(
                f"--mask {mask} needs one mask for {image.named.name}, with any ending; it has {names}."
            )
        found += masks
    return found


def masked(image: Any, path: Path | None) -> Any:
    """The pixels of an image, without data where the mask in a file is 0, if there is one."""
    from cellsegmenter import io

    if path is None:
        return image
    try:
        return io.mask_image(image, io.read_mask(path))
    except ValueError as error:
        if isinstance(error, io.ImageFileError):
            raise
        raise click.ClickException(f"--mask {path}: {error}") from error
