"""Every term of the loss against its formula: divergences, reconstruction, gains, constraints, boxes."""

import math

import numpy as np
import pytest
import torch
from reference import (
    duplicate_scene,
    gains_by_removal,
    overlap_by_pairs,
    random_boxes,
    reconstruction_by_loop,
    simulate_posterior,
    weighted_error_by_cells,
)
from skimage.filters import threshold_otsu
from torch import Tensor
from torch.distributions import Bernoulli, Normal, kl_divergence

from cellsegmenter.model.boxes import intersection_over_minimum
from cellsegmenter.model.rendering import composite, render
from cellsegmenter.training.constraints import (
    PENALTY_RANGE,
    PosteriorConstraints,
    range_margin,
)
from cellsegmenter.training.kl import gaussian_divergence, grid_divergence, latent_divergence
from cellsegmenter.training.noise_scale import estimate_noise_scale
from cellsegmenter.training.objective import overlap_penalty
from cellsegmenter.training.presence import (
    Rivals,
    box_loss,
    find_rivals,
    mask_boxes,
    presence_loss,
    presence_target,
)
from cellsegmenter.training.reconstruction import background_error, leave_one_out_gains, reconstruction_error
from cellsegmenter.types import Boxes, Gaussian, Selection, WindowPosterior

SIGMA = 0.3
BOUNDS = {"reconstruction": (0.0, 1.0), "density": (0.2, 0.6), "area": (0.05, 0.3)}


def random_image(posterior: WindowPosterior, seed: int = 9) -> Tensor:
    return torch.rand(posterior.background.shape, generator=torch.Generator().manual_seed(seed)).double()


def reconstruction_loss(image: Tensor, posterior: WindowPosterior) -> Tensor:
    return reconstruction_error(composite(posterior, image), background_error(posterior, image), SIGMA)


def gains(image: Tensor, posterior: WindowPosterior) -> Tensor:
    background = background_error(posterior, image)
    return leave_one_out_gains(posterior, composite(posterior, image), image, background, SIGMA)


# Kullback-Leibler terms (Eq. 12)


def test_gaussian_divergence_is_torchs():
    posterior = simulate_posterior()
    for q in (posterior.z_what, posterior.z_where, posterior.z_background):
        expected = kl_divergence(Normal(*q), Normal(0.0, 1.0)).sum(-1)
        np.testing.assert_allclose(gaussian_divergence(q), expected, rtol=1e-10)
    prior = Gaussian(torch.zeros(2, 5), torch.ones(2, 5))
    assert (gaussian_divergence(prior) == 0).all()


def test_latent_divergence_is_a_mean_over_present_objects_and_dimensions():
    posterior = simulate_posterior(n_windows=2, n_slots=4)
    expected = 0.0
    for q in (posterior.z_what, posterior.z_where):
        terms = [
            kl_divergence(Normal(q.mean[b, k], q.std[b, k]), Normal(0.0, 1.0)).mean()
            for b, k in np.ndindex(2, 4)
            if posterior.presence[b, k] == 1
        ]
        expected += float(sum(terms)) / len(terms)
    expected += float(kl_divergence(Normal(*posterior.z_background), Normal(0.0, 1.0)).mean())
    assert latent_divergence(posterior).item() == pytest.approx(expected)


def test_latent_divergence_of_an_empty_batch_is_the_backgrounds():
    posterior = simulate_posterior()
    empty = posterior._replace(presence=torch.zeros_like(posterior.presence))
    background = kl_divergence(Normal(*posterior.z_background), Normal(0.0, 1.0)).mean()
    assert latent_divergence(empty).item() == pytest.approx(background.item())


def test_grid_divergence_is_an_unbiased_estimate():
    """Its mean over all sets ω ~ q is KL[q ‖ P] = Σ q log q/P."""
    generator = torch.Generator().manual_seed(0)
    logit = torch.randn(4, generator=generator).double()
    subsets = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * 4)
    log_q = Bernoulli(logits=logit).log_prob(subsets).sum(1)
    log_prior = torch.log_softmax(torch.randn(16, generator=generator).double(), 0)
    estimates = grid_divergence(log_prior, logit.expand(16, 4), subsets)
    exact = torch.nn.functional.kl_div(log_prior, log_q, log_target=True, reduction="sum")
    assert (log_q.exp() * estimates).sum().item() == pytest.approx(exact.item())
    assert exact > 0.1


# Reconstruction (Sec. 2.1)


def test_reconstruction_is_the_sum_over_pixels_and_masks():
    posterior = simulate_posterior()
    image = random_image(posterior)
    expected = reconstruction_by_loop(image, posterior, SIGMA)
    np.testing.assert_allclose(reconstruction_loss(image, posterior), expected, rtol=1e-9)


def test_composite_sums_what_is_drawn_at_any_place_and_size():
    posterior = simulate_posterior()
    shifted = Boxes(*(side + 0.37 * (i + 1) for i, side in enumerate(posterior.boxes)))
    posterior = posterior._replace(boxes=shifted)
    image = random_image(posterior)
    objects, drawn = composite(posterior, image), render(posterior)
    np.testing.assert_allclose(objects.foreground_prob, drawn.mixing_prob.sum(1), atol=1e-9)
    np.testing.assert_allclose(objects.weighted_error, weighted_error_by_cells(image, posterior), atol=1e-9)


def test_an_image_that_the_model_draws_has_no_error():
    posterior = simulate_posterior()
    level = torch.tensor([0.8, 0.3]).double()  # objects and background alike: every mask explains every pixel
    posterior = posterior._replace(
        appearance=level.view(1, 1, 2, 1, 1).expand_as(posterior.appearance),
        background=level.view(1, 2, 1, 1).expand_as(posterior.background),
    )
    image = posterior.background.clone()
    np.testing.assert_allclose(reconstruction_loss(image, posterior), 0, atol=1e-9)


def test_reconstruction_passes_its_gradient_to_masks_appearance_and_boxes():
    posterior = simulate_posterior(n_windows=1, n_slots=3, n_channels=1, canvas=10)
    image = random_image(posterior)

    def loss(weight: Tensor, appearance: Tensor, *sides: Tensor) -> Tensor:
        drawn = posterior._replace(mixing_weight=weight, appearance=appearance, boxes=Boxes(*sides))
        return reconstruction_loss(image, drawn)

    shifted = [side + 0.37 * (i + 1) for i, side in enumerate(posterior.boxes)]
    inputs = [t.clone().requires_grad_() for t in (posterior.mixing_weight, posterior.appearance, *shifted)]
    assert torch.autograd.gradcheck(loss, inputs)
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(loss(*inputs).sum(), inputs))


def test_leave_one_out_gains_are_those_of_removing_each_object():
    posterior = simulate_posterior(n_slots=4)
    image = random_image(posterior)
    expected = gains_by_removal(image, posterior, SIGMA)
    np.testing.assert_allclose(gains(image, posterior), expected, atol=1e-6)
    assert (np.abs(expected) > 1e-3).all(), "absent objects have a gain too"


@pytest.mark.parametrize("seed", range(5))
def test_leave_one_out_gains_are_exact_for_boxes_of_any_place_and_size(seed):
    posterior = simulate_posterior(n_slots=4, canvas=24, seed=seed)
    boxes = Boxes(*(side.double() for side in random_boxes((2, 4), 24, seed, sides=(3.0, 15.0))))
    posterior = posterior._replace(boxes=boxes)
    image = random_image(posterior)
    for k in range(4):
        losses = []
        for c in (0.0, 1.0):
            presence = posterior.presence.clone()
            presence[:, k] = c
            losses.append(reconstruction_loss(image, posterior._replace(presence=presence)))
        np.testing.assert_allclose(gains(image, posterior)[:, k], losses[0] - losses[1], atol=1e-6)


def test_of_two_equal_objects_neither_is_needed_but_one_of_them_is():
    posterior, image = duplicate_scene()
    one, both = torch.tensor([[1.0, 0, 0]]), torch.tensor([[1.0, 1, 0]])
    with_one = gains(image, posterior._replace(presence=one))[0]
    with_both = gains(image, posterior._replace(presence=both))[0]
    assert with_one[0] > 0.1
    np.testing.assert_allclose(with_one[1], 0, atol=1e-6)
    np.testing.assert_allclose(with_both[:2], 0, atol=1e-6)
    assert with_one[2] < -0.1, "an object where there is nothing costs"


# Overlap penalty (Suppl. S6)


def test_overlap_penalty_is_the_sum_over_pairs():
    posterior = simulate_posterior(n_slots=4)
    penalty = overlap_penalty(composite(posterior, random_image(posterior)))
    assert penalty.item() == pytest.approx(overlap_by_pairs(posterior))
    assert penalty > 0.01


def test_a_single_object_does_not_overlap_itself():
    posterior = simulate_posterior(n_slots=3)
    alone = torch.zeros_like(posterior.presence)
    alone[:, 1] = 1
    shifted = Boxes(*(side + 0.4 for side in posterior.boxes))
    posterior = posterior._replace(presence=alone, boxes=shifted)
    assert overlap_penalty(composite(posterior, random_image(posterior))) == 0


# SAPR (Eqs. 13-15)


@pytest.mark.parametrize(
    ("value", "sign", "margin"),
    [(0.5, -1, -0.5), (1.5, 1, 0.5), (2.0, 1, 1.0), (2.8, 1, 0.2), (4.0, 1, -1.0)],
)
def test_the_cost_of_a_unit_and_the_margin_follow_equation_15(value, sign, margin):
    """u = Q sign(Q - lo) pushes up below the lower bound and down above it, with the strength of the penalty."""
    q = torch.tensor(value)
    constraints = PosteriorConstraints({"area": (1.0, 3.0)})
    assert constraints.weight("area", q) == sign * constraints.penalty("area")
    assert range_margin(q, low=1.0, high=3.0).item() == pytest.approx(margin, abs=1e-6)


def adapted(value: float, steps: int, *, enabled: bool = True) -> list[float]:
    """The penalty after each step of its own descent from 1, Q held at `value`, bounds [1, 2]."""
    constraints = PosteriorConstraints({"area": (1.0, 2.0)}, enabled=enabled)
    with torch.no_grad():
        constraints.log_penalty.zero_()
    optimizer = torch.optim.Adam(constraints.parameters(), lr=0.1)
    penalties = []
    for _ in range(steps):
        optimizer.zero_grad()
        constraints.adaptation_loss({"area": torch.tensor(value)}).backward()
        optimizer.step()
        constraints.clamp_()
        penalties.append(constraints.penalty("area").item())
    return penalties


@pytest.mark.parametrize(
    ("value", "grows"), [(0.5, True), (3.0, True), (1.5, False), (1.01, False), (1.99, False)]
)
def test_the_penalty_grows_outside_of_the_bounds_and_decays_inside(value, grows):
    penalties = adapted(value, steps=40)
    steps = np.diff([1.0, *penalties])
    assert (steps >= 0).all() if grows else (steps <= 0).all()
    low, high = PENALTY_RANGE
    assert penalties[-1] == pytest.approx(high if grows else low, rel=1e-5)
    assert min(penalties) >= low * (1 - 1e-5)
    assert max(penalties) <= high * (1 + 1e-5)


def test_the_penalty_range_is_the_papers():
    assert PENALTY_RANGE == (0.1, 10.0)


def test_bounds_cost_least_until_they_are_violated():
    assert PosteriorConstraints(BOUNDS).penalty("density") == pytest.approx(PENALTY_RANGE[0])


def test_penalties_do_not_train_the_network_and_the_network_not_the_penalties():
    constraints = PosteriorConstraints(BOUNDS)
    values = {name: torch.tensor(0.9, requires_grad=True) for name in BOUNDS}
    constraints.adaptation_loss(values).backward()
    assert all(value.grad is None for value in values.values())
    assert constraints.log_penalty.grad.abs().min() > 0
    assert not constraints.weight("area", values["area"]).requires_grad


def test_a_disabled_constraint_costs_nothing():
    constraints = PosteriorConstraints(BOUNDS, enabled=False)
    assert constraints.penalty("area") == 0
    assert constraints.weight("density", torch.tensor(5.0)) == 0


# Presence: the mean-field update


def test_the_target_is_the_logistic_of_gain_and_prior():
    target = presence_target(torch.tensor([[2.0, -50.0]]), torch.tensor([[-1.0, 3.0]]))
    np.testing.assert_allclose(target, [[1 / (1 + math.exp(-1.0)), 0]], rtol=1e-5, atol=1e-12)


def test_presence_loss_pulls_each_kind_of_cell_its_own_way():
    """Picked on and off, an invalid slot's, idle, covered, suppressed by none that is on, two twins of the picks."""
    logit = torch.zeros(1, 8, requires_grad=True)
    suppressed = torch.tensor([[False, False, True, False, True, True, True, True]])
    selection = Selection(torch.tensor([[0, 1, 2]]), torch.tensor([[True, True, False]]), suppressed)
    rivals = Rivals(
        twin=torch.tensor([[0, 1, 0, 0, 0, 0, 0, 1]]),
        alike=torch.tensor([[False] * 6 + [True] * 2]),
        covered=torch.tensor([[False] * 4 + [True] + [False] * 3]),
    )
    presence_loss(logit, selection, rivals, torch.tensor([[1.0, 0.0, 1.0]])).backward()
    gradient = logit.grad[0]
    np.testing.assert_allclose(gradient[:2], [-0.5, 0.5])
    assert gradient[2] == 0
    assert 0 < gradient[3] < 0.5
    assert 0 < gradient[4] < 0.5
    assert gradient[5] == 0
    assert -0.5 < gradient[6] < 0, "on with its twin"
    assert 0 < gradient[7] < 0.5, "off with its twin"


def test_rivals_are_twins_if_they_draw_the_same_box_and_covered_if_another():
    posterior, _ = duplicate_scene()  # slots 0 and 2 on, 1 an off copy of 0
    slot = [side[0, 0] for side in posterior.boxes]
    boxes = Boxes(*(side.repeat(16)[None].clone() for side in slot))
    boxes.x[0, 1] += 0.6 * slot[2]  # overlaps the object, another box
    boxes.x[0, 2:] += 100
    suppressed = torch.zeros(1, 16).bool()
    suppressed[0, :3] = True
    selection = Selection(posterior.grid_index, torch.tensor([[True, False, True]]), suppressed)
    overlap = intersection_over_minimum(boxes, posterior.boxes)
    rivals = find_rivals(boxes, posterior, selection, overlap, threshold=0.3)
    assert rivals.alike[0, 0]
    assert rivals.twin[0, 0] == 0
    assert rivals.covered[0].tolist() == [False, True] + [False] * 14
    assert rivals.alike[0].sum() == 1


def test_presence_loss_is_least_at_the_target():
    target = torch.tensor([[0.8, 0.3]])
    selection = Selection(torch.tensor([[1, 0]]), torch.ones(1, 2).bool(), torch.zeros(1, 2).bool())
    logit = torch.logit(target).flip(1).requires_grad_()
    nothing = torch.zeros(1, 2).bool()
    presence_loss(logit, selection, Rivals(nothing.long(), nothing, nothing), target).backward()
    np.testing.assert_allclose(logit.grad, 0, atol=1e-6)


# Boxes


def masked_posterior() -> WindowPosterior:
    """One object in a box of 16 px whose mask fills columns 2-5 and rows 1-6 of its raster of 8."""
    posterior, _ = duplicate_scene()
    weight = torch.full((1, 3, 8, 8), 0.1)
    weight[0, 0, 1:7, 2:6] = 0.9
    boxes = Boxes(*(torch.full((1, 3), side) for side in (15.0, 13.0, 16.0, 16.0)))
    return posterior._replace(mixing_weight=weight, boxes=boxes)


def test_a_masks_box_is_its_bounding_box():
    boxes, visible = mask_boxes(masked_posterior(), margin=0.0)
    assert [side[0, 0].item() for side in boxes] == pytest.approx([15, 13, 8, 12])
    assert visible.tolist() == [[True, False, False]]
    wider, _ = mask_boxes(masked_posterior(), margin=2.0)
    assert [side[0, 0].item() for side in wider] == pytest.approx([15, 13, 12, 16])


def loss_of_boxes(boxes: Boxes, posterior: WindowPosterior) -> Tensor:
    overlap = intersection_over_minimum(Boxes(*(side.detach() for side in boxes)), posterior.boxes)
    return box_loss(boxes, posterior, overlap, (4.0, 30.0))


def test_boxes_end_around_the_mask_and_then_cost_nothing():
    posterior = masked_posterior()
    sides = [torch.tensor([[side]], requires_grad=True) for side in (17.0, 11.0, 16.0, 14.0)]
    assert loss_of_boxes(Boxes(*sides), posterior) > 0.01
    optimizer = torch.optim.Adam(sides, lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        loss = loss_of_boxes(Boxes(*sides), posterior)
        loss.backward()
        optimizer.step()
    x, y, width, height = (side.item() for side in sides)
    assert loss < 1e-4
    assert (x, y) == pytest.approx((15, 13), abs=0.1)
    assert 0 <= width - 8 <= 8
    assert height - 12 == pytest.approx(width - 8, abs=0.2)


@pytest.mark.parametrize("reason", ["far away", "absent", "without a mask"])
def test_a_box_without_an_object_to_follow_is_left_alone(reason):
    posterior = masked_posterior()
    x = 60.0 if reason == "far away" else 14.0
    if reason == "absent":
        posterior = posterior._replace(presence=torch.zeros(1, 3))
    if reason == "without a mask":
        posterior = posterior._replace(mixing_weight=torch.full((1, 3, 8, 8), 0.4))
    boxes = Boxes(*(torch.tensor([[side]]) for side in (x, 14.0, 10.0, 10.0)))
    assert loss_of_boxes(boxes, posterior) == 0


def test_wanted_sides_stay_within_the_users_bounds():
    posterior = masked_posterior()
    boxes = Boxes(*(torch.tensor([[side]]) for side in (15.0, 13.0, 10.0, 10.0)))
    overlap = intersection_over_minimum(boxes, posterior.boxes)
    assert box_loss(boxes, posterior, overlap, (4.0, 10.0)) == 0


# Noise scale (Suppl. S7)


@pytest.mark.parametrize("noise", [0.03, 0.1])
def test_otsus_own_reconstruction_has_error_one_at_the_noise_scale(noise):
    random = np.random.default_rng(0)
    levels = np.where(random.random((64, 64)) < 0.3, 0.9, 0.2)
    image = levels + noise * random.standard_normal(levels.shape)
    sigma = estimate_noise_scale(image)
    above = image > threshold_otsu(image)
    two_levels = np.where(above, image[above].mean(), image[~above].mean())
    assert ((image - two_levels) ** 2).mean() / (2 * sigma**2) == pytest.approx(1)


@pytest.mark.parametrize("image", [np.zeros((8, 8)), np.eye(8), np.full((4, 4), 0.7)])
def test_the_noise_scale_of_images_without_noise_is_small_but_positive(image):
    assert 0 < estimate_noise_scale(image) < 0.1
