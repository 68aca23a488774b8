"""Composites and crops: their labels are exact, and a crop's targets are those of the definition."""

import numpy as np
import pytest
from reference import march
from scipy import ndimage

from cellsegmenter.recognition.network import RecognitionConfig
from cellsegmenter.recognition.stars import RAYS
from cellsegmenter.sleep.canvas import Canvas, Piece, fits, paste, transform, visible_labels
from cellsegmenter.sleep.composites import make_composite
from cellsegmenter.sleep.crops import CropSource, crop_targets
from cellsegmenter.sleep.library import IGNORED, Backdrop, CutOut, Library, Shelf, TaughtImage, build_library
from cellsegmenter.sleep.units import to_linear

DIAMETER = 16.0
GRID = RecognitionConfig(1, DIAMETER)
NOISE = 0.01


def disc(row: float, column: float, radius: float, shape: tuple[int, int]) -> np.ndarray:
    return np.hypot(np.arange(shape[0])[:, None] - row, np.arange(shape[1]) - column) < radius


def textured_cut_out(radius: float = 8.0, shape=(31, 30), level: float = 0.5, n_channels: int = 1) -> CutOut:
    mask = disc(15, 14, radius, shape)
    texture = np.random.default_rng(2).uniform(0.8, 1.2, (n_channels, *shape))
    return CutOut((level * mask * texture).astype(np.float32), mask.astype(np.float32), level, 1.0, 0)


def flat_backdrop(n_channels: int = 1, size: int = 120) -> Backdrop:
    noise = NOISE * np.random.default_rng(3).standard_normal((n_channels, size, size))
    return Backdrop(noise.astype(np.float32), NOISE, 0)


def library_of(objects: list[CutOut], n_channels: int = 1) -> Library:
    return Library(objects, [flat_backdrop(n_channels)], len(objects))


@pytest.fixture(scope="module")
def library() -> Library:
    shape = (128, 128)
    labels = np.zeros(shape, np.int32)
    for number, (row, column, radius) in enumerate(
        [(25, 25, 8), (25, 70, 6), (60, 40, 9), (95, 30, 7), (90, 90, 10)], start=1
    ):
        labels[disc(row, column, radius, shape)] = number
    foreground = (labels > 0).astype(np.float32)
    pixels = 0.5 * foreground + NOISE * np.random.default_rng(0).standard_normal((1, *shape))
    image = TaughtImage(pixels.astype(np.float32), labels, np.full(5, 0.9), foreground)
    return build_library([image], DIAMETER, "linear", np.random.default_rng(0))


def piece_of(cut_out: CutOut, **kwargs) -> Piece:
    piece = transform(
        cut_out, **({"zoom": (1.0, 1.0), "angle": 0.0, "gain": 1.0, "least_area": 0.0} | kwargs)
    )
    assert piece is not None
    return piece


# Pasting


@pytest.mark.parametrize("shape", [(31, 30), (30, 31), (30, 30), (33, 33)])
@pytest.mark.parametrize("add", [False, True])
def test_a_cut_out_pasted_alone_reproduces_its_pixels(shape, add):
    cut_out = textured_cut_out(shape=shape, n_channels=2)
    canvas = Canvas.empty(2, 64)
    middle = np.array([30.0, 20.0])
    paste(canvas, piece_of(cut_out, gain=2.0), middle, add=add)
    inside = canvas.labels == 1
    np.testing.assert_array_equal(inside, disc(30, 20, 8, (64, 64)))
    np.testing.assert_allclose(canvas.signal[:, inside], 2 * cut_out.signal[:, cut_out.mask > 0], rtol=1e-5)
    assert (canvas.signal[:, ~inside] == 0).all()


def test_noise_below_the_surroundings_is_pasted_too():
    cut_out = textured_cut_out()
    cut_out.signal[0, 2, 2] = -0.1
    canvas = Canvas.empty(1, 64)
    paste(canvas, piece_of(cut_out), np.array([30.0, 30.0]), add=False)
    assert canvas.signal.min() == pytest.approx(-0.1)


def test_a_cut_out_is_zoomed_then_turned():
    piece = piece_of(textured_cut_out(), zoom=(2.0, 0.5), angle=np.pi / 2)
    rows, columns = np.nonzero(piece.mask)
    assert np.ptp(columns) == pytest.approx(31, abs=3)  # the long axis now lies along the columns
    assert np.ptp(rows) == pytest.approx(8, abs=2)
    assert piece.area == pytest.approx(textured_cut_out().mask.sum(), rel=0.1)
    assert transform(textured_cut_out(), (0.2, 0.2), 0.0, 1.0, 12.0) is None


def test_intensities_add_up_or_the_brighter_wins():
    dim, bright = textured_cut_out(level=0.2), textured_cut_out(level=0.6)
    for add in (True, False):
        canvas = Canvas.empty(1, 64)
        paste(canvas, piece_of(dim), np.array([30.0, 24.0]), add=add)
        paste(canvas, piece_of(bright), np.array([30.0, 34.0]), add=add)
        both = disc(30, 24, 8, (64, 64)) & disc(30, 34, 8, (64, 64))
        low, high = (0.8 * 0.8, 1.2 * 0.8) if add else (0.6 * 0.8, 0.6 * 1.2)
        assert canvas.signal[0, both].min() >= low - 1e-6
        assert canvas.signal[0, both].max() <= high + 1e-6
        if add:  # each gets the side it lies deeper in
            assert set(canvas.labels[30, 26:29]) == {1}
            assert set(canvas.labels[30, 30:33]) == {2}
        else:
            assert (canvas.labels[both] == 2).all()


def test_an_object_fits_up_to_the_overlap():
    canvas = Canvas.empty(1, 64)
    paste(canvas, piece_of(textured_cut_out(8)), np.array([30.0, 24.0]), add=True)
    small = piece_of(textured_cut_out(4))
    for column in range(24, 40):
        middle = np.array([30.0, column])
        common = (disc(30, 24, 8, (64, 64)) & disc(30, column, 4, (64, 64))).sum() / small.area
        for overlap in (0.0, 0.1, 0.3):
            assert fits(canvas, small, middle, overlap) == (common <= overlap)
    assert not fits(canvas, small, np.array([-40.0, 20.0]), 1.0)


def test_what_hardly_shows_is_no_object():
    canvas = Canvas.empty(1, 64)
    canvas.labels[10:30, 10:30] = 1
    canvas.labels[40:43, 40:43] = 2  # 9 px of 100
    canvas.labels[40:45, 10:15] = 3  # 25 px of 100
    canvas.labels[40:45, 20:25] = 4  # 25 px of 50
    canvas.labels[18:20, 5:40] = 5  # cuts the first one; its own parts stay together
    canvas.labels[50:60, 50:60] = 6
    canvas.areas += [400, 100, 100, 50, 70, 100]
    labels = visible_labels(canvas, 1.0)
    assert set(np.unique(labels)) == {IGNORED, 0, 1, 4, 5, 6}
    assert (labels[40:43, 40:43] == 0).all()
    assert (labels[40:45, 10:15] == IGNORED).all()
    assert (labels[10:18, 10:30] == IGNORED).all()  # the smaller part
    assert (labels[20:30, 10:30] == 1).all()


# Composites


def test_composites_have_whole_and_visible_objects(library):
    random = np.random.default_rng(4)
    covers, n_objects = [], []
    for _ in range(12):
        composite = make_composite(library, DIAMETER, "log", random)
        assert composite.pixels.shape == (1, 200, 200)
        assert composite.pixels.dtype == np.float32
        assert composite.labels.dtype == np.int32
        assert np.isfinite(composite.pixels).all()
        numbers = np.unique(composite.labels[composite.labels > 0])
        n_objects.append(len(numbers))
        covers.append((composite.labels > 0).mean())
        linear = to_linear(composite.pixels, "log")[0]
        background = np.median(linear[composite.labels == 0])
        for number in numbers:
            mask = composite.labels == number
            assert ndimage.label(mask)[1] == 1
            assert mask.sum() >= 10
            assert linear[mask].mean() > background + NOISE / 2
    assert min(covers) < 0.12
    assert 0.15 < max(covers) < 0.6
    assert min(n_objects) >= 1


def test_objects_keep_most_of_their_area(library, monkeypatch):
    # By hand: what each canvas was given, against what it shows.
    given = []
    monkeypatch.setattr(
        "cellsegmenter.sleep.composites.visible_labels",
        lambda canvas, unit: given.append(canvas) or visible_labels(canvas, unit),
    )
    random = np.random.default_rng(5)
    for _ in range(6):
        make_composite(library, DIAMETER, "linear", random)
    shares = []
    for canvas in given:
        inner = np.zeros(canvas.labels.shape, bool)
        inner[20:-20, 20:-20] = True
        for number in range(1, len(canvas.areas)):
            mask = canvas.labels == number
            if mask.any() and not mask[~inner].any():
                shares.append(mask.sum() / canvas.areas[number])
    assert len(shares) > 50
    # A neighbour covers a quarter at most; only several of them may cover more.
    assert np.mean(np.array(shares) >= 0.75) > 0.9
    assert np.mean(np.array(shares) < 0.97) > 0.02  # and some do overlap


def test_the_same_seed_makes_the_same_composite(library):
    first, second, other = (
        make_composite(library, DIAMETER, "log", np.random.default_rng(seed), size=100) for seed in (6, 6, 7)
    )
    np.testing.assert_array_equal(first.pixels, second.pixels)
    np.testing.assert_array_equal(first.labels, second.labels)
    assert (first.labels != other.labels).any()


def test_composites_have_all_channels_and_follow_the_diameter():
    cut_out = textured_cut_out(4.0, n_channels=3)
    cut_out.signal[1] = 0
    library = library_of([cut_out] * 4, n_channels=3)
    composite = make_composite(library, 12.0, "linear", np.random.default_rng(0))
    assert composite.pixels.shape == (3, 150, 150)
    inside = composite.labels > 0
    assert composite.pixels[0, inside].mean() > 5 * composite.pixels[1, inside].mean()


def test_a_small_backdrop_is_mirrored():
    cut_out = textured_cut_out(4.0)
    pixels = np.linspace(0, 0.1, 40, dtype=np.float32).repeat(40).reshape(1, 40, 40)
    library = Library([cut_out], [Backdrop(pixels, 1e-4, 0)], 1)
    composite = make_composite(library, DIAMETER, "linear", np.random.default_rng(3))
    clear = ndimage.binary_erosion(composite.labels == 0, iterations=8)
    # Rows of 40 levels, up and down: neither a step nor a constant.
    levels = np.full(200, np.nan)
    for row in np.flatnonzero(clear.sum(axis=1) > 50):
        levels[row] = composite.pixels[0, row, clear[row]].mean()
    assert np.nanmax(np.abs(np.diff(levels))) < 0.008
    assert np.nanmax(levels) - np.nanmin(levels) == pytest.approx(0.1, rel=0.1)


def test_composites_need_objects(library):
    with pytest.raises(AssertionError, match="need objects"):
        make_composite(library_of([]), DIAMETER, "log", np.random.default_rng(0))


def test_cut_outs_are_drawn_by_their_weight():
    often, seldom = textured_cut_out(), textured_cut_out(6.0)._replace(weight=0.25)
    shelf, random = Shelf([seldom, often]), np.random.default_rng(8)
    share = np.mean([shelf.draw(random) is often for _ in range(2000)])
    assert share == pytest.approx(0.8, abs=0.03)


# Crops


def test_targets_follow_the_definition():
    shape = (40, 40)
    labels = np.zeros(shape, np.int32)
    labels[disc(14, 12, 7.5, shape)] = 5  # reaches into the margin
    labels[disc(22, 24, 6.2, shape)] = 2
    labels[disc(30, 18, 4.0, shape)] = IGNORED
    labels[disc(2, 30, 2.5, shape)] = 7  # in the margin alone
    margin, size = 8, 24
    objectness, radii, known = crop_targets(labels, margin, pitch=2)
    points = {
        number: [tuple(p) for p in np.argwhere(labels == number) if not (p % 2).any()] for number in (2, 5)
    }
    lengths = {point: march(labels, *point, step=0.5) for number in points for point in points[number]}
    finer, checked = [], 0
    for i, j in np.ndindex(size // 2, size // 2):
        row, column = margin + 2 * i, margin + 2 * j
        number = labels[row, column]
        assert known[i, j] == (number != IGNORED)
        if number <= 0:
            assert objectness[i, j] == 0
            assert (radii[:, i, j] == 0).all()
            continue
        checked += 1
        np.testing.assert_allclose(radii[:, i, j], lengths[row, column], atol=1e-5)
        finer.append(np.abs(radii[:, i, j] - march(labels, row, column, step=0.1)))
        deepest = max(lengths[point].min() for point in points[number])
        assert objectness[i, j] == pytest.approx(lengths[row, column].min() / deepest)
    assert checked > 50
    assert np.mean(np.array(finer) < 0.6) > 0.98  # a coarse ray may miss a corner
    assert objectness.max() == 1
    assert objectness.shape == known.shape == (12, 12)
    assert radii.shape == (32, 12, 12)


def scene() -> tuple[np.ndarray, np.ndarray]:
    """Bright discs, half discs and an ignored one; the pixels tell which is which."""
    shape = (150, 130)
    labels = np.zeros(shape, np.int32)
    for number, (row, column) in enumerate([(30, 30), (30, 75), (75, 40), (110, 90), (115, 30)], start=1):
        labels[disc(row, column, 8, shape) & (np.arange(130) > column - 4)] = number
    labels[disc(75, 90, 8, shape)] = IGNORED
    pixels = np.where(labels == IGNORED, -1.0, labels > 0)[None]
    return pixels.astype(np.float32), labels


def test_pixels_and_targets_of_a_crop_show_the_same():
    source = CropSource([scene()], DIAMETER, "linear", GRID)
    random = np.random.default_rng(9)
    right = {-2.0: [], 2.0: []}
    for _ in range(10):
        crop = source.draw(random)
        assert crop.pixels.shape == (1, 96, 96)
        assert crop.pixels.dtype == crop.objectness.dtype == crop.radii.dtype == np.float32
        assert crop.known.dtype == bool
        bright, dark = crop.pixels[0] > 0.35, crop.pixels[0] < 0.35
        grid = crop.pixels[0, ::2, ::2]
        assert (grid[crop.objectness > 0.4] > 0.35).all()
        assert (crop.known | (grid < 0.35)).all()
        assert not crop.known[grid < min(0.8 * grid.min(), -0.2)].any()
        # Just before a ray's end it is bright, and just behind it dark.
        point = np.argwhere(crop.objectness > 0.4)
        for ray, direction in enumerate(RAYS):
            end = crop.radii[ray][tuple(point.T)][:, None]
            for shift, expected in ((-2.0, bright), (2.0, dark)):
                y, x = np.floor(2 * point + 0.5 + (end + shift) * direction).astype(int).T
                inside = (y >= 0) & (y < 96) & (x >= 0) & (x < 96)
                right[shift].append(expected[y[inside], x[inside]])
    for shift in right:
        as_expected = np.concatenate(right[shift])
        assert len(as_expected) > 5_000
        assert as_expected.mean() > 0.98


def test_crops_differ_in_turn_size_and_intensity():
    source = CropSource([scene()], DIAMETER, "linear", GRID)
    random = np.random.default_rng(10)
    crops = [source.draw(random) for _ in range(30)]
    bright = np.array([np.percentile(crop.pixels, 99.5) for crop in crops])
    assert bright.min() < 0.85
    assert bright.max() > 1.2
    deepest = np.array([crop.radii.min(0).max() for crop in crops])
    assert deepest.max() > 1.2 * deepest[deepest > 4].min()


def test_crops_are_turned_and_mirrored():
    rows, columns = np.indices((200, 200), np.float32)
    source = CropSource(
        [((rows + 2 * columns)[None] / 200, np.zeros((200, 200), np.int32))], DIAMETER, "linear", GRID
    )
    random = np.random.default_rng(11)
    seen = set()
    for _ in range(60):
        middle = source.draw(random).pixels[0, 32:64, 32:64]
        down, right = (middle[16:] - middle[:16]).mean(), (middle[:, 16:] - middle[:, :16]).mean()
        seen.add((down > 0, right > 0, abs(down) > abs(right)))
    assert len(seen) == 8


def test_crops_depend_on_the_generator_alone():
    pixels, labels = scene()
    small = (pixels[:, :40, :30], labels[:40, :30])  # smaller than a crop
    source = CropSource([(pixels, labels), small], DIAMETER, "log", GRID, size=64)
    first, second, other = (source.draw(np.random.default_rng(seed)) for seed in (3, 3, 4))
    for ours, theirs in zip(first, second, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert (first.pixels != other.pixels).any()
    assert first.pixels.shape == (1, 64, 64)
    only_small = CropSource([small], DIAMETER, "log", GRID)
    assert np.isfinite(only_small.draw(np.random.default_rng(0)).pixels).all()


def test_an_image_without_objects_gives_crops():
    pixels, labels = scene()
    crop = CropSource([(pixels, np.zeros_like(labels))], DIAMETER, "log", GRID).draw(np.random.default_rng(0))
    assert crop.known.all()
    assert not crop.objectness.any()
    assert not crop.radii.any()
