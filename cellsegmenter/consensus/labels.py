"""From communities of pixels to a label image, with one row of confidence and latent code per object."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from skimage import measure

from cellsegmenter.consensus.agreement import hard_assignment
from cellsegmenter.consensus.resolution import Resolution
from cellsegmenter.types import Instances

__all__ = ["Segmentation", "label_objects", "object_table", "point_estimate"]


@dataclass(frozen=True)
class Segmentation:
    """Objects of one image; row i of the arrays is the object with label i + 1."""

    labels: np.ndarray  # (height, width) int32: 0 background, 1..n ordered by first pixel, row-major
    resolution: Resolution
    confidence: np.ndarray  # (n,) float32 in 0..1: mean co-membership over all pairs of the object's pixels
    z_what: np.ndarray  # (n, D) float32: mean latent code of the instances that are the object

    def __len__(self) -> int:
        return len(self.confidence)


def label_objects(
    community: np.ndarray, pixels: np.ndarray, image_shape: tuple[int, int], min_size: int
) -> np.ndarray:
    """The label image of communities.

    A community is one object per connected part (8-neighbourhood) of at least `min_size` pixels; smaller
    parts are background.  A cell is one body: when a community comes in two, its halves hang together only
    through instances whose box spans both, and two large halves are far likelier two cells than one.  Crumbs
    below the minimum size are mixing probabilities that leaked, and are dropped like any other small object.

    Parameters
    ----------
    community : (n,) int array
        Of each pixel; negative for none.
    pixels : (n,) int array
        Flat, row-major.
    image_shape : (height, width)
    min_size : int
        Pixels.

    Returns
    -------
    (height, width) int32 array; 1..n in the order of the first pixel in row-major order.
    """
    flat = np.zeros(image_shape[0] * image_shape[1], dtype=np.int64)
    flat[pixels] = community + 1
    parts = measure.label(flat.reshape(image_shape), background=0, connectivity=2).ravel()
    large = np.bincount(parts) >= min_size
    large[0] = False
    return _number_by_first_pixel(np.where(large[parts], parts, 0)).reshape(image_shape)


def _number_by_first_pixel(flat: np.ndarray) -> np.ndarray:
    """The same objects numbered 1..n in the order of their first pixel; 0 stays 0."""
    foreground = np.flatnonzero(flat)
    values, first = np.unique(flat[foreground], return_index=True)
    number = np.zeros(int(flat.max(initial=0)) + 1, dtype=np.int32)
    number[values[np.argsort(first)]] = np.arange(1, len(values) + 1)
    return number[flat]


def object_table(
    labels: np.ndarray, membership: sparse.csr_array, z_what: np.ndarray, n_visits: int
) -> tuple[np.ndarray, np.ndarray]:
    """Confidence and latent code of each object.

    With the mass M_Ci = Σ_{p in C} Π_pi of object C in instance i, the mean co-membership over all pairs of
    its pixels is Σ_i M_Ci² / (|C|² n_visits).  The latent code is the mean over instances, weighted by M_Ci;
    an instance speaks only for the object that has the largest share of it, as a merged pair would
    otherwise blur both of its cells.  An object that no instance speaks for takes the mean over all.

    Parameters
    ----------
    labels : (height, width) int array, 0..n
    membership : (height * width, m) sparse csr array, Π
    z_what : (m, D) array
    n_visits : int

    Returns
    -------
    confidence : (n,) float32
    latent : (n, D) float32
    """
    flat = labels.ravel()
    pixels = np.flatnonzero(flat)
    n = int(flat.max(initial=0))
    place = (flat[pixels] - 1, np.arange(len(pixels)))
    select = sparse.csr_array((np.ones(len(pixels)), place), shape=(n, len(pixels)))
    mass = sparse.csr_array(select @ membership[pixels])  # (n, m)
    size = np.bincount(flat[pixels] - 1, minlength=n)
    confidence = mass.multiply(mass).sum(axis=1) / (size.astype(float) ** 2 * n_visits)

    largest = np.zeros(membership.shape[1])
    np.maximum.at(largest, mass.indices, mass.data)
    first = sparse.csr_array(
        (np.where(mass.data == largest[mass.indices], mass.data, 0), mass.indices, mass.indptr), mass.shape
    )
    total = first.sum(axis=1)
    orphan = total <= 0
    latent = first @ z_what
    if orphan.any():
        latent[orphan] = mass[np.flatnonzero(orphan)] @ z_what
        total[orphan] = mass.sum(axis=1)[orphan]
    latent = latent / np.maximum(total, np.finfo(float).tiny)[:, None]
    return confidence.astype(np.float32), latent.astype(np.float32)


def point_estimate(instances: Instances) -> np.ndarray:
    """The paper's baseline (Sec. 4): argmax over k of π_k in one posterior sample, window beside window.

    The first sample of those windows whose corners are whole window sizes apart, so that each pixel is
    decided once.  Objects that cross the edge of a window come out in pieces.

    Returns
    -------
    (height, width) int32 labels, 1..n in the order of the first pixel.
    """
    height, width = instances.image_shape
    flat = np.zeros(height * width, dtype=np.int64)
    if len(instances):
        corner = instances.window_origin.min(axis=0)
        tiling = np.all((instances.window_origin - corner) % instances.window_size == 0, axis=1)
        used = np.flatnonzero(tiling[instances.window] & (instances.sample == 0))
        pixel, instance = hard_assignment(instances.membership[:, used], instances.window[used])
        flat[pixel] = instance + 1
    return _number_by_first_pixel(flat).reshape(height, width)
