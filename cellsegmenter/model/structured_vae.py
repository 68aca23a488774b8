"""The model's two directions: `infer` reads like the paper's Fig. 2, `generate` like its Fig. 1."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from cellsegmenter.model.boxes import BoxCode, intersection_over_minimum
from cellsegmenter.model.coders import BackgroundDecoder, BackgroundEncoder, ObjectDecoder, ObjectEncoder
from cellsegmenter.model.config import ModelConfig
from cellsegmenter.model.device import autocast_for
from cellsegmenter.model.dpp import DeterminantalPointProcess
from cellsegmenter.model.nms import select_best
from cellsegmenter.model.proposals import ProposalHead, shared_coins
from cellsegmenter.model.residual import residual_rank
from cellsegmenter.model.spatial_transformer import crop, crop_few
from cellsegmenter.model.unet import UNet, UNetFeatures
from cellsegmenter.types import Boxes, Gaussian, Proposals, Selection, WindowPosterior

__all__ = ["Exploration", "Inference", "Noise", "StructuredVAE"]


class Noise(NamedTuple):
    """The random numbers of one posterior sample: `infer` is a function of windows and noise alone."""

    presence: Tensor  # (B, G) uniform in [0, 1)
    z_where: Tensor  # (B, G, 4) standard normal
    z_what: Tensor  # (B, K, D) standard normal
    z_background: Tensor  # (B, D_bg) standard normal


class Exploration(NamedTuple):
    """How a training step looks beyond what the network already believes."""

    warmup: float  # f(t): weight of the residual's rank in the presence probability (Sec. 3)
    rank_score: float  # weight of the residual's rank in the score of suppression
    mask_hold: float = 0.0  # weight of a soft disc in every mask
    straight_through: bool = False  # whether the gradient of c reaches p (Suppl. S5)

    def hint(self, prob: Tensor, rank: Tensor) -> tuple[Tensor, Tensor]:
        """Presence probabilities and scores (B, G), moved towards the boxes over what is not explained yet.

        The paper adds the rank itself, which is above 1/2 for half of all boxes; its tenth power hints at the best
        few.
        """
        score = (1 - self.rank_score) * prob.detach() + self.rank_score * rank
        return (1 - self.warmup) * prob + self.warmup * rank**10, score


class Inference(NamedTuple):
    """A posterior sample and the intermediate states that training looks at."""

    posterior: WindowPosterior
    proposals: Proposals
    grid_boxes: Boxes  # (B, G) px
    selection: Selection
    grid_presence: Tensor  # (B, G) in {0, 1}: the provisional c before suppression


class StructuredVAE(nn.Module):
    """The structured deep generative model and its amortised posterior."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        c = config
        self.unet = UNet(c.n_channels, c.unet_channels, c.unet_depth, c.grid_level, c.fine_level)
        widths = self.unet.out_channels
        self.proposal_head = ProposalHead(widths[c.grid_level], c.expected_objects / np.prod(c.grid_shape))
        self.box_code = BoxCode(c.object_size, 2**c.grid_level, c.box_reach, c.initial_side)
        self.presence_prior = DeterminantalPointProcess(
            c.expected_objects, c.grid_shape, length=c.object_size[0] / 2**c.grid_level
        )
        self.object_encoder = ObjectEncoder(
            c.unet_channels + c.n_channels, c.raster, c.object_channels, c.latent_dim
        )
        self.object_decoder = ObjectDecoder(
            c.n_channels, c.raster, c.object_channels, c.latent_dim, shape=c.shape, appearance=c.appearance
        )
        self.background_encoder = BackgroundEncoder(
            widths[c.unet_depth], c.background_channels, c.background_latent_dim
        )
        self.background_decoder = BackgroundDecoder(
            c.n_channels, c.window_size, c.background_channels, c.background_latent_dim
        )
        self._initialise()

    def _initialise(self) -> None:
        """Glorot initialisation of every layer (Suppl. S3)."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.proposal_head.initialise()

    def infer(
        self,
        image: Tensor,
        noise: Noise | None = None,
        *,
        max_objects: int,
        overlap_threshold: float,
        exploration: Exploration | None = None,
    ) -> Inference:
        """Sample the posterior of windows, everything in parallel (Sec. 2.1, Fig. 2).

        Parameters
        ----------
        image : Tensor (B, C, H, W)
            Normalised windows, H = W = window_size.
        noise : Noise, optional
            Without it the most probable values are taken: posterior means, and c = [p > 1/2].
        max_objects : int
            K_max.
        overlap_threshold : float
            The largest intersection over minimum of two boxes that are kept (alpha).
        exploration : Exploration, optional
            Only in training.
        """
        return self.sample_posterior(
            image,
            self.features(image),
            noise,
            max_objects=max_objects,
            overlap_threshold=overlap_threshold,
            exploration=exploration,
        )

    def features(self, image: Tensor) -> UNetFeatures:
        """The part of inference that is the same for every posterior sample of these windows."""
        with autocast_for(image.device):
            return self.unet(image)

    def sample_posterior(
        self,
        image: Tensor,
        features: UNetFeatures,
        noise: Noise | None,
        *,
        max_objects: int,
        overlap_threshold: float,
        exploration: Exploration | None = None,
    ) -> Inference:
        """The rest of `infer`: one sample given the features of the windows."""
        with autocast_for(image.device):
            z_background = self.background_encoder(features.bottom)  # Eq. 9
            proposals = self.proposal_head(features.grid)
            background = self.background_decoder(_draw(z_background, noise and noise.z_background))  # Eq. 4

        z_where = _draw(proposals.z_where, noise and noise.z_where)
        grid_boxes = self.box_code(z_where, self.config.grid_shape)  # Suppl. S2
        prob = torch.sigmoid(proposals.presence_logit)  # p_grid
        score = prob.detach()
        if exploration is not None:  # warm-up (Sec. 3)
            prob, score = exploration.hint(prob, residual_rank(image, background, grid_boxes))
        coin = 0.5 if noise is None else shared_coins(noise.presence, prob.detach(), grid_boxes)
        grid_presence = (prob.detach() > coin).float()

        overlap = intersection_over_minimum(grid_boxes, grid_boxes).detach()
        selection = select_best(grid_presence + score, overlap, overlap_threshold, max_objects)  # Eq. 10
        presence = grid_presence.gather(1, selection.grid_index) * selection.valid
        if exploration is None:
            selection, presence = _drop_empty_slots(selection, presence)
        elif exploration.straight_through:
            picked = prob.gather(1, selection.grid_index)
            presence = presence + (picked - picked.detach()) * selection.valid
        boxes = grid_boxes.take(selection.grid_index)

        z_what = self._encode(image, features.fine.float(), boxes)  # Eq. 11
        sample = _draw(z_what, noise and noise.z_what[:, : presence.shape[1]])
        weight, appearance = self.decode(sample)  # Eq. 4, objects
        if exploration is not None:
            weight = torch.lerp(weight, self.object_decoder.disc, exploration.mask_hold)
        else:
            # An object that draws no pixel is none: of a hundred cells that are off with 99.5 %, every second sample
            # has one on (multi-MNIST with grid: one sample's count is right in 83 % of the images instead of 75 %).
            presence = presence * (weight.amax((-1, -2)) > 0.5)

        posterior = WindowPosterior(
            presence=presence,
            presence_prob=prob.gather(1, selection.grid_index),
            grid_index=selection.grid_index,
            boxes=boxes,
            z_where=proposals.z_where.take(selection.grid_index),
            z_what=z_what,
            z_background=z_background,
            mixing_weight=weight,
            appearance=appearance,
            background=background,
        )
        return Inference(posterior, proposals, grid_boxes, selection, grid_presence)

    def _encode(self, image: Tensor, fine: Tensor, boxes: Boxes) -> Gaussian:
        """The codes (B, K, D) of what is in boxes, from features and grey values there."""
        # Boxes learn from where they paste, not from what the encoder would like to see.
        boxes = boxes.detach()
        coarse = Boxes(*(side / 2**self.config.fine_level for side in boxes))
        raster = self.config.raster
        crops = torch.cat([crop(fine, coarse, raster), crop(image, boxes, raster)], 2)
        with autocast_for(image.device):
            z_what = self.object_encoder(crops.flatten(0, 1))
        return Gaussian(*(part.unflatten(0, boxes.x.shape) for part in z_what))

    def propose(self, grid: Tensor) -> Proposals:
        """p_grid and q(v_grid) from features (B, C, H̃, W̃) of any size (Sec. 2.1)."""
        with autocast_for(grid.device):
            return self.proposal_head(grid)

    def encode_few(self, image: Tensor, fine: Tensor, boxes: Boxes) -> Gaussian:
        """The codes (n, D) of what is in boxes (n,) of one image (1, C, H, W) of any size."""
        coarse = Boxes(*(side / 2**self.config.fine_level for side in boxes))
        raster = self.config.raster
        crops = torch.cat([crop_few(fine[0].float(), coarse, raster), crop_few(image[0], boxes, raster)], 1)
        with autocast_for(image.device):
            return self.object_encoder(crops)

    def decode(self, z_what: Tensor) -> tuple[Tensor, Tensor]:
        """Objects in their own rasters from codes (B, K, D): w_k (B, K, R, R) and y_k (B, K, C, R, R)."""
        with autocast_for(z_what.device):
            weight, appearance = self.object_decoder(z_what.flatten(0, 1))
        slots = z_what.shape[:2]
        return weight.squeeze(1).unflatten(0, slots), appearance.unflatten(0, slots)

    @torch.no_grad()
    def generate(self, n_windows: int, random: np.random.Generator) -> WindowPosterior:
        """Draw new windows from the prior (Sec. 2, Fig. 1), with exact samples of the DPP."""
        c = self.config
        device = self.box_code.bias.device

        def normal(*shape: int) -> Tensor:
            return torch.from_numpy(random.standard_normal(shape).astype(np.float32)).to(device)

        sets = [self.presence_prior.sample(c.grid_shape, random) for _ in range(n_windows)]  # Eq. 3
        slots = max(1, max(len(chosen) for chosen in sets))
        index = torch.tensor([[*chosen, *[0] * (slots - len(chosen))] for chosen in sets], device=device)
        presence = torch.tensor([[1.0] * len(s) + [0.0] * (slots - len(s)) for s in sets], device=device)

        v = normal(n_windows, int(np.prod(c.grid_shape)), 4)
        boxes = self.box_code(v, c.grid_shape).take(index)  # Suppl. S2
        z_what = normal(n_windows, slots, c.latent_dim)
        weight, appearance = self.decode(z_what)
        z_background = normal(n_windows, c.background_latent_dim)
        certain_where = Gaussian(v, torch.zeros_like(v)).take(index)
        return WindowPosterior(
            presence=presence,
            presence_prob=presence,
            grid_index=index,
            boxes=boxes,
            z_where=certain_where,
            z_what=Gaussian(z_what, torch.zeros_like(z_what)),
            z_background=Gaussian(z_background, torch.zeros_like(z_background)),
            mixing_weight=weight,
            appearance=appearance,
            background=self.background_decoder(z_background),  # Eq. 4
        )


def _draw(distribution: Gaussian, noise: Tensor | None) -> Tensor:
    return distribution.mean if noise is None else distribution.rsample(noise)


def _drop_empty_slots(selection: Selection, presence: Tensor) -> tuple[Selection, Tensor]:
    """Keep as many slots as the fullest window needs: on proposals come before off ones (Suppl. S5)."""
    slots = max(1, int(presence.sum(1).max()))
    return selection._replace(
        grid_index=selection.grid_index[:, :slots], valid=selection.valid[:, :slots]
    ), presence[:, :slots]
