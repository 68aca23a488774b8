"""From an array with named axes to images: which channel, slice, time.  What is ambiguous is refused.

Axes are letters, as in tifffile: Y and X rows and columns, C channels, S the samples of a colour pixel,
Z slices, T times, any other letter pages whose meaning the file does not say.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, NamedTuple

import numpy as np

from ._files import ImageFileError, ImageFileWarning
from ._planes import Plane, read_pixels

__all__ = ["ImageFile", "ImageStack", "Missing", "Plane", "Position", "Source", "choose_images"]

Position = int | Literal["all"] | None  # on an axis: one, all of them, or not said

WORDS = {"Z": "slice", "T": "time"}  # of a position; others are pages
COLOURS = ("red", "green", "blue", "alpha")
LARGE = 2**28  # bytes: an image beyond this is left on disk


class ImageFile(NamedTuple):
    """One image as read from a file."""

    array: (
        Any  # (H, W), or (C, H, W) if all channels were asked for; an array, a memory map or a lazy `Plane`
    )
    axes: str  # "YX" or "CYX"
    pixel_size: float | None  # µm per pixel, where the file or the user says so
    interpretation: str  # how the file was understood, for the user to read


class Missing(NamedTuple):
    """Planes that a file describes and that are nowhere to be found."""

    planes: np.ndarray  # bool, one size for each of the array's first axes
    files: str  # names of those that should hold them; "" if the file itself ends early


class Source(NamedTuple):
    """One image of a file, with all its planes and channels."""

    name: str  # the path, for messages
    array: Any  # array-like with as many dimensions as `axes`
    axes: str
    pixel_size: float | None = None  # µm
    channel_names: tuple[str, ...] = ()
    doubt: str = ""  # why the pixel size that the file gives is not used
    title: str = ""  # which of several images of the file this is
    missing: Missing | None = None


@dataclass(frozen=True)
class ImageStack:
    """The images that were chosen from a file: one, or one for each slice, time or page.

    Behaves as a sequence of `ImageFile`, each read when asked for, in row-major order of `axes`.
    """

    source: Source  # its axes being those that were chosen
    axes: str  # of the stack: "" for a single image, else such as "Z", "T" or "TZ"
    shape: tuple[int, ...]  # how many positions there are along `axes`
    chosen: dict[str, int]  # the position on every axis that is the same for all images
    grey_in_colour: bool  # the file's red, green and blue are equal, and one of them was taken

    def __len__(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    def __iter__(self) -> Iterator[ImageFile]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, i: int) -> ImageFile:
        if not 0 <= i < len(self):
            raise IndexError(i)
        chosen = self.chosen | self.position(i)
        named = self.source.axes
        free = [axis for axis in named if axis not in chosen]
        wanted = "CYX" if "C" in free else "YX"
        index = tuple(chosen.get(axis, slice(None)) for axis in named)
        order = tuple(free.index(axis) for axis in wanted)
        plane = Plane(self.source.array, index, order, self.source.name)
        words = _describe(self.source, chosen, plane, self.grey_in_colour)
        return ImageFile(_load(plane), wanted, self.source.pixel_size, words)

    def position(self, i: int) -> dict[str, int]:
        """Where image `i` is on the axes of the stack, such as {"Z": 3}."""
        at = np.unravel_index(i, self.shape) if self.shape else ()
        return {axis: int(k) for axis, k in zip(self.axes, at, strict=True)}


def choose_images(
    source: Source,
    *,
    axes: str | None = None,
    channel: int | str | None = None,
    z: Position = None,
    t: Position = None,
    page: Position = None,
) -> ImageStack:
    """Choose images out of a file's content.

    Parameters
    ----------
    source : Source
    axes : str, optional
        What the axes mean, overruling the file.  With a C in it and no `channel`, all channels are taken.
    channel : int or str, optional
        Counted from 0, or its name in the file.
    z, t, page : int, "all" or None
        Which slice, time, or page of a stack whose meaning the file does not say, counted from 0.

    Raises
    ------
    ImageFileError
        If a choice is missing, impossible or out of range, or the pixels are not real numbers.
    """
    if np.dtype(source.array.dtype).kind not in "buif":
        raise ImageFileError(
            f"{source.name} holds {source.array.dtype}; pixels must be real numbers, so export it as such"
        )
    if 0 in source.array.shape:
        raise ImageFileError(
            f"{source.name} has the shape {tuple(source.array.shape)}, which holds no pixels; export it again"
        )
    is_colour = "S" in source.axes
    named = source._replace(axes=_named_axes(source, axes))
    sizes = _sizes(named)
    chosen = {axis: 0 for axis in sizes if sizes[axis] == 1 and axis not in "YX"}
    positions = _choose_positions(named, {"Z": z, "T": t, "page": page})
    chosen |= {axis: position for axis, position in positions.items() if isinstance(position, int)}
    stacked = "".join(axis for axis in sizes if positions.get(axis) == "all")
    if sizes.get("C", 1) == 1 and channel not in (None, 0):
        raise ImageFileError(
            f"{source.name} has no channel {channel}, it is grey (axes {named.axes}); leave channel out (--channel)"
        )
    grey_in_colour = False
    if sizes.get("C", 1) > 1 and (axes is None or channel is not None):
        grey_in_colour = channel is None and is_colour and _samples_are_equal(named, chosen)
        chosen["C"] = 0 if grey_in_colour else _choose_channel(named, channel, is_colour)
    _check_missing(named, chosen)
    return ImageStack(named, stacked, tuple(sizes[axis] for axis in stacked), chosen, grey_in_colour)


def _check_missing(source: Source, chosen: dict[str, int]) -> None:
    """Refuse planes that are not there, and warn where others are not."""
    if source.missing is None:
        return
    planes, files = source.missing
    leading = source.axes[: planes.ndim]
    wanted = planes[tuple(chosen.get(axis, slice(None)) for axis in leading)]
    where = "in none of its files, as the recording ended early or one of them is damaged"
    if files:
        where = f"in files that are missing beside it: {files}"
    if wanted.any():
        remedy = "copy them there" if files else "copy or export it again"
        raise ImageFileError(
            f"{source.name}: planes of this image are {where}; {remedy}, or choose other planes"
        )
    warnings.warn(f"{source.name}: other planes of this image are {where}", ImageFileWarning, stacklevel=4)


def _sizes(source: Source) -> dict[str, int]:
    return dict(zip(source.axes, map(int, source.array.shape), strict=True))


def _named_axes(source: Source, axes: str | None) -> str:
    """A letter for each axis, colour samples counting as channels."""
    shape = tuple(map(int, source.array.shape))
    named = (axes or source.axes).upper().replace("S", "C")
    if len(named) != len(shape):
        raise ImageFileError(
            f"{source.name} has axes {source.axes} with sizes {shape}, and axes={axes} does not fit; "
            "name one letter for each axis (--axes)"
        )
    if "Y" not in named or "X" not in named or len(set(named)) != len(named):
        raise ImageFileError(
            f"{source.name} has shape {shape} and axes {named}: Y and X are needed, and no letter twice; "
            "set axes, such as YX, CYX, YXC or ZYX (--axes)"
        )
    return named


def _choose_positions(source: Source, wanted: dict[str, Position]) -> dict[str, Position]:
    """The position, or "all", on each axis of several slices, times or pages."""
    sizes = _sizes(source)
    several = [axis for axis in sizes if axis not in "YXC" and sizes[axis] > 1]
    unnamed = [axis for axis in several if axis not in WORDS]
    layout = f"{source.name} has axes {source.axes} with sizes {tuple(sizes.values())}"
    if len(unnamed) > 1:
        raise ImageFileError(f"{layout}, and {' and '.join(unnamed)} are unknown; set axes (--axes)")
    options = {axis: axis if axis in WORDS else "page" for axis in several}
    for option, position in wanted.items():
        if option not in options.values() and position not in (None, 0, "all"):
            others = [f"--{given.lower()}" for given in options.values() if wanted[given] is None]
            remedy = f"; choose by {' and '.join(others)}" if others else "; leave it out"
            raise ImageFileError(
                f"{layout}, so there is no {WORDS.get(option, 'page')} {position} (--{option.lower()}){remedy}"
            )
    return {axis: _position(layout, option, sizes[axis], wanted[option]) for axis, option in options.items()}


def _position(layout: str, option: str, size: int, wanted: Position) -> Position:
    """`wanted`, if it is a position on an axis of this size."""
    word, name = WORDS.get(option, "page"), option.lower()
    if wanted is None:
        unnamed = "; if they are channels, slices or times, say so by axes with C, Z or T (--axes)"
        raise ImageFileError(
            f"{layout}: a stack; choose the {word} by {name}, 0 to {size - 1}, or all (--{name})"
            f"{unnamed if option == 'page' else ''}"
        )
    if wanted != "all" and not 0 <= wanted < size:
        raise ImageFileError(
            f"{layout}, so there is no {word} {wanted}; {name} goes from 0 to {size - 1} (--{name})"
        )
    return wanted


def _choose_channel(source: Source, channel: int | str | None, is_colour: bool) -> int:
    """The number of `channel`, if there is one of this number or name."""
    n_channels = _sizes(source)["C"]
    names = source.channel_names or (COLOURS if is_colour else ())
    if channel is None:
        listed = ", ".join(f"{i} {name}" for i, name in enumerate(names[:n_channels]))
        raise ImageFileError(
            f"{source.name} has {n_channels} channels (axes {source.axes}); choose one by channel, "
            f"{listed or f'0 to {n_channels - 1}'} (--channel), or, for a model of as many, "
            "take all by naming the axes (--axes)"
        )
    if isinstance(channel, str):
        if channel not in names[:n_channels]:
            known = ", ".join(names[:n_channels]) or "without names"
            raise ImageFileError(
                f"{source.name} has no channel {channel!r}; its {n_channels} channels are {known} (--channel)"
            )
        return names.index(channel)
    if not 0 <= channel < n_channels:
        raise ImageFileError(
            f"{source.name} has no channel {channel}; channels go from 0 to {n_channels - 1} (--channel)"
        )
    return channel


def _samples_are_equal(source: Source, chosen: dict[str, int]) -> bool:
    """Whether red, green and blue are the same, that is a grey image; alpha does not matter."""
    index = tuple(chosen.get(axis, slice(None)) for axis in source.axes)
    pixels = read_pixels(source.array, index, source.name)
    free = [axis for axis in source.axes if axis not in chosen]
    samples = np.moveaxis(pixels, free.index("C"), 0)[:3]
    return bool((samples == samples[0]).all())


def _load(plane: Plane) -> Any:
    """The pixels of a small image; a large one stays where it is."""
    if isinstance(plane.source, np.ndarray):  # a memory map stays one
        pixels = plane.source[plane.index].transpose(plane.order)
        return np.array(pixels) if pixels.nbytes <= LARGE else pixels
    n_bytes = prod(plane.shape) * plane.dtype.itemsize
    return plane[...] if n_bytes <= LARGE else plane


def _describe(source: Source, chosen: dict[str, int], plane: Plane, grey_in_colour: bool) -> str:
    """How the file was understood, in words."""
    sizes, words = _sizes(source), [source.title] if source.title else []
    for axis in (axis for axis in source.axes if axis in chosen and sizes[axis] > 1):
        if axis == "C" and grey_in_colour:
            words.append("grey image saved in colour")
        elif axis == "C":
            names = source.channel_names
            name = f" ({names[chosen[axis]]})" if chosen[axis] < len(names) else ""
            words.append(f"channel {chosen[axis]}{name} of {sizes[axis]}")
        else:
            words.append(f"{WORDS.get(axis, 'page')} {chosen[axis]} of {sizes[axis]}")
    if words in ([], [source.title]):
        words += ["grey image" if plane.ndim == 2 else f"all {plane.shape[0]} channels"]
    size = f"{plane.shape[-2]} × {plane.shape[-1]} px, {plane.dtype.name}, axes {source.axes}"
    scale = f", {source.pixel_size:.4g} µm per px" if source.pixel_size else ""
    return f"{', '.join(words)}: {size}{scale}"
