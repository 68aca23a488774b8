"""What the wake model teaches: which objects are pasted, which are labels, and what a backdrop shows."""

import numpy as np
import pytest
import torch

from cellsegmenter.datasets import make_nuclei
from cellsegmenter.normalize import linear_intensity, normalize_image
from cellsegmenter.sleep.library import IGNORED, TaughtImage, build_library, taught_labels
from cellsegmenter.sleep.units import from_linear, to_linear

DIAMETER = 16.0
SIZE = 96
BACKGROUND, NOISE = 0.05, 0.01
LEVEL = 0.5


def disc(row: float, column: float, radius: float = 8.0, size: int = SIZE) -> np.ndarray:
    index = np.arange(size)
    return np.hypot(index[:, None] - row, index - column) < radius


def taught(
    masks: list[np.ndarray],
    confidence: list[float] | None = None,
    *,
    foreground: np.ndarray | None = None,
    n_channels: int = 1,
    hidden: np.ndarray | None = None,
) -> TaughtImage:
    """Objects of one intensity on a noisy background, on the linear scale; `hidden` ones have no label."""
    labels = np.zeros(masks[0].shape, np.int32)
    for number, mask in enumerate(masks, start=1):
        labels[mask] = number
    bright = labels > 0 if hidden is None else (labels > 0) | hidden
    noise = NOISE * np.random.default_rng(0).standard_normal((n_channels, *labels.shape))
    pixels = (BACKGROUND + LEVEL * bright + noise).astype(np.float32)
    if foreground is None:
        foreground = (labels > 0).astype(np.float32)
    confidence = [0.95] * len(masks) if confidence is None else confidence
    return TaughtImage(pixels, labels, np.array(confidence), foreground)


def library_of(*images: TaughtImage, method="linear"):
    return build_library(images, DIAMETER, method, np.random.default_rng(1))


GOOD = disc(30, 30)


@pytest.mark.parametrize("method", ["log", "linear"])
def test_both_scales_agree_with_the_models(method):
    normalized = np.linspace(-0.5, 2, 101).astype(np.float32)
    linear = to_linear(normalized, method)
    np.testing.assert_allclose(linear, linear_intensity(torch.from_numpy(normalized), method), atol=1e-6)
    np.testing.assert_allclose(from_linear(linear, method), normalized, atol=1e-5)
    assert linear.dtype == from_linear(linear, method).dtype == np.float32


def test_a_lonely_confident_object_is_cut_out():
    image = taught([GOOD, disc(70, 60)], n_channels=2)
    library = library_of(image, image)
    assert (library.n_seen, library.n_kept) == (4, 4)
    assert [cut_out.image for cut_out in library.objects] == [0, 0, 1, 1]
    first = library.objects[0]
    assert first.mask.sum() == GOOD.sum()
    assert first.signal.shape == (2, *first.mask.shape)
    assert first.level == pytest.approx(LEVEL, abs=NOISE)
    # Inside of the mask the signal is the image above its surroundings, noise included.
    expected = image.pixels[:, GOOD] - BACKGROUND
    np.testing.assert_allclose(first.signal[:, first.mask > 0], expected, atol=NOISE / 2)
    edge = np.concatenate([first.signal[:, [0, -1]].ravel(), first.signal[:, :, [0, -1]].ravel()])
    assert (edge == 0).all()


def test_the_brightest_channel_decides_the_level():
    image = taught([GOOD], n_channels=2)
    image.pixels[1, GOOD] += LEVEL
    assert library_of(image).objects[0].level == pytest.approx(2 * LEVEL, abs=NOISE)


def test_a_logarithmic_image_gives_a_linear_signal():
    image = taught([GOOD])
    logarithmic = image._replace(pixels=from_linear(image.pixels, "log"))
    ours, theirs = library_of(logarithmic, method="log").objects[0], library_of(image).objects[0]
    np.testing.assert_allclose(ours.signal, theirs.signal, atol=1e-5)


BAR = np.zeros((SIZE, SIZE), bool)
BAR[55:85, 55:61] = BAR[79:85, 55:85] = True  # an L
DENTED = disc(70, 65) & ~disc(70, 75, 6)  # solid enough
HOLLOW = disc(70, 65, 12) & ~disc(70, 75, 10)
BRIGHT_RING = (disc(70, 65, 14) & ~disc(70, 65, 9)).astype(np.float32)


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(taught([GOOD, disc(70, 6)]), id="at the edge"),
        pytest.param(taught([GOOD, disc(70, 60), disc(70, 77)]), id="touching"),
        pytest.param(taught([GOOD, BAR]), id="concave"),
        pytest.param(taught([GOOD, HOLLOW]), id="hollow"),
        pytest.param(taught([GOOD, disc(70, 65)], [0.95, 0.84]), id="doubtful"),
        pytest.param(taught([GOOD, disc(66, 65, 21), disc(26, 70), disc(70, 20)]), id="large"),
        pytest.param(taught([GOOD, disc(70, 65, 2.5)]), id="small"),
        pytest.param(taught([GOOD, disc(70, 65)], foreground=BRIGHT_RING), id="in foreground"),
    ],
)
def test_other_objects_are_not_pasted(image):
    masks = [cut_out.mask.sum() for cut_out in library_of(image).objects]
    # Object 1 is always good; of the further discs of the same size only those that the image is not about.
    assert masks
    assert set(masks) == {GOOD.sum()}
    spared = {3, 4} if image.labels.max() == 4 else set()
    assert len(masks) == 1 + len(spared)


def test_a_dented_object_is_still_a_label():
    assert (taught_labels(taught([GOOD, DENTED]), DIAMETER)[DENTED] == 2).all()


def test_specks_are_not_pasted_even_among_their_like():
    specks = [disc(row, column, 2.2) for row in (20, 50, 80) for column in (30, 60)]
    assert library_of(taught(specks)).objects == []


def test_a_faint_object_is_not_pasted():
    image = taught([GOOD, disc(70, 65)])
    image.pixels[0, disc(70, 65)] -= LEVEL - 0.03
    assert len(library_of(image).objects) == 1
    image.pixels[0, disc(70, 65)] += 0.03
    assert len(library_of(image).objects) == 2


def test_dented_objects_weigh_more_than_round_ones():
    round_one, dented = disc(20, 25), disc(70, 65) & ~disc(79, 65, 3.5)
    cut_outs = library_of(taught([round_one, dented])).objects
    weights = {cut_out.mask.sum(): cut_out.weight for cut_out in cut_outs}
    assert weights[dented.sum()] > 1.2 * weights[round_one.sum()]


def test_without_confident_objects_the_library_is_empty():
    library = library_of(taught([GOOD, disc(70, 60)], [0.5, 0.79]))
    assert library.objects == []
    assert library.n_seen == 2
    assert len(library.backdrops) == 1
    nothing = TaughtImage(*taught([np.zeros((SIZE, SIZE), bool)], [])[:3], np.zeros((SIZE, SIZE), np.float32))
    assert library_of(nothing).objects == []


def test_a_backdrop_shows_no_object():
    hidden = disc(70, 70)  # one that the wake model did not see
    foreground = disc(30, 70).astype(np.float32)
    image = taught([GOOD, disc(70, 25)], hidden=hidden | (foreground > 0), foreground=foreground)
    backdrop = library_of(image).backdrops[0]
    assert (image.pixels > BACKGROUND + LEVEL / 2).mean() > 0.05
    assert np.abs(backdrop.pixels - BACKGROUND).max() < 6 * NOISE
    assert backdrop.noise == pytest.approx(NOISE, rel=0.1)
    # Where an object was there is as much noise as elsewhere, and elsewhere the image is as it was.
    assert backdrop.pixels[0, GOOD].std() == pytest.approx(NOISE, rel=0.2)
    clear = disc(48, 48, 5)
    np.testing.assert_array_equal(backdrop.pixels[:, clear], image.pixels[:, clear])


def test_a_backdrop_shows_no_faint_foreground():
    faint = disc(70, 65)
    image = taught([GOOD], foreground=(GOOD | faint).astype(np.float32))
    image.pixels[0, faint] += 4 * NOISE
    assert library_of(image).backdrops[0].pixels[0, faint].mean() < BACKGROUND + NOISE


def test_a_backdrop_keeps_the_unevenness_of_the_background():
    image = taught([disc(48, 48, 16)])
    slope = np.linspace(0, 0.06, SIZE, dtype=np.float32)
    backdrop = library_of(image._replace(pixels=image.pixels + slope)).backdrops[0]
    left, right = (backdrop.pixels[0, 40:57, columns].mean() for columns in (np.s_[35:42], np.s_[55:62]))
    assert 0.006 < right - left < 0.022  # 20 columns apart: 0.0126


def test_crowded_images_give_flat_backdrops_only_if_all_are_crowded():
    crowded = taught([disc(48, 48, 90)])
    library = library_of(crowded)
    assert np.abs(library.backdrops[0].pixels.mean()) < NOISE
    assert library.backdrops[0].noise == pytest.approx(NOISE, rel=0.1)
    assert [backdrop.image for backdrop in library_of(crowded, taught([GOOD])).backdrops] == [1]


def test_taught_labels_ignore_what_is_doubtful():
    doubtful, halo = disc(70, 65), disc(15, 75, 5)
    foreground = halo * np.float32(0.3)
    image = taught([GOOD, BAR, disc(75, 20), doubtful & ~BAR], [0.8, 0.95, 0.79, 0.79], foreground=foreground)
    labels = taught_labels(image, DIAMETER)
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels == 1, GOOD)
    assert set(np.unique(labels)) == {IGNORED, 0, 1}
    for ignored in (BAR, disc(75, 20), doubtful, halo, disc(75, 20, 9)):
        assert (labels[ignored] == IGNORED).all()
    assert (labels[disc(48, 48, 5)] == 0).all()
    assert (labels[disc(15, 75, 12) & ~disc(15, 75, 6)] == 0).all()


@pytest.mark.parametrize("diameter", [5.0, 40.0])
def test_lengths_follow_the_diameter(diameter):
    data = make_nuclei(
        1, size=round(14 * diameter), count=(25, 25), diameter=diameter, touching=0.0, random_state=0
    )
    n = int(data.labels[0].max())
    foreground = (data.labels[0] > 0).astype(np.float32)
    image = TaughtImage(normalize_image(data.images[0][None]), data.labels[0], np.full(n, 0.9), foreground)
    library = build_library([image], diameter, "log", np.random.default_rng(0))
    assert 5 <= len(library.objects) <= n
    assert len(library.backdrops) == 1
    median = np.median([cut_out.mask.sum() for cut_out in library.objects])
    assert median == pytest.approx(np.pi / 4 * diameter**2, rel=0.35)
