"""Multi-MNIST: several digits of random size on a black or a grid background (paper, Sec. 5).

An image is made in three steps: draw how many digits, which and how large; place their boxes by rejection
so that no two overlap too much; paint the rescaled digits over the background.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from sklearn.datasets import load_digits
from sklearn.utils import check_random_state

from ._types import DigitImages

__all__ = ["Digits", "load_mnist", "make_multi_mnist"]

GRID_PITCHES = (10.0, 15.0, 20.0)  # px
GRID_ANGLES = (0.0, 15.0, 30.0, 45.0)  # degrees
GRID_INTENSITY = 0.4
INK_THRESHOLD = 0.15  # ink above it belongs to the mask; on MNIST 10.7 % are then foreground (paper: 11 %)
PLACEMENT_TRIES = 32  # positions tried for a box before the image is started afresh
LAYOUT_TRIES = 5_000  # fresh starts before the request is declared impossible
IDX_MAGIC = {1: 0x0801, 3: 0x0803}  # uint8 arrays of one and of three dimensions


class Digits(NamedTuple):
    """Single digits."""

    images: np.ndarray  # (N, side, side) in [0, 1] or uint8: bright digit on black
    classes: np.ndarray  # (N,) int


def load_mnist(folder: str | Path, *, split: Literal["train", "test"] = "train") -> Digits:
    """Read MNIST's original files (``train-images-idx3-ubyte.gz`` and so on) from a folder.

    Parameters
    ----------
    folder : str or Path
        Where the four files are; gzipped or not.
    split : {"train", "test"}
        60000 or 10000 digits.

    Returns
    -------
    Digits
        `images` (N, 28, 28) uint8 and `classes` (N,) int64.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If `split` is unknown or a file is not in the idx format.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split={split!r} is unknown; use 'train' or 'test'")
    prefix = "train" if split == "train" else "t10k"
    images = _read_idx(Path(folder) / f"{prefix}-images-idx3-ubyte", ndim=3)
    classes = _read_idx(Path(folder) / f"{prefix}-labels-idx1-ubyte", ndim=1)
    return Digits(images, classes.astype(np.int64))


def _read_idx(path: Path, ndim: int) -> np.ndarray:
    """An idx file: magic number, one big-endian int32 per dimension, then the bytes."""
    zipped = path.with_name(path.name + ".gz")
    if zipped.exists():
        content = gzip.decompress(zipped.read_bytes())
    elif path.exists():
        content = path.read_bytes()
    else:
        raise FileNotFoundError(
            f"{zipped} not found; MNIST's four original files are expected in {path.parent}"
        )
    header = np.frombuffer(content, ">i4", count=1 + ndim) if len(content) >= 4 * (1 + ndim) else np.zeros(1)
    if header[0] != IDX_MAGIC[ndim]:
        raise ValueError(f"{path} is not an idx file of {ndim}-dimensional uint8 data")
    return np.frombuffer(content, np.uint8, offset=4 * (1 + ndim)).reshape(header[1:])


def make_multi_mnist(
    n_images: int = 100,
    *,
    digits: Digits | tuple[np.ndarray, np.ndarray] | None = None,
    background: Literal["black", "grid"] = "black",
    size: int = 80,
    count: tuple[int, int] = (2, 6),
    digit_size: tuple[int, int] = (20, 40),
    max_overlap: float = 0.3,
    random_state: int | np.random.RandomState | None = None,
) -> DigitImages:
    """Images of several digits, with instance masks.

    Parameters
    ----------
    n_images : int
        How many images.
    digits : Digits or (images, classes), optional
        The digits to draw from, e.g. ``load_mnist(folder)``.  By default scikit-learn's 8 × 8 digits.
    background : {"black", "grid"}
        Black, or a regular grid of random pitch (10, 15, 20 px), angle (0, 15, 30, 45 degrees) and phase.
    size : int
        Height and width of the images, px.
    count : (min, max)
        Digits in an image; every number in the range has the same proportion.
    digit_size : (min, max)
        Side a digit's frame is rescaled to, px, uniform over the integers of the range.
    max_overlap : float in [0, 1]
        Largest intersection over minimum (IoMIN) of two frames.
    random_state : int, RandomState or None

    Returns
    -------
    DigitImages

    Raises
    ------
    ValueError
        If the background is unknown, or that many digits of that size do not fit into an image.
    """
    if background not in ("black", "grid"):
        raise ValueError(f"background={background!r} is unknown; use 'black' or 'grid'")
    if digit_size[1] > size:
        raise ValueError(f"digit_size={digit_size} is larger than an image: size={size}")
    rng = check_random_state(random_state)
    source = _bundled_digits() if digits is None else Digits(*digits)

    counts = _equal_proportions(n_images, count, rng)
    boxes = [_place_boxes(n, size, digit_size, max_overlap, rng) for n in counts]
    chosen = rng.randint(len(source.images), size=counts.sum())
    ink = _rescale(
        source.images[chosen], sides=np.concatenate([box[:, 2] for box in boxes]) if boxes else chosen
    )

    images = np.zeros((n_images, size, size), np.float32)
    labels = np.zeros((n_images, size, size), np.int32)
    digit_ink = iter(ink)
    for image, label, image_boxes in zip(images, labels, boxes, strict=True):
        for index, (top, left, side) in enumerate(image_boxes, start=1):
            _paint(next(digit_ink), index, image[top : top + side, left : left + side],
                   label[top : top + side, left : left + side])  # fmt: skip
    if background == "grid":
        for image in images:
            image += (1 - image) * _grid(size, rng)
    classes = np.split(np.asarray(source.classes)[chosen], np.cumsum(counts)[:-1]) if n_images else []
    return DigitImages(images, labels, counts, classes)


def _bundled_digits() -> Digits:
    """Scikit-learn's 1797 digits; one pixel of margin gives them frames like MNIST's."""
    bundled = load_digits()
    return Digits(np.pad(bundled.images / 16, ((0, 0), (1, 1), (1, 1))), bundled.target)


def _equal_proportions(n_images: int, count: tuple[int, int], rng: np.random.RandomState) -> np.ndarray:
    """Counts (n_images,) in random order, every number of the range equally often (up to the remainder)."""
    numbers = np.arange(count[0], count[1] + 1)
    return rng.permutation(np.resize(rng.permutation(numbers), n_images))


def _place_boxes(
    n: int, size: int, digit_size: tuple[int, int], max_overlap: float, rng: np.random.RandomState
) -> np.ndarray:
    """Rows (top, left, side) of `n` frames whose pairwise IoMIN is at most `max_overlap`, in random order."""
    for _ in range(LAYOUT_TRIES):
        boxes = np.zeros((0, 3), np.int64)
        for side in np.sort(rng.randint(digit_size[0], digit_size[1] + 1, size=n))[::-1]:  # large ones first
            candidates = rng.randint(size - side + 1, size=(PLACEMENT_TRIES, 2))
            overlap = _intersection_over_minimum(candidates, side, boxes)
            fits = np.flatnonzero((overlap <= max_overlap).all(axis=1))
            if len(fits) == 0:
                break
            boxes = np.vstack([boxes, [*candidates[fits[0]], side]])
        if len(boxes) == n:
            return rng.permutation(boxes)
    raise ValueError(
        f"{n} digits of digit_size={digit_size} with max_overlap={max_overlap} do not fit into "
        f"size={size}; make the image larger or the digits smaller or fewer"
    )


def _intersection_over_minimum(corners: np.ndarray, side: int, boxes: np.ndarray) -> np.ndarray:
    """IoMIN (n, m) of squares of one `side` at `corners` (n, 2) with `boxes` (m, 3)."""
    low = np.maximum(corners[:, None], boxes[None, :, :2])
    high = np.minimum(corners[:, None] + side, boxes[None, :, :2] + boxes[None, :, 2:])
    intersection = np.clip(high - low, 0, None).prod(axis=2)
    return intersection / np.minimum(side, boxes[None, :, 2]) ** 2


def _rescale(images: np.ndarray, sides: np.ndarray) -> list[np.ndarray]:
    """Each image rescaled to its own side: separable linear interpolation, all of one side at once."""
    values = images.astype(np.float32) / (255 if images.dtype == np.uint8 else 1)
    rescaled: list[np.ndarray] = [np.empty(0)] * len(images)
    for side in np.unique(sides):
        members = np.flatnonzero(sides == side)
        weights = _interpolation_matrix(values.shape[-1], side)
        for member, image in zip(members, weights @ values[members] @ weights.T, strict=True):
            rescaled[member] = np.minimum(image, 1)  # rounding may exceed 1
    return rescaled


def _interpolation_matrix(n_in: int, n_out: int) -> np.ndarray:
    """(n_out, n_in) weights of linear interpolation, widened when shrinking so that nothing is skipped."""
    scale = n_in / n_out
    position = (np.arange(n_out) + 0.5) * scale - 0.5
    distance = np.abs(position[:, None] - np.arange(n_in)) / max(scale, 1.0)
    weights = np.clip(1 - distance, 0, None)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _paint(ink: np.ndarray, index: int, image: np.ndarray, label: np.ndarray) -> None:
    """Draw one digit into views of an image and its labels; where digits overlap the stronger ink wins."""
    label[(ink > INK_THRESHOLD) & (ink > image)] = index
    np.maximum(image, ink, out=image)


def _grid(size: int, rng: np.random.RandomState) -> np.ndarray:
    """A regular grid (size, size) of antialiased lines one pixel wide."""
    pitch = rng.choice(GRID_PITCHES)
    angle = np.deg2rad(rng.choice(GRID_ANGLES))
    phase = rng.uniform(0, pitch, size=2)
    row, column = np.mgrid[:size, :size].astype(np.float32)
    across = column * np.cos(angle) + row * np.sin(angle) + phase[0]
    along = row * np.cos(angle) - column * np.sin(angle) + phase[1]
    distance = np.minimum(*(np.abs((u + pitch / 2) % pitch - pitch / 2) for u in (across, along)))
    return (GRID_INTENSITY * np.clip(1 - distance, 0, 1)).astype(np.float32)
