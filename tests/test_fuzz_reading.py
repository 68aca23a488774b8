"""Files of any kind and with any damage: right pixels and sizes, or one line that names the file and a remedy.

`CELLSEGMENTER_FUZZ=10000 pytest tests/test_fuzz_reading.py` tries that many files of each kind.
"""

import json
import os
import shutil
import struct
import tempfile
import tracemalloc
import warnings
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cellsegmenter import CellSegmenter, io
from cellsegmenter.io._layout import LARGE
from cellsegmenter.serialization import ModelFileError

MANY = int(os.environ.get("CELLSEGMENTER_FUZZ", 0))
fuzz = settings(
    max_examples=MANY or 50,  # of four kinds
    deadline=None,
    derandomize=not MANY,
    database=None,
    suppress_health_check=list(HealthCheck),
)
MEMORY = 3 * LARGE  # bytes: an image that is read at once, its copy, and what decodes it
REMEDIES = (
    "export",
    "copy",
    "choose",
    "check",
    "name",
    "save",
    "set",
    "unpack",
    "correct",
    "leave",
    "install",
    "give",
    "--",
)
NUMBERS = ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8")


class Made(NamedTuple):
    """A file, and what reading it must give."""

    path: Path
    pixels: np.ndarray
    axes: str
    options: dict[str, Any]  # that choose one plane
    pixel_size: float | None  # µm

    @property
    def plane(self) -> np.ndarray:
        chosen = {"C": "channel", "Z": "z", "T": "t", "Q": "page", "I": "page"}
        index = tuple(slice(None) if axis in "YX" else self.options[chosen[axis]] for axis in self.axes)
        return self.pixels[index]


def pixels_of(draw, shape, dtype) -> np.ndarray:
    """Pixels of any pattern, of which a compression may make little or nothing."""
    random = np.random.default_rng(draw(st.integers(0, 2**16)))
    values = random.integers(0, draw(st.sampled_from([2, 120])), shape)
    return values.astype(dtype)


def choices(draw, sizes) -> dict[str, int]:
    """A position on each axis."""
    return {name: draw(st.integers(0, size - 1)) for name, size in sizes.items()}


SIDES = st.integers(5, 40)  # of fewer than five pixels, tifffile takes rows for samples
FEW = st.integers(2, 3)


@st.composite
def tiffs(draw, folder: Path) -> Made:
    kind = draw(st.sampled_from(["plain", "pages", "imagej", "ome"]))
    axes = {"plain": ["YX"], "pages": ["QYX"]}.get(kind, ["YX", "ZYX", "CYX", "TZCYX"])
    axes = draw(st.sampled_from(axes))
    names = {"Q": "page", "Z": "z", "T": "t", "C": "channel"}
    sizes = {names[axis]: draw(FEW) for axis in axes[:-2]}
    dtype = draw(st.sampled_from(("u1", "u2", "f4") if kind == "imagej" else NUMBERS))
    if kind == "ome" and dtype in ("u8", "i8", "f2"):
        dtype = "u2"
    pixels = pixels_of(draw, (*sizes.values(), draw(SIDES), draw(SIDES)), dtype)
    um = draw(st.sampled_from([None, 0.25, 0.5]))
    options: dict[str, Any] = {"photometric": "minisblack", "byteorder": draw(st.sampled_from("<>"))}
    if kind == "imagej":
        options |= {"imagej": True, "metadata": {"axes": axes}}
        if um:
            options["metadata"]["unit"] = draw(st.sampled_from(["um", "\\u00B5m", "micron"]))
            options["resolution"] = (1 / um, 1 / um)
        options["byteorder"] = ">"
    else:
        options["compression"] = draw(
            st.sampled_from([None, "zlib", "lzw", "zstd", "lzma"] + ["packbits"] * (dtype == "u1"))
        )
        options["tile"] = draw(st.sampled_from([None, (16, 16)]))
        options["bigtiff"] = draw(st.booleans())
    path = folder / "x.tif"
    if kind == "ome":
        unit, factor = draw(st.sampled_from([("µm", 1), ("nm", 1000), ("mm", 1e-3), ("Å", 1e4)]))
        metadata: dict[str, Any] = {"axes": axes}
        for side in "XY" if um else "":
            metadata |= {f"PhysicalSize{side}": um * factor, f"PhysicalSize{side}Unit": unit}
        options |= {"ome": True, "metadata": metadata}
        path = folder / "x.ome.tif"
    elif kind != "imagej":
        options["metadata"] = None
        if um:
            options |= {"resolution": (1e4 / um, 1e4 / um), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, pixels, **options)
    return Made(path, pixels, axes, choices(draw, sizes), um)


@st.composite
def pngs(draw, folder: Path) -> Made:
    n_samples = draw(st.integers(1, 4))
    pixels = pixels_of(draw, (draw(SIDES), draw(SIDES), n_samples), draw(st.sampled_from(["u1", "u2"])))
    content = imagecodecs.png_encode(
        np.ascontiguousarray(np.squeeze(pixels, 2) if n_samples == 1 else pixels)
    )
    path = folder / "x.png"
    path.write_bytes(content)
    if n_samples < 3:
        return Made(path, pixels[..., 0], "YX", {}, None)
    return Made(path, pixels, "YXC", choices(draw, {"channel": n_samples}), None)


@st.composite
def npys(draw, folder: Path) -> Made:
    dtype = draw(st.sampled_from([*NUMBERS, ">u2", ">f4", "?"]))
    sizes = {"page": draw(FEW)} if draw(st.booleans()) else {}
    pixels = pixels_of(draw, (*sizes.values(), draw(SIDES), draw(SIDES)), dtype)
    path = folder / "x.npy"
    np.save(path, np.asfortranarray(pixels) if draw(st.booleans()) else pixels)
    return Made(path, pixels, "QYX"[-pixels.ndim :], choices(draw, sizes), None)


@st.composite
def ome_zarrs(draw, folder: Path) -> Made:
    import zarr

    version = draw(st.sampled_from(["0.1", "0.2", "0.3", "0.4", "0.5"]))
    two = version != "0.5"
    axes = "TCZYX" if version in ("0.1", "0.2") else draw(st.sampled_from(["YX", "ZYX", "CYX", "TCZYX"]))
    names = {"Z": "z", "T": "t", "C": "channel"}
    sizes = {names[axis]: draw(FEW) for axis in axes[:-2]}
    dtype = np.dtype(draw(st.sampled_from(NUMBERS))).newbyteorder(draw(st.sampled_from("<>")))
    pixels = pixels_of(draw, (*sizes.values(), draw(SIDES), draw(SIDES)), dtype)
    pixels[..., 0, 0] = 1  # an image of zeros has no chunks, and is refused for it
    path = folder / draw(st.sampled_from(["x.zarr", "x.ZARR"]))
    root = zarr.open_group(path, mode="w", zarr_format=2 if two else 3)
    prefix = draw(st.sampled_from(["", "0/", "A/1/0/"]))
    group = root.create_group(prefix[:-1]) if prefix else root
    compressors = {True: [None, "auto"], False: [None, "auto"]}[two]
    group.create_array(
        "0",
        data=pixels,
        chunks=(1,) * (pixels.ndim - 2) + (draw(st.integers(4, 40)), draw(st.integers(4, 40))),
        compressors=draw(st.sampled_from(compressors)),
    )
    um = draw(st.sampled_from([0.25, 0.5])) if version in ("0.4", "0.5") else None
    unit, factor = draw(st.sampled_from([("micrometer", 1), ("nanometer", 1000), ("inch", 1 / 25400)]))
    multiscale: dict[str, Any] = {"version": version, "datasets": [{"path": "0"}]}
    if version == "0.3":
        multiscale["axes"] = list(axes.lower())
    elif um:
        units = [{"unit": unit} if axis in "YX" else {} for axis in axes]
        multiscale["axes"] = [{"name": axis.lower()} | said for axis, said in zip(axes, units, strict=True)]
        scale = [um * factor if axis in "YX" else 1.0 for axis in axes]
        multiscale["datasets"][0]["coordinateTransformations"] = [{"type": "scale", "scale": scale}]
    describe = {
        "": (path, {"multiscales": [multiscale]}),
        "0/": (path, {"bioformats2raw.layout": 3}),
        "A/1/0/": (path, {"plate": {"wells": [{"path": "A/1"}]}}),
    }[prefix]
    attribute(zarr, describe[0], describe[1], two)
    if prefix == "A/1/0/":
        attribute(zarr, path / "A" / "1", {"well": {"images": [{"path": "0"}]}}, two)
    attribute(zarr, path / prefix, {"multiscales": [multiscale]}, two)
    return Made(path, pixels, axes, choices(draw, sizes), um)


def attribute(zarr, path: Path, attributes: dict[str, Any], two: bool) -> None:
    group = zarr.open_group(path, mode="a", zarr_format=2 if two else 3)
    group.attrs.update(attributes if two else {"ome": {"version": "0.5", **attributes}})


def files_in(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def damage(draw, path: Path) -> None:
    """Cut a file, change bytes of it, put a number where another was, or take it away."""
    files = files_in(path)
    file = draw(st.sampled_from(files))
    content = bytearray(file.read_bytes())
    how = draw(st.sampled_from(["cut", "flip", "flip", "number", "claim", "zeros", "drop"]))
    if how == "drop" and path.is_dir():
        file.unlink()
        return
    if not content:
        return
    at = draw(st.integers(0, len(content) - 1))
    if how == "cut":
        del content[at:]
    elif how == "zeros":
        content[at : at + draw(st.integers(1, 64))] = b""
    elif how == "claim":
        content = claim(draw, file, content)
    elif how == "number":
        width = draw(st.sampled_from([2, 4, 8]))
        value = draw(st.sampled_from([0, 1, 255, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1]))
        number = (value % 2 ** (8 * width)).to_bytes(width, draw(st.sampled_from(["little", "big"])))
        at = min(at, 400) if draw(st.booleans()) else at  # where headers are
        content[at : at + width] = number
    else:
        for _ in range(draw(st.integers(1, 4))):
            at = draw(st.integers(0, len(content) - 1))
            content[at] = draw(st.integers(0, 255))
    file.write_bytes(content)


def claim(draw, file: Path, content: bytearray) -> bytearray:
    """A header whose sizes are terabytes."""
    side = draw(st.sampled_from([10**5, 2**20, 2**31 - 1]))
    if file.suffix == ".png":
        content[16:24] = struct.pack(">II", side, side)
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    elif file.suffix == ".npy":
        text = content[10:128].split(b"'shape': (")
        if len(text) == 2:
            claimed = text[0] + b"'shape': (%d, %d), }" % (side, side)
            content[10:128] = claimed[:117].ljust(117) + b"\n"
    elif file.suffix == ".tif":
        with tifffile.TiffFile(file, mode="r+b") as tiff:
            for tag in draw(
                st.sampled_from([("ImageWidth", "ImageLength"), ("ImageLength",), ("TileWidth",)])
            ):
                if tag in tiff.pages[0].tags:
                    tiff.pages[0].tags[tag].overwrite(side)
        return bytearray(file.read_bytes())
    elif file.name in (".zarray", "zarr.json"):
        described = json.loads(content)
        if "shape" in described:
            described["shape"][-2:] = [side, side]
            return bytearray(json.dumps(described).encode())
    return content


def read_in_every_way(made: Made) -> None:
    """With the choices that suited the file when it was whole, and without; a refusal is one line with a remedy."""
    reads = [lambda: io.read_image(made.path, **made.options), lambda: io.read_image(made.path)]
    for read in [
        *reads,
        lambda: io.list_series(made.path),
        lambda: io.read_images(made.path, z="all", page="all")[0],
    ]:
        try:
            image = read()
            if isinstance(image, io.ImageFile):
                part = np.asarray(image.array[..., :50, :50])
                if made.path.suffix == ".png" and read is reads[0]:  # whose checksums tell every change
                    np.testing.assert_array_equal(part, made.plane)
        except io.ImageFileError as error:
            message = str(error)
            assert message.splitlines() == [message]
            assert made.path.parent.name in message
            assert any(word in message.partition(made.path.name)[2] for word in REMEDIES), message


def check(kind, data) -> None:
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tifffile and zarr while they write, and ours of sizes
            made = data.draw(kind(folder))
            whole = io.read_image(made.path, **made.options)
            np.testing.assert_array_equal(np.asarray(whole.array), made.plane)
            assert np.asarray(whole.array).dtype.newbyteorder("=") == made.pixels.dtype.newbyteorder("=")
            expected = None if made.pixel_size is None else pytest.approx(made.pixel_size, rel=1e-3)
            assert whole.pixel_size == expected
            del whole
            damage(data.draw, made.path)
            before = [(file, file.stat().st_size) for file in files_in(folder)]
            tracemalloc.start()
            try:
                read_in_every_way(made)
                assert tracemalloc.get_traced_memory()[1] < MEMORY
            finally:
                tracemalloc.stop()
            assert [(file, file.stat().st_size) for file in files_in(folder)] == before
    finally:
        shutil.rmtree(folder)


@fuzz
@given(st.data())
def test_tiff(data):
    check(tiffs, data)


@fuzz
@given(st.data())
def test_png(data):
    check(pngs, data)


@fuzz
@given(st.data())
def test_npy(data):
    check(npys, data)


@fuzz
@given(st.data())
def test_ome_zarr(data):
    pytest.importorskip("zarr")
    check(ome_zarrs, data)


@pytest.fixture(scope="module")
def model() -> tuple[bytes, str]:
    """The built-in model's file, and what it says when it is loaded."""
    from importlib import resources

    content = (resources.files("cellsegmenter") / "data" / "nuclei.safetensors").read_bytes()
    return content, fingerprint(CellSegmenter.pretrained())


def fingerprint(segmenter: CellSegmenter) -> str:
    from cellsegmenter.provenance import model_hash

    weights = model_hash(segmenter.model_, segmenter.recognition_, segmenter.intensity)
    return weights + repr(sorted(segmenter.get_params().items())) + repr(segmenter.card_)


@fuzz
@given(st.data())
def test_model_files(model, data):
    content, whole = bytearray(model[0]), model[1]
    header = int.from_bytes(content[:8], "little")
    how = data.draw(st.sampled_from(["cut", "weights", "header", "length"]))
    if how == "cut":
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    elif how == "length":
        content[:8] = data.draw(st.integers(0, 2**64 - 1)).to_bytes(8, "little")
    else:
        low, high = (0, header + 7) if how == "header" else (header + 8, len(content) - 1)
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(low, high))] = data.draw(st.integers(0, 255))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        path.write_bytes(content)
        refusal = None
        try:
            loaded = CellSegmenter.load(path)
        except ModelFileError as error:
            refusal = str(error)
    if refusal is None:
        assert fingerprint(loaded) == whole
    else:
        assert str(path) in refusal
        assert refusal.splitlines() == [refusal]
