"""The objective of one training step, term by term (Secs. 2.1 and 3).

There are two ways to learn presence:

``"mean_field"``
    The presence network moves towards the coordinate-wise optimum of the whole objective (`presence`).
    The DPP enters that optimum by its exact conditional log-odds, so the prior does train the inference
    network, by repulsion between neighbours and by the odds of one more object; its own kernel is fitted by
    maximum likelihood to the sets that inference draws.  A gradient of log det S_omega through c has no
    meaning here: c is a set, and what the network needs is the difference between two sets, which is exact.
``"straight_through"``
    The paper's literal form: dL/dc is passed on to p, and f_grid / N_grid, Q_density and the box part of Q_area
    are part of the loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cellsegmenter.model.boxes import intersection_over_minimum
from cellsegmenter.model.rendering import Composite, composite
from cellsegmenter.model.structured_vae import Inference, StructuredVAE
from cellsegmenter.training.constraints import PosteriorConstraints
from cellsegmenter.training.kl import grid_divergence, latent_divergence, object_divergence
from cellsegmenter.training.presence import box_loss, find_rivals, presence_loss, presence_target
from cellsegmenter.training.reconstruction import background_error, leave_one_out_gains, reconstruction_error
from cellsegmenter.types import WindowPosterior

__all__ = ["Objective", "ObjectiveSettings", "overlap_penalty"]


# Weight of a new batch in the running moments of gains and divergences.
_MOMENT_RATE = 0.05


@dataclass(frozen=True)
class ObjectiveSettings:
    """What the objective needs to know beyond the model; all of it follows from data and the user's bounds."""

    noise_scale: float  # sigma, normalised intensity
    overlap_threshold: float  # alpha in training
    # What a typical object of the data is worth against its absence, nats.  With the charge for its codes and the
    # prior's odds, 5 to 9 nats together, objects of a fifth of the typical gain are at even odds (of a tenth at 80).
    typical_evidence: float = 40.0
    overlap_weight: float = 0.0
    presence_update: str = "mean_field"  # or "straight_through", the paper's


class Terms(NamedTuple):
    """The loss of a step, its terms, and what is watched besides; each a scalar."""

    loss: Tensor
    reconstruction: Tensor  # L_rec
    latent: Tensor  # the Gaussian terms of L_KL
    presence: Tensor  # cross-entropy to the mean-field target, or the paper's terms of p
    boxes: Tensor  # distance of boxes to their objects' masks
    lesson: Tensor  # what the network gets wrong about known pairs, see `cellsegmenter.training.pairs`
    overlap: Tensor  # before its weight (Suppl. S6)
    objects: Tensor  # mean objects per window
    area: Tensor  # mean foreground fraction
    proposed: Tensor  # mean of sum p_grid: the network's own, before suppression and warm-up


def overlap_penalty(objects: Composite) -> Tensor:
    """Mean over pixels of sum_{k<k'} w_k w_k' = ((sum_k w_k)^2 - sum_k w_k^2) / 2  (Suppl. S6), a scalar."""
    return ((objects.weight.square() - objects.squared_weight).clamp_min(0) / 2).mean()


class Objective(nn.Module):
    """L_SAPR of a batch; holds the learned penalties and the moving N_grid.

    Parameters
    ----------
    constraints : PosteriorConstraints
        With the names "reconstruction", "density" and "area".
    settings : ObjectiveSettings

    Notes
    -----
    The model is an argument of the call and no submodule: the objective is what training keeps beside it.
    """

    grid_normalizer: Tensor
    gain_moments: Tensor

    def __init__(self, constraints: PosteriorConstraints, settings: ObjectiveSettings) -> None:
        super().__init__()
        self.constraints = constraints
        self.settings = settings
        self.register_buffer("grid_normalizer", torch.tensor(1.0))
        self.register_buffer("gain_moments", torch.zeros(2))  # running sums of g and g² of present objects

    def forward(
        self, model: StructuredVAE, image: Tensor, inference: Inference, evidence_share: float = 1.0
    ) -> Terms:
        """All terms for windows (B, C, H, W) and a posterior sample of them.

        `evidence_share` tempers what objects may claim to explain; see `cellsegmenter.training.schedule`.
        """
        posterior = inference.posterior
        objects = composite(posterior, image)
        background = background_error(posterior, image)
        reconstruction = reconstruction_error(objects, background, self.settings.noise_scale).mean()
        slots = posterior.presence.shape[1]
        # Q of each constraint (Eq. 13), means over the batch.  The area that is held against the user's
        # foreground fraction is the mask's: a fraction of the image says nothing of boxes.  The count is divided
        # by K_max, as in the authors' code, and not by |G_obj|: with 100 grid points the strongest penalty would
        # be worth a tenth of L_rec for one object, and the bounds would drive nothing.
        values = {
            "reconstruction": reconstruction,
            "density": posterior.presence.sum(1).mean() / slots,
            "area": objects.foreground_prob.mean(),
        }
        overlap = intersection_over_minimum(inference.grid_boxes.detach(), posterior.boxes.detach())

        if self.settings.presence_update == "mean_field":
            gain = leave_one_out_gains(posterior, objects, image, background, self.settings.noise_scale)
            share = gain / self._typical_gain(gain, posterior.presence)
            presence = self._mean_field_presence(model, inference, share, evidence_share, values, overlap)
        else:
            presence = self._straight_through_presence(model, inference, values)
        boxes = box_loss(inference.grid_boxes, posterior, overlap, model.config.object_size)
        latent = latent_divergence(posterior)
        prior = -model.presence_prior.log_prob(
            posterior.grid_index, posterior.presence.detach(), model.config.grid_shape
        ).mean()
        shared_overlap = overlap_penalty(objects)

        # lambda_rec decays to 0.1 while L_rec <= 1; below 1 the divergences would outweigh the image, and small
        # objects are the first to go.  Half of Q_area is the masks'; the boxes' half goes with presence in the paper's
        # form, and is not needed in ours, where boxes follow masks.
        reconstruction_weight = self.constraints.penalty("reconstruction").clamp_min(1)
        loss = (
            reconstruction_weight * reconstruction
            + latent
            + self.constraints.weight("area", values["area"]) * values["area"] / 2
            + presence
            + boxes
            + prior / inference.grid_presence.shape[1]
            + self.settings.overlap_weight * shared_overlap
            + self.constraints.adaptation_loss(values)
        )
        proposed = torch.sigmoid(inference.proposals.presence_logit).sum(1).mean()
        return Terms(
            loss=loss,
            reconstruction=reconstruction,
            latent=latent,
            presence=presence,
            boxes=boxes,
            lesson=loss.new_zeros(()),
            overlap=shared_overlap,
            objects=posterior.presence.sum(1).mean(),
            area=values["area"],
            proposed=proposed,
        )

    def _mean_field_presence(
        self,
        model: StructuredVAE,
        inference: Inference,
        share: Tensor,
        evidence_share: float,
        values: dict[str, Tensor],
        overlap: Tensor,
    ) -> Tensor:
        """Cross-entropy to the coordinate-wise optimum of the objective."""
        posterior, selection, settings = inference.posterior, inference.selection, self.settings
        with torch.no_grad():
            boxes = _box_fractions(posterior, model.config.window_size)
            masks = posterior.mixing_weight.mean((-1, -2)) * boxes
            cost = (
                self.constraints.weight("density", values["density"]) / posterior.presence.shape[1]
                + self.constraints.weight("area", values["area"]) * (masks + boxes) / 2
            )
            prior_logit = model.presence_prior.conditional_log_odds(
                posterior.grid_index, posterior.presence, model.config.grid_shape
            )
            # An object brings its own codes, whose divergence Eq. 12 charges.  Without that charge a box over
            # nothing, whose gain is zero, comes on with the prior's odds, which then learns that from it.
            # The constraints' costs are in the same units: lambda = 10 outweighs any object, lambda = 0.1 hardly one.
            gain_logit = evidence_share * settings.typical_evidence * (share - cost) - object_divergence(
                posterior
            )
            target = presence_target(gain_logit, prior_logit)
            rivals = find_rivals(
                inference.grid_boxes, posterior, selection, overlap, settings.overlap_threshold
            )
        return presence_loss(inference.proposals.presence_logit, selection, rivals, target)

    def _typical_gain(self, gain: Tensor, presence: Tensor) -> Tensor:
        """The unit of evidence: a running mean of the gains of present objects, each weighted by itself, a scalar.

        How much evidence a gain is depends on how many independent residuals a window has, which nobody knows:
        with one to the pixel, everything that draws anything is an object, and as a share of the error that
        remains, what asks for a second box per digit on one background misses small digits on another, whose
        pattern the background never learns.  But objects of one kind are of one order: on both, the
        median false box gains 0.2 to 0.3 of the typical object, and 19 of 20 right ones at least as much.

        Weighted so that small false objects hardly move it: with the plain mean, more of them would make all of
        them cheaper.
        """
        present = gain.clamp_min(0) * presence
        moments = torch.stack([present.sum(), present.square().sum()])
        if self.training:
            self.gain_moments.lerp_(moments, _MOMENT_RATE)
            moments = self.gain_moments
        tiny = torch.finfo(gain.dtype).tiny
        return (moments[1] / moments[0].clamp_min(tiny)).clamp_min(tiny)

    def _straight_through_presence(
        self, model: StructuredVAE, inference: Inference, values: dict[str, Tensor]
    ) -> Tensor:
        """What the paper lets reach p through the sample: f_grid / N_grid (Eq. 12), density, and the area of boxes.

        N_grid is the moving average of f_grid's magnitude; never below 1, where the quotient would explode.
        """
        posterior = inference.posterior
        log_prior = model.presence_prior.log_prob(
            posterior.grid_index, posterior.presence.detach(), model.config.grid_shape
        ).detach()
        divergence = grid_divergence(
            log_prior, inference.proposals.presence_logit, inference.grid_presence
        ).mean()
        if self.training:
            self.grid_normalizer.lerp_(divergence.detach().abs(), _MOMENT_RATE).clamp_(min=1)
        boxes = _box_fractions(posterior, model.config.window_size) * posterior.presence
        return (
            divergence / self.grid_normalizer
            + self.constraints.weight("density", values["density"]) * values["density"]
            + self.constraints.weight("area", values["area"]) * boxes.sum(1).mean() / 2
        )


def _box_fractions(posterior: WindowPosterior, window_size: int) -> Tensor:
    """Area of each box as a fraction of the window, (B, K)."""
    return posterior.boxes.width * posterior.boxes.height / window_size**2
