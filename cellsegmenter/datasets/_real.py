"""Real fluorescence nuclei: the image that ships with the package and the reader of a larger set on disk."""

from __future__ import annotations

import csv
import hashlib
from collections import defaultdict
from pathlib import Path
from typing import Literal

import numpy as np
import tifffile

from ._types import ImageCollection

__all__ = ["load_dsb2018", "load_nuclei"]

DATA = Path(__file__).resolve().parents[1] / "data"
N_TEST = 40  # images of BBBC038 that are kept for measuring


def load_nuclei() -> tuple[np.ndarray, np.ndarray]:
    """A small real fluorescence image, CC0, that ships with the package.

    51 nuclei of 16 px mean diameter, from BBBC038 (Broad Institute, Data Science Bowl 2018).  It belongs to
    the "test" part of `load_dsb2018`.

    Returns
    -------
    image : ndarray (256, 256) uint8
    labels : ndarray (256, 256) int32
        0 background, 1 .. 51 the nuclei.
    """
    return tifffile.imread(DATA / "nuclei.tif"), tifffile.imread(DATA / "nuclei_labels.tif").astype(np.int32)


def load_dsb2018(folder: str | Path, *, split: Literal["train", "test", "all"] = "train") -> ImageCollection:
    """Read fluorescence nuclei of BBBC038 (Data Science Bowl 2018) with their instance masks.

    The split is by image and fixed: within each group of images of one size, those whose identifier has the
    smallest SHA-256 digest are "test", 40 in all and in proportion to the groups; the others are "train".

    Parameters
    ----------
    folder : str or Path
        Holds ``manifest.csv`` (columns id, size_group, mean_nucleus_diameter), ``images/ID.tif`` and
        ``masks/ID.tif``.
    split : {"train", "test", "all"}

    Returns
    -------
    ImageCollection
        In the order of the identifiers; images (H, W) uint8.

    Raises
    ------
    FileNotFoundError
        If the folder has no manifest.
    ValueError
        If `split` is unknown.
    """
    if split not in ("train", "test", "all"):
        raise ValueError(f"split={split!r} is unknown; use 'train', 'test' or 'all'")
    folder = Path(folder)
    if not (folder / "manifest.csv").exists():
        raise FileNotFoundError(f"{folder / 'manifest.csv'} not found; expected it beside images/ and masks/")
    with open(folder / "manifest.csv", newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["id"])
    test = _test_names({row["id"]: row["size_group"] for row in rows}, N_TEST)
    chosen = [row for row in rows if split == "all" or (row["id"] in test) == (split == "test")]
    names = [row["id"] for row in chosen]
    return ImageCollection(
        names,
        [tifffile.imread(folder / "images" / f"{name}.tif") for name in names],
        [tifffile.imread(folder / "masks" / f"{name}.tif").astype(np.int32) for name in names],
        np.array([float(row["mean_nucleus_diameter"]) for row in chosen]),
    )


def _test_names(groups: dict[str, str], n_test: int) -> set[str]:
    """`n_test` names, from each group in proportion (largest remainders), by the digest of the name."""
    members = defaultdict(list)
    for name, group in groups.items():
        members[group].append(name)
    share = {group: n_test * len(names) / len(groups) for group, names in members.items()}
    quota = {group: int(exact) for group, exact in share.items()}
    by_remainder = sorted(share, key=lambda group: (quota[group] - share[group], group))
    for group in by_remainder[: n_test - sum(quota.values())]:
        quota[group] += 1
    return {
        name
        for group, names in members.items()
        for name in sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())[: quota[group]]
    }
