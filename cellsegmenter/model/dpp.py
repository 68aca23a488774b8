"""The determinantal point process prior of object presence (Sec. 2, Suppl. S1).

P(omega) = det S_omega / det(S + I),   S_lm = rho exp(-|r_l - r_m|^2 / (2 l^2))   (Eq. 3)

with r on the object grid.  One Cholesky factor of S + I serves a whole batch; the selected sets are
padded to K × K with rows of the identity, which leaves their determinant as it is.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["DeterminantalPointProcess"]

# A kernel of neighbouring grid points is numerically singular; a jitter of this fraction of rho keeps
# the factorisation defined in single precision and moves log det S_omega by less than 1e-3.
_JITTER = 1e-4


class DeterminantalPointProcess(nn.Module):
    """A DPP with a learnable RBF kernel on a regular grid.

    Parameters
    ----------
    expected_objects : float
        Mean number of points at the start; sets rho, for the given length.
    grid_shape : (int, int)
        The grid on which `expected_objects` is meant.
    length : float
        Repulsion length, in units of the grid spacing.
    """

    def __init__(self, expected_objects: float, grid_shape: tuple[int, int], length: float) -> None:
        super().__init__()
        self.log_length = nn.Parameter(torch.tensor(math.log(length)))
        self.log_rho = nn.Parameter(torch.tensor(0.0))
        self.log_rho.data.fill_(self._log_rho_for(expected_objects, grid_shape))

    def _log_rho_for(self, expected: float, grid_shape: tuple[int, int]) -> float:
        """The strength for which the mean number of points, sum_i l_i / (1 + l_i), is `expected`."""
        with torch.no_grad():
            eigenvalues = torch.linalg.eigvalsh(self.kernel(self._points(grid_shape)).double()).clamp_min(0)
        low, high = -20.0, 20.0
        for _ in range(60):  # bisection: the mean grows monotonically with rho
            middle = (low + high) / 2
            scaled = eigenvalues * math.exp(middle)
            low, high = (low, middle) if float((scaled / (1 + scaled)).sum()) > expected else (middle, high)
        return (low + high) / 2

    def _points(self, grid_shape: tuple[int, int]) -> Tensor:
        """Grid coordinates (G, 2), rows first, in units of the spacing."""
        rows, columns = (
            torch.arange(n, device=self.log_rho.device, dtype=self.log_rho.dtype) for n in grid_shape
        )
        return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1).flatten(0, 1)

    def kernel(self, points: Tensor) -> Tensor:
        """S (..., N, N) between points (..., N, 2)  (Eq. 3), with the jitter on its diagonal."""
        square = (points.unsqueeze(-2) - points.unsqueeze(-3)).square().sum(-1)
        similarity = torch.exp(-square / (2 * torch.exp(2 * self.log_length)))
        eye = torch.eye(points.shape[-2], device=points.device, dtype=points.dtype)
        return torch.exp(self.log_rho) * (similarity + _JITTER * eye)

    def log_normalizer(self, grid_shape: tuple[int, int]) -> Tensor:
        """log det(S + I), a scalar."""
        kernel = self.kernel(self._points(grid_shape))
        eye = torch.eye(len(kernel), device=kernel.device, dtype=kernel.dtype)
        return 2 * torch.linalg.cholesky(kernel + eye).diagonal().log().sum()

    def _selected_kernel(
        self, index: Tensor, presence: Tensor, grid_shape: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """S between the slots (B, K, K), and the same with the absent slots replaced by identity rows."""
        kernel = self.kernel(self._points(grid_shape)[index])
        both = presence.unsqueeze(-1) * presence.unsqueeze(-2)
        return kernel, kernel * both + torch.diag_embed(1 - presence)

    def log_prob(self, index: Tensor, presence: Tensor, grid_shape: tuple[int, int]) -> Tensor:
        """Log-probability (B,) of the sets {index[b, k] : presence[b, k] = 1}.

        Parameters
        ----------
        index : Tensor (B, K) of distinct flat grid points
        presence : Tensor (B, K) in {0., 1.}
        """
        _, padded = self._selected_kernel(index, presence, grid_shape)
        log_det = 2 * torch.linalg.cholesky(padded).diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return log_det - self.log_normalizer(grid_shape)

    def conditional_log_odds(self, index: Tensor, presence: Tensor, grid_shape: tuple[int, int]) -> Tensor:
        """log P(k on | the other slots) - log P(k off | the other slots), exact, (B, K).

        For a slot that is on this is -log (S_on^-1)_kk; for one that is off it is the log conditional
        variance given the set that is on, log(S_kk - s_k^T S_on^-1 s_k).
        """
        kernel, padded = self._selected_kernel(index, presence, grid_shape)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(padded))
        cross = kernel * presence.unsqueeze(-2)  # s_k restricted to the set that is on
        variance = kernel.diagonal(dim1=-2, dim2=-1) - ((cross @ inverse) * cross).sum(-1)
        floor = _JITTER * torch.exp(self.log_rho)
        off = torch.log(torch.maximum(variance, floor))
        on = -torch.log(inverse.diagonal(dim1=-2, dim2=-1))
        return torch.where(presence > 0.5, on, off)

    @torch.no_grad()
    def sample(self, grid_shape: tuple[int, int], random: np.random.Generator) -> np.ndarray:
        """One exact sample: flat grid points, sorted (Hough et al. 2006; Kulesza & Taskar 2012, alg. 1)."""
        kernel = self.kernel(self._points(grid_shape)).double().cpu().numpy()
        eigenvalues, eigenvectors = np.linalg.eigh(kernel)
        eigenvalues = eigenvalues.clip(0)
        basis = eigenvectors[:, random.random(len(eigenvalues)) < eigenvalues / (1 + eigenvalues)]
        chosen: list[int] = []
        while basis.shape[1] > 0:
            weight = np.square(basis).sum(1)
            point = int(random.choice(len(weight), p=weight / weight.sum()))
            chosen.append(point)
            # Continue in the subspace that vanishes at the chosen point.
            pivot = np.abs(basis[point]).argmax()
            basis = np.delete(
                basis - np.outer(basis[:, pivot], basis[point] / basis[point, pivot]), pivot, axis=1
            )
            basis, _ = np.linalg.qr(basis)
        return np.sort(np.array(chosen, dtype=np.int64))
