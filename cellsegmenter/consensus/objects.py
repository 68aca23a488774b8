"""What is known of every object beside its pixels: its confidence and its latent code."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from cellsegmenter.consensus.confidence import Drawn, mean_best_iou, visible_sizes, window_numbers
from cellsegmenter.consensus.edges import Visits
from cellsegmenter.consensus.labels import TileParts, tile_labels
from cellsegmenter.consensus.membership import load_pixels, split_number
from cellsegmenter.store import Record, Store, Task, run_tasks
from cellsegmenter.windows import Tiling

__all__ = ["object_table"]


def object_table(
    store: Store, tiling: Tiling, parts: TileParts, *, prefix: str, visits: Visits, n_jobs: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Confidence and latent code of each object.

    The confidence, in 0..1, says in how many looks, and how exactly, the object was seen: see
    `cellsegmenter.consensus.confidence`.

    The latent code is the mean over instances, weighted by their mass on the object (M_Ci);
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
    visits : Visits
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
        arguments = (prefix, tile, label, visits, tiling.image_shape)
        tasks.append(Task(f"{prefix}-mass-{tile}", _mass, needs, arguments))
    run_tasks(store, tasks, n_jobs)
    found = [store.load(task.name) for task in tasks]
    for task in tasks:
        store.discard(task.name)

    def joined(name: str) -> np.ndarray:
        return np.concatenate([f[name] for f in found])

    # What an object has in several tiles adds up.
    n, n_windows = len(parts.size), int(found[0]["n_windows"])
    visible = sparse.csr_array(
        (joined("visible"), (joined("seen") - 1, joined("window"))), shape=(n, n_windows)
    )
    instance, column = np.unique(joined("instance"), return_inverse=True)
    where = (joined("label") - 1, column)
    mass = sparse.csr_array((joined("mass").astype(float), where), shape=(n, len(instance)))
    drawn = _drawn(instance, store, visits, tiling.image_shape)
    confidence = mean_best_iou(mass, visible, drawn, visits.n_samples)
    return confidence.astype(np.float32), _latent(mass, instance, store)


def _drawn(instance: np.ndarray, store: Store, visits: Visits, image_shape: tuple[int, int]) -> Drawn:
    """Window, sample and mass of instances by their number."""
    tile, place = split_number(instance)
    drawn = Drawn(*(np.zeros(len(instance), np.int64) for _ in Drawn._fields))
    for source in np.unique(tile):
        here = np.flatnonzero(tile == source)
        found = store.load(f"found-{source}", "mass", "window", "sample", "window_origin")
        number = window_numbers(found["window_origin"], visits, image_shape)
        drawn.window[here] = number[found["window"][place[here]]]
        drawn.sample[here] = found["sample"][place[here]]
        drawn.mass[here] = found["mass"][place[here]]
    return drawn


def _mass(
    store: Store, prefix: str, tile: int, label: np.ndarray, visits: Visits, image_shape: tuple[int, int]
) -> Record:
    """Of each object within a tile its mass in each instance, in 255ths of a pixel, and its pixels in each window."""
    rows = load_pixels(store, tile)
    flat = tile_labels(store, prefix, tile, label).ravel()
    pixels = np.flatnonzero(flat)
    objects, place = np.unique(flat[pixels], return_inverse=True)
    select = sparse.csr_array(
        (np.ones(len(pixels), np.int64), (place, np.arange(len(pixels)))), shape=(len(objects), len(pixels))
    )
    mass = sparse.coo_array(select @ rows.membership[pixels])
    position = np.stack(np.divmod(rows.flat(pixels, image_shape[1]), image_shape[1]), axis=1)
    visible = visible_sizes(place, position, len(objects), visits, image_shape).tocoo()
    return {
        "label": objects[mass.coords[0]],
        "instance": rows.instance[mass.coords[1]],
        "mass": mass.data,
        "seen": objects[visible.coords[0]],
        "window": visible.coords[1],
        "visible": visible.data,
        "n_windows": np.array(visible.shape[1]),
    }


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
