"""Blurred objects end at half their height, on whatever scale they were learned."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from reference import half_maximum_by_pixels
from scipy.ndimage import gaussian_filter

from cellsegmenter import AbsoluteResolution
from cellsegmenter.model.half_maximum import above_half_maximum
from cellsegmenter.model.rendering import PresentObjects
from cellsegmenter.normalize import ImageStatistics, linear_intensity, normalize_image

SIDE = 60
RADIUS = 9


def disc(row, column, radius=RADIUS):
    """(60, 60) float: a sharp disc."""
    places = np.arange(SIDE)
    return ((places[:, None] - row) ** 2 + (places - column) ** 2 < radius**2).astype(float)


def on_the_whole_window(*masks):
    """Objects whose patches are the window."""
    places = torch.arange(SIDE).expand(len(masks), SIDE)
    return PresentObjects(places, places, torch.tensor(np.array(masks)).float())


def cut(drawn, image, background=None):
    """The masks (n, 60, 60) that are left of objects in one window, of an image (C, 60, 60)."""
    image = torch.as_tensor(image).float()[None]
    background = torch.zeros_like(image) if background is None else torch.tensor(background).float()[None]
    window = torch.zeros(len(drawn.row), dtype=torch.int64)
    bright = above_half_maximum(drawn, window, image, background)
    return ((drawn.mixing_prob > 0.5) & bright).numpy()


@pytest.mark.parametrize("seed", range(4))
def test_it_is_what_its_formula_says(seed):
    random = torch.Generator().manual_seed(seed)
    n, patch, size = 5, 9, (12, 14)
    coarse = torch.rand(2, 3, 3, 4, generator=random, dtype=torch.float64) ** 3 + 0.2
    image = coarse.repeat_interleave(4, 2).repeat_interleave(4, 3)[..., : size[0], : size[1]]
    background = 0.2 * torch.rand(2, 3, *size, generator=random, dtype=torch.float64)
    row, column = (
        torch.randint(-3, side - 5, (n, 1), generator=random) + torch.arange(patch) for side in size
    )
    inside = ((row >= 0) & (row < size[0]))[:, :, None] & ((column >= 0) & (column < size[1]))[:, None]
    prob = torch.rand(n, patch, patch, generator=random, dtype=torch.float64) * inside
    drawn, window = PresentObjects(row, column, prob), torch.tensor([0, 0, 1, 1, 1])
    bright = above_half_maximum(drawn, window, image, background) & inside
    expected = half_maximum_by_pixels(drawn, window, image, background)
    for k in range(n):
        i, j = bright[k].nonzero(as_tuple=True)
        assert set(zip(row[k, i].tolist(), column[k, j].tolist(), strict=True)) == expected[k]
    assert 0 < sum(map(len, expected)) < inside.sum()


@pytest.mark.parametrize("method", ["log", "linear"])
@pytest.mark.parametrize("blur", [1, 2])
@pytest.mark.parametrize("height", [0.2, 1.0])
def test_a_blurred_disc_has_its_area_and_not_that_of_its_halo(method, blur, height):
    pixels = 100 + 1000 * height * gaussian_filter(disc(30, 28), blur)
    normal = normalize_image(
        pixels[None],
        method=method,
        statistics=ImageStatistics(background=np.full((1, 1, 1), 100.0), scale=np.full((1, 1, 1), 1000.0)),
    )
    with_halo = disc(30, 28, RADIUS + 4)
    mask = cut(on_the_whole_window(with_halo), linear_intensity(torch.from_numpy(normal), method))[0]
    assert with_halo.sum() > 1.9 * disc(30, 28).sum()
    # The mean of what is above half of it is less than the plateau, so that the cut is a little outside.
    assert 0 <= np.sqrt(mask.sum() / np.pi) - np.sqrt(disc(30, 28).sum() / np.pi) < 0.35 * blur


def test_a_dim_neighbour_of_a_bright_object_is_left_whole():
    apart = 2 * RADIUS + 3
    left, right = disc(30, 15), disc(30, 15 + apart)
    image = gaussian_filter(left + 0.3 * right, 1)
    owners = np.stack([disc(30, 15, RADIUS + 3), disc(30, 15 + apart, RADIUS + 3)])
    owners *= owners.argmax(0) == np.arange(2)[:, None, None]
    masks = cut(on_the_whole_window(*owners), image[None])
    assert masks[0].sum() == pytest.approx(left.sum(), rel=0.12)
    assert masks[1].sum() == pytest.approx(right.sum(), rel=0.2)
    assert not (masks[0] & masks[1]).any()


def test_an_object_at_the_edge_of_the_window():
    image = gaussian_filter(disc(2, 57), 1, mode="nearest")
    whole = on_the_whole_window(disc(2, 57, RADIUS + 4))
    expected = cut(whole, image[None])[0]
    assert expected.sum() == pytest.approx(disc(2, 57).sum(), rel=0.12)
    # The same on a patch that reaches beyond the window.
    row, column = torch.arange(-12, 18)[None], torch.arange(40, 70)[None]
    prob = torch.zeros(1, 30, 30)
    prob[0, 12:, :20] = whole.mixing_prob[0, :18, 40:]
    mask = cut(PresentObjects(row, column, prob), image[None])[0]
    np.testing.assert_array_equal(mask[12:, :20], expected[:18, 40:])
    assert mask.sum() == expected.sum()


def test_of_several_channels_that_counts_which_shows_the_object():
    background = np.stack([np.full((SIDE, SIDE), 0.9), np.full((SIDE, SIDE), 0.1)])
    image = background.copy()
    image[1] += 0.5 * gaussian_filter(disc(30, 28), 1)
    mask = cut(on_the_whole_window(disc(30, 28, RADIUS + 4)), image, background)[0]
    assert mask.sum() == pytest.approx(disc(30, 28).sum(), rel=0.12)


def test_a_background_that_draws_the_middle_of_an_object_makes_no_hole_in_it():
    sharp = disc(30, 28)
    background = 0.8 * gaussian_filter(disc(30, 28, RADIUS / 2), 1)
    mask = cut(on_the_whole_window(sharp), sharp[None], background[None])[0]
    np.testing.assert_array_equal(mask, cut(on_the_whole_window(sharp), sharp[None])[0])
    assert mask[30, 28]


def test_dark_objects_are_cut_too():
    image = 1 - gaussian_filter(disc(30, 28), 1)
    mask = cut(on_the_whole_window(disc(30, 28, RADIUS + 4)), image[None], np.ones((1, SIDE, SIDE)))[0]
    assert mask.sum() == pytest.approx(disc(30, 28).sum(), rel=0.12)


def test_what_owns_no_pixel_is_left_alone_and_nothing_is_nothing():
    shared = on_the_whole_window(0.4 * disc(30, 28))
    image = torch.rand(1, 1, SIDE, SIDE) - 0.5
    window = torch.zeros(1, dtype=torch.int64)
    assert above_half_maximum(shared, window, image, torch.zeros_like(image)).all()
    none = PresentObjects(*(torch.zeros(0, 1, dtype=torch.int64) for _ in range(2)), torch.zeros(0, 1, 1))
    assert above_half_maximum(none, window[:0], image, torch.zeros_like(image)).shape == (0, 1, 1)


@pytest.mark.parametrize("intensity", ["log", "linear"])
def test_prediction_cuts_blobs_and_no_other_shapes(segmenter, scenes, intensity):
    image = gaussian_filter(scenes[0][0], 2)
    segmenter.set_params(intensity=intensity)
    model = segmenter.model_
    found = {}
    for shape in ("blob", "free"):
        model.config = replace(model.config, shape=shape)
        graph = segmenter.consensus(image).graph
        assert len(graph.cut(AbsoluteResolution(0.3)))
        found[shape] = graph.store.load("found-0")
    mass = {shape: found[shape]["mass"].sum() for shape in found}
    assert 0.3 * mass["free"] < mass["blob"] < 0.95 * mass["free"]


@pytest.mark.parametrize("intensity", ["log", "linear"])
def test_a_posterior_sample_is_cut_as_in_prediction(segmenter, scenes, intensity):
    """An image of one window's size, seen once in prediction, with the same random numbers."""
    image = gaussian_filter(scenes[0][0], 2)[:48, :48]
    segmenter.set_params(intensity=intensity, stride=48, n_samples=1)
    model, found = segmenter.model_, {}
    for shape in ("free", "blob"):
        model.config = replace(model.config, shape=shape)
        found[shape] = segmenter.sample_posterior(image, n_samples=1)
    shown = {shape: samples.mixing_prob.sum() for shape, samples in found.items()}
    assert 0.3 * shown["free"] < shown["blob"] < 0.95 * shown["free"]
    np.testing.assert_array_equal(found["blob"].reconstruction, found["free"].reconstruction)

    record = segmenter.consensus(image).graph.store.load("found-0")
    objects = np.repeat(np.arange(len(record["n_pixels"])), record["n_pixels"])
    predicted = np.zeros((len(record["n_pixels"]), image.size), np.uint8)
    predicted[objects, record["pixel"]] = record["weight"]
    sampled = np.rint(255 * found["blob"].mixing_prob[found["blob"].presence]).reshape(len(predicted), -1)
    np.testing.assert_allclose(predicted, np.where(sampled > 0.01 * 255, sampled, 0), atol=1)
