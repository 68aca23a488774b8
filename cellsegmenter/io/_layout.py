"""From an array with named axes to one image: which channel, which page.  What is ambiguous is refused.

Axes are letters, as in tifffile: Y and X rows and columns, C channels, S the samples of a colour pixel,
Z slices, T times, I or Q a sequence of pages whose meaning the file does not say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from cellsegmenter.validation import full_key

from ._files import ImageFileError

__all__ = ["ImageFile", "Plane", "Source", "choose_image"]

PAGE_WORDS = {"Z": "slice", "T": "time"}
COLOURS = ("red", "green", "blue", "alpha")
LARGE = 2**28  # bytes: an image beyond this is left on disk


class ImageFile(NamedTuple):
    """One image as read from a file."""

    array: (
        Any  # (H, W), or (C, H, W) if all channels were asked for; an array, a memory map or a lazy `Plane`
    )
    axes: str  # "YX" or "CYX"
    pixel_size: float | None  # µm per pixel, where the file says so
    interpretation: str  # how the file was understood, for the user to read


class Source(NamedTuple):
    """The whole content of a file."""

    name: str  # the path, for messages
    array: Any  # array-like with as many dimensions as `axes`
    axes: str
    pixel_size: float | None = None  # µm
    channel_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plane:
    """An image inside a lazy array of more dimensions, read when sliced."""

    source: Any  # array-like
    index: tuple[int | slice, ...]  # a position for each axis that is fixed, slice(None) for the others
    order: tuple[int, ...]  # of the axes that remain

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.source.dtype)

    @property
    def ndim(self) -> int:
        return len(self.order)

    @property
    def shape(self) -> tuple[int, ...]:
        free = [size for size, at in zip(self.source.shape, self.index, strict=True) if isinstance(at, slice)]
        return tuple(free[axis] for axis in self.order)

    def __getitem__(self, key: Any) -> np.ndarray:
        slices = full_key(key, self.ndim)
        in_file_order = iter([slices[self.order.index(axis)] for axis in range(self.ndim)])
        index = tuple(next(in_file_order) if isinstance(at, slice) else at for at in self.index)
        return np.asarray(self.source[index]).transpose(self.order)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[...].astype(dtype or self.dtype, copy=False)


def choose_image(
    source: Source, *, axes: str | None = None, channel: int | None = None, page: int | None = None
) -> ImageFile:
    """Take one image out of a file's content.

    Parameters
    ----------
    source : Source
    axes : str, optional
        What the axes mean, overruling the file.  With a C in it and no `channel`, all channels are taken.
    channel, page : int, optional
        Which channel, and which slice, time or page, counted from 0.

    Raises
    ------
    ImageFileError
        If a choice is missing, impossible or out of range, or the pixels are not real numbers.
    """
    if np.dtype(source.array.dtype).kind not in "buif":
        raise ImageFileError(f"{source.name} holds {source.array.dtype}; pixels must be real numbers")
    named = _named_axes(source, axes)
    sizes = dict(zip(named, map(int, source.array.shape), strict=True))
    chosen = {axis: 0 for axis in named if sizes[axis] == 1 and axis not in "YX"}
    chosen |= _choose_page(source, sizes, page)
    if sizes.get("C", 1) == 1 and channel not in (None, 0):
        raise ImageFileError(f"{source.name} has no channel {channel}, it is grey (axes {named})")
    all_channels = axes is not None and channel is None and sizes.get("C", 1) > 1
    if sizes.get("C", 1) > 1 and not all_channels:
        chosen["C"] = _choose_channel(source, sizes, chosen, channel)
    wanted = "CYX" if all_channels else "YX"
    free = [axis for axis in named if axis not in chosen]
    index = tuple(chosen.get(axis, slice(None)) for axis in named)
    plane = Plane(source.array, index, tuple(free.index(axis) for axis in wanted))
    words = _describe(source, sizes, chosen, plane, equal_samples="C" in chosen and channel is None)
    return ImageFile(_load(plane), wanted, source.pixel_size, words)


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


def _choose_page(source: Source, sizes: dict[str, int], page: int | None) -> dict[str, int]:
    """The axis that holds pages and the position on it; empty if there is a single page."""
    stacks = [axis for axis in sizes if axis not in "YXC" and sizes[axis] > 1]
    if not stacks:
        if page not in (None, 0):
            raise ImageFileError(f"{source.name} has no page {page}, it holds a single one")
        return {}
    layout = f"{source.name} has axes {''.join(sizes)} with sizes {tuple(sizes.values())}"
    if len(stacks) > 1:
        raise ImageFileError(f"{layout}, more than one of them pages; save the wanted image alone")
    (axis,) = stacks
    if page is None:
        unnamed = "" if axis in PAGE_WORDS else "; if they are channels, set axes with a C for it (--axes)"
        raise ImageFileError(
            f"{layout}: a stack; choose the {PAGE_WORDS.get(axis, 'page')} by page, 0 to {sizes[axis] - 1} "
            f"(--page){unnamed}"
        )
    if not 0 <= page < sizes[axis]:
        raise ImageFileError(f"{layout}, so there is no page {page}; pages go from 0 to {sizes[axis] - 1}")
    return {axis: page}


def _choose_channel(
    source: Source, sizes: dict[str, int], chosen: dict[str, int], channel: int | None
) -> int:
    """The position on the channel axis; the first if they are copies of one grey image."""
    n_channels = sizes["C"]
    if channel is not None:
        if not 0 <= channel < n_channels:
            raise ImageFileError(
                f"{source.name} has no channel {channel}; channels go from 0 to {n_channels - 1}"
            )
        return channel
    if _is_colour(source) and _samples_are_equal(source.array, sizes, chosen):
        return 0
    names = source.channel_names or (COLOURS if _is_colour(source) else ())
    listed = ", ".join(f"{i} {name}" for i, name in enumerate(names[:n_channels]))
    raise ImageFileError(
        f"{source.name} has {n_channels} channels (axes {''.join(sizes)}); choose one by channel, "
        f"{listed or f'0 to {n_channels - 1}'} (--channel), or take all by naming the axes (--axes)"
    )


def _is_colour(source: Source) -> bool:
    return "S" in source.axes


def _samples_are_equal(array: Any, sizes: dict[str, int], chosen: dict[str, int]) -> bool:
    """Whether red, green and blue are the same, that is a grey image; alpha does not matter."""
    pixels = np.asarray(array[tuple(chosen.get(axis, slice(None)) for axis in sizes)])
    samples = np.moveaxis(pixels, [axis for axis in sizes if axis not in chosen].index("C"), 0)[:3]
    return bool((samples == samples[0]).all())


def _load(plane: Plane) -> Any:
    """The pixels of a small image; a large one stays where it is."""
    if isinstance(plane.source, np.ndarray):  # a memory map stays one
        pixels = plane.source[plane.index].transpose(plane.order)
        return np.array(pixels) if pixels.nbytes <= LARGE else pixels
    n_bytes = np.prod(plane.shape, dtype=np.int64) * plane.dtype.itemsize
    return plane[...] if n_bytes <= LARGE else plane


def _describe(
    source: Source, sizes: dict[str, int], chosen: dict[str, int], plane: Plane, *, equal_samples: bool
) -> str:
    """How the file was understood, in words."""
    words = []
    for axis in (axis for axis in chosen if sizes[axis] > 1):
        if axis == "C" and equal_samples:
            words.append("grey image saved in colour")
        elif axis == "C":
            name = f" ({source.channel_names[chosen[axis]]})" if source.channel_names else ""
            words.append(f"channel {chosen[axis]}{name} of {sizes[axis]}")
        else:
            words.append(f"{PAGE_WORDS.get(axis, 'page')} {chosen[axis]} of {sizes[axis]}")
    if not words:
        words = ["grey image" if plane.ndim == 2 else f"all {plane.shape[0]} channels"]
    size = f"{plane.shape[-2]} × {plane.shape[-1]} px, {plane.dtype.name}, axes {''.join(sizes)}"
    scale = f", {source.pixel_size:.4g} µm per px" if source.pixel_size else ""
    return f"{', '.join(words)}: {size}{scale}"
