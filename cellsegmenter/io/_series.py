"""Files and folders that hold several images: their list, and the choice of one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ._files import ImageFileError
from ._units import PixelSize

__all__ = ["MOST_NAMED", "Series", "choose_series"]

MOST_NAMED = 4  # of several images, in a refusal


class Series(NamedTuple):
    """One image of several in a file, or one field of a plate."""

    number: int  # counted from 0 in the file
    name: str  # in the file, such as "A1/0" for the first field of a well; "" without one
    path: Path  # the file, or the image's own folder in an OME-Zarr
    axes: str = ""
    shape: tuple[int, ...] = ()  # one size for each axis; empty if the image cannot be read
    dtype: str = ""
    pixel_size: PixelSize = PixelSize()
    channel_names: tuple[str, ...] = ()
    well: str = ""  # of a plate, such as "A1"
    field: str = ""  # of a well, such as "0"

    @property
    def title(self) -> str:
        """Number, name and size, for the user to read."""
        sizes = dict(zip(self.axes, self.shape, strict=False))
        size = f"{sizes['Y']} × {sizes['X']} px" if {"X", "Y"} <= sizes.keys() else ""
        described = f"{self.name} ({size})" if self.name and size else self.name or size
        return f"{self.number}: {described}" if described else str(self.number)


def choose_series(path: Path, all_series: Sequence[Series], wanted: int | str | None) -> Series:
    """The one that `wanted` names or counts; where there is only one, nobody has to.

    Raises
    ------
    ImageFileError
        If there are several and none is chosen, or there is none of this number or name.
    """
    n = len(all_series)
    some = ", ".join(series.title for series in all_series[:MOST_NAMED]) + (", …" if n > MOST_NAMED else "")
    if wanted is None:
        if n == 1:
            return all_series[0]
        wells = {series.well for series in all_series} - {""}
        also = "by --well and --field, or " if wells else ""
        raise ImageFileError(
            f"{path} holds {n} images: {some}; choose {also}by series, or all (--series N|NAME|all)"
        )
    if isinstance(wanted, str):
        of_name = [series for series in all_series if series.name == wanted]
        if len(of_name) != 1:
            problem = f"{len(of_name)} images" if of_name else "no image"
            raise ImageFileError(
                f"{path} has {problem} named {wanted!r}; choose one of its {n} by number: {some} (--series)"
            )
        return of_name[0]
    if not 0 <= wanted < n:
        several = f"series goes from 0 to {n - 1}" if n > 1 else "it holds a single image"
        raise ImageFileError(f"{path} has no series {wanted}; {several} (--series)")
    return all_series[wanted]
