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

from ._channels import COLOURS, Channel, Channels, Taken, array_of, choose_channels, in_words, refuse_colour
from ._files import ImageFileError, ImageFileWarning
from ._planes import Plane

__all__ = ["ImageFile", "ImageStack", "Missing", "Plane", "Position", "Source", "choose_images"]

Position = int | Literal["all"] | None  # on an axis: one, all of them, or not said

WORDS = {"Z": "slice", "T": "time"}  # of a position; others are pages
LARGE = 2**28  # bytes: an image beyond this is left on disk
_BAND = 2**22  # pixels of colour that are read at once


class ImageFile(NamedTuple):
    """One image as read from a file."""

    array: Any  # (H, W), or (C, H, W) if several channels were asked for; an array, a memory map or a lazy array-like
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
    is_colour: bool = False  # its channels are red, green, blue and perhaps alpha


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
    taken: Taken | None  # several channels, or what is computed from them; None: one, or all

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
        array = plane if self.taken is None else array_of(plane, self.taken)
        words = _describe(self, chosen, array)
        return ImageFile(_load(array), wanted[-len(array.shape) :], self.source.pixel_size, words)

    def position(self, i: int) -> dict[str, int]:
        """Where image `i` is on the axes of the stack, such as {"Z": 3}."""
        at = np.unravel_index(i, self.shape) if self.shape else ()
        return {axis: int(k) for axis, k in zip(self.axes, at, strict=True)}


def choose_images(
    source: Source,
    *,
    axes: str | None = None,
    channel: Channel = None,
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
    channel : int, str or a sequence of them, optional
        Counted from 0, or its name in the file; of a colour image also what is computed from it.
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
    named = source._replace(axes=_named_axes(source, axes), is_colour="S" in source.axes)
    sizes = _sizes(named)
    chosen = {axis: 0 for axis in sizes if sizes[axis] == 1 and axis not in "YX"}
    positions = _choose_positions(named, {"Z": z, "T": t, "page": page})
    chosen |= {axis: position for axis, position in positions.items() if isinstance(position, int)}
    stacked = "".join(axis for axis in sizes if positions.get(axis) == "all")
    if sizes.get("C", 1) == 1 and channel not in (None, 0, "grey"):
        raise ImageFileError(
            f"{source.name} has no channel {channel}, it is grey (axes {named.axes}); leave channel out (--channel)"
        )
    grey_in_colour, taken = False, None
    if sizes.get("C", 1) > 1 and (axes is None or channel is not None):
        channels = _channels(named)
        choice, grey_in_colour = _choose_channels(named, channels, channel, chosen)
        if isinstance(choice, Taken):
            taken = choice
        else:
            chosen["C"] = choice
    _check_missing(named, chosen)
    shape = tuple(sizes[axis] for axis in stacked)
    return ImageStack(named, stacked, shape, chosen, grey_in_colour, taken)


def _channels(source: Source) -> Channels:
    n = _sizes(source)["C"]
    names = source.channel_names or (COLOURS if source.is_colour else ())
    return Channels(source.name, names[:n], n, source.is_colour)


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


def _choose_channels(
    source: Source, channels: Channels, channel: Channel, chosen: dict[str, int]
) -> tuple[int | Taken, bool]:
    """What is taken of several channels; and whether it is one because they are equal, which nobody named."""
    if channel is not None:
        return choose_channels(channels, channel), False
    if not channels.is_colour:
        listed = ", ".join(f"{i} {name}" for i, name in enumerate(channels.names))
        colour = "; of a colour image also grey or haematoxylin" if channels.n == 3 else ""
        raise ImageFileError(
            f"{source.name} has {channels.n} channels (axes {source.axes}); choose one by channel, "
            f"{listed or f'0 to {channels.n - 1}'}, or for a model of several such as 0,1 (--channel){colour}"
        )
    index = tuple(chosen.get(axis, slice(None) if axis in "CYX" else 0) for axis in source.axes)
    free = [axis for axis in source.axes if axis in "CYX" and axis not in chosen]
    colours = Plane(source.array, index, tuple(map(free.index, "CYX")), source.name)
    if not _samples_are_equal(colours):
        raise refuse_colour(channels, colours)
    return 0, True


def _samples_are_equal(colours: Plane) -> bool:
    """Whether red, green and blue are the same, that is a grey image; alpha does not matter."""
    height, width = colours.shape[1:]
    n_rows = max(1, _BAND // width)
    bands = (colours[:3, row : row + n_rows] for row in range(0, height, n_rows))
    return all(bool((band == band[0]).all()) for band in bands)


def _load(array: Any) -> Any:
    """The pixels of a small image; a large one stays where it is."""
    if isinstance(array, Plane) and isinstance(array.source, np.ndarray):  # a memory map stays one
        pixels = array.source[array.index].transpose(array.order)
        return np.array(pixels) if pixels.nbytes <= LARGE else pixels
    n_bytes = prod(array.shape) * array.dtype.itemsize
    return array[...] if n_bytes <= LARGE else array


def _describe(stack: ImageStack, chosen: dict[str, int], array: Any) -> str:
    """How the file was understood, in words; of the array only shape and type."""
    source = stack.source
    sizes, words = _sizes(source), [source.title] if source.title else []
    for axis in (axis for axis in source.axes if axis in chosen and sizes[axis] > 1):
        if axis == "C" and stack.grey_in_colour:
            words.append("grey image saved in colour")
        elif axis == "C":
            words.append(in_words(_channels(source), chosen[axis]))
        else:
            words.append(f"{WORDS.get(axis, 'page')} {chosen[axis]} of {sizes[axis]}")
    if stack.taken is not None:
        words.append(in_words(_channels(source), stack.taken))
    if words in ([], [source.title]):
        words += ["grey image" if len(array.shape) == 2 else f"all {array.shape[0]} channels"]
    size = f"{array.shape[-2]} × {array.shape[-1]} px, {array.dtype.name}, axes {source.axes}"
    scale = f", {source.pixel_size:.4g} µm per px" if source.pixel_size else ""
    return f"{', '.join(words)}: {size}{scale}"
