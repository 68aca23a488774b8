"""What is known of every object beside its pixels: its confidence and its latent code."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from cellsegmenter.consensus.labels import TileParts, tile_labels
from cellsegmenter.consensus.membership import load_pixels, split_number
from cellsegmenter.store import Record, Store, Task, run_tasks
from cellsegmenter.types import CERTAIN
from cellsegmenter.windows import Tiling

__all__ = ["object_table"]


def object_table(
    store: Store, tiling: Tiling, parts: TileParts, *, prefix: str, n_visits: int, n_jobs: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Confidence and latent code of each object.

    With the mass M_Ci = Σ_{p in C} Π_pi of object C in instance i, the mean co-membership over all pairs of
    its pixels is Σ_i M_Ci² / (|C|² n_visits).  The latent code is the mean over instances, weighted by M_Ci;
    an instance speaks only for the object that has the largest share of it, as a merged pair would
    otherwise blur both of its cells.  An object that no instance speaks for takes the mean over all.

    Parameters
    ----------
    store : Store
        Holds the pixels, the instances found, and the parts of the objects.
    tiling : Tiling
    parts : TileParts
    prefix : str
        Of the records of the parts.
    n_visits : int
    n_jobs : int or None
        For joblib.

    Returns
    -------
    confidence : (n,) float32
    latent : (n, D) float32
    """
    tasks = []
    for tile in range(len(tiling)):
        label = parts.label[parts.start[tile] : parts.start[tile + 1]]
        needs = (f"pixels-{tile}", f"{prefix}-parts-{tile}")
        tasks.append(Task(f"{prefix}-mass-{tile}", _mass, needs, (prefix, tile, label)))
    run_tasks(store, tasks, n_jobs)
    found = [store.load(task.name) for task in tasks]
    for task in tasks:
        store.discard(task.name)
    n = len(parts.size)
    instance, column = np.unique(np.concatenate([f["instance"] for f in found]), return_inverse=True)
    where = (np.concatenate([f["label"] for f in found]) - 1, column)
    weight = np.concatenate([f["mass"] for f in found]).astype(float)
    mass = sparse.csr_array((weight, where), shape=(n, len(instance)))  # an object in several tiles adds up
    confidence = mass.multiply(mass).sum(axis=1) / ((CERTAIN * parts.size.astype(float)) ** 2 * n_visits)
    return confidence.astype(np.float32), _latent(mass, instance, store)


def _mass(store: Store, prefix: str, tile: int, label: np.ndarray) -> Record:
    """Mass of each object in each instance within a tile, in 255ths of a pixel, where it is not zero."""
    rows = load_pixels(store, tile)
    flat = tile_labels(store, prefix, tile, label).ravel()
    pixels = np.flatnonzero(flat)
    objects, place = np.unique(flat[pixels], return_inverse=True)
    select = sparse.csr_array(
        (np.ones(len(pixels), np.int64), (place, np.arange(len(pixels)))), shape=(len(objects), len(pixels))
    )
    mass = sparse.coo_array(select @ rows.membership[pixels])
    row, column = mass.coords
    return {"label": objects[row], "instance": rows.instance[column], "mass": mass.data}


def _latent(mass: sparse.csr_array, instance: np.ndarray, store: Store) -> np.ndarray:
    """(n, D) float32 mean latent code of each object."""
    largest = np.zeros(mass.shape[1])
    np.maximum.at(largest, mass.indices, mass.data)
    speaks = np.where(mass.data == largest[mass.indices], mass.data, 0)
    weight = sparse.csr_array((speaks, mass.indices, mass.indptr), mass.shape)
    orphan = weight.sum(axis=1) <= 0
    weight = sparse.csr_array(weight + sparse.diags_array(orphan.astype(float)) @ mass)
    tile, place = split_number(instance)
    by_instance = weight.tocsc()
    latent: np.ndarray | float = 0.0
    for source in np.unique(tile):
        here = np.flatnonzero(tile == source)
        latent = (
            latent + by_instance[:, here] @ store.load(f"found-{source}", "z_what")["z_what"][place[here]]
        )
    if isinstance(latent, float):  # no object at all
        return np.zeros((mass.shape[0], store.load("found-0", "z_what")["z_what"].shape[1]), np.float32)
    total = np.maximum(weight.sum(axis=1), np.finfo(float).tiny)
    return (latent / total[:, None]).astype(np.float32)
