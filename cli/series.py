"""Which images of the files are meant: the series of a file, or the wells and fields of a plate."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

if TYPE_CHECKING:
    from cellsegmenter.io import ImageFile, Series

    from .options import Reading


class Input(NamedTuple):
    """One image that is to be read."""

    path: Path  # the file, or the image's own folder in an OME-Zarr
    series: int | None  # which one, of a file that holds several
    named: Path  # what its results are named after, and beside which they go; no file need have this name
    title: str  # in tables; text, which a file's name need not be

    @classmethod
    def of_file(cls, path: Path) -> Input:
        """A file without a choice among its images."""
        from cellsegmenter.files import text_of

        return cls(path, None, path, text_of(path.name))

    @property
    def place(self) -> str:
        """The title with folders, where several images have the same."""
        from cellsegmenter.files import text_of

        place = text_of(str(self.path))
        return place if self.series is None else f"{place} series {self.series}"


def choose_inputs(paths: Sequence[Path], reading: Reading) -> list[Input]:
    """The images that --series, --well and --field choose from each file; without them the files as they are.

    A file that cannot be listed is kept as it is: its own turn says why, and others are not held up.

    Returns
    -------
    list of Input
        In the order of the files, each image once.
    """
    from cellsegmenter import io

    if reading.series is not None and (reading.well is not None or reading.field is not None):
        raise click.UsageError("Give --series, or --well and --field, not both.")
    selects = any(value is not None for value in (reading.series, reading.well, reading.field))
    inputs: dict[Input, None] = {}
    for path in paths:
        images = [Input.of_file(path)]
        if selects or path.is_dir():
            try:
                listed = io.list_series(path)
            except io.ImageFileError:
                listed = []
            if listed and selects:
                images = [_input(path, series, len(listed)) for series in _chosen(path, listed, reading)]
            elif len(listed) == 1:
                images = [_input(path, listed[0], 1)]
        inputs.update(dict.fromkeys(images))
    return list(inputs)


def read_inputs(inputs: Sequence[Input], reading: Reading) -> Iterator[tuple[Input, ImageFile]]:
    """Every plane of some images, with the image that it is of."""
    for image in inputs:
        for file in reading.images(image.path, image.series):
            yield image, file


def _input(path: Path, series: Series, n: int) -> Input:
    """An image of a file of `n`; results of one among several have its number, or its place in an OME-Zarr, in their
    names.
    """
    from cellsegmenter.files import text_of
    from cellsegmenter.io import outermost

    file = Input.of_file(path)
    if not path.is_dir():
        if n == 1:
            return file
        named = _with(path, f"series{series.number}")
        return Input(path, series.number, named, f"{file.title} series {series.number}")
    root = outermost(path)
    if n == 1 and path == root:
        return file._replace(path=series.path)
    place = series.path.absolute().relative_to(root.absolute())
    title = text_of(f"{root.name}/{place.as_posix()}")
    return Input(series.path, None, _with(root, "_".join(place.parts)), title)


def _with(path: Path, addition: str) -> Path:
    """The path with an addition before its ending."""
    from cellsegmenter.io import image_stem

    base = image_stem(path)
    return path.with_name(f"{base}_{addition}{path.name.removeprefix(base)}")


def _chosen(path: Path, listed: list[Series], reading: Reading) -> list[Series]:
    """What the options choose from the images of a file."""
    from cellsegmenter.io import ImageFileError, choose_series

    if reading.series is not None:
        return listed if reading.series == "all" else [choose_series(path, listed, reading.series)]
    wells = list(dict.fromkeys(series.well for series in listed if series.well))
    if not wells:
        raise ImageFileError(
            f"{path} is no plate, so --well and --field choose nothing; use --series, or leave them out"
        )
    of_well = [series for series in listed if series.well in _named(path, "well", reading.well, wells)]
    fields = list(dict.fromkeys(series.field for series in of_well))
    return [series for series in of_well if series.field in _named(path, "field", reading.field, fields)]


def _named(path: Path, option: str, wanted: str | None, known: Sequence[str]) -> Collection[str]:
    """The wells or fields that an option names, with commas between them; all by the word "all"."""
    some = ", ".join(known[:8]) + (", …" if len(known) > 8 else "")
    if wanted == "all" or (wanted is None and len(known) == 1):
        return known
    from cellsegmenter.io import ImageFileError

    if wanted is None:
        raise ImageFileError(f"{path} has {len(known)} {option}s ({some}); choose by --{option}, or all")
    names = [name.strip() for name in wanted.split(",")]
    for name in names:
        if name not in known:
            raise ImageFileError(f"{path} has no {option} {name}; it has {some} (--{option})")
    return names
