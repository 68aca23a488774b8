"""Lessons from pairs: what is put where, and what is learned from it."""

import numpy as np
import pytest
import torch
from reference import common_area_by_shifts
from torch import Tensor

from cellsegmenter.model.config import ModelConfig
from cellsegmenter.model.rendering import render
from cellsegmenter.model.structured_vae import StructuredVAE
from cellsegmenter.training.pairs import N_DRAWS, Lesson, common_area, lesson_loss, put_beside
from cellsegmenter.types import Boxes, Gaussian, WindowPosterior

SIZE, RASTER, OBJECT_SIZE = 48, 24, (6.0, 30.0)
BACKGROUND = 0.1


def discs(centres: list[list[tuple[float, float]]], side: float = 16.0) -> WindowPosterior:
    """Certain round objects at centres (x, y), given for each window; slots without an object are off."""
    n, slots = len(centres), max(map(len, centres))
    place = torch.full((n, slots, 2), SIZE / 2)
    presence = torch.zeros(n, slots)
    for window, its in enumerate(centres):
        for slot, centre in enumerate(its):
            place[window, slot] = torch.tensor(centre)
            presence[window, slot] = 1
    index = (torch.arange(RASTER) + 0.5) / RASTER - 0.5
    disc = (torch.hypot(index[:, None], index) < 0.5).float()
    sides = torch.full((n, slots), side)
    code = Gaussian(torch.zeros(n, slots, 4), torch.ones(n, slots, 4))
    return WindowPosterior(
        presence=presence,
        presence_prob=0.99 * presence,
        grid_index=torch.arange(slots).expand(n, -1),
        boxes=Boxes(place[..., 0], place[..., 1], sides, sides),
        z_where=code,
        z_what=code,
        z_background=Gaussian(torch.zeros(n, 1), torch.ones(n, 1)),
        mixing_weight=disc.expand(n, slots, -1, -1).clone(),
        appearance=torch.ones(n, slots, 1, RASTER, RASTER),
        background=torch.full((n, 1, SIZE, SIZE), BACKGROUND),
    )


def picture(posterior: WindowPosterior, brightness: list[float]) -> Tensor:
    """Windows in which each object has the brightness of its window."""
    shown = render(posterior).mixing_prob.sum(1, keepdim=True) > 0.5
    return torch.where(shown, torch.tensor(brightness)[:, None, None, None], BACKGROUND)


def draws(n: int, seed: int = 0) -> Tensor:
    return torch.rand(n, N_DRAWS, generator=torch.Generator().manual_seed(seed))


def lesson_of(posterior: WindowPosterior, brightness: list[float], touching: bool, seed: int = 0) -> Lesson:
    uniform = draws(len(posterior.presence), seed)
    return put_beside(picture(posterior, brightness), posterior, OBJECT_SIZE, uniform, touching=touching)


def test_the_common_area_is_that_of_shifted_masks():
    masks = (torch.rand(2, 2, 7, 7, generator=torch.Generator().manual_seed(0)) < 0.5).unbind()
    np.testing.assert_array_equal(common_area(*masks), common_area_by_shifts(*masks))


@pytest.mark.parametrize("seed", range(8))
def test_a_touching_newcomer_lies_beside_an_object_and_off_the_others(seed):
    posterior = discs([[(12, 12), (36, 36)], [(24, 24)]])
    image = picture(posterior, [0.5, 0.9])
    lesson = lesson_of(posterior, [0.5, 0.9], touching=True, seed=seed)
    assert lesson.valid.all()
    assert lesson.pair.x.shape == (2, 2)
    changed = (lesson.image - image).abs().sum(1) > 0.05
    for window in range(2):
        x, y, width, height = (side[window, 1].item() for side in lesson.pair)
        row, column = np.nonzero(changed[window].numpy())
        assert len(row) > 0.3 * (width - 3) ** 2  # the disc has 0.79, some of it hidden
        assert abs(row + 0.5 - y).max() <= height / 2
        assert abs(column + 0.5 - x).max() <= width / 2
        # The centres of discs that touch without covering each other much are a sum of radii apart.
        host = [side[window, 0].item() for side in lesson.pair]
        apart = np.hypot(x - host[0], y - host[1])
        radii = (width + host[2] - 6) / 2  # boxes have a margin of 1.5 px
        assert 0.6 * radii < apart < radii + 2
    # In the first window the object that did not get a neighbour stays as it is.
    rest = lesson.further.width[0] > 0
    assert rest.sum() == 1
    assert (lesson.further.x[0, rest] - lesson.pair.x[0, 0]).abs() == 24


@pytest.mark.parametrize("touching", [False, True])
def test_likely_objects_are_spared_though_this_sample_has_them_not(touching):
    posterior = discs([[(24, 24), (24, 40)]] * 100)
    posterior.presence[:, 1] = 0
    lesson = lesson_of(posterior, [0.8] * 100, touching=touching)
    assert (lesson.further.y[lesson.further.width > 0] == 40).sum() == lesson.valid.sum() == 100
    apart = torch.hypot(lesson.pair.x[:, 1] - 24, lesson.pair.y[:, 1] - 40)
    assert apart.min() > 0.6 * (8 + 0.6 * 8)


def test_the_newcomer_has_the_pixels_of_its_window():
    posterior = discs([[(24, 24)], []])
    image = picture(posterior, [0.8, 0.3])
    uniform = draws(2)
    assert not put_beside(image, posterior, OBJECT_SIZE, uniform, touching=True).valid[
        1
    ]  # nobody to be beside
    posterior = discs([[(24, 24)], [(10, 10)]])
    uniform[:, 1] = torch.tensor([0.9, 0.1])  # each from the other window
    lesson = put_beside(picture(posterior, [0.8, 0.3]), posterior, OBJECT_SIZE, uniform, touching=False)
    for window, brightness in ((0, 0.3), (1, 0.8)):
        x, y = int(lesson.pair.x[window, 1]), int(lesson.pair.y[window, 1])
        covered = abs(x - posterior.boxes.x[window, 0]) < 8 and abs(y - posterior.boxes.y[window, 0]) < 8
        assert not covered
        assert lesson.image[window, 0, y, x].item() == pytest.approx(brightness, abs=0.01)


def test_sizes_vary_and_boxes_follow_the_masks():
    posterior = discs([[(24, 24)]] * 64)
    lesson = lesson_of(posterior, [0.8] * 64, touching=False)
    sides = lesson.pair.width[:, 1] - 3  # without its margins
    assert 0.6 * 16 <= sides.min() < 0.7 * 16
    assert 1.15 * 16 < sides.max() <= 1.25 * 16
    area = ((lesson.image - picture(posterior, [0.8] * 64)) > 0.3).sum((1, 2, 3))
    away = torch.stack([lesson.pair.x[:, 1] - 24, lesson.pair.y[:, 1] - 24]).abs()
    alone = (away.sum(0) > 24) & (away.amax(0) + sides / 2 < 24)
    assert alone.sum() > 10
    np.testing.assert_allclose(area[alone], np.pi / 4 * sides[alone] ** 2, rtol=0.15)


def test_no_newcomer_is_larger_than_objects_may_be():
    posterior = discs([[(24, 24)]] * 64, side=26.0)
    lesson = lesson_of(posterior, [0.8] * 64, touching=False)
    assert lesson.pair.width.max() <= OBJECT_SIZE[1]
    grown = (lesson.image - picture(posterior, [0.8] * 64)).abs().amax((1, 2, 3)) > 0.3
    assert grown.any()
    sides = lesson.pair.width[:, 1] - 3
    assert sides.max() == pytest.approx(27, abs=0.1)


def test_what_draws_nothing_is_no_newcomer():
    posterior = discs([[(24, 24)]] * 2, side=6.0)
    speck = torch.zeros(RASTER, RASTER)
    speck[12, 12] = 1.0  # a quarter of a pixel
    empty = posterior._replace(mixing_weight=speck.expand(2, 1, -1, -1).clone())
    lesson = put_beside(picture(posterior, [0.8, 0.8]), empty, OBJECT_SIZE, draws(2), touching=False)
    assert not lesson.valid.any()


def test_objects_that_are_cut_or_doubtful_are_not_shown_elsewhere():
    posterior = discs([[(2, 24)], [(24, 46)]])  # both across the border
    assert not lesson_of(posterior, [0.8, 0.8], touching=False).valid.any()
    posterior = discs([[(24, 24)], [(24, 24)]])
    doubtful = posterior._replace(presence_prob=posterior.presence_prob * 0.4)
    assert not lesson_of(doubtful, [0.8, 0.8], touching=False).valid.any()


def test_where_there_is_no_pair_the_window_stays_and_nothing_is_asked():
    posterior = discs([[(24, 24)], [(24, 24)]])._replace(presence=torch.zeros(2, 1))
    image = picture(discs([[(24, 24)], [(24, 24)]]), [0.8, 0.8])
    lesson = put_beside(image, posterior, OBJECT_SIZE, draws(2), touching=True)
    assert not lesson.valid.any()
    torch.testing.assert_close(lesson.image, image)
    assert lesson_loss(small_model(), lesson) == 0


def small_model() -> StructuredVAE:
    torch.manual_seed(0)
    config = ModelConfig(
        n_channels=1,
        window_size=SIZE,
        expected_objects=3.0,
        object_size=OBJECT_SIZE,
        initial_side=16.0,
        raster=12,
        unet_channels=8,
        unet_depth=3,
        grid_level=3,
        latent_dim=4,
        background_latent_dim=1,
        object_channels=8,
        background_channels=8,
    )
    return StructuredVAE(config).train()


def test_a_lesson_leaves_no_trace_in_the_statistics():
    model = small_model()
    before = {name: value.clone() for name, value in model.unet.named_buffers() if "running" in name}
    posterior = discs([[(12, 12), (36, 36)], [(24, 24)]])
    lesson_loss(model, lesson_of(posterior, [0.5, 0.9], touching=True)).backward()
    for name, value in model.unet.named_buffers():
        if "running" in name:
            torch.testing.assert_close(value, before[name])
    model.unet(torch.rand(2, 1, SIZE, SIZE))
    assert any((value != before[name]).any() for name, value in model.unet.named_buffers() if name in before)


@pytest.mark.slow
def test_touching_discs_are_told_apart_from_lessons_alone():
    """The network sees lessons only; what is asked of it is the two boxes of new pairs, and nothing in between."""
    model = small_model()
    optimizer = torch.optim.Adam(model.parameters())
    random = np.random.default_rng(0)

    def lesson(seed: int, n: int) -> Lesson:
        centres = [[tuple(random.uniform(10, SIZE - 10, 2))] for _ in range(n)]
        return lesson_of(discs(centres), [0.8] * n, touching=True, seed=seed)

    first, n_steps = None, 300
    for step in range(n_steps):
        optimizer.param_groups[0]["lr"] = 5e-3 * (1 - step / n_steps)
        loss = lesson_loss(model, lesson(step, 16))
        first = loss.item() if first is None else first
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    new = lesson(n_steps, 64)
    with torch.no_grad():
        for _ in range(50):
            model.unet(new.image)  # the statistics, which no lesson leaves behind
        model.eval()
        assert lesson_loss(model, new) < first / 3
        inference = model.infer(new.image, max_objects=6, overlap_threshold=0.3)
    found = inference.posterior.presence.sum(1)[new.valid]
    assert (found == 2).float().mean() > 0.6  # untrained: nothing is found
