"""The Kullback-Leibler terms of the evidence bound (Eq. 12, Suppl. S5)."""

from __future__ import annotations

import torch
from torch import Tensor

from cellsegmenter.types import Gaussian, WindowPosterior

__all__ = ["gaussian_divergence", "grid_divergence", "latent_divergence", "object_divergence"]


def gaussian_divergence(q: Gaussian) -> Tensor:
    """f_N = KL[N(mu, sigma) || N(0, I)] = 1/2 sum_i (sigma_i^2 + mu_i^2 - 1 - log sigma_i^2)."""
    variance = q.std.square()
    return 0.5 * (variance + q.mean.square() - 1 - variance.log()).sum(-1)


def object_divergence(posterior: WindowPosterior) -> Tensor:
    """What the codes of each object add to Eq. 12, per latent dimension: f_N(z_k)/D + f_N(v_k)/4, (B, K)."""
    what, where = posterior.z_what, posterior.z_where
    return gaussian_divergence(what) / what.mean.shape[-1] + gaussian_divergence(where) / where.mean.shape[-1]


def latent_divergence(posterior: WindowPosterior) -> Tensor:
    """The three Gaussian terms of Eq. 12, each per latent dimension, a scalar.

    Objects count only where they are present.  The authors' code averages over all K_max slots, which lets
    the codes of absent objects, that no pixel depends on, outvote those of present ones.
    """
    present = posterior.presence.detach()
    objects = (object_divergence(posterior) * present).sum() / present.sum().clamp_min(1)
    background = gaussian_divergence(posterior.z_background).mean() / posterior.z_background.mean.shape[-1]
    return background + objects


def grid_divergence(log_prior: Tensor, logit: Tensor, grid_presence: Tensor) -> Tensor:
    """f_grid: one-sample estimate of KL[q(c | p) || DPP(S)], for each window (B,)  (Suppl. S5).

    Parameters
    ----------
    log_prior : Tensor (B,)
        log det S_omega - log det(S + I).
    logit, grid_presence : Tensor (B, G)
        Of q(c | p), and the sample omega ~ q.
    """
    log_q = -torch.nn.functional.binary_cross_entropy_with_logits(logit, grid_presence, reduction="none")
    return log_q.sum(1) - log_prior
