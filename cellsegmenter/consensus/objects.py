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

    Let M_Ci = Σ_{p in C} Π_pi be the mass of object C in instance i, and A_i = Σ_p Π_pi all of that instance's.

    The confidence answers: take a random pixel of the object and a random visit to it; how well does the instance
    that the visit puts the pixel into coincide with the object?  It is the expected (soft) IoU,

        Σ_i M_Ci IoU_Ci / (|C| n_visits),    IoU_Ci = M_Ci / (|C| + A_i - M_Ci),

    with 0 where the visit sees background.  It is 1 if every window and sample draws the very same object, and low
    for what is seen rarely, merged with a neighbour or cut in pieces.  Mean co-membership over pairs of pixels
    does not notice a merger, as it never looks beyond the object; `benchmarks/confidence.py` compares.

    The latent code is the mean over instances, weighted by M_Ci;
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
    confidence = _expected_iou(mass, _total_mass(instance, store), CERTAIN * parts.size)
    return (confidence / n_visits).astype(np.float32), _latent(mass, instance, store)


def _total_mass(instance: np.ndarray, store: Store) -> np.ndarray:
    """(m,) A_i of instances by their number, in 255ths of a pixel."""
    tile, place = split_number(instance)
    total = np.zeros(len(instance))
    for source in np.unique(tile):
        here = np.flatnonzero(tile == source)
        total[here] = store.load(f"found-{source}", "mass")["mass"][place[here]]
    return total


def _expected_iou(mass: sparse.csr_array, total: np.ndarray, size: np.ndarray) -> np.ndarray:
    """(n,) Σ_i M_Ci IoU_Ci / |C|, all in 255ths of a pixel."""
    entries = mass.tocoo()
    row, column = entries.coords
    # In an order that does not depend on how instances are numbered, that is on the tiles.
    order = np.lexsort((total[column], entries.data, row))
    row, overlap, whole = row[order], entries.data[order], total[column][order]
    iou = overlap / (size[row] + whole - overlap)
    return np.bincount(row, weights=overlap * iou, minlength=len(size)) / size


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
