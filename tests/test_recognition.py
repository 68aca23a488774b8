"""One pass over a whole image: blocks, regions, processes and folders change nothing of the result."""

import copy
import math
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from reference import (
    DiscFinder,
    contrast_by_points,
    dimmed_by_pixels,
    disc_labels,
    randomise,
    tiny_config,
    witness_by_pairs,
)

from cellsegmenter import CellSegmenter
from cellsegmenter.consensus import AbsoluteResolution
from cellsegmenter.model.structured_vae import StructuredVAE
from cellsegmenter.provenance import model_hash
from cellsegmenter.recognition import candidates as candidates_module
from cellsegmenter.recognition import witness as witness_module
from cellsegmenter.recognition.blocks import block_lattice, read_around
from cellsegmenter.recognition.calibration import Calibration, count_interval
from cellsegmenter.recognition.candidates import contrast_of, dimmed, find_candidates, load_candidates
from cellsegmenter.recognition.fitted import FittedModel
from cellsegmenter.recognition.network import RecognitionConfig, RecognitionNetwork, pitch_for
from cellsegmenter.recognition.stars import N_RAYS, Stars
from cellsegmenter.region import Region
from cellsegmenter.scales import SeenImage, see_image
from cellsegmenter.segmenting import RecognitionSettings, consensus_of, image_posterior
from cellsegmenter.store import FolderStore, MemoryStore
from cellsegmenter.types import Boxes
from cellsegmenter.windows import reflect_index
from cellsegmenter.workspace import Workspace

DIAMETER = 16.0
CPU = torch.device("cpu")


def random_network(diameter: float = DIAMETER, n_channels: int = 1, seed: int = 0) -> RecognitionNetwork:
    network = RecognitionNetwork(RecognitionConfig(n_channels, diameter, width=6))
    randomise(network, seed)
    with torch.no_grad():
        network.out.weight[1:] *= 0.2  # outlines of about the diameter
        network.out.bias.zero_()
    return network


def model_of(network: RecognitionNetwork, n_channels: int = 1) -> FittedModel:
    """With a generative model that believes some of its random boxes."""
    torch.manual_seed(0)
    generative = StructuredVAE(tiny_config(n_channels=n_channels, initial_side=14.0))
    randomise(generative, seed=1)
    with torch.no_grad():
        generative.proposal_head.out.weight[1:5] *= 0.3
        generative.proposal_head.out.bias[:5] = 0
    return FittedModel(generative, network, DIAMETER, "log", CPU)


@pytest.fixture(scope="module")
def random_model() -> FittedModel:
    return model_of(random_network())


def noise(shape: tuple[int, int], n_channels: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.3, 0.4, (n_channels, *shape)).astype(np.float32)


def found_with(model: FittedModel, image: np.ndarray, side: int = 4096):
    """All candidates of an image, in blocks of a side, and the number of blocks."""
    store = MemoryStore()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidates_module, "_MOST_PER_OBJECT", 10**6)
        patch.setattr(candidates_module, "block_lattice", partial(block_lattice, side=side))
        n = find_candidates(model, image, store, region=Region(0, 0, *image.shape[-2:]))
        return load_candidates(store, "found", n), n


@pytest.fixture
def full_precision(monkeypatch):
    """Where a block ends, sums are made in another order, and the last bit of bfloat16 can be seen."""
    for module in ("recognition.network", "model.structured_vae"):
        monkeypatch.setattr(f"cellsegmenter.{module}.autocast_for", lambda device: nullcontext())


# Blocks


@pytest.mark.parametrize("shape", [(1, 1), (64, 64), (65, 130), (7, 300)])
def test_blocks_cover_every_pixel_once(shape):
    seen = np.zeros(shape, int)
    for block in block_lattice(shape, 64):
        assert block.row % 64 == block.column % 64 == 0
        seen[block.slices] += 1
    assert (seen == 1).all()


@pytest.mark.parametrize("shape", [(40, 70), (5, 90), (1, 33)])
def test_what_is_around_a_block_is_the_reflected_image(shape):
    image = noise(shape)
    for block in block_lattice(shape, 32):
        around = read_around(image, block, halo=16, padding=8, multiple=8)
        assert not np.any(np.array(around.pixels.shape[1:]) % 8)
        rows, columns = (
            reflect_index(np.arange(first, first + n), side)
            for first, n, side in zip(around.corner, around.pixels.shape[1:], shape, strict=True)
        )
        np.testing.assert_array_equal(around.pixels, image[:, rows[:, None], columns])
        # As far as the halo, or as the padded image goes.
        low = np.maximum(block.corner - 16, -8)
        np.testing.assert_array_equal(around.corner, low)
        high = around.corner + around.pixels.shape[1:]
        wanted = np.minimum(block.corner + block.shape + 16, np.add(shape, 8))
        assert (high >= wanted).all()


@pytest.mark.parametrize(
    ("diameter", "pitch"), [(3, 1), (8, 1), (12, 2), (16, 2), (30, 4), (64, 8), (500, 8)]
)
def test_the_grid_has_about_eight_points_across_an_object(diameter, pitch):
    config = RecognitionConfig(1, diameter)
    assert pitch_for(diameter) == config.pitch == pitch
    assert config.halo % config.multiple == 0


@pytest.mark.parametrize("diameter", [8.0, 16.0, 32.0])
@torch.inference_mode()
def test_the_halo_is_what_decides_in_a_block(diameter, full_precision):
    network = random_network(diameter)
    config = network.config
    side = 2 * config.halo + 2 * config.multiple
    image = torch.from_numpy(noise((side, side)))[None]
    points = np.s_[..., config.halo // config.pitch : -(config.halo // config.pitch)]

    def at_block(elsewhere: torch.Tensor, halo: int) -> torch.Tensor:
        """What is said of the middle, where the pixels beyond a halo are others."""
        other = elsewhere.clone()
        first = config.halo - halo
        inner = np.s_[..., first : side - first, first : side - first]
        other[inner] = image[inner]
        seen = network(other)
        return torch.cat([seen.logit[:, None], seen.radii], 1)[points][..., points[1], :]

    others = torch.from_numpy(noise((side, side), seed=1))[None]
    whole = at_block(image, config.halo)
    assert whole.shape[-2:] == (8, 8)
    torch.testing.assert_close(at_block(others, config.halo), whole)
    narrower = at_block(others, config.halo // 2)
    assert (narrower - whole).abs().max() > 1e-3 * whole.abs().max()


@pytest.mark.parametrize("diameter", [8.0, 16.0, 32.0])
@torch.inference_mode()
def test_the_network_says_the_same_in_blocks(diameter, full_precision):
    network = random_network(diameter)
    config = network.config
    shape = (21 * config.multiple + 3, 17 * config.multiple)
    image = noise(shape)
    how = {"halo": config.halo, "padding": max(16, config.multiple), "multiple": config.multiple}
    whole = read_around(image, Region(0, 0, *shape), **how)
    expected = network(torch.from_numpy(whole.pixels)[None])
    for block in block_lattice(shape, 8 * config.multiple):
        around = read_around(image, block, **how)
        seen = network(torch.from_numpy(around.pixels)[None])
        own, all_of_it = (
            tuple(
                slice(int(first) // config.pitch, -(-int(first + n) // config.pitch))
                for first, n in zip(block.corner - corner, block.shape, strict=True)
            )
            for corner in (around.corner, whole.corner)
        )
        for part, of_all in zip(seen, expected, strict=True):
            torch.testing.assert_close(part[(..., *own)], of_all[(..., *all_of_it)], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(200, 330), (1, 90), (90, 1), (30, 20), (50, 3000), (129, 128)])
def test_candidates_are_those_of_one_large_block(random_model, full_precision, shape):
    image = noise(shape)
    whole, n_whole = found_with(random_model, image, 4096)
    parts, n_parts = found_with(random_model, image, 64)
    assert n_whole == 1
    assert n_parts == np.prod(-(-np.array(shape) // 64))
    assert len(whole.z_what) > (0 if min(shape) < 10 else 3)
    # Where two neighbours have nearly the same score, the last bit decides which of them is the higher.
    shared = [
        (np.abs(one.stars.centre[:, None] - other.stars.centre) < 1e-6).all(axis=2).any(axis=1)
        for one, other in ((parts, whole), (whole, parts))
    ]
    assert sum(np.count_nonzero(~found) for found in shared) <= (2 if len(whole.z_what) > 1000 else 0)
    parts, whole = (
        found.take(np.flatnonzero(kept)) for found, kept in zip((parts, whole), shared, strict=True)
    )
    np.testing.assert_array_equal(parts.stars.centre, whole.stars.centre)
    np.testing.assert_allclose(parts.stars.radii, whole.stars.radii, rtol=1e-4, atol=1e-4)
    for name in ("score", "witness"):
        part, of_all = (getattr(found.evidence, name) for found in (parts, whole))
        np.testing.assert_allclose(part, of_all, rtol=1e-4, atol=1e-4, err_msg=name)
    # Of a point between two pixels, the last bit decides which of them is looked at.
    apart = np.abs(parts.evidence.contrast - whole.evidence.contrast) > 1e-4
    assert np.mean(apart) < 0.01
    np.testing.assert_allclose(parts.z_what, whole.z_what, rtol=1e-3, atol=5e-4)
    assert (whole.stars.centre > 0).all()
    assert (whole.stars.centre < shape).all()


def test_the_generative_model_is_a_witness(random_model):
    found, _ = found_with(random_model, noise((200, 330)))
    witness = found.evidence.witness
    assert ((witness >= 0) & (witness <= 1)).all()
    assert len(np.unique(witness)) > 10
    assert found.z_what.shape == (len(witness), 3)
    assert np.ptp(found.z_what, axis=0).min() > 0


def boxes(n: int, seed: int) -> Boxes:
    rng = np.random.default_rng(seed)
    return Boxes(*torch.from_numpy(rng.uniform([[0], [0], [6], [6]], [[60], [60], [20], [20]], (4, n))))


@pytest.mark.parametrize("n_boxes", [0, 1, 12, 40])
def test_the_witness_is_that_of_the_boxes_by_pairs(n_boxes, monkeypatch):
    monkeypatch.setattr(witness_module, "_NEAREST", 40)
    ours, others = boxes(50, 0), boxes(n_boxes, 1)
    prob = torch.from_numpy(np.random.default_rng(2).uniform(0, 1, n_boxes))
    found = witness_module._best_covering(ours, others, prob)
    np.testing.assert_allclose(found, witness_by_pairs(ours, others, prob), rtol=1e-12)
    assert (found > 0).any() == (n_boxes > 0)


@pytest.mark.parametrize("method", ["log", "linear"])
def test_the_network_sees_an_image_dimmed(method):
    image = np.concatenate([noise((7, 9), 2), np.zeros((2, 1, 9), np.float32)], axis=1)
    seen = dimmed(torch.from_numpy(image)[None], method)[0].numpy()
    np.testing.assert_allclose(seen, dimmed_by_pixels(image, method), rtol=1e-4, atol=1e-6)
    assert (np.sign(seen) == np.sign(image)).all()
    assert (np.abs(seen) <= np.abs(image)).all()


def wobbly(n: int, shape: tuple[int, int], seed: int = 0) -> Stars:
    """Stars that may reach beyond the image."""
    rng = np.random.default_rng(seed)
    radii = rng.uniform(0.5, 12, (n, 1)) * rng.uniform(0.8, 1.2, (n, N_RAYS))
    return Stars(rng.uniform(0, shape, (n, 2)).astype(np.float32), radii.astype(np.float32))


@pytest.mark.parametrize("diameter", [9.0, 16.0])
@pytest.mark.parametrize("n_channels", [1, 2])
def test_the_contrast_is_that_of_its_points(diameter, n_channels):
    image = noise((50, 64), n_channels)
    around = read_around(image, Region(8, 16, 30, 32), halo=16, padding=8, multiple=8)
    stars = wobbly(30, (50, 64))
    expected = contrast_by_points(stars, around.pixels, around.corner, diameter)
    # Of a point between two pixels, the last bit decides which of them is looked at.
    apart = np.abs(contrast_of(stars, around, diameter) - expected) > 1e-3
    assert apart.sum() <= 1
    assert contrast_of(stars.take(np.arange(0)), around, diameter).shape == (0,)


def test_what_stands_out_has_a_contrast():
    row, column = np.mgrid[:60, :60] + 0.5
    disc = np.hypot(row - 30, column - 30) < 8
    star = Stars(np.array([[30, 30]], np.float32), np.full((1, N_RAYS), 8, np.float32))

    def contrast(image: np.ndarray) -> float:
        around = read_around(
            image[None].astype(np.float32), Region(0, 0, 60, 60), halo=0, padding=0, multiple=4
        )
        return float(contrast_of(star, around, DIAMETER)[0])

    assert contrast(0.6 * disc) == pytest.approx(0.6 / 0.03, rel=0.02)
    assert contrast(0.0 * disc) == 0
    assert contrast(-0.6 * disc) < 0
    # Neighbours on one side do not count, and texture makes it less.
    assert contrast(0.6 * (disc | (column > 41))) == pytest.approx(contrast(0.6 * disc))
    assert contrast(0.6 * disc + 0.2 * disc * (row % 4 < 2)) < 0.4 * contrast(0.6 * disc)


def test_several_channels_are_seen():
    model = model_of(random_network(n_channels=2, seed=2), n_channels=2)
    image = noise((80, 90), n_channels=2)
    first, _ = found_with(model, image)
    second, _ = found_with(model, image[::-1])
    assert len(first.z_what) > 3
    assert len(first.z_what) != len(second.z_what) or np.any(first.stars.centre != second.stars.centre)


def test_a_flood_of_noise_is_bounded():
    network = random_network()
    with torch.no_grad():
        network.out.bias[0] = 30  # everything looks like an object
    image = noise((400, 300))
    cap = [
        max(64, round(4 * block.height * block.width / DIAMETER**2))
        for block in block_lattice((400, 300), 128)
    ]
    store = MemoryStore()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidates_module, "block_lattice", partial(block_lattice, side=128))
        patch.setattr(
            candidates_module,
            "testify",
            lambda model, around, stars, device: (
                np.zeros(len(stars.centre), np.float32),
                np.zeros((len(stars.centre), 3), np.float32),
            ),
        )
        n = find_candidates(model_of(network), image, store, region=Region(0, 0, 400, 300))
        counts = [len(store.load(f"found-{block}")["score"]) for block in range(n)]
        least = [store.load(f"found-{block}")["score"].min() for block in range(n)]
        patch.setattr(candidates_module, "_MOST_PER_OBJECT", 10**6)
        everything = MemoryStore()
        find_candidates(model_of(network), image, everything, region=Region(0, 0, 400, 300))
    assert max(np.subtract(counts, cap)) == 0
    for block in range(n):
        score = np.sort(everything.load(f"found-{block}")["score"])[::-1]
        assert counts[block] == min(cap[block], len(score))
        assert least[block] == score[counts[block] - 1]  # the best ones


# Discs, through the consensus


SHAPE = (220, 260)
STRETCH = 1.25


def scene(shape: tuple[int, int] = SHAPE, n: int = 70, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Bright discs that may touch, on noise, and their labels."""
    rng = np.random.default_rng(seed)
    discs: list[np.ndarray] = []
    while len(discs) < n:
        disc = np.array([*rng.uniform(0, shape), DIAMETER / 2])
        if all(np.hypot(*(disc - other)[:2]) > 0.95 * DIAMETER for other in discs):
            discs.append(disc)
    labels = disc_labels(shape, np.array(discs))
    image = 100 + 1000 * (labels > 0) + 20 * rng.standard_normal(shape)
    return image.astype(np.float32), labels


@pytest.fixture(scope="module")
def disc_model() -> FittedModel:
    network = DiscFinder(RecognitionConfig(1, DIAMETER)).eval()
    network.calibration = Calibration(2.0, 1.0, 0.0, STRETCH)
    return model_of(network)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(candidates_module, "block_lattice", partial(block_lattice, side=64))


def seen_of(image, *diameters) -> SeenImage:
    return see_image(image[None], diameters or (math.nan,), working_diameter=DIAMETER, intensity="log")


def segmented(model, image, workspace=None, *, region=None, diameter=math.nan, n_samples=16):
    consensus = consensus_of(
        model,
        seen_of(image, diameter),
        RecognitionSettings(n_samples, seed=3),
        Workspace() if workspace is None else workspace,
        resolution=AbsoluteResolution(0.4),
        min_size=20,
        region=region,
    )
    return consensus, consensus.cut()


def assert_alike(one, other):
    np.testing.assert_array_equal(np.asarray(one.labels), np.asarray(other.labels))
    np.testing.assert_array_equal(np.asarray(one.foreground_prob), np.asarray(other.foreground_prob))
    np.testing.assert_array_equal(one.confidence, other.confidence)
    np.testing.assert_array_equal(one.z_what, other.z_what)


def test_discs_are_found_and_counted(disc_model):
    image, labels = scene()
    consensus, found = segmented(disc_model, image)
    assert len(found) == pytest.approx(labels.max(), abs=4)
    overlap = np.mean([np.any(found.labels[labels == n]) for n in range(1, labels.max() + 1)])
    assert overlap > 0.9
    counts = consensus.n_objects
    assert counts.shape == (16,)
    low, high = consensus.count_interval()
    assert (low, high) == count_interval(counts, 0.9, STRETCH)
    assert low < counts.min() < labels.max() <= counts.max() < high
    narrow, wide = (consensus.count_interval(level) for level in (0.5, 1.0))
    assert wide[0] <= low < narrow[0] <= narrow[1] <= high <= wide[1]
    assert narrow[1] < wide[1]
    # What is cut does not change what is counted.
    consensus.cut(AbsoluteResolution(0.9), min_size=100)
    assert consensus.count_interval() == (low, high)


def test_a_model_that_is_never_stretched_counts_as_its_samples(disc_model):
    network = copy.copy(disc_model.recognition)
    network.calibration = network.calibration._replace(stretch=1.0)
    consensus, _ = segmented(replace(disc_model, recognition=network), scene()[0])
    counts = consensus.n_objects
    assert consensus.count_interval(1.0) == (counts.min(), counts.max())


def test_another_calibration_is_another_model(disc_model, tmp_path):
    image, _ = scene()
    segmented(disc_model, image, Workspace(folder=tmp_path / "work"))
    network = copy.copy(disc_model.recognition)
    network.calibration = network.calibration._replace(stretch=STRETCH + 0.1)
    other = replace(disc_model, recognition=network)
    hashes = [model_hash(model.generative, model.recognition, "log") for model in (disc_model, other)]
    assert hashes[0] != hashes[1]
    with pytest.raises(ValueError, match="model was"):
        segmented(other, image, Workspace(folder=tmp_path / "work"))


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_samples_are_segmentations_of_the_whole_image(disc_model, scale):
    image, truth = scene()
    factor = round(1 / scale)
    image, truth = (np.kron(plane, np.ones((factor, factor), plane.dtype)) for plane in (image, truth))
    found = image_posterior(
        disc_model, seen_of(image, DIAMETER / scale), RecognitionSettings(5, seed=3), Workspace()
    )
    n = len(found.probability)
    assert found.image_shape == image.shape
    assert found.presence.shape == (n, 5)
    assert found.outlines.shape == (n, 32, 2)
    assert found.z_what.shape == (n, 3)
    assert ((found.probability > 0) & (found.probability < 1)).all()
    for sample in range(5):
        labels = found.labels(sample)
        assert labels.shape == image.shape
        shown = np.unique(labels[labels > 0]) - 1
        assert found.presence[shown, sample].all()
        assert len(shown) == found.n_objects[sample]
        assert np.mean((labels > 0) == (truth > 0)) > 0.9
    # Of two that overlap, the more probable one has the pixel.
    stars = found.shapes.stars
    labels = found.labels(0)
    middle = labels[tuple(np.floor(stars.centre[found.presence[:, 0]]).astype(int).T)] - 1
    assert (found.probability[middle] >= found.probability[found.presence[:, 0]]).all()


def test_the_most_probable_sample(disc_model):
    image, truth = scene()
    found = image_posterior(disc_model, seen_of(image), RecognitionSettings(None), Workspace())
    assert found.presence.shape[1] == 1
    on = found.presence[:, 0]
    assert found.probability[on].min() > 0.5
    assert found.n_objects[0] == pytest.approx(truth.max(), abs=4)
    # Another seed is the same sample.
    again = image_posterior(disc_model, seen_of(image), RecognitionSettings(None, seed=9), Workspace())
    np.testing.assert_array_equal(again.presence, found.presence)


@pytest.mark.parametrize(
    "region", [Region(60, 70, 120, 130), Region(0, 100, 150, 160), Region(97, 0, 123, 91)]
)
def test_a_region_is_segmented_as_the_whole_image(disc_model, region):
    image, _ = scene()
    whole = segmented(disc_model, image)[1]
    part = segmented(disc_model, image, region=region)[1]
    assert part.labels.shape == region.shape
    edge = round(2 * DIAMETER)
    inner = region.grown(-edge)
    ours, theirs = part.labels[edge:-edge, edge:-edge], np.asarray(whole.labels)[inner.slices]
    assert len(np.unique(theirs)) > 3
    # The same objects, though their numbers differ.
    pairs = np.unique(np.stack([ours.ravel(), theirs.ravel()]), axis=1)
    assert len(pairs[0]) == len(np.unique(ours)) == len(np.unique(theirs))
    np.testing.assert_array_equal(ours > 0, theirs > 0)
    np.testing.assert_array_equal(
        part.foreground_prob[edge:-edge, edge:-edge], np.asarray(whole.foreground_prob)[inner.slices]
    )


def test_only_the_blocks_of_a_region_are_looked_at(disc_model):
    consensus, _ = segmented(disc_model, scene()[0], region=Region(0, 0, 40, 40))
    n = sum(consensus.graph.store.has(f"found-0-{block}") for block in range(100))
    assert n == 4  # of 20: the region and four diameters around it


def test_a_region_of_a_rescaled_image(disc_model):
    image, _ = scene()
    large = np.kron(image, np.ones((2, 2), np.float32))
    whole = segmented(disc_model, large, diameter=2 * DIAMETER)[1]
    assert np.asarray(whole.labels).shape == large.shape
    assert len(whole) == pytest.approx(70, abs=4)
    region = Region(101, 121, 280, 300)
    part = segmented(disc_model, large, region=region, diameter=2 * DIAMETER)[1]
    edge = round(4 * DIAMETER)
    ours = part.labels[edge:-edge, edge:-edge] > 0
    theirs = np.asarray(whole.labels)[region.grown(-edge).slices] > 0
    assert np.mean(ours != theirs) < 1e-3


def test_a_folder_changes_nothing(disc_model, tmp_path):
    image, _ = scene()
    _, expected = segmented(disc_model, image)
    workspace = Workspace(folder=tmp_path / "work")
    for _ in range(2):  # again, from what is there
        consensus, found = segmented(disc_model, image, workspace)
        assert_alike(found, expected)
        assert consensus.work_folder == workspace.folder
    consensus, found = segmented(disc_model, image, Workspace(folder=tmp_path / "large", max_memory=10**9))
    assert_alike(found, expected)
    assert consensus.work_folder is None
    assert not (tmp_path / "large").exists()


@pytest.mark.slow
def test_processes_change_nothing(disc_model, tmp_path):
    image, _ = scene()
    _, expected = segmented(disc_model, image)
    for workspace in (Workspace(n_jobs=2), Workspace(folder=tmp_path / "work", n_jobs=2)):
        assert_alike(segmented(disc_model, image, workspace)[1], expected)


def test_work_that_was_interrupted_goes_on(disc_model, tmp_path, monkeypatch):
    image, _ = scene()
    workspace = Workspace(folder=tmp_path / "work")
    _, expected = segmented(disc_model, image, workspace)
    expected = expected.__class__(**{**expected.__dict__, "labels": np.asarray(expected.labels)})
    # As if it had been killed while the third block was looked at.
    for path in workspace.folder.iterdir():
        if path.name not in ("manifest.json", "found-0-0.npz", "found-0-1.npz"):
            path.unlink()
    looked_at = []
    of_block = candidates_module._find_in_block

    def noted(store, model, pixels):
        looked_at.append(pixels.block)
        return of_block(store, model, pixels)

    monkeypatch.setattr(candidates_module, "_find_in_block", noted)
    _, found = segmented(disc_model, image, workspace)
    assert len(looked_at) == 18
    assert_alike(found, expected)


def test_a_folder_of_another_seed_or_way_is_refused(disc_model, tmp_path):
    store = FolderStore(tmp_path / "other", {"way": "windows"})
    image, _ = scene()
    with pytest.raises(ValueError, match="belongs to another computation"):
        segmented(disc_model, image, Workspace(folder=store.path))
    segmented(disc_model, image, Workspace(folder=tmp_path / "work"))
    with pytest.raises(ValueError, match="n_samples was 16 and is 8"):
        segmented(disc_model, image, Workspace(folder=tmp_path / "work"), n_samples=8)


@pytest.mark.parametrize("shape", [(1, 40), (40, 1), (20, 30), (50, 700)])
def test_images_of_any_shape(disc_model, shape):
    image = np.random.default_rng(0).normal(100, 20, shape).astype(np.float32)
    image[:, :8] += 1000
    _, found = segmented(disc_model, image)
    assert np.asarray(found.labels).shape == shape
    assert found.confidence.shape == (len(found),)


def test_an_image_without_objects(disc_model):
    image = np.full((80, 90), 7, np.float32)
    image[0, 0] = 8
    consensus, found = segmented(disc_model, image)
    assert len(found) == 0
    assert consensus.n_objects.tolist() == [0] * 16
    # Samples know nothing of objects that nothing proposes, so that there may be one.
    assert consensus.count_interval() == (0, 1)
    assert found.z_what.shape == (0, 3)


def test_a_small_image_is_seen_by_one_thread(nuclei, monkeypatch):
    seen = []

    def threads(*arguments, original=candidates_module.propose):
        seen.append(torch.get_num_threads())
        return original(*arguments)

    monkeypatch.setattr(candidates_module, "propose", threads)
    torch.set_num_threads(2)
    try:
        CellSegmenter.pretrained().predict(nuclei[0])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert set(seen) == {1}
