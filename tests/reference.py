"""Slow twins, written straight from the formulas, and simulated inputs; tests hold the fast code to them."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from cellsegmenter.types import Instances
from cellsegmenter.windows import make_windows

# ---------------------------------------------------------------------------------------------------
# Consensus (Sec. 4, Suppl. S9)
# ---------------------------------------------------------------------------------------------------


def edges_by_double_loop(instances: Instances, cutoff_distance: float, min_edge: float) -> dict:
    """{(p, p'): e_{p,p'}} with p < p', flat pixels, from the definition."""
    dense = instances.membership.toarray().astype(float)
    width = instances.image_shape[1]
    edges = {}
    foreground = np.flatnonzero(dense.sum(1))
    for p in foreground:
        for q in foreground[foreground > p]:
            weight = sum(dense[p, k] * dense[q, k] for k in range(dense.shape[1])) / instances.n_visits
            distance = np.hypot(p // width - q // width, p % width - q % width)
            if weight >= min_edge and distance < cutoff_distance:
                edges[int(p), int(q)] = weight
    return edges


def cpm_quality(weights: np.ndarray, labels: np.ndarray, resolution: float) -> float:
    """Σ over pairs within a community of (e - γ), for a symmetric matrix of weights."""
    same = np.triu(labels[:, None] == labels[None, :], 1)
    return float((weights[same] - resolution).sum())


def rb_quality(weights: np.ndarray, labels: np.ndarray, gamma: float) -> float:
    """Σ over pairs within a community of (e - γ s s' / 2m), for a symmetric matrix of weights."""
    strength = weights.sum(1)
    same = np.triu(labels[:, None] == labels[None, :], 1)
    expected = gamma * np.outer(strength, strength) / strength.sum()
    return float((weights - expected)[same].sum())


def confidence_by_pairs(instances: Instances, labels: np.ndarray) -> np.ndarray:
    """Per object: the mean over all pairs of its pixels of the co-membership weight."""
    dense = instances.membership.toarray().astype(float)
    gram = dense @ dense.T / instances.n_visits
    flat = labels.ravel()
    return np.array([gram[np.ix_(flat == c, flat == c)].mean() for c in range(1, flat.max() + 1)])


def nmi_by_window(instances: Instances, windows: np.ndarray, labels: np.ndarray) -> float:
    """Σ n 2 I / Σ n (H + H) over the samples of some windows, from dense argmax label images."""
    height, width = instances.image_shape
    dense = instances.membership.toarray().reshape(height, width, -1)
    shared = total = 0.0
    for window in windows:
        (top, left), size = instances.window_origin[window], instances.window_size
        inside = slice(max(top, 0), top + size), slice(max(left, 0), left + size)
        for sample in range(instances.n_samples):
            here = (instances.window == window) & (instances.sample == sample)
            objects = dense[inside][:, :, here]
            probability = np.concatenate([1 - objects.sum(-1, keepdims=True), objects], axis=-1)
            classes, visible = probability.argmax(-1).ravel(), labels[inside].ravel()
            entropies = _entropy(classes) + _entropy(visible)
            shared += 2 * len(visible) * (entropies - _entropy(classes * (labels.max() + 1) + visible))
            total += len(visible) * entropies
    return shared / total


def _entropy(values: np.ndarray) -> float:
    share = np.unique(values, return_counts=True)[1] / len(values)
    return float(-(share * np.log(share)).sum())


def simulate_discs(
    image_shape: tuple[int, int],
    *,
    n_objects: int,
    radius: tuple[float, float] = (5.0, 8.0),
    touching: float = 0.3,
    seed: int = 0,
) -> np.ndarray:
    """(n, 3) row, column, radius of discs that do not overlap; a fraction `touching` sits beside another."""
    rng = np.random.default_rng(seed)
    discs: list[np.ndarray] = []
    for _ in range(200 * n_objects):
        if len(discs) == n_objects:
            break
        size = rng.uniform(*radius)
        if discs and rng.random() < touching:
            neighbour, angle = discs[rng.integers(len(discs))], rng.uniform(0, 2 * np.pi)
            centre = neighbour[:2] + (neighbour[2] + size) * np.array([np.sin(angle), np.cos(angle)])
        else:
            centre = rng.uniform(size, np.array(image_shape) - size)
        other = np.array(discs).reshape(-1, 3)
        apart = np.hypot(*(other[:, :2] - centre).T) >= other[:, 2] + size - 1e-6
        if apart.all() and np.all(centre >= size) and np.all(centre <= np.array(image_shape) - size):
            discs.append(np.array([*centre, size]))
    return np.array(discs).reshape(-1, 3)


def disc_labels(image_shape: tuple[int, int], discs: np.ndarray) -> np.ndarray:
    """The label image of the discs; pixel centres at + 0.5."""
    labels = np.zeros(image_shape, np.int32)
    row, column = np.indices(image_shape) + 0.5
    for number, (y, x, size) in enumerate(discs, start=1):
        labels[np.hypot(row - y, column - x) < size] = number
    return labels


def simulate_instances(
    image_shape: tuple[int, int],
    discs: np.ndarray,
    *,
    window_size: int = 40,
    stride: int = 20,
    n_samples: int = 1,
    merge: float = 0.15,
    miss: float = 0.05,
    seed: int = 0,
) -> Instances:
    """A posterior that sees each disc with noise in place and size; touching ones merge now and then.

    The latent code of an instance is its disc's number plus noise, so that codes of objects can be checked.
    """
    rng = np.random.default_rng(seed)
    width = image_shape[1]
    grid = make_windows(image_shape, window_size, stride)
    columns, rows, values, about = [], [], [], []
    for window, origin in enumerate(grid.origin):
        low, high = np.maximum(origin, 0), np.minimum(origin + window_size, image_shape)
        inside = np.all((discs[:, :2] > low - 3) & (discs[:, :2] < high + 3), axis=1) if len(discs) else []
        for sample in range(n_samples):
            seen = [d for d in np.flatnonzero(inside) if rng.random() > miss]
            row, column = np.mgrid[low[0] : high[0], low[1] : high[1]]
            masks = [_soft_disc(row, column, discs[d], rng) for d in seen]
            masks, seen = _merge_touching(masks, seen, discs, merge, rng)
            total = np.maximum(1, np.sum(masks, axis=0)) if masks else 1.0
            for mask, d in zip(masks, seen, strict=True):
                share = (mask / total).ravel()
                where = np.flatnonzero(share > 0.01)
                if len(where):
                    rows.append((row * width + column).ravel()[where])
                    columns.append(np.full(len(where), len(about)))
                    values.append(share[where])
                    about.append((window, sample, d))
    return _as_instances(grid, image_shape, discs, n_samples, rows, columns, values, about, rng)


def _soft_disc(row, column, disc, rng):
    y, x, size = disc + rng.normal(0, (0.4, 0.4, 0.3))
    return 1 / (1 + np.exp((np.hypot(row + 0.5 - y, column + 0.5 - x) - size) / 0.4))


def _merge_touching(masks, seen, discs, merge, rng):
    """Now and then one instance covers two touching discs."""
    kept, numbers = [], []
    used = set()
    for i, d in enumerate(seen):
        if i in used:
            continue
        mask = masks[i]
        for j in range(i + 1, len(seen)):
            gap = np.hypot(*(discs[d, :2] - discs[seen[j], :2])) - discs[d, 2] - discs[seen[j], 2]
            if j not in used and gap < 1 and rng.random() < merge:
                mask = np.maximum(mask, masks[j])
                used.add(j)
        kept.append(mask)
        numbers.append(d)
    return kept, numbers


def _as_instances(grid, image_shape, discs, n_samples, rows, columns, values, about, rng):
    n = len(about)
    about = np.array(about, dtype=np.int32).reshape(n, 3)
    joined = [np.concatenate(part) if part else np.zeros(0) for part in (values, rows, columns)]
    shape = (image_shape[0] * image_shape[1], n)
    where = (joined[1].astype(np.int64), joined[2].astype(np.int64))
    membership = sparse.csc_array((joined[0].astype(np.float32), where), shape=shape)
    chosen = discs[about[:, 2]].reshape(n, 3)
    boxes = np.stack([chosen[:, 1], chosen[:, 0], 2 * chosen[:, 2], 2 * chosen[:, 2]], axis=1)
    return Instances(
        membership=membership,
        image_shape=image_shape,
        n_visits=grid.n_visits * n_samples,
        window=about[:, 0],
        sample=about[:, 1],
        presence_prob=np.full(n, 0.9, np.float32),
        boxes=boxes.astype(np.float32),
        z_what=(about[:, 2:] + rng.normal(0, 0.1, (n, 3))).astype(np.float32),
        window_origin=grid.origin,
        window_size=grid.window_size,
        n_samples=n_samples,
    )


def shuffle_windows(instances: Instances, seed: int = 0) -> Instances:
    """The same posterior with its windows, and the rows of its instances, in another order."""
    rng = np.random.default_rng(seed)
    windows = rng.permutation(len(instances.window_origin))  # new position -> old window
    position = np.argsort(windows)
    order = np.argsort(position[instances.window], kind="stable")
    return Instances(
        membership=instances.membership[:, order],
        image_shape=instances.image_shape,
        n_visits=instances.n_visits,
        window=position[instances.window][order].astype(np.int32),
        sample=instances.sample[order],
        presence_prob=instances.presence_prob[order],
        boxes=instances.boxes[order],
        z_what=instances.z_what[order],
        window_origin=instances.window_origin[windows],
        window_size=instances.window_size,
        n_samples=instances.n_samples,
    )
