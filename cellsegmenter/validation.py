"""Checks where a user's values enter: images, bounds and numbers.  Errors name the value and the remedy.

Images leave as `ImageView`s, (C, H, W) whatever the source's layout, read slice by slice, so that an array
that loads lazily (zarr, dask, memmap) is never read as a whole.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
from scipy import sparse

__all__ = [
    "ImageView",
    "check_bounds",
    "check_choice",
    "check_images",
    "check_number",
    "full_key",
    "is_single_image",
]

LAYOUTS = (
    "Accepted are a 2-D array (one grey image), a 3-D array (N, height, width) (grey images of one size), "
    "a list of 2-D arrays, and with channel_axis one image or several with channels"
)


_OF_COLOURS = (
    'of a colour image, cellsegmenter.io.read_image(path, channel="haematoxylin").array is the stain of nuclei in '
    'tissue, and channel="grey" the brightness'
)


@dataclass(frozen=True)
class ImageView:
    """One image as (C, H, W), read from its source when sliced; slices are float32, NaN where there are no data."""

    source: Any  # array-like of two to four dimensions with shape, dtype and slicing
    axes: tuple[int | None, int, int]  # of the source: channel (None for a grey image), row, column
    fixed: tuple[tuple[int, int], ...]  # (axis, index): where in a batch this image is
    name: str  # for error messages, such as X[3]
    finite: bool  # no pixel is infinite, as is known

    dtype = np.dtype(np.float32)
    ndim = 3

    @property
    def shape(self) -> tuple[int, int, int]:
        channel, row, column = self.axes
        sizes = self.source.shape
        return (1 if channel is None else int(sizes[channel]), int(sizes[row]), int(sizes[column]))

    def __getitem__(self, key: Any) -> np.ndarray:
        """The pixels at slices (channels, rows, columns); an ellipsis may stand for the first ones."""
        slices = full_key(key, self.ndim)
        index: list[int | slice] = [slice(None)] * len(self.source.shape)
        for axis, position in self.fixed:
            index[axis] = position
        wanted = {axis: part for axis, part in zip(self.axes, slices, strict=True) if axis is not None}
        for kept, part in wanted.items():
            index[kept] = part
        read = self.source[tuple(index)]
        if np.ma.isMaskedArray(read):
            read = np.ma.filled(np.ma.asarray(read, np.float32), np.nan)
        pixels = np.asarray(read)
        pixels = pixels.transpose([sorted(wanted).index(kept) for kept in wanted])
        if self.axes[0] is None:
            pixels = pixels[None][slices[0]]
        if not self.finite:
            _check_finite(pixels, self.name, (slices[1].start or 0, slices[2].start or 0))
        return pixels.astype(np.float32)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[...].astype(dtype or np.float32, copy=False)


def full_key(key: Any, ndim: int) -> list[slice]:
    """One slice for each axis from what stands in square brackets; an ellipsis, or nothing, means all."""
    keys = list(key) if isinstance(key, tuple) else [key]
    position = next((i for i, part in enumerate(keys) if part is Ellipsis), len(keys))
    given = [part for part in keys if part is not Ellipsis]
    given[position:position] = [slice(None)] * (ndim - len(given))
    if len(given) != ndim or not all(isinstance(part, slice) for part in given):
        raise TypeError(f"an image of {ndim} dimensions is read by slices, not as [{key!r}]")
    return given


def check_images(
    X: Any, *, channel_axis: int | None = None, n_channels: int | None = None
) -> tuple[list[ImageView], str]:
    """Images as (C, H, W) views, and in words how the input was understood.

    Parameters
    ----------
    X : array-like, or list of array-likes
        (H, W): one grey image.  (N, H, W): grey images.  With `channel_axis`, three dimensions are one image
        with channels and four are images with channels, the first of the other axes counting them.  A list
        holds images of any sizes, each (H, W), or of three dimensions with `channel_axis`.  Pixels are
        booleans, integers or floats, NaN or masked where there are no data; anything with ``shape``, ``dtype`` and
        slicing stays lazy.
    channel_axis : int, optional
        Axis of the channels, of the array (or of each array of a list); negative counts from the end.
    n_channels : int, optional
        How many channels there have to be.

    Returns
    -------
    images : list of ImageView
    interpretation : str
        For example "100 grey images of 80 × 80 px, uint8".

    Raises
    ------
    ValueError
        If the layout is ambiguous or unknown, an image has no pixels or the wrong number of channels, or a
        pixel is infinite (of a lazy array: when that pixel is read).
    TypeError
        If the pixels are not real numbers.
    """
    if isinstance(X, list | tuple):
        if not X:
            raise ValueError("X is an empty list; give at least one image")
        images = [_one_image(_as_array(x, f"X[{i}]"), channel_axis, f"X[{i}]") for i, x in enumerate(X)]
    else:
        images = _images_of_array(_as_array(X, "X"), channel_axis)
    for image in images:
        if n_channels is not None and image.shape[0] != n_channels:
            raise ValueError(
                f"{image.name} has {image.shape[0]} channel(s) where {n_channels} are needed; "
                f"{_remedy_for_channels(image, n_channels)}"
            )
    return images, _describe(images)


def is_single_image(X: Any, *, channel_axis: int | None = None) -> bool:
    """Whether `X` is one image rather than a batch or a list, by the rules of `check_images`."""
    return not isinstance(X, list | tuple) and len(np.shape(X)) == (2 if channel_axis is None else 3)


def check_bounds(
    name: str, value: Any, *, low: float | None = None, high: float | None = None, integer: bool = False
) -> tuple[float, float]:
    """A (min, max) pair of finite numbers within [low, high], not reversed; as Python numbers.

    Raises
    ------
    TypeError, ValueError
        Naming the parameter, the value and the remedy.
    """
    try:
        first, second = value
    except (TypeError, ValueError):
        raise ValueError(f"{name}={value!r} is not a pair; write {name}=(min, max)") from None
    smallest = check_number(f"the minimum of {name}", first, low=low, high=high, integer=integer)
    largest = check_number(f"the maximum of {name}", second, low=low, high=high, integer=integer)
    if smallest > largest:
        raise ValueError(f"{name}=({first}, {second}) is reversed; write {name}=({second}, {first})")
    return smallest, largest


def check_number(
    name: str, value: Any, *, low: float | None = None, high: float | None = None, integer: bool = False
) -> float:
    """A finite number within [low, high], as a Python int or float.

    Raises
    ------
    TypeError, ValueError
        Naming the parameter, the value and the remedy.
    """
    kind, words = (Integral, "a whole number") if integer else (Real, "a number")
    if isinstance(value, bool | np.bool_) or not isinstance(value, kind):
        raise TypeError(f"{name} is {value!r}; give {words}")
    number = int(value) if isinstance(value, Integral) else float(value)
    if not np.isfinite(number):
        raise ValueError(f"{name} is {number}; give a finite number")
    if low is not None and number < low:
        raise ValueError(f"{name} is {number}; it must be at least {low}")
    if high is not None and number > high:
        raise ValueError(f"{name} is {number}; it must be at most {high}")
    return number


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """One of the words that a parameter can be.

    Raises
    ------
    ValueError
        Naming the parameter, the value and the choices.
    """
    if value not in choices:
        raise ValueError(f"{name}={value!r} is unknown; use one of {', '.join(map(repr, choices))}")


def _as_array(x: Any, name: str) -> Any:
    """`x` itself if it is an array-like of real numbers, lazy ones included; else converted or refused."""
    if isinstance(x, str | os.PathLike):
        raise TypeError(
            f"{name} is {str(x)!r}, which is a path and not pixels; read it first: "
            f"cellsegmenter.io.read_image({str(x)!r}).array"
        )
    if sparse.issparse(x):
        raise TypeError(f"{name} is a sparse matrix; give dense pixels, for example {name}.toarray()")
    try:
        dtype = np.dtype(x.dtype)
        x.shape, x.__getitem__  # noqa: B018 - asks whether it is an array-like
    except (AttributeError, TypeError):  # a nested list, a data frame, a torch tensor
        x = np.asarray(x)
        dtype = x.dtype
    if dtype.kind == "O":
        raise TypeError(f"{name} has dtype object; give numbers, and images of different sizes as a list")
    if dtype.kind not in "buif":
        raise TypeError(f"{name} has dtype {dtype}; pixels must be real numbers")
    return x


def _remedy_for_channels(image: ImageView, n_channels: int) -> str:
    """What to do about an image that has another number of channels than the model."""
    axis = image.axes[0]
    if axis is None:
        return "choose the channels, or set channel_axis to their axis (--channel 0,1)"
    if n_channels > 1:
        return "choose the channels that the model was fitted on, in the same order (--channel 0,1)"
    index = ", ".join("0" if i == axis else ":" for i in range(len(image.source.shape)))
    colour = f"; {_OF_COLOURS}" if _may_be_colours(image.source.shape[axis], image.source.dtype) else ""
    return (
        f"choose the channels: a single one, such as {image.name.partition('[')[0]}[{index}] without channel_axis "
        f"(--channel 0){colour}"
    )


def _may_be_colours(n_channels: int, dtype: Any) -> bool:
    return n_channels in (3, 4) and np.dtype(dtype) == np.uint8


def _one_image(x: Any, channel_axis: int | None, name: str) -> ImageView:
    """The view of an array that is one image."""
    wanted = 2 if channel_axis is None else 3
    if len(x.shape) != wanted:
        remedy = (
            "set channel_axis if one of the axes holds channels"
            if channel_axis is None
            else f"channel_axis={channel_axis} needs three axes; leave it out for grey images"
        )
        raise ValueError(f"{name} has shape {tuple(x.shape)}, which is not one image; {remedy}. {LAYOUTS}")
    return _views(x, channel_axis, [()], name)[0]


def _images_of_array(X: Any, channel_axis: int | None) -> list[ImageView]:
    """The views of an array that is one image or a batch."""
    shape = tuple(X.shape)
    if channel_axis is None and len(shape) == 3 and 1 <= shape[-1] <= 4:
        colour = f"; {_OF_COLOURS}" if _may_be_colours(shape[-1], X.dtype) else ""
        raise ValueError(
            f"X has shape {shape}, which looks like one image with {shape[-1]} channel(s) but would be read as "
            f"{shape[0]} grey images; set channel_axis=-1 for an image with channels, take one as X[..., 0], or give a "
            f"list of 2-D arrays{colour}"
        )
    n_spatial = 2 if channel_axis is None else 3
    if len(shape) == n_spatial:
        return [_one_image(X, channel_axis, "X")]
    if len(shape) != n_spatial + 1:
        hint = "; if one axis holds channels, set channel_axis" if len(shape) == 4 else ""
        if len(shape) == 2:
            hint = "; leave channel_axis out for a grey image"
        given = "" if channel_axis is None else f" with channel_axis={channel_axis}"
        raise ValueError(f"X has {len(shape)} dimensions, shape {shape}{given}{hint}. {LAYOUTS}")
    batch_axis = 0 if channel_axis is None or _axis(channel_axis, len(shape)) != 0 else 1
    if shape[batch_axis] == 0:
        raise ValueError(f"X has shape {shape}, which holds no images; give at least one")
    return _views(X, channel_axis, [((batch_axis, i),) for i in range(shape[batch_axis])], "X")


def _views(
    x: Any, channel_axis: int | None, positions: list[tuple[()] | tuple[tuple[int, int]]], name: str
) -> list[ImageView]:
    """One view for each position along the batch axis of an array whose number of axes is right."""
    ndim = len(x.shape)
    if 0 in x.shape:
        raise ValueError(f"{name} has shape {tuple(x.shape)}, which has no pixels")
    channel = None if channel_axis is None else _axis(channel_axis, ndim)
    batch = {axis for position in positions for axis, _ in position}
    row, column = (axis for axis in range(ndim) if axis != channel and axis not in batch)
    in_memory = isinstance(x, np.ndarray) and not isinstance(x, np.memmap)
    is_float = np.dtype(x.dtype).kind == "f"
    if in_memory and is_float:
        _check_finite(x, name)
    finite = in_memory or not is_float
    names = [f"{name}[{position[0][1]}]" if position else name for position in positions]
    return [
        ImageView(x, (channel, row, column), position, label, finite)
        for position, label in zip(positions, names, strict=True)
    ]


def _axis(channel_axis: Any, ndim: int) -> int:
    """The axis counted from the start."""
    if not isinstance(channel_axis, Integral) or not -ndim <= int(channel_axis) < ndim:
        raise ValueError(f"channel_axis={channel_axis!r} is not an axis of {ndim} dimensions")
    return int(channel_axis) % ndim


def _check_finite(pixels: np.ndarray, name: str, corner: tuple[int, int] = (0, 0)) -> None:
    """Refuse what is infinite as float32; `corner` is the row and column of the image that `pixels` starts at."""
    # Slices are float32; NaN stands for no data.
    bad = np.abs(np.ma.getdata(pixels)) > np.finfo(np.float32).max
    bad &= ~np.ma.getmaskarray(pixels)
    if bad.any():
        first = np.argwhere(bad)[0]
        first[-2:] += corner
        raise ValueError(
            f"{name} contains infinity: {bad.sum()} pixels, the first at {tuple(map(int, first))}; "
            "replace them by NaN, which stands for no data, or divide what float32 cannot hold"
        )


def _describe(images: list[ImageView]) -> str:
    """How the input was understood, for the user to read."""
    sizes = sorted({image.shape[1:] for image in images})
    channels = sorted({image.shape[0] for image in images})
    dtypes = sorted({str(image.source.dtype) for image in images})
    grey = all(image.axes[0] is None for image in images)
    what = f"{len(images)} {'grey ' if grey else ''}image{'s' if len(images) > 1 else ''}"
    size = " to ".join(f"{height} × {width}" for height, width in sizes[:: max(len(sizes) - 1, 1)])
    with_channels = "" if grey else f" with {' or '.join(map(str, channels))} channels"
    return f"{what} of {size} px{with_channels}, {' or '.join(dtypes)}"
