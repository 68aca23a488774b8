"""Images with what disturbs them in practice, for `seeing.py`: debris, hot pixels, missing tiles, ramps, noise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from skimage.transform import rotate

from cellsegmenter.datasets import make_nuclei

__all__ = ["Disturbed", "disturbances", "noisy_nuclei"]

_WHITE = 65535
_OFFSET = 1000  # of a camera


class Disturbed(NamedTuple):
    """An image with what is wrong with it, and the nuclei that are still in it."""

    name: str
    image: np.ndarray  # (H, W)
    labels: np.ndarray  # (H, W) int


def disturbances(image: np.ndarray, labels: np.ndarray) -> Iterator[Disturbed]:
    """An 8-bit image (H, W) with its labels, undisturbed first, then with each kind."""
    plain = image.astype(np.uint16) * 100
    height, width = plain.shape
    yield Disturbed("undisturbed", plain, labels)
    for side in (10, 20, 30):
        yield Disturbed(f"debris of {side} px", _with(plain, np.s_[180 : 180 + side, 60 : 60 + side]), labels)
    row, column = np.mgrid[:height, :width]
    glow = 60000 * np.exp(-((row - 190) ** 2 + (column - 70) ** 2) / (2 * 7**2))
    yield Disturbed("blurred debris", np.maximum(plain, glow).astype(np.uint16), labels)
    yield Disturbed("saturated column", _with(plain, np.s_[:, 130]), labels)
    places = np.random.default_rng(0).choice(plain.size, 300, replace=False)
    yield Disturbed("300 hot pixels", _with(plain, np.unravel_index(places, plain.shape)), labels)
    yield Disturbed("scale bar", _with(plain, np.s_[235:240, 180:240]), labels)
    for rise in (5, 10, 20):
        yield Disturbed(f"ramp of {rise} a px", (plain + column * rise).astype(np.uint16), labels)
    for fill in (0, _WHITE):
        framed = np.full((2 * height, 2 * width), fill, np.uint16)
        inner = np.s_[height // 2 : height // 2 + height, width // 2 : width // 2 + width]
        framed[inner] = plain + _OFFSET
        around = np.zeros(framed.shape, labels.dtype)
        around[inner] = labels
        yield Disturbed(f"margin of {fill}", framed, around)
    missing, left = np.tile(plain + _OFFSET, (4, 4)), _tiled(labels, 4)
    for i in range(4):
        for j in range((i + 1) % 2, 4, 2):
            tile = np.s_[i * height : (i + 1) * height, j * width : (j + 1) * width]
            missing[tile], left[tile] = 0, 0
    yield Disturbed("missing tiles", missing, left)
    turned = rotate(np.tile(plain + _OFFSET, (2, 2)).astype(float), 20, resize=True, preserve_range=True)
    numbers = rotate(_tiled(labels, 2), 20, resize=True, preserve_range=True, order=0).astype(labels.dtype)
    yield Disturbed("rotated, black corners", turned.astype(np.uint16), numbers)
    unknown = plain.astype(np.float32)
    unknown[:20] = np.nan
    yield Disturbed("NaN border", unknown, np.where(row < 20, 0, labels))


def noisy_nuclei(diameter: float, snr: float, nucleoli: int, seed: int) -> Disturbed:
    """About 25 nuclei of a diameter, px, whose mean signal is `snr` standard deviations of the noise."""
    made = make_nuclei(
        1,
        size=max(256, round(10 * diameter)),
        count=(25, 25),
        diameter=diameter,
        brightness=(0.5, 1),
        nucleoli=nucleoli,
        random_state=seed,
    )
    image, labels = made.images[0], made.labels[0]
    signal = image[labels > 0].mean() - image[labels == 0].mean()
    noise = np.random.default_rng(seed).normal(0, signal / snr, image.shape)
    return Disturbed(f"SNR {snr:g}", (image + noise).astype(np.float32), labels)


def _with(image: np.ndarray, place: object) -> np.ndarray:
    changed = image.copy()
    changed[place] = _WHITE  # type: ignore[index]
    return changed


def _tiled(labels: np.ndarray, n: int) -> np.ndarray:
    """n × n copies of labels, each with numbers of its own."""
    most = int(labels.max())
    rows = [[np.where(labels > 0, labels + (n * i + j) * most, 0) for j in range(n)] for i in range(n)]
    return np.block(rows)
