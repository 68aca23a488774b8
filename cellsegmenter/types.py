"""What travels between the stages: every state has a type, named fields and shapes.

Letters used in the shapes
--------------------------
B windows in a batch, C image channels, H × W pixels of a window, G = H̃·W̃ points of the object grid,
K slots for objects, R × R pixels of an object's own raster, D latent dimensions.  Pixel coordinates are
continuous with the *centre* of pixel (row i, column j) at (y = i + 0.5, x = j + 0.5), so a window spans
[0, W] × [0, H].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import sparse
from torch import Tensor

__all__ = [
    "CERTAIN",
    "Boxes",
    "Gaussian",
    "Instances",
    "PosteriorSamples",
    "Proposals",
    "Selection",
    "WindowPosterior",
]

CERTAIN = 255  # what a probability of one is in `Instances.membership`


class Boxes(NamedTuple):
    """Axis-aligned boxes; every field has the same shape, in pixels of the window."""

    x: Tensor  # centre, along columns
    y: Tensor  # centre, along rows
    width: Tensor
    height: Tensor

    def take(self, index: Tensor) -> Boxes:
        """The boxes at `index` (B, K) along the last dimension of fields shaped (B, G)."""
        return Boxes(*(side.gather(-1, index) for side in self))

    def detach(self) -> Boxes:
        return Boxes(*(side.detach() for side in self))


class Gaussian(NamedTuple):
    """A diagonal normal distribution."""

    mean: Tensor
    std: Tensor

    def rsample(self, noise: Tensor) -> Tensor:
        """The reparameterised sample that belongs to this standard-normal `noise`."""
        return self.mean + self.std * noise

    def take(self, index: Tensor) -> Gaussian:
        """The rows at `index` (B, K) of fields shaped (B, G, D)."""
        wide = index.unsqueeze(-1).expand(*index.shape, self.mean.shape[-1])
        return Gaussian(self.mean.gather(1, wide), self.std.gather(1, wide))


class Proposals(NamedTuple):
    """What the U-Net proposes at every point of the object grid (Sec. 2.1)."""

    presence_logit: Tensor  # (B, G)
    z_where: Gaussian  # (B, G, 4)


class Selection(NamedTuple):
    """The proposals that non-maximum suppression keeps, best first, at most K of them (Eq. 10)."""

    grid_index: Tensor  # (B, K) flat point of the object grid
    valid: Tensor  # (B, K) bool; False where fewer than K proposals passed
    suppressed: Tensor  # (B, G) bool; True where a better, overlapping box was kept


class WindowPosterior(NamedTuple):
    """One posterior sample for a batch of windows (Eqs. 9-11, then 4).

    Objects stay in their own rasters; `cellsegmenter.model.rendering` draws them on the canvas (Eqs. 5-6).
    """

    presence: Tensor  # (B, K) in {0, 1}: the sampled c of the selected slots
    presence_prob: Tensor  # (B, K)
    grid_index: Tensor  # (B, K) flat point of the object grid
    boxes: Boxes  # (B, K) px
    z_where: Gaussian  # (B, K, 4)
    z_what: Gaussian  # (B, K, D)
    z_background: Gaussian  # (B, D)
    mixing_weight: Tensor  # (B, K, R, R) w_k in the raster of its own box, before c is applied
    appearance: Tensor  # (B, K, C, R, R) y_k in the raster of its own box
    background: Tensor  # (B, C, H, W) y_0


class PosteriorSamples(NamedTuple):
    """Posterior samples of N images that fit into a window, S of each; K slots, unused ones absent."""

    presence: np.ndarray  # (N, S, K) bool
    presence_prob: np.ndarray  # (N, S, K) float32
    boxes: np.ndarray  # (N, S, K, 4) float32: x centre, y centre, width, height, px
    z_what: np.ndarray  # (N, S, K, D) float32: posterior means
    z_background: np.ndarray  # (N, S, D_bg) float32: posterior means
    mixing_prob: np.ndarray  # (N, S, K, H, W) float32; blobs end at half their height, as in prediction
    background: np.ndarray  # (N, S, C, H, W) float32, normalised intensity
    reconstruction: np.ndarray  # (N, S, C, H, W) float32: the model's expected image, with the halos of blobs

    @property
    def n_objects(self) -> np.ndarray:
        """Objects in each sample, (N, S)."""
        return self.presence.sum(-1)

    @property
    def labels(self) -> np.ndarray:
        """Point estimates m* = argmax_k pi_k of each sample, (N, S, H, W) int32; 0 is background (Sec. 4)."""
        background = 1 - self.mixing_prob.sum(2, keepdims=True)
        return np.concatenate([background, self.mixing_prob], 2).argmax(2).astype(np.int32)


@dataclass(frozen=True)
class Instances:
    """All that inference says about one image: one row for each (window, posterior sample, object).

    The consensus stage reads only this.  `membership` is the sparse matrix Π of mixing probabilities
    from which the co-membership graph follows as a Gram matrix.

    Probabilities are whole numbers of 255ths (`CERTAIN`), which resolves what bfloat16 networks do.  Sums of
    whole numbers do not depend on their order: no edge, and so no label, can depend on how an image was tiled.
    """

    membership: sparse.csc_array  # (height * width, n) uint8, Π in 255ths; pixels flat in row-major order
    image_shape: tuple[int, int]  # height, width in px
    n_visits: int  # windows that see a pixel × posterior samples: normalises the edges
    window: np.ndarray  # (n,) int32: index into window_origin
    sample: np.ndarray  # (n,) int32: posterior sample, 0 .. n_samples - 1
    presence_prob: np.ndarray  # (n,) float32
    boxes: np.ndarray  # (n, 4) float32: x centre, y centre, width, height in image px
    z_what: np.ndarray  # (n, D) float32 posterior means
    window_origin: np.ndarray  # (n_windows, 2) int64: row, column of the corner; negative in the padding
    window_size: int  # px
    n_samples: int = 1

    def __len__(self) -> int:
        return self.membership.shape[1]
