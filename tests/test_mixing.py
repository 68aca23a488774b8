"""The four properties of Eq. 6: a simplex at each pixel, nothing outside the boxes, w itself under a single box."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import mixing_by_loop, random_boxes, simulate_posterior
from torch import Tensor

from cellsegmenter.model.mixing import mixing_probabilities
from cellsegmenter.model.rendering import render
from cellsegmenter.model.spatial_transformer import paste
from cellsegmenter.types import Boxes

CANVAS = 20


def scene(seed: int, n_slots: int, all_present: bool = False) -> tuple[Boxes, Tensor, Tensor]:
    """Boxes, the weights (2, K, H, W) pasted into them, and presence (2, K)."""
    generator = torch.Generator().manual_seed(seed)
    boxes = random_boxes((2, n_slots), CANVAS, seed)
    raster = torch.rand(2, n_slots, 1, 6, 6, generator=generator)
    weight = paste(raster, boxes, (CANVAS, CANVAS)).squeeze(2)
    presence = (torch.rand(2, n_slots, generator=generator) < 0.7).float()
    return boxes, weight, torch.ones_like(presence) if all_present else presence


def covered(boxes: Boxes) -> Tensor:
    """(B, K, H, W) bool: which pixel centres lie in each box."""
    pixel = torch.arange(CANVAS) + 0.5
    x = (pixel - boxes.x.unsqueeze(-1)).abs() <= boxes.width.unsqueeze(-1) / 2
    y = (pixel - boxes.y.unsqueeze(-1)).abs() <= boxes.height.unsqueeze(-1) / 2
    return y.unsqueeze(-1) & x.unsqueeze(-2)


scenes = given(seed=st.integers(0, 2**32 - 1), n_slots=st.integers(1, 6))


@settings(deadline=None)
@scenes
def test_mixing_probabilities_are_a_simplex_with_the_background(seed, n_slots):
    _, weight, presence = scene(seed, n_slots)
    foreground = mixing_probabilities(weight, presence)
    background = 1 - foreground.sum(1, keepdim=True)
    everything = torch.cat([background, foreground], 1)
    assert (everything >= -1e-6).all()
    assert (everything <= 1 + 1e-6).all()
    np.testing.assert_allclose(everything.sum(1), 1, atol=1e-6)


@settings(deadline=None)
@scenes
def test_an_object_has_no_part_outside_its_box(seed, n_slots):
    boxes, weight, presence = scene(seed, n_slots)
    assert (mixing_probabilities(weight, presence)[~covered(boxes)] == 0).all()


@settings(deadline=None)
@scenes
def test_under_a_single_box_the_probability_is_the_weight(seed, n_slots):
    boxes, weight, presence = scene(seed, n_slots)
    present = covered(boxes) & (presence > 0)[..., None, None]
    alone = present & (present.sum(1, keepdim=True) == 1)
    assert torch.equal(mixing_probabilities(weight, presence)[alone], weight[alone])


@settings(deadline=None)
@scenes
def test_an_absent_object_leaves_no_trace(seed, n_slots):
    _, weight, presence = scene(seed, n_slots)
    mixing_prob = mixing_probabilities(weight, presence)
    other = torch.where(presence[..., None, None] > 0, weight, 1 - weight)
    assert torch.equal(mixing_probabilities(other, presence), mixing_prob)
    assert (mixing_prob[presence == 0] == 0).all()


def test_many_objects_share_a_pixel_in_proportion_to_their_weights():
    weight = torch.tensor([1.0, 0.5, 0.5]).view(1, 3, 1, 1)
    shared = mixing_probabilities(weight, torch.ones(1, 3)).flatten()
    np.testing.assert_allclose(shared, [0.5, 0.25, 0.25])
    np.testing.assert_allclose(
        mixing_probabilities(weight / 4, torch.ones(1, 3)).flatten(), weight.flatten() / 4
    )


def test_mixing_equals_the_loop_over_pixels():
    _, weight, presence = scene(seed=5, n_slots=5)
    for b in range(2):
        expected = mixing_by_loop(weight[b].numpy(), presence[b].numpy())
        np.testing.assert_allclose(mixing_probabilities(weight, presence)[b], expected, atol=1e-6)
    assert weight.sum(1).max() > 1, "the scene has to test the normalisation too"


def test_the_drawn_image_is_the_mean_over_the_masks():
    """Σ_q π_q y_q, the background as the mask that takes the rest (Eq. 8)."""
    posterior = simulate_posterior()
    drawn = render(posterior)
    for b in range(2):
        mixing_prob = mixing_by_loop(drawn.mixing_weight[b].numpy(), posterior.presence[b].numpy())
        image = np.einsum("khw,kchw->chw", mixing_prob, drawn.appearance[b])
        image += (1 - mixing_prob.sum(0)) * posterior.background[b].numpy()
        np.testing.assert_allclose(drawn.reconstruction[b], image, atol=1e-10)
        assert mixing_prob.max() > 0.5
