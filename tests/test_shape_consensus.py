"""The consensus of shapes against its definition by pixels, and on hand-drawn shapes."""

import numpy as np
import pytest
from reference import cpm_quality, rb_quality
from scipy import sparse
from skimage.draw import polygon

from cellsegmenter.consensus import AbsoluteResolution, ResolutionError
from cellsegmenter.consensus.arrangement import label_parts
from cellsegmenter.consensus.cell_graph import cell_graph
from cellsegmenter.consensus.communities import leiden_communities
from cellsegmenter.consensus.labels import label_canvas
from cellsegmenter.consensus.runs import star_spans
from cellsegmenter.consensus.shapes import ShapeConsensus, ShapePosterior
from cellsegmenter.recognition.stars import N_RAYS, Stars, vertices
from cellsegmenter.store import FolderStore, MemoryStore

SHAPE = (40, 52)


def boxes_as_stars(*boxes):
    """Stars that cover the pixels of boxes (first row, one past the last, first column, one past the last)."""
    angle = 2 * np.pi * np.arange(N_RAYS) / N_RAYS
    centre, radii = [], []
    for top, bottom, left, right in boxes:
        # A little more than the box, so that chords between rays cut no corner that holds a pixel's centre.
        half = np.array([bottom - top, right - left]) / 2
        reach = np.minimum(
            half[0] / np.maximum(np.abs(np.sin(angle)), 1e-9),
            half[1] / np.maximum(np.abs(np.cos(angle)), 1e-9),
        )
        centre.append(((top + bottom) / 2, (left + right) / 2))
        radii.append(reach)
    return Stars(np.array(centre, np.float32).reshape(-1, 2), np.array(radii, np.float32).reshape(-1, N_RAYS))


def posterior_of(stars, present, order=None):
    present = np.array(present, dtype=bool)
    n = len(present)
    z_what = np.arange(2 * n, dtype=np.float32).reshape(n, 2)
    order = np.arange(n) if order is None else np.array(order)
    return ShapePosterior(stars, order, present, present.mean(axis=1) if n else np.zeros(0), z_what)


def random_posterior(seed, n=14, n_samples=6, image_shape=SHAPE, size=(3, 9)):
    """Wobbly stars, some of them beyond the image, that often overlap."""
    rng = np.random.default_rng(seed)
    centre = rng.uniform(-3, np.add(image_shape, 3), (n, 2)).astype(np.float32)
    radii = (rng.uniform(*size, (n, 1)) * rng.uniform(0.7, 1.2, (n, N_RAYS))).astype(np.float32)
    present = rng.random((n, n_samples)) < rng.choice([0.3, 0.8, 1.0], (n, 1))
    return posterior_of(Stars(centre, radii), present, rng.permutation(n))


def consensus_of(posterior, image_shape=SHAPE, store=None, **options):
    return ShapeConsensus(posterior, image_shape, MemoryStore() if store is None else store, **options)


def owners_by_pixel(posterior, image_shape=SHAPE):
    """(S, height, width) int: 1 + the shape that has each pixel in each sample; 0 is background."""
    owner = np.zeros((posterior.present.shape[1], *image_shape), int)
    for sample, image in enumerate(owner):
        for shape in np.argsort(-posterior.order):  # the lowest rank is painted last
            if posterior.present[shape, sample]:
                corner = vertices(posterior.stars)[shape].astype(float) - 0.5
                image[polygon(*corner.T, shape=image_shape)] = shape + 1
    return owner


def weights_by_pixel(owner, min_foreground=0.5):
    """The pixels that take part, and the (n, n) share of samples that put both of a pair into one object."""
    flat = owner.reshape(len(owner), -1)
    pixels = np.flatnonzero((flat > 0).mean(0) >= min_foreground)
    taking_part = flat[:, pixels]
    same = (taking_part[:, :, None] == taking_part[:, None, :]) & (taking_part[:, :, None] > 0)
    weights = same.mean(0)
    np.fill_diagonal(weights, 0)
    return pixels, weights


def entropy(values):
    share = np.unique(values, return_counts=True)[1] / len(values)
    return float(-(share * np.log(share)).sum())


def agreement_by_pixel(owner, labels):
    """Σ 2 I / Σ (H + H) of a label image and each sample's label image."""
    flat, twice, both = labels.ravel().astype(int), 0.0, 0.0
    for sample in owner.reshape(len(owner), -1):
        of_each = entropy(flat) + entropy(sample)
        twice += 2 * (of_each - entropy(flat * 1000 + sample))
        both += of_each
    return twice / both if both else 1.0


def partitions(n):
    """All partitions of 0..n-1, as arrays of group numbers."""
    if n == 0:
        yield []
        return
    for rest in partitions(n - 1):
        for group in range(max(rest, default=-1) + 2):
            yield [*rest, group]


def labels_by_search(owner, quality, min_size):
    """The label image of the best of all partitions of the pixels into groups that no sample tells apart.

    Communities that are worth less than nothing come apart.
    """
    pixels, weights = weights_by_pixel(owner)
    rows = owner.reshape(len(owner), -1)[:, pixels]
    _, group = np.unique(rows, axis=1, return_inverse=True)
    group = group.ravel()
    candidates = [np.array(partition)[group] for partition in partitions(group.max() + 1)]
    best = max(candidates, key=lambda community: quality(weights, community))
    canvas = np.zeros(owner[0].size, int)
    for number in np.unique(best):
        alone = np.where(best == number, -1, np.arange(len(best)))
        if quality(weights, alone) >= 0:
            canvas[pixels[best == number]] = number + 1
    return label_canvas(canvas.reshape(owner[0].shape), min_size)


# One shape (W) in some samples, and its halves (A and B) in the others.
WHOLE_OR_HALVES = boxes_as_stars((10, 20, 10, 30), (10, 20, 10, 20), (10, 20, 20, 30))


def whole_or_halves(n_whole):
    whole = np.arange(10) < n_whole
    return posterior_of(WHOLE_OR_HALVES, [whole, ~whole, ~whole])


def test_a_shape_in_all_samples_is_an_object():
    posterior = posterior_of(boxes_as_stars((5, 15, 8, 20)), np.ones((1, 4)))
    segmentation = consensus_of(posterior).cut(AbsoluteResolution(0.5))
    expected = owners_by_pixel(posterior)[0]
    assert 60 < expected.sum() <= 120  # chords between the rays cut the corners
    np.testing.assert_array_equal(segmentation.labels, expected)
    np.testing.assert_array_equal(segmentation.foreground_prob, expected)
    np.testing.assert_array_equal(segmentation.confidence, [1])
    np.testing.assert_array_equal(segmentation.z_what, posterior.z_what)
    assert segmentation.labels.dtype == np.int32
    assert segmentation.resolution.cutoff_distance == np.inf


@pytest.mark.parametrize(("n_whole", "n_objects"), [(6, 1), (3, 2)])
def test_the_more_frequent_of_whole_and_halves_is_cut(n_whole, n_objects):
    posterior = whole_or_halves(n_whole)
    segmentation = consensus_of(posterior).cut(AbsoluteResolution(0.5))
    assert len(segmentation) == n_objects
    np.testing.assert_allclose(segmentation.confidence, 0.6 if n_objects == 1 else 0.7, rtol=1e-6)
    np.testing.assert_array_equal(segmentation.z_what, posterior.z_what[[0] if n_objects == 1 else [1, 2]])
    left, right = segmentation.labels[15, 12], segmentation.labels[15, 27]
    assert (left == right) == (n_objects == 1)
    assert left


def test_the_lower_rank_has_the_overlap_of_neighbours():
    stars = boxes_as_stars((10, 20, 5, 20), (10, 20, 16, 31))
    for order, owner in (([0, 1], 0), ([1, 0], 1)):
        consensus = consensus_of(posterior_of(stars, np.ones((2, 3)), order))
        labels = consensus.cut(AbsoluteResolution(0.5)).labels
        assert labels[15, 6] == 1
        assert labels[15, 28] == 2
        assert labels[15, 18] == owner + 1
        np.testing.assert_array_equal(consensus.n_objects(4), [2, 2, 2])


def test_spans_are_the_pixels_of_the_polygons():
    stars = random_posterior(3, n=40).stars
    top, bottom, left, right = box = (4, 33, 7, 50)
    spans = star_spans(stars, box)
    for shape, corner in enumerate(vertices(stars).astype(float) - 0.5):
        expected = np.zeros(SHAPE, bool)
        expected[polygon(*corner.T, shape=SHAPE)] = True
        covered = np.zeros((bottom - top) * (right - left), bool)
        for start, stop in zip(
            spans.start[spans.shape == shape], spans.stop[spans.shape == shape], strict=True
        ):
            covered[start:stop] = True
        np.testing.assert_array_equal(
            covered.reshape(bottom - top, right - left), expected[top:bottom, left:right]
        )


@pytest.mark.parametrize("seed", range(4))
def test_communities_are_labelled_as_pixels_are(seed):
    posterior = random_posterior(seed, n=60, size=(1, 4))
    consensus = consensus_of(posterior, tile_size=16)
    arrangement = consensus._arrangement
    community = np.random.default_rng(seed).integers(-1, 3, len(arrangement.size))
    canvas = consensus._write("community", community[arrangement.part_cell] + 1)
    assert canvas.max() == 3
    for min_size in range(1, 12):
        labels = consensus._write("labels", label_parts(arrangement, community, min_size))
        np.testing.assert_array_equal(labels, label_canvas(canvas, min_size))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("method", ["cpm", "rb"])
def test_the_cut_is_the_best_partition_of_the_pixels(seed, method):
    image_shape = (16, 20)
    posterior = random_posterior(seed, n=4, n_samples=4, image_shape=image_shape, size=(3, 6))
    owner = owners_by_pixel(posterior, image_shape)
    for gamma in (0.6, 1.5):
        _, weights = weights_by_pixel(owner)
        n = len(weights)
        absolute = gamma * weights.sum() / (n * (n - 1))
        if method == "cpm":
            expected = labels_by_search(owner, lambda e, c, at=absolute: cpm_quality(e, c, at), 2)
        else:
            expected = labels_by_search(owner, lambda e, c, at=gamma: rb_quality(e, c, at), 2)
        segmentation = consensus_of(posterior, image_shape).cut(gamma, method=method, min_size=2)
        np.testing.assert_array_equal(segmentation.labels, expected)
        assert segmentation.resolution.absolute == pytest.approx(absolute)


def test_cells_are_cut_as_well_as_pixels():
    posterior = random_posterior(8, n=16, n_samples=8)
    pixels, weights = weights_by_pixel(owners_by_pixel(posterior))
    for absolute in (0.2, 0.5):
        by_pixel = leiden_communities(sparse.csr_array(np.triu(weights)), np.ones(len(pixels)), absolute)
        consensus = consensus_of(posterior)
        graph = cell_graph(consensus._arrangement.size, consensus._co_membership, 8, min_foreground=0.5)
        community = np.full(len(consensus._arrangement.size), -1)
        community[graph.cells] = graph.communities(absolute, "cpm", 0)
        of_part = community[consensus._arrangement.part_cell] + 1
        canvas = consensus._write("community", of_part).ravel()[pixels]
        single = np.arange(len(pixels)) + len(pixels)  # dissolved: every pixel is alone
        by_cell = np.where(canvas > 0, canvas, single)
        assert cpm_quality(weights, by_cell, absolute) >= cpm_quality(weights, by_pixel, absolute) - 1e-6


@pytest.mark.parametrize("seed", range(3))
def test_tables_are_those_of_the_pixels(seed):
    posterior = random_posterior(seed)
    owner = owners_by_pixel(posterior)
    consensus = consensus_of(posterior)
    segmentation = consensus.cut(AbsoluteResolution(0.45), min_size=6)
    labels = segmentation.labels
    assert len(segmentation) == labels.max() > 3
    np.testing.assert_allclose(segmentation.foreground_prob, (owner > 0).mean(0), rtol=1e-6)
    sizes = [np.bincount(sample.ravel())[1:] for sample in owner]
    for least in (0, 1, 6, int(sizes[0].max())):
        expected = [(size >= max(1, least)).sum() for size in sizes]
        np.testing.assert_array_equal(consensus.n_objects(least), expected)
    np.testing.assert_array_equal(np.unique(labels), np.arange(len(segmentation) + 1))
    first = [np.flatnonzero(labels == number + 1)[0] for number in range(len(segmentation))]
    assert first == sorted(first)
    for number in range(len(segmentation)):
        mask = labels == number + 1
        matched = []
        for sample in owner:
            others = (sample == shape for shape in np.unique(sample[mask]) if shape)
            matched.append(any((mask & other).sum() > 0.5 * (mask | other).sum() for other in others))
        assert segmentation.confidence[number] == pytest.approx(np.mean(matched))
        pixels = np.bincount(owner[:, mask].ravel(), minlength=len(posterior.order) + 1)[1:]
        np.testing.assert_array_equal(segmentation.z_what[number], posterior.z_what[pixels.argmax()])


def test_agreement_is_that_of_label_images():
    posterior = random_posterior(5)
    owner = owners_by_pixel(posterior)
    consensus = consensus_of(posterior, tile_size=16)
    of_image = consensus.sample_agreement()
    rng = np.random.default_rng(0)
    blocks = np.kron(rng.integers(0, 4, (10, 13)), np.ones((4, 4), int))
    for labels in (consensus.cut(min_size=4).labels, owner[0], blocks, np.zeros(SHAPE, int)):
        assert of_image(labels) == pytest.approx(agreement_by_pixel(owner, labels))
    automatic = consensus.automatic_resolution(min_size=4)
    labels = consensus.cut("auto", min_size=4).labels
    assert automatic.agreement == pytest.approx(agreement_by_pixel(owner, labels))
    for absolute in (0.05, 0.3, 0.55, 0.9):
        labels = consensus.cut(AbsoluteResolution(absolute), min_size=4).labels
        assert agreement_by_pixel(owner, labels) <= automatic.agreement + 1e-3 + 1e-9
    with pytest.raises(ValueError, match="labels have shape"):
        of_image(np.zeros((3, 3), int))


def test_tiles_and_stores_change_nothing(tmp_path):
    posterior = random_posterior(6, n=40, image_shape=(90, 70))
    folder = FolderStore(tmp_path / "work", {"test": 1})
    options = [
        {"tile_size": 1000},
        {"tile_size": 32},
        {"tile_size": 8},
        {"tile_size": 32, "store": folder},
        {"tile_size": 32, "store": folder},  # again, from what the folder holds
    ]
    cuts = []
    for option in options:
        consensus = consensus_of(posterior, (90, 70), **option)
        assert len(consensus.n_objects(4)) == 6
        cuts.append([consensus.cut(min_size=4), consensus.cut(AbsoluteResolution(0.7), min_size=4)])
    assert len(cuts[0][0]) > 8
    for other in cuts[1:]:
        for expected, segmentation in zip(cuts[0], other, strict=True):
            np.testing.assert_array_equal(segmentation.labels, expected.labels)
            np.testing.assert_array_equal(segmentation.foreground_prob, expected.foreground_prob)
            np.testing.assert_array_equal(segmentation.confidence, expected.confidence)
            np.testing.assert_array_equal(segmentation.z_what, expected.z_what)
            assert segmentation.resolution.absolute == expected.resolution.absolute
            assert segmentation.resolution.gamma == pytest.approx(expected.resolution.gamma)


def test_a_cut_of_a_folder_is_kept(tmp_path, monkeypatch):
    store = FolderStore(tmp_path / "work", {"test": 1})
    posterior = whole_or_halves(6)
    first = consensus_of(posterior, store=store).cut(AbsoluteResolution(0.5))
    again = consensus_of(posterior, store=store)
    monkeypatch.setattr(again, "_part_labels", lambda *_: pytest.fail("solved again"))
    np.testing.assert_array_equal(again.cut(AbsoluteResolution(0.5)).labels, first.labels)


@pytest.mark.parametrize("method", ["cpm", "rb"])
def test_published_and_absolute_resolutions_are_the_same_cut(method):
    consensus = consensus_of(random_posterior(7))
    absolute = consensus.cut(AbsoluteResolution(0.4), method=method, min_size=4)
    published = consensus.cut(absolute.resolution.gamma, method=method, min_size=4)
    assert published.resolution.absolute == pytest.approx(0.4)
    assert published.resolution.chosen_by == "gamma"
    np.testing.assert_array_equal(published.labels, absolute.labels)


def test_a_gamma_without_objects_is_refused():
    consensus = consensus_of(whole_or_halves(6))
    with pytest.raises(ResolutionError, match="leaves no object") as error:
        consensus.cut(1e6)
    assert len(consensus.cut(error.value.suggestion.gamma)) > 0


def test_the_halves_of_a_bisected_shape_are_two_objects():
    # A bar that is always on and in front parts the shape behind it; both parts are one cell.
    stars = boxes_as_stars((2, 38, 24, 28), (14, 26, 10, 42))
    segmentation = consensus_of(posterior_of(stars, np.ones((2, 2))), tile_size=16).cut(
        AbsoluteResolution(0.5)
    )
    left, bar, right = segmentation.labels[20, [12, 26, 40]]
    assert sorted([left, bar, right]) == [1, 2, 3]
    np.testing.assert_array_equal(segmentation.z_what[[left - 1, right - 1]], [[2, 3], [2, 3]])


def test_min_size_and_min_foreground_drop_pixels():
    posterior = posterior_of(boxes_as_stars((5, 15, 5, 15), (20, 24, 20, 24)), [[1, 0, 0, 0], [1, 1, 1, 1]])
    consensus = consensus_of(posterior)
    at = AbsoluteResolution(0.2)
    assert len(consensus.cut(at, min_size=1)) == 1
    assert len(consensus.cut(at, min_size=1, min_foreground=0.25)) == 2
    assert len(consensus.cut(at, min_size=17)) == 0
    np.testing.assert_array_equal(consensus.n_objects(1), [2, 1, 1, 1])
    np.testing.assert_array_equal(consensus.n_objects(17), [1, 0, 0, 0])


@pytest.mark.parametrize("stars", [boxes_as_stars(), boxes_as_stars((-30, -10, 0, 20))])
@pytest.mark.parametrize("resolution", ["auto", 2.0])
def test_an_image_without_shapes_has_no_objects(stars, resolution):
    posterior = posterior_of(stars, np.ones((len(stars.centre), 3)))._replace(
        z_what=np.zeros((len(stars.centre), 2), np.float32)
    )
    consensus = consensus_of(posterior)
    segmentation = consensus.cut(resolution)
    assert len(segmentation) == 0
    assert not np.any(segmentation.labels)
    assert not np.any(segmentation.foreground_prob)
    assert segmentation.z_what.shape == (0, 2)
    assert np.isnan(segmentation.resolution.absolute)
    np.testing.assert_array_equal(consensus.n_objects(1), [0, 0, 0])
    assert consensus.sample_agreement()(segmentation.labels) == 1


@pytest.mark.parametrize("method", ["cpm", "rb"])
def test_both_solvers_agree(method):
    consensus = consensus_of(random_posterior(3))
    ours, theirs = (
        consensus.cut(AbsoluteResolution(0.4), method=method, min_size=1, solver=solver)
        for solver in ("igraph", "leidenalg")
    )
    assert len(ours) > 3
    np.testing.assert_array_equal(ours.labels, theirs.labels)


def test_bad_input_is_refused():
    posterior = whole_or_halves(6)
    with pytest.raises(ValueError, match="solver"):
        consensus_of(posterior).cut(solver="louvain")
    with pytest.raises(ValueError, match="same number of candidates"):
        consensus_of(posterior._replace(order=np.arange(2)))
    with pytest.raises(ValueError, match="no samples"):
        consensus_of(posterior._replace(present=np.zeros((3, 0), bool)))
    with pytest.raises(ValueError, match="min_size"):
        consensus_of(posterior).cut(min_size=0)
    with pytest.raises(ValueError, match="method"):
        consensus_of(posterior).cut(method="louvain")
    with pytest.raises(ValueError, match="min_foreground"):
        consensus_of(posterior).cut(min_foreground=2)
