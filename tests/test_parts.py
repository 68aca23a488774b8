"""Large images whose objects differ in size from place to place: parts with scales of their own, joined."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cellsegmenter import AbsoluteResolution
from cellsegmenter.consensus import ResolutionError
from cellsegmenter.datasets import make_nuclei
from cellsegmenter.fitting import _images_to_learn
from cellsegmenter.local_diameter import Part, parts_of_one_size, split_by_size
from cellsegmenter.metrics import average_precision, match_objects
from cellsegmenter.parameters import bounds_of
from cellsegmenter.parted_consensus import PartedConsensus
from cellsegmenter.region import Region
from cellsegmenter.segmenting import consensus_of_parts
from cellsegmenter.store import WorkFolderError
from cellsegmenter.tuning import sweep_resolutions

SMALL, LARGE = 12, 22  # px across
SIDE = 288


@pytest.fixture(scope="module")
def two_sizes() -> tuple[np.ndarray, np.ndarray]:
    """Small nuclei on the left and large ones on the right, with their labels; (288, 576)."""
    left, right = (
        make_nuclei(1, size=SIDE, count=(n, n), diameter=diameter, brightness=(0.7, 1), random_state=3)
        for n, diameter in ((130, SMALL), (40, LARGE))
    )
    of_right = np.where(right.labels[0] > 0, right.labels[0] + left.labels[0].max(), 0)
    return np.hstack([left.images[0], right.images[0]]), np.hstack([left.labels[0], of_right])


@pytest.fixture
def in_parts(trained, monkeypatch):
    """A model that looks for differences of size within an image of a few hundred px."""
    monkeypatch.setattr("cellsegmenter.local_diameter._BLOCK", 144)
    monkeypatch.setattr("cellsegmenter.local_diameter._BLOCK_DIAMETERS", 6)
    return copy.deepcopy(trained).set_params(diameter="auto")


def test_an_image_of_one_size_is_one_part(two_sizes, in_parts):
    image = two_sizes[0][None, :, :SIDE]
    (part,) = parts_of_one_size(image)
    assert part.region == Region(0, 0, SIDE, SIDE)
    assert part.diameter == pytest.approx(SMALL, rel=0.15)


def test_parts_have_the_sizes_of_their_objects(two_sizes, in_parts):
    parts = parts_of_one_size(two_sizes[0][None])
    assert len(parts) >= 2
    for region, diameter in parts:
        middle = region.column + region.width / 2
        assert diameter == pytest.approx(SMALL if middle < SIDE else LARGE, rel=0.2)


def test_of_a_very_large_image_the_middles_of_blocks_are_read(two_sizes, in_parts, monkeypatch):
    monkeypatch.setattr("cellsegmenter.local_diameter._BLOCKS_PER_AXIS", 2)
    image, read = np.tile(two_sizes[0], (3, 3))[None], []

    def remembered(block):
        read.append(block.shape[1:])
        return float(LARGE)

    monkeypatch.setattr("cellsegmenter.local_diameter.estimate_diameter", remembered)
    (part,) = parts_of_one_size(image)
    assert part.region == Region(0, 0, *image.shape[1:])
    assert read[0] == image.shape[1:]  # which reads some tiles of it
    assert read[1:] == [(144, 144)] * 4


def test_training_sees_the_parts_at_their_scales(two_sizes, in_parts):
    bounds = bounds_of(in_parts)
    images, _, _ = _images_to_learn(in_parts, two_sizes[0], bounds, goes_on=False)
    parts = parts_of_one_size(two_sizes[0][None])
    assert len(images) == len(parts)
    for image, part in zip(images, parts, strict=True):
        expected = np.multiply(part.region.shape, bounds.diameter / part.diameter)
        np.testing.assert_allclose(image.shape[1:], expected, atol=0.5)


def test_an_image_that_shows_nothing_is_one_part_of_unknown_size():
    (part,) = parts_of_one_size(np.zeros((1, 1300, 1300), np.float32))
    assert part.region == Region(0, 0, 1300, 1300)
    assert np.isnan(part.diameter)


@given(
    arrays.arrays(
        float,
        arrays.array_shapes(min_dims=2, max_dims=2, max_side=6),
        elements=st.one_of(st.just(np.nan), st.floats(1, 4)),
    ),
    st.floats(0.05, 2),
)
def test_rectangles_agree_within_and_cover_all_blocks_once(log_diameter, spread):
    covered = np.zeros(log_diameter.shape, int)
    for top, bottom, left, right in split_by_size(log_diameter, spread):
        covered[top:bottom, left:right] += 1
        known = log_diameter[top:bottom, left:right]
        known = known[~np.isnan(known)]
        assert not len(known) or np.ptp(known) <= spread
    assert (covered == 1).all()


def test_the_cut_is_where_sizes_change():
    log_diameter = np.log([[10, 10, 10, 20], [10, 11, np.nan, 20], [30, 30, 30, 30]])
    assert split_by_size(log_diameter, np.log(1.2)) == [(0, 2, 0, 3), (0, 2, 3, 4), (2, 3, 0, 4)]


def test_both_sizes_are_found(in_parts, two_sizes):
    image, truth = two_sizes
    joined = in_parts.predict(image)
    at_one_scale = in_parts.set_params(diameter=14.0).predict(image)
    assert average_precision(truth, joined) > average_precision(truth, at_one_scale) + 0.1
    assert average_precision(truth[:, SIDE:], joined[:, SIDE:]) > 0.6


def test_labels_are_numbered_by_first_pixel_and_rows_belong_to_them(in_parts, two_sizes):
    consensus = in_parts.consensus(two_sizes[0])
    assert isinstance(consensus, PartedConsensus)
    found = consensus.cut()
    assert found.labels.shape == found.foreground_prob.shape == two_sizes[0].shape
    labels, first = np.unique(found.labels, return_index=True)
    np.testing.assert_array_equal(labels, np.arange(len(found) + 1))
    assert (np.diff(first[1:]) > 0).all()
    # Away from the borders an object has the confidence and the code that it has in its part alone.
    compared = 0
    for part in consensus.parts:
        alone, inner = part.consensus.cut(), part.core.grown(-20)
        for label in labels[1:]:
            pixels = np.argwhere(found.labels == label)
            if all(_inside(pixel, inner) for pixel in pixels):
                row, column = pixels[0] - part.frame.corner
                same = int(alone.labels[row, column])
                assert found.confidence[label - 1] == alone.confidence[same - 1]
                np.testing.assert_array_equal(found.z_what[label - 1], alone.z_what[same - 1])
                compared += 1
    assert compared > 15


def _inside(pixel: np.ndarray, region: Region) -> bool:
    return bool((pixel >= region.corner).all() and (pixel < region.corner + region.shape).all())


def test_objects_across_a_border_are_whole_and_found_once(trained):
    """Borders through dense nuclei; those of the undivided image that lie across them are looked for."""
    image = make_nuclei(
        1, size=330, count=(120, 120), diameter=12, brightness=(0.5, 1), random_state=1
    ).images[0]
    undivided = trained.predict(image)
    regions = [Region(110 * i, 110 * j, 110, 110) for i in range(3) for j in range(3)]
    joined = consensus_of_parts(
        trained.model_,
        trained._one_image(image)[0],
        [Part(region, trained.working_diameter_) for region in regions],
        trained._inference_settings(0),
        working_diameter=trained.working_diameter_,
        intensity="log",
        resolution=AbsoluteResolution(0.3),
        min_size=None,
        n_jobs=1,
        device=torch.device("cpu"),
    ).cut()
    apart = np.zeros_like(undivided)
    for region in regions:
        labels = trained.predict(image[region.slices])
        apart[region.slices] = np.where(labels > 0, labels + apart.max(), 0)
    across = _across(undivided, regions)
    assert len(across) > 8
    assert _found(across, undivided, joined.labels) > _found(across, undivided, apart) + 0.2
    assert len(joined) == pytest.approx(undivided.max(), rel=0.1)


def _across(labels: np.ndarray, regions: list[Region]) -> np.ndarray:
    """The labels that several regions share."""
    shown = np.concatenate([np.unique(labels[region.slices]) for region in regions])
    values, counts = np.unique(shown[shown > 0], return_counts=True)
    return values[counts > 1]


def _found(wanted: np.ndarray, labels: np.ndarray, others: np.ndarray) -> float:
    """The share of the wanted labels that match one of the others closely."""
    return float(np.isin(wanted, match_objects(labels, others, threshold=0.75).true).mean())


@pytest.mark.parametrize("resolution", [AbsoluteResolution(0.3), 30.0, "auto"])
def test_a_folder_gives_the_labels_of_memory_and_is_gone_on_from(
    in_parts, two_sizes, tmp_path, monkeypatch, resolution
):
    expected = in_parts.consensus(two_sizes[0]).cut(resolution)
    first = in_parts.consensus(two_sizes[0], work_folder=tmp_path / "work")
    assert first.work_folder == tmp_path / "work"
    found = first.cut(resolution)
    monkeypatch.setattr("cellsegmenter.inference._infer", lambda *_: pytest.fail("sampled again"))
    again = in_parts.consensus(two_sizes[0], work_folder=tmp_path / "work").cut(resolution)
    for other in (found, again):
        np.testing.assert_array_equal(other.labels, expected.labels)
        np.testing.assert_array_equal(other.confidence, expected.confidence)
        np.testing.assert_array_equal(other.foreground_prob, expected.foreground_prob)
        assert other.resolution == expected.resolution


def test_a_folder_of_other_parts_is_refused(in_parts, two_sizes, tmp_path):
    in_parts.consensus(two_sizes[0], work_folder=tmp_path)
    with pytest.raises(WorkFolderError, match="parts was"):
        in_parts.consensus(two_sizes[0][:, ::-1], work_folder=tmp_path)


def test_the_folder_is_for_what_memory_does_not_hold(in_parts, two_sizes, tmp_path):
    assert in_parts.consensus(two_sizes[0], work_folder=tmp_path, max_memory=2**30).work_folder is None
    assert in_parts.consensus(two_sizes[0], work_folder=tmp_path, max_memory=2**10).work_folder == tmp_path


def test_a_published_gamma_is_relative_to_all_parts_together(in_parts, two_sizes):
    consensus = in_parts.consensus(two_sizes[0])
    weights, numbers = zip(*(part.consensus.graph.weight() for part in consensus.parts), strict=True)
    n = sum(numbers)
    resolution = consensus.cut(30.0).resolution
    assert resolution.gamma == 30.0
    assert resolution.absolute == pytest.approx(30.0 * sum(weights) / (n * (n - 1)))
    assert consensus.cut(AbsoluteResolution(resolution.absolute)).resolution.gamma == pytest.approx(30.0)


def test_a_published_gamma_that_leaves_nothing_is_refused_with_one_that_fits(
    in_parts, two_sizes, monkeypatch
):
    consensus = in_parts.consensus(two_sizes[0])
    tried, join = [], consensus._join
    monkeypatch.setattr(
        consensus, "_join", lambda resolved, how: tried.append(resolved.absolute) or join(resolved, how)
    )
    with pytest.raises(ResolutionError, match=r"leaves no object.*Use resolution=") as caught:
        consensus.cut(1e6)
    assert max(tried) <= 1  # above it there is nothing to be cut
    assert len(consensus.cut(caught.value.suggestion.gamma)) > 40


def test_a_region_shows_what_the_whole_image_does(in_parts, two_sizes):
    region = (10, 180, 250, 220)
    large, small = in_parts.consensus(two_sizes[0]), in_parts.consensus(two_sizes[0], region=region)
    assert isinstance(small, PartedConsensus)
    labels = small.cut().labels
    assert labels.shape == region[2:]
    expected = large.cut().labels[Region(*region).slices]
    inner = np.s_[30:-30, 30:-30]
    assert average_precision(expected[inner], labels[inner]) > 0.95


def test_a_region_in_one_part_is_not_parted(in_parts, two_sizes):
    assert not isinstance(in_parts.consensus(two_sizes[0], region=(0, 0, 64, 64)), PartedConsensus)


def test_it_can_be_swept(in_parts, two_sizes):
    image = two_sizes[0]
    sweep = sweep_resolutions(in_parts.consensus(image), image, (0.1, 0.3, 0.9))
    assert len(sweep.cuts) >= 3
    assert all(0 <= cut.agreement <= 1 for cut in sweep.cuts)
    assert sweep.cuts[sweep.automatic].agreement >= max(cut.agreement for cut in sweep.cuts) - 0.05
