"""Tables of objects: what is measured, and the files they go to."""

import sys

import numpy as np
import pytest
from skimage.measure import regionprops_table

from cellsegmenter import io, measurements
from cellsegmenter.measurements import measure_objects


@pytest.fixture
def labels():
    """Ellipses of known axes, a single pixel and a line."""
    labels = np.zeros((90, 120), np.int32)
    rows, columns = np.mgrid[:90, :120]
    labels[((rows - 30) / 20) ** 2 + ((columns - 30) / 10) ** 2 <= 1] = 1
    labels[(rows - 50) ** 2 + (columns - 80) ** 2 <= 15**2] = 2
    labels[80, 10:21] = 3
    labels[85, 100] = 4
    return labels


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 60000, (2, 90, 120)).astype(np.uint16)


def test_measurements_of_known_shapes(labels, image):
    table = measure_objects(labels, image[0])
    assert table["label"].tolist() == [1, 2, 3, 4]
    assert table["axis_major_length"][:2] == pytest.approx([40, 30], rel=0.02)
    assert table["axis_minor_length"][:2] == pytest.approx([20, 30], rel=0.02)
    assert table["eccentricity"][[0, 1]] == pytest.approx([np.sqrt(3) / 2, 0], abs=0.03)
    assert table["orientation"][0] == pytest.approx(0, abs=0.01)
    assert table["orientation"][2] == pytest.approx(np.pi / 2)
    assert table["equivalent_diameter"][1] == pytest.approx(30, rel=0.01)
    assert table["perimeter"][1] == pytest.approx(30 * np.pi, rel=0.06)
    assert (table["solidity"][:3] > 0.9).all()
    assert table["area"][[2, 3]].tolist() == [11, 1]
    for row, label in enumerate(table["label"]):
        pixels = image[0][labels == label].astype(float)
        for name, function in [("mean", np.mean), ("min", np.min), ("max", np.max), ("std", np.std)]:
            assert table[f"{name}_intensity"][row] == pytest.approx(function(pixels), rel=1e-5)
    assert not [name for name in table if "um" in name]


def test_micrometres_have_columns_of_their_own(labels, image):
    table, plain = measure_objects(labels, image, pixel_size=0.5), measure_objects(labels, image)
    np.testing.assert_allclose(table["area_um2"], plain["area"] / 4)
    np.testing.assert_allclose(table["centroid_um-1"], plain["centroid-1"] / 2)
    np.testing.assert_allclose(table["perimeter_um"], plain["perimeter"] / 2)
    for name in plain:
        np.testing.assert_array_equal(table[name], plain[name])
    with pytest.raises(ValueError, match="pixel_size is -2"):
        measure_objects(labels, image, pixel_size=-2)


def test_channels_have_columns_of_their_own(labels, image):
    table = measure_objects(labels, image)
    for c in (0, 1):
        assert table[f"max_intensity-{c}"][3] == image[c, 85, 100]
    assert "mean_intensity" not in table
    np.testing.assert_array_equal(
        measure_objects(labels, image[:1])["std_intensity"],
        measure_objects(labels, image[0])["std_intensity"],
    )


@pytest.mark.parametrize("band", [1, 13, 1000])
def test_bands_do_not_show(labels, image, band, monkeypatch):
    monkeypatch.setattr(measurements, "BAND", band)
    table = measure_objects(labels, image[0])
    names = ("label", "bbox", "centroid", "area", "perimeter", "solidity", "intensity_std")
    whole = regionprops_table(labels, image[0].astype(np.float32), names)
    for name, values in whole.items():
        np.testing.assert_allclose(table[{"intensity_std": "std_intensity"}.get(name, name)], values)


def test_no_objects(image):
    table = measure_objects(np.zeros((90, 120), int), image, pixel_size=1)
    some = measure_objects(np.ones((90, 120), int), image, pixel_size=1)
    assert list(table) == list(some)
    assert {len(column) for column in table.values()} == {0}


def test_a_label_may_be_missing(labels, image):
    labels[labels == 2] = 0
    assert measure_objects(labels, image)["label"].tolist() == [1, 3, 4]
    with pytest.raises(ValueError, match="must be of the same size"):
        measure_objects(labels, image[..., 1:])


class TestTables:
    @pytest.fixture
    def table(self, labels, image):
        measured = measure_objects(labels, image[0])
        codes = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
        names = np.array(["a.tif", "a.tif", "a.tif", "b.tif"])
        return {"image": names, **measured, **{f"z_{d}": codes[:, d] for d in range(3)}}

    def test_parquet(self, tmp_path, table):
        parquet = pytest.importorskip("pyarrow.parquet")
        io.write_table(tmp_path / "cells.parquet", table)
        read = parquet.read_table(tmp_path / "cells.parquet")
        assert read.column_names == list(table)
        for name in table:
            np.testing.assert_array_equal(read[name].to_numpy(), table[name])

    def test_anndata(self, tmp_path, table):
        anndata = pytest.importorskip("anndata")
        io.write_table(tmp_path / "cells.h5ad", table)
        data = anndata.read_h5ad(tmp_path / "cells.h5ad")
        codes = np.stack([table[f"z_{d}"] for d in range(3)], axis=1)
        np.testing.assert_array_equal(data.X, codes)
        np.testing.assert_array_equal(data.obsm["X_latent"], codes)
        np.testing.assert_array_equal(data.obsm["spatial"][:, 0], table["centroid-1"])
        assert data.obs_names.tolist() == ["a.tif-1", "a.tif-2", "a.tif-3", "b.tif-4"]
        assert data.var_names.tolist() == ["z_0", "z_1", "z_2"]
        np.testing.assert_array_equal(data.obs["area"], table["area"])
        assert data.obs["image"].dtype == "category"

    def test_rows_of_anndata_are_named_by_the_planes_that_there_are(self, table):
        pytest.importorskip("anndata")
        several = {"image": table["image"], "z": np.array([0, 3, 3, np.nan])} | table
        assert io.to_anndata(several).obs_names.tolist() == [
            "a.tif-z0-1",
            "a.tif-z3-2",
            "a.tif-z3-3",
            "b.tif-4",
        ]
        assert io.to_anndata({"t": np.arange(4)} | table).obs_names[1] == "a.tif-t1-2"

    def test_an_image_without_objects(self, tmp_path, table):
        anndata = pytest.importorskip("anndata")
        io.write_table(tmp_path / "none.h5ad", {name: column[:0] for name, column in table.items()})
        assert anndata.read_h5ad(tmp_path / "none.h5ad").shape == (0, 3)

    def test_scanpy_clusters_it_as_it_is(self, table):
        scanpy = pytest.importorskip("scanpy")
        many = {name: np.tile(column, 20) for name, column in table.items()}
        many["label"] = np.arange(80)
        data = io.to_anndata(many)
        scanpy.pp.neighbors(data, n_neighbors=5)
        scanpy.tl.leiden(data, flavor="igraph", n_iterations=2, directed=False)
        assert data.obs["leiden"].nunique() == 4

    def test_refusals(self, tmp_path, table):
        pytest.importorskip("anndata")
        with pytest.raises(io.ImageFileError, match=r"must end in \.csv, \.parquet, \.h5ad"):
            io.write_table(tmp_path / "cells.xlsx", table)
        with pytest.raises(ValueError, match="AnnData needs z_0"):
            io.to_anndata({"label": table["label"]})

    @pytest.mark.parametrize(("suffix", "package"), [("parquet", "pyarrow"), ("h5ad", "anndata")])
    def test_a_missing_package_is_named(self, tmp_path, table, suffix, package, monkeypatch):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(io.ImageFileError, match=f"pip install {package}"):
            io.write_table(tmp_path / f"cells.{suffix}", table)
        assert list(tmp_path.iterdir()) == []
