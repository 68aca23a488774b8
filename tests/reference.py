"""Slow twins, written straight from the formulas, and simulated inputs; tests hold the fast code to them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy import sparse
from scipy.ndimage import gaussian_filter
from skimage.filters import threshold_otsu
from torch import Tensor
from torch.nn.functional import grid_sample

from cellsegmenter.model.config import ModelConfig
from cellsegmenter.model.rendering import PresentObjects, render
from cellsegmenter.model.spatial_transformer import paste
from cellsegmenter.recognition.network import RecognitionNetwork, StarMap
from cellsegmenter.recognition.stars import N_RAYS, RAYS, Stars
from cellsegmenter.types import CERTAIN, Boxes, Gaussian, Instances, WindowPosterior
from cellsegmenter.windows import WindowGrid, make_windows

# ---------------------------------------------------------------------------------------------------
# Consensus (Sec. 4, Suppl. S9)
# ---------------------------------------------------------------------------------------------------


def pixel_index(grid: WindowGrid, index: np.ndarray) -> np.ndarray:
    """The flat pixel that each place of the windows at `index` (B,) shows, (B, size, size); -1 in the padding."""
    height, width = grid.image_shape
    corners = grid.origin[index]
    along = np.arange(grid.window_size)
    row = (corners[:, 0, None] + along)[:, :, None]
    column = (corners[:, 1, None] + along)[:, None, :]
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    return np.where(inside, row * width + column, -1)


def edges_by_double_loop(instances: Instances, cutoff_distance: float, min_edge: float) -> dict:
    """{(p, p'): e_{p,p'}} with p < p', flat pixels: how often together, of the visits that see both."""
    dense = instances.membership.toarray() / CERTAIN
    width = instances.image_shape[1]
    edges = {}
    low, high = instances.window_origin, instances.window_origin + instances.window_size
    foreground = np.flatnonzero(dense.sum(1))
    for p in foreground:
        for q in foreground[foreground > p]:
            weight = sum(dense[p, k] * dense[q, k] for k in range(dense.shape[1]))
            both = [divmod(p, width), divmod(q, width)]
            seen = np.sum([np.all((low <= place) & (place < high), axis=1) for place in both], axis=0) == 2
            weight /= max(seen.sum() * instances.n_samples, 1)
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


def confidence_by_visits(instances: Instances, labels: np.ndarray) -> np.ndarray:
    """Per object: IoU of each visit's best instance with what the visit sees of it, weighted by its size."""
    dense = instances.membership.toarray() / CERTAIN
    confidence = []
    for number in range(1, labels.max() + 1):
        agreed = weight = 0.0
        for window, (top, left) in enumerate(instances.window_origin):
            mask = np.zeros(labels.shape, bool)
            inside = np.s_[
                max(top, 0) : top + instances.window_size, max(left, 0) : left + instances.window_size
            ]
            mask[inside] = labels[inside] == number
            for sample in range(instances.n_samples):
                drawn = dense[:, (instances.window == window) & (instances.sample == sample)].T
                overlap = [instance[mask.ravel()].sum() for instance in drawn]
                union = [mask.sum() + instance.sum() - o for instance, o in zip(drawn, overlap, strict=True)]
                iou = [o / u for o, u in zip(overlap, union, strict=True)]
                agreed += mask.sum() * max(iou, default=0.0)
                weight += mask.sum()
        confidence.append(agreed / weight)
    return np.array(confidence)


def nmi_by_window(instances: Instances, windows: np.ndarray, labels: np.ndarray) -> float:
    """Σ n 2 I / Σ n (H + H) over the samples of some windows, from dense argmax label images."""
    height, width = instances.image_shape
    dense = instances.membership.toarray().reshape(height, width, -1).astype(int)
    shared = total = 0.0
    for window in windows:
        (top, left), size = instances.window_origin[window], instances.window_size
        inside = slice(max(top, 0), top + size), slice(max(left, 0), left + size)
        for sample in range(instances.n_samples):
            here = (instances.window == window) & (instances.sample == sample)
            objects = dense[inside][:, :, here]
            probability = np.concatenate([CERTAIN - objects.sum(-1, keepdims=True), objects], axis=-1)
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


def draw_parts(labels: np.ndarray, *, window_size: int, stride: int, n_samples: int = 1) -> Instances:
    """A posterior in which every visit draws all that it sees of each object of a label image, and nothing else."""
    grid = make_windows(labels.shape, window_size, stride)
    rows, columns, about = [], [], []
    for window, index in enumerate(pixel_index(grid, np.arange(len(grid)))):
        pixels = index[index >= 0]
        for number in np.unique(labels.ravel()[pixels]):
            for sample in range(n_samples if number else 0):
                rows.append(pixels[labels.ravel()[pixels] == number])
                columns.append(np.full(len(rows[-1]), len(about)))
                about.append((window, sample, number - 1))
    values = [np.ones(len(row)) for row in rows]
    discs = np.zeros((labels.max(), 3))
    rng = np.random.default_rng(0)
    return _as_instances(grid, labels.shape, discs, n_samples, rows, columns, values, about, rng)


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
    membership = sparse.csc_array((np.rint(CERTAIN * joined[0]).astype(np.uint8), where), shape=shape)
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


# ---------------------------------------------------------------------------------------------------
# Model (Secs. 2 and 2.1, Suppl. S1, S2, S5)
# ---------------------------------------------------------------------------------------------------


def tiny_config(**changes) -> ModelConfig:
    """A model that runs in milliseconds: windows of 32 px, an object grid of 4 × 4."""
    sizes = {
        "window_size": 32,
        "object_size": (8.0, 20.0),
        "initial_side": 12.0,
        "expected_objects": 3.0,
        "unet_channels": 4,
        "fine_level": 1,
        "raster": 8,
        "object_channels": 4,
        "background_channels": 4,
        "latent_dim": 3,
        "background_latent_dim": 2,
    }
    return ModelConfig(**(sizes | changes))


def random_boxes(
    shape: tuple[int, ...], canvas: int, seed: int = 0, sides: tuple[float, float] = (2.0, 20.0)
) -> Boxes:
    """Boxes with centres on a square canvas; they may reach over its edge."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator)

    return Boxes(uniform(0, canvas), uniform(0, canvas), uniform(*sides), uniform(*sides))


def overlap_of_two(a: tuple[float, ...], b: tuple[float, ...], *, over: str) -> float:
    """Intersection over "minimum" or over "union" of two boxes (x, y, width, height)."""
    common = 1.0
    for axis in (0, 1):
        low = max(a[axis] - a[axis + 2] / 2, b[axis] - b[axis + 2] / 2)
        high = min(a[axis] + a[axis + 2] / 2, b[axis] + b[axis + 2] / 2)
        common *= max(0.0, high - low)
    areas = a[2] * a[3], b[2] * b[3]
    return common / (min(areas) if over == "minimum" else sum(areas) - common)


def greedy_suppression(score: np.ndarray, overlap: np.ndarray, threshold: float) -> list[int]:
    """The boxes that pass, best first: each is taken unless one taken before overlaps it too much (S5)."""
    kept: list[int] = []
    for i in sorted(range(len(score)), key=lambda i: (-score[i], i)):
        if all(overlap[i, j] <= threshold for j in kept):
            kept.append(i)
    return kept


def mean_in_box(field: np.ndarray, box: tuple[float, ...]) -> float:
    """Mean of the pixels between a box's rounded edges, the box cut at the canvas."""
    x, y, width, height = box
    total, n = 0.0, 0
    for row in range(field.shape[0]):
        for column in range(field.shape[1]):
            below = round(y - height / 2) <= row < round(y + height / 2)
            if below and round(x - width / 2) <= column < round(x + width / 2):
                total, n = total + field[row, column], n + 1
    return total / n


def crop_by_grid_sample(feature_map: Tensor, boxes: Boxes, raster: int) -> Tensor:
    """The paper's STN: (B, K, C, R, R) of (B, C, H, W), one box after the other."""
    height, width = feature_map.shape[-2:]
    fraction = (torch.arange(raster) + 0.5) / raster - 0.5
    crops = []
    for b, k in np.ndindex(*boxes.x.shape):
        x = boxes.x[b, k] + fraction * boxes.width[b, k]
        y = boxes.y[b, k] + fraction * boxes.height[b, k]
        rows, columns = torch.meshgrid(2 * y / height - 1, 2 * x / width - 1, indexing="ij")
        where = torch.stack([columns, rows], -1)[None]
        crops.append(grid_sample(feature_map[b : b + 1], where, align_corners=False)[0])
    return torch.stack(crops).unflatten(0, boxes.x.shape)


def paste_by_grid_sample(values: Tensor, boxes: Boxes, canvas: tuple[int, int]) -> Tensor:
    """The inverse STN: (B, K, C, H, W) of (B, K, C, R, R), one box after the other."""
    pasted = []
    for b, k in np.ndindex(*boxes.x.shape):
        x = 2 * (torch.arange(canvas[1]) + 0.5 - boxes.x[b, k]) / boxes.width[b, k]
        y = 2 * (torch.arange(canvas[0]) + 0.5 - boxes.y[b, k]) / boxes.height[b, k]
        rows, columns = torch.meshgrid(y, x, indexing="ij")
        inside = (rows.abs() <= 1) & (columns.abs() <= 1)
        where = torch.stack([columns, rows], -1)[None]
        pasted.append(grid_sample(values[b, k][None], where, align_corners=False)[0] * inside)
    return torch.stack(pasted).unflatten(0, boxes.x.shape)


def mixing_by_loop(mixing_weight: np.ndarray, presence: np.ndarray) -> np.ndarray:
    """Eq. 6 pixel by pixel for one window: (K, H, W) of (K, H, W) and (K,)."""
    mixing_prob = np.zeros_like(mixing_weight)
    n_slots, height, width = mixing_weight.shape
    for row in range(height):
        for column in range(width):
            total = sum(presence[k] * mixing_weight[k, row, column] for k in range(n_slots))
            for k in range(n_slots):
                mixing_prob[k, row, column] = presence[k] * mixing_weight[k, row, column] / max(1, total)
    return mixing_prob


def dpp_kernel(grid_shape: tuple[int, int], rho: float, length: float) -> np.ndarray:
    """S of Eq. 3 on a grid, double precision."""
    points = [(row, column) for row in range(grid_shape[0]) for column in range(grid_shape[1])]
    square = np.array([[(a - c) ** 2 + (b - d) ** 2 for c, d in points] for a, b in points])
    return rho * np.exp(-square / (2 * length**2))


def dpp_probability(kernel: np.ndarray, subset: Sequence[int]) -> float:
    """P(ω) = det S_ω / det(S + I) (Suppl. S1)."""
    selected = np.linalg.det(kernel[np.ix_(subset, subset)]) if len(subset) else 1.0
    return float(selected / np.linalg.det(kernel + np.eye(len(kernel))))


# ---------------------------------------------------------------------------------------------------
# Objective (Secs. 2.1 and 3)
# ---------------------------------------------------------------------------------------------------


def simulate_posterior(
    n_windows: int = 2, n_slots: int = 3, n_channels: int = 2, canvas: int = 12, seed: int = 0
) -> WindowPosterior:
    """A posterior of overlapping objects in double precision; every window has an absent slot.

    Boxes are as large as the rasters and lie on whole pixels, so that drawing an object copies its raster:
    sums over rasters and sums over pixels are then the same numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    raster, slots = 6, (n_windows, n_slots)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator).double()

    def gaussian(*shape: int) -> Gaussian:
        return Gaussian(torch.randn(shape, generator=generator).double(), uniform(*shape) + 0.1)

    def corner() -> Tensor:
        return torch.randint(-1, canvas - raster + 2, slots, generator=generator)

    side = torch.full(slots, float(raster)).double()
    presence = torch.ones(slots).double()
    presence[torch.arange(n_windows), torch.arange(n_windows) % n_slots] = 0
    return WindowPosterior(
        presence=presence,
        presence_prob=uniform(*slots),
        grid_index=torch.arange(n_slots).expand(slots),
        boxes=Boxes(corner() + side / 2, corner() + side / 2, side, side),
        z_where=gaussian(*slots, 4),
        z_what=gaussian(*slots, 5),
        z_background=gaussian(n_windows, 3),
        mixing_weight=uniform(*slots, raster, raster),
        appearance=uniform(*slots, n_channels, raster, raster),
        background=uniform(n_windows, n_channels, canvas, canvas),
    )


def reconstruction_by_loop(image: Tensor, posterior: WindowPosterior, noise_scale: float) -> np.ndarray:
    """L_rec of each window (B,), pixel by pixel and mask by mask, from the mixing probabilities."""
    drawn = render(posterior)
    losses = []
    for b in range(len(image)):
        total = 0.0
        _, height, width = image[b].shape
        for row, column in np.ndindex(height, width):
            x = image[b, :, row, column]
            background_prob = 1.0
            for k in range(drawn.mixing_prob.shape[1]):
                prob = float(drawn.mixing_prob[b, k, row, column])
                total += prob * float(((x - drawn.appearance[b, k, :, row, column]) ** 2).sum())
                background_prob -= prob
            total += background_prob * float(((x - drawn.background[b, :, row, column]) ** 2).sum())
        losses.append(total / (2 * noise_scale**2 * height * width))
    return np.array(losses)


def gains_by_removal(image: Tensor, posterior: WindowPosterior, noise_scale: float) -> np.ndarray:
    """L_rec without each object minus L_rec with it, the others as they are, (B, K), each recomputed."""
    gains = np.zeros(posterior.presence.shape)
    for k in range(gains.shape[1]):
        losses = []
        for c in (0.0, 1.0):
            presence = posterior.presence.clone()
            presence[:, k] = c
            losses.append(reconstruction_by_loop(image, posterior._replace(presence=presence), noise_scale))
        gains[:, k] = losses[0] - losses[1]
    return gains


def overlap_by_pairs(posterior: WindowPosterior) -> float:
    """Mean over pixels and windows of the products of two mixing weights, pair by pair (S6)."""
    weight = render(posterior).mixing_weight * posterior.presence[..., None, None]
    n_slots = weight.shape[1]
    pairs = [weight[:, k] * weight[:, j] for k in range(n_slots) for j in range(k + 1, n_slots)]
    return float(sum(pairs).mean())


def weighted_error_by_cells(image: Tensor, posterior: WindowPosterior) -> Tensor:
    """Σ_k c_k Σ_r t_r(p) w_r |x(p) - y_r|² (B, H, W): each cell r of a raster drawn by itself, t its bilinear share."""
    total = torch.zeros_like(image[:, 0])
    for b, k in np.ndindex(*posterior.presence.shape):
        weight, appearance = posterior.mixing_weight[b, k], posterior.appearance[b, k]
        box = Boxes(*(side[b : b + 1, k : k + 1] for side in posterior.boxes))
        for i, j in np.ndindex(*weight.shape):
            cell = torch.zeros_like(weight)
            cell[i, j] = posterior.presence[b, k] * weight[i, j]
            drawn = paste(cell.view(1, 1, 1, *cell.shape), box, image.shape[-2:])[0, 0, 0]
            total[b] += drawn * (image[b] - appearance[:, i, j, None, None]).square().sum(0)
    return total


def duplicate_scene() -> tuple[WindowPosterior, Tensor]:
    """A bright square; an object that draws it, a copy of that object (off), and one in the dark."""
    image = torch.zeros(1, 1, 32, 32)
    image[..., 8:16, 8:16] = 1
    centre, side = torch.tensor([[12.0, 12.0, 28.0]]), torch.full((1, 3), 8.0)
    nothing = Gaussian(torch.zeros(1, 3, 4), torch.ones(1, 3, 4))
    posterior = WindowPosterior(
        presence=torch.tensor([[1.0, 0.0, 1.0]]),
        presence_prob=torch.full((1, 3), 0.5),
        grid_index=torch.tensor([[5, 6, 15]]),
        boxes=Boxes(centre, centre, side, side),
        z_where=nothing,
        z_what=nothing,
        z_background=Gaussian(torch.zeros(1, 2), torch.ones(1, 2)),
        mixing_weight=torch.ones(1, 3, 8, 8),
        appearance=torch.ones(1, 3, 1, 8, 8),
        background=torch.zeros(1, 1, 32, 32),
    )
    return posterior, image


# ---------------------------------------------------------------------------------------------------
# What varies slowly, and where objects end
# ---------------------------------------------------------------------------------------------------


def haze_by_pixels(image: np.ndarray, background: np.ndarray, block: int) -> np.ndarray:
    """(C, H, W): tenth percentiles of blocks above the background, a number for each channel."""

    def level(pixels: np.ndarray, channel: int) -> float:
        return max(np.percentile(pixels, 10) - background[channel], 0)

    return block_map_by_pixels(image, level, block)


def block_map_by_pixels(
    image: np.ndarray, level: Callable[[np.ndarray, int], float], block: int
) -> np.ndarray:
    """(C, H, W): `level(pixels, channel)` of blocks, each with the weight of a tent around its centre."""
    sides = image.shape[-2:]
    counts = [max(1, round(side / block)) for side in sides]
    edges = [[int(i * side / n) for i in range(n + 1)] for side, n in zip(sides, counts, strict=True)]
    levels = np.zeros((len(image), *counts))
    for c, i, j in np.ndindex(*levels.shape):
        levels[c, i, j] = level(image[c, edges[0][i] : edges[0][i + 1], edges[1][j] : edges[1][j + 1]], c)
    shown = np.zeros(image.shape)
    for c, row, column in np.ndindex(*image.shape):
        total = weights = 0.0
        for i, j in np.ndindex(*counts):
            weight = 1.0
            for pixel, number, n, side in zip((row, column), (i, j), counts, sides, strict=True):
                place = min(max((pixel + 0.5) * n / side - 0.5, 0), n - 1)
                weight *= max(0.0, 1 - abs(place - number))
            total, weights = total + weight * levels[c, i, j], weights + weight
        shown[c, row, column] = total / weights
    return shown


def half_maximum_by_pixels(
    drawn: PresentObjects, window: Tensor, image: Tensor, background: Tensor
) -> list[set[tuple[int, int]]]:
    """For each object, the (row, column) of the pixels in its window that are at least half as bright as it is."""
    n_channels, height, width = image.shape[1:]
    usual = [
        [sorted(plane.ravel().tolist())[(plane.numel() - 1) // 2] for plane in planes]
        for planes in background
    ]
    found = []
    for k, b in enumerate(window.tolist()):
        brightness, prob = {}, {}
        for i, row in enumerate(drawn.row[k].tolist()):
            for j, column in enumerate(drawn.column[k].tolist()):
                if not (0 <= row < height and 0 <= column < width):
                    continue
                around = [
                    (min(max(row + down, 0), height - 1), min(max(column + right, 0), width - 1))
                    for down in (-1, 0, 1)
                    for right in (-1, 0, 1)
                ]
                brightness[row, column] = max(
                    sum(float(image[b, c, r, s]) for r, s in around) / 9 - usual[b][c]
                    for c in range(n_channels)
                )
                prob[row, column] = float(drawn.mixing_prob[k, i, j])
        bright = set(brightness)
        for _ in range(2):
            own = [place for place in bright if prob[place] > 0.5]
            total = sum(prob[place] for place in own)
            level = sum(prob[place] * brightness[place] for place in own) / total
            bright = {place for place in brightness if brightness[place] / level >= 0.5}
        found.append(bright)
    return found


def common_area_by_shifts(fixed: Tensor, moving: Tensor) -> np.ndarray:
    """Pixels in both masks (B, S, S), for each shift of the second by -S … S - 1 rows and columns, (B, 2S, 2S)."""
    size = fixed.shape[-1]
    areas = np.zeros((len(fixed), 2 * size, 2 * size))
    for down in range(-size, size):
        for right in range(-size, size):
            moved = np.zeros(fixed.shape, bool)
            for row, column in np.ndindex(size, size):
                if 0 <= row + down < size and 0 <= column + right < size:
                    moved[:, row + down, column + right] = moving[:, row, column]
            areas[:, down, right] = (fixed.numpy() & moved).sum((1, 2))
    return areas


# ---------------------------------------------------------------------------------------------------
# Recognition and the sleep phase
# ---------------------------------------------------------------------------------------------------


def march(labels: np.ndarray, row: int, column: int, step: float) -> np.ndarray:
    """(32,) px from a pixel's centre along each ray to the first place that is not of its object."""
    lengths = np.zeros(N_RAYS)
    for ray, direction in enumerate(RAYS):
        n_steps, inside = 0, True
        while inside:
            n_steps += 1
            y, x = np.floor(np.array([row, column]) + 0.5 + n_steps * step * direction).astype(int)
            inside = (
                0 <= y < labels.shape[0] and 0 <= x < labels.shape[1] and labels[y, x] == labels[row, column]
            )
        lengths[ray] = (n_steps - 0.5) * step
    return lengths


def dimmed_by_pixels(image: np.ndarray, method: str) -> np.ndarray:
    """(C, H, W): every pixel at 0.6 of its brightness; the logarithm u → log(1 + u / 0.15) / log(1 + 1 / 0.15)."""
    whole = math.log(1 + 1 / 0.15)
    seen = np.zeros(image.shape)
    for place in np.ndindex(image.shape):
        value, sign = abs(float(image[place])), math.copysign(1, image[place])
        if method == "log":
            brightness = 0.6 * 0.15 * (math.exp(value * whole) - 1)
            seen[place] = sign * math.log(1 + brightness / 0.15) / whole
        else:
            seen[place] = sign * 0.6 * value
    return seen


def contrast_by_points(stars: Stars, pixels: np.ndarray, corner: np.ndarray, diameter: float) -> np.ndarray:
    """(n,) four rings of equal area in each star, against the darker quarter of a ring around it."""
    _, height, width = pixels.shape

    def value(place: np.ndarray) -> float:
        row, column = (math.floor(coordinate) for coordinate in place - corner)
        return float(pixels[:, min(max(row, 0), height - 1), min(max(column, 0), width - 1)].max())

    contrast = []
    for centre, radii in zip(stars.centre.astype(float), stars.radii.astype(float), strict=True):
        inside, ring = [], []
        for radius, direction in zip(radii, RAYS, strict=True):
            inside += [
                value(centre + radius * math.sqrt(area) * direction) for area in (1 / 8, 3 / 8, 5 / 8, 7 / 8)
            ]
            ring += [value(centre + (radius + step * diameter / 16) * direction) for step in (2, 3.5)]
        level = np.percentile(ring, 25)
        contrast.append((np.mean(inside) - level) / (np.std(inside) + 0.03))
    return np.array(contrast)


def witness_by_pairs(own: Boxes, believed: Boxes, prob: Tensor) -> np.ndarray:
    """(n,) the highest probability of the boxes (m,) that cover more than half of each box (n,); 0 if none does."""
    witness = np.zeros(len(own.x))
    for i, (x, y, width, height) in enumerate(zip(*(side.tolist() for side in own), strict=True)):
        for p, a, b, w, h in zip(prob.tolist(), *(side.tolist() for side in believed), strict=True):
            along_x = min(x + width / 2, a + w / 2) - max(x - width / 2, a - w / 2)
            along_y = min(y + height / 2, b + h / 2) - max(y - height / 2, b - h / 2)
            if max(along_x, 0) * max(along_y, 0) > 0.5 * width * height:
                witness[i] = max(witness[i], p)
    return witness


class DiscFinder(RecognitionNetwork):
    """A recognition network that was not trained: it sees discs of its diameter, brighter than their surroundings."""

    def forward(self, image: Tensor) -> StarMap:
        diameter, pitch = self.config.diameter, self.config.pitch
        reach = int(diameter)
        along = torch.arange(-reach, reach + 1, dtype=torch.float32)
        bell = torch.exp(-(along**2) / (2 * (diameter / 5) ** 2))
        kernel = (bell[:, None] * bell)[None, None] / bell.sum() ** 2
        smooth = torch.nn.functional.conv2d(image.mean(1, keepdim=True), kernel, padding=reach)
        level = smooth[:, 0, ::pitch, ::pitch]
        return StarMap(
            12 * (level - 0.3), (diameter / 2 * (0.8 + 0.2 * level))[:, None].repeat(1, N_RAYS, 1, 1)
        )


def randomise(network: torch.nn.Module, seed: int = 0) -> None:
    """Other weights and batch statistics, so that no layer is the identity; then evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            n = module.num_features
            module.running_mean.copy_(0.3 * torch.randn(n, generator=generator))
            module.running_var.copy_(0.5 + torch.rand(n, generator=generator))
            with torch.no_grad():
                module.bias.copy_(0.3 * torch.randn(n, generator=generator))
        elif isinstance(module, torch.nn.Conv2d):
            with torch.no_grad():
                fan = module.weight[0].numel()
                module.weight.copy_(torch.randn(module.weight.shape, generator=generator) * (2 / fan) ** 0.5)
    network.eval()


# ---------------------------------------------------------------------------------------------------
# What an image goes through before a model sees it
# ---------------------------------------------------------------------------------------------------


def discs_on_grey(
    shape: tuple[int, int] = (256, 256),
    *,
    n_discs: int = 60,
    radius: float = 8.0,
    blur: float = 1.0,
    noise: float = 8.0,
    seed: int = 0,
) -> np.ndarray:
    """Blurred discs of 300 to 600 counts that may overlap, on a flat background of 200 counts; float32."""
    rng = np.random.default_rng(seed)
    row, column = np.indices(shape) + 0.5
    light = np.zeros(shape)
    for _ in range(n_discs):
        y, x = rng.uniform(0, shape)
        inside = np.hypot(row - y, column - x) < radius * rng.uniform(0.8, 1.2)
        light = np.maximum(light, inside * rng.uniform(300, 600))
    counts = 200 + gaussian_filter(light, blur) + noise * rng.standard_normal(shape)
    return np.rint(counts).astype(np.float32)


def object_signal_by_cells(planes: Sequence[np.ndarray], background: float, noise: float) -> float:
    """What an object adds: a quartile of cells of 8 × 8 px, each as bright as its brightest square of 2 × 2 px."""
    signals = []
    for plane in planes:
        for top in range(0, plane.shape[0] - 7, 8):
            for left in range(0, plane.shape[1] - 7, 8):
                squares = [
                    [
                        background if np.isnan(plane[i, j]) else plane[i, j]
                        for i in (max(row - 1, 0), row)
                        for j in (max(column - 1, 0), column)
                    ]
                    for row in range(top, top + 8)
                    for column in range(left, left + 8)
                ]
                signals.append(max(map(min, squares)) - background)
    signals = sorted(value for value in signals if value > 5 * noise)
    if len(signals) < 8:
        return math.inf
    log = np.log(np.minimum(signals, np.percentile(signals, 94)))
    bright = [
        s
        for s, of_it in zip(signals, log, strict=True)
        if log.min() == log.max() or of_it > threshold_otsu(log)
    ]
    return float(np.percentile(bright, 75)) if len(bright) >= 8 else math.inf


def rescaled_by_weights(
    plane: np.ndarray, rows: np.ndarray, columns: np.ndarray, least_known: float
) -> np.ndarray:
    """Each new pixel is the weighted mean of the old ones with data; NaN where these have too little of the weight."""
    new = np.full((len(rows), len(columns)), np.nan)
    known = ~np.isnan(plane)
    for i, of_rows in enumerate(rows):
        for j, of_columns in enumerate(columns):
            weight = np.outer(of_rows, of_columns)
            if weight[known].sum() > least_known:
                new[i, j] = (weight[known] * plane[known]).sum() / weight[known].sum()
    return new


def best_of_views_by_loop(
    view: np.ndarray, score: np.ndarray, overlap: np.ndarray, threshold: float
) -> list[int]:
    """Candidates from the best to the worst; one falls if it overlaps one that was kept and is of another view."""
    kept: list[int] = []
    for k in np.argsort(-score, kind="stable"):
        if not any(view[j] != view[k] and overlap[j, k] > threshold for j in kept):
            kept.append(int(k))
    return sorted(kept)
