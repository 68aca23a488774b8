import gzip

import numpy as np
import pytest
import tifffile

from cellsegmenter import datasets


def _consecutive(labels, count):
    return all(set(np.unique(label)) == set(range(n + 1)) for label, n in zip(labels, count, strict=True))


@pytest.fixture(scope="module")
def digits():
    return datasets.make_multi_mnist(100, random_state=0)


def test_digits_counts_are_in_equal_proportion(digits):
    assert np.bincount(digits.count).tolist() == [0, 0, 20, 20, 20, 20, 20]
    assert _consecutive(digits.labels, digits.count)
    assert [len(classes) for classes in digits.classes] == digits.count.tolist()


def test_digits_have_the_promised_types(digits):
    assert digits.images.shape == digits.labels.shape == (100, 80, 80)
    assert digits.images.dtype == np.float32
    assert digits.labels.dtype == np.int32
    assert digits.images.min() == 0
    assert 0.9 < digits.images.max() <= 1
    assert (digits.images[digits.labels == 0] < 0.2).all()


def test_digits_sizes_and_overlap():
    full = datasets.Digits(np.ones((1, 28, 28)), np.array([3]))  # squares, so that masks show the frames
    made = datasets.make_multi_mnist(40, digits=full, count=(1, 1), digit_size=(20, 40), random_state=0)
    area = (made.labels > 0).sum(axis=(1, 2))
    sides = np.sqrt(area)
    np.testing.assert_array_equal(sides, np.rint(sides))
    assert 20 <= sides.min() < 25
    assert 35 < sides.max() <= 40
    pairs = datasets.make_multi_mnist(
        40, digits=full, count=(2, 2), digit_size=(30, 30), max_overlap=0.3, random_state=0
    )
    covered = 2 * 900 - (pairs.labels > 0).sum(axis=(1, 2))
    assert 0 < covered.max() <= 0.3 * 900


def test_grid_background_lies_under_the_same_digits(digits):
    grid = datasets.make_multi_mnist(100, background="grid", random_state=0)
    np.testing.assert_array_equal(grid.labels, digits.labels)
    assert (grid.images >= digits.images - 1e-6).all()
    lines = grid.images[digits.images == 0]
    assert lines.max() == pytest.approx(0.4, abs=0.01)
    assert 0.05 < (lines > 0.2).mean() < 0.25


def test_random_state_decides(digits):
    again = datasets.make_multi_mnist(100, random_state=0)
    np.testing.assert_array_equal(again.images, digits.images)
    assert not np.array_equal(datasets.make_multi_mnist(100, random_state=1).labels, digits.labels)


def test_impossible_digits_are_refused():
    with pytest.raises(ValueError, match="do not fit"):
        datasets.make_multi_mnist(1, size=40, count=(6, 6), max_overlap=0, random_state=0)
    with pytest.raises(ValueError, match="background='white'"):
        datasets.make_multi_mnist(1, background="white")
    with pytest.raises(ValueError, match="larger than an image"):
        datasets.make_multi_mnist(1, size=30)


def _write_idx(path, array):
    header = np.array([0x0800 + array.ndim, *array.shape], ">i4").tobytes()
    path.write_bytes(gzip.compress(header + array.tobytes()))


def test_load_mnist(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (5, 28, 28)).astype(np.uint8)
    _write_idx(tmp_path / "t10k-images-idx3-ubyte.gz", images)
    _write_idx(tmp_path / "t10k-labels-idx1-ubyte.gz", np.arange(5, dtype=np.uint8))
    loaded = datasets.load_mnist(tmp_path, split="test")
    np.testing.assert_array_equal(loaded.images, images)
    assert loaded.classes.tolist() == [0, 1, 2, 3, 4]
    made = datasets.make_multi_mnist(3, digits=loaded, random_state=0)
    assert made.images.max() <= 1
    with pytest.raises(FileNotFoundError, match="train-images"):
        datasets.load_mnist(tmp_path)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"text")
    with pytest.raises(ValueError, match="not an idx file"):
        datasets.load_mnist(tmp_path)


def test_blobs():
    apart = datasets.make_blobs(20, max_overlap=0, random_state=0)
    crowded = datasets.make_blobs(20, count=(5, 6), max_overlap=0.6, random_state=0)
    for made in (apart, crowded):
        assert _consecutive(made.labels, made.count)
        assert set(np.unique(made.images)) == {0, 1}
    discs = datasets.make_blobs(5, count=(1, 1), radius=(10, 10), irregularity=0, random_state=0)
    assert discs.images.sum(axis=(1, 2)) == pytest.approx(np.pi * 100, rel=0.03)
    with pytest.raises(ValueError, match="do not fit"):
        datasets.make_blobs(1, size=30, count=(3, 3), max_overlap=0)


def test_nuclei():
    made = datasets.make_nuclei(2, size=(120, 160), count=(20, 25), diameter=14, random_state=0)
    assert made.images.shape == made.labels.shape == (2, 120, 160)
    assert _consecutive(made.labels, made.count)
    assert 0 <= made.images.min() < made.images.max() <= 1
    area = np.bincount(made.labels[0].ravel())[1:]
    assert np.median(2 * np.sqrt(area / np.pi)) == pytest.approx(14, rel=0.2)
    brightness = [made.images[0][made.labels[0] == label].mean() for label in range(1, made.count[0] + 1)]
    assert max(brightness) / min(brightness) > 4
    with pytest.raises(ValueError, match="do not fit"):
        datasets.make_nuclei(1, size=40, count=(50, 50))


def test_nuclei_of_several_sizes_are_equally_many():
    made = datasets.make_nuclei(
        2, size=420, count=(60, 60), diameter=[8, 40], touching=0, brightness=(0.5, 1), random_state=0
    )
    assert _consecutive(made.labels, made.count)
    for labels in made.labels:
        inner = np.setdiff1d(labels, np.concatenate([labels[[0, -1]].ravel(), labels[:, [0, -1]].ravel()]))
        diameters = np.sqrt(4 / np.pi * np.bincount(labels.ravel()))[inner]
        small, large = diameters[diameters < 16], diameters[diameters > 16]
        assert small.mean() == pytest.approx(8, rel=0.15)
        assert large.mean() == pytest.approx(40, rel=0.15)
        assert len(np.unique(labels)) == 61
        whole = np.sqrt(4 / np.pi * np.bincount(labels.ravel()))[1:]
        assert np.count_nonzero(whole > 16) == pytest.approx(30, abs=3)


def test_one_size_in_a_list_is_that_size():
    how = {"size": 128, "count": (12, 12), "random_state": 0}
    one, listed = (datasets.make_nuclei(1, diameter=d, **how) for d in (14, [14]))
    np.testing.assert_array_equal(one.images, listed.images)
    np.testing.assert_array_equal(one.labels, listed.labels)


def test_nucleoli_are_dark_spots_in_each_nucleus():
    how = {"size": 300, "count": (12, 12), "diameter": 40, "brightness": (0.9, 1), "random_state": 0}
    none = datasets.make_nuclei(1, touching=0, **how)
    three = datasets.make_nuclei(1, touching=0, nucleoli=3, **how)
    np.testing.assert_array_equal(none.labels, three.labels)
    background = none.labels[0] == 0
    assert np.abs(none.images[0] - three.images[0])[background].mean() < 0.02
    for number in range(1, 13):
        inside = none.labels[0] == number
        before, after = none.images[0][inside], three.images[0][inside]
        darker = np.mean(after < 0.6 * before)
        # Three spots of a fifth of the diameter hold up to 0.12 of the area, and the texture some more.
        assert 0.02 < darker < 0.16
    with_dark = datasets.make_nuclei(1, touching=0, nucleoli=1, **how)
    assert three.images.mean() < with_dark.images.mean() < none.images.mean()


def test_shipped_nuclei():
    image, labels = datasets.load_nuclei()
    assert image.shape == labels.shape == (256, 256)
    assert image.dtype == np.uint8
    assert labels.dtype == np.int32
    assert _consecutive([labels], [51])
    assert image[labels > 0].mean() > 3 * image[labels == 0].mean()


def test_load_dsb2018_splits_by_image(tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    rows = [f"image{i},{'small' if i < 60 else 'large'},10.5" for i in range(80)]
    (tmp_path / "manifest.csv").write_text("\n".join(["id,size_group,mean_nucleus_diameter", *rows]))
    for i in range(80):
        tifffile.imwrite(tmp_path / "images" / f"image{i}.tif", np.full((4, 4 + i), i, np.uint8))
        tifffile.imwrite(tmp_path / "masks" / f"image{i}.tif", np.ones((4, 4 + i), np.uint16))
    train, test = (datasets.load_dsb2018(tmp_path, split=split) for split in ("train", "test"))
    assert len(train.names) == len(test.names) == 40
    assert set(train.names).isdisjoint(test.names)
    assert sum(image.max() < 60 for image in test.images) == 30  # each group in proportion
    assert test.names == datasets.load_dsb2018(tmp_path, split="test").names
    assert test.labels[0].dtype == np.int32
    assert test.images[0].shape == test.labels[0].shape
    assert test.diameters.tolist() == [10.5] * 40
    with pytest.raises(ValueError, match="split='half'"):
        datasets.load_dsb2018(tmp_path, split="half")
    with pytest.raises(FileNotFoundError, match="manifest"):
        datasets.load_dsb2018(tmp_path / "images")
