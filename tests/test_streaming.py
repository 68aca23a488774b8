"""Segmenting piece by piece, in a folder: the same labels as in memory, also after being killed."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from cellsegmenter import AbsoluteResolution
from cellsegmenter.consensus.consensus import _Cut
from cellsegmenter.datasets import make_nuclei
from cellsegmenter.model.rendering import present_objects, render
from cellsegmenter.preparation import prepare_image
from cellsegmenter.region import Region
from cellsegmenter.repair import repair_image
from cellsegmenter.scales import see_image
from cellsegmenter.segmenting import consensus_of
from cellsegmenter.store import FolderStore, MemoryStore, Task, WorkFolderError, run_tasks
from cellsegmenter.workspace import Workspace


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    """A scene of several tiles, dense enough for objects on every border."""
    return make_nuclei(
        1, size=330, count=(120, 120), diameter=12, brightness=(0.5, 1), random_state=1
    ).images[0]


def consensus(
    segmenter, image, scale=1.0, *, region=None, seed=0, tile_size=4096, n_jobs=1, work_folder=None
):
    """By sliding windows."""
    diameter = segmenter.working_diameter_
    return consensus_of(
        segmenter._ready_model(),
        see_image(
            repair_image(segmenter._one_image(image)[0]),
            [diameter / scale],
            working_diameter=diameter,
            intensity="log",
        ),
        replace(segmenter._window_settings(seed, n_samples=1), tile_size=tile_size),
        Workspace(None if work_folder is None else Path(work_folder), n_jobs=n_jobs),
        resolution=AbsoluteResolution(0.3),
        min_size=20,
        region=region,
    )


def assert_same(one, two):
    np.testing.assert_array_equal(one.labels, two.labels)
    np.testing.assert_array_equal(one.confidence, two.confidence)
    np.testing.assert_allclose(one.z_what, two.z_what, rtol=1e-6)
    np.testing.assert_array_equal(one.foreground_prob, two.foreground_prob)
    assert one.resolution == two.resolution


@pytest.fixture(scope="module")
def whole(trained, image):
    """The segmentation of one tile, in memory."""
    graph = consensus(trained, image)
    assert len(graph.graph.tiling) == 1
    return graph.cut()


@pytest.mark.parametrize("tile_size", [48, 200])
def test_a_folder_and_tiles_of_any_size_give_the_labels_of_memory(trained, image, whole, tmp_path, tile_size):
    tiled = consensus(trained, image, work_folder=tmp_path, tile_size=tile_size)
    assert len(tiled.graph.tiling) >= 4
    assert len(whole) > 60
    assert_same(tiled.cut(), whole)
    for resolution in (20.0, "auto"):
        assert_same(tiled.cut(resolution), consensus(trained, image).cut(resolution))


@pytest.mark.parametrize("n_jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_dense_tissue_in_squares_is_the_same_in_any_tiles(trained, tmp_path, monkeypatch, n_jobs):
    monkeypatch.setattr("cellsegmenter.consensus.work._LARGEST_COMPONENT", 300)
    dense = make_nuclei(
        1, size=260, count=(150, 150), diameter=13, brightness=(0.6, 1), touching=0.4, random_state=2
    ).images[0]
    undivided = consensus(trained, dense)
    components = undivided.graph._work_of(_Cut("cpm", 20, 0.5, 0)).components
    assert (components.size > 300).sum() >= 10
    expected = undivided.cut()
    assert len(expected) > 60
    for tile_size in (48, 100):
        with joblib.parallel_config(backend="loky", inner_max_num_threads=1):
            options = {"n_jobs": n_jobs, "tile_size": tile_size, "work_folder": tmp_path / str(tile_size)}
            assert_same(consensus(trained, dense, **options).cut(), expected)


@pytest.mark.parametrize("folder", [False, True])
def test_processes_give_the_same_labels(trained, image, whole, tmp_path, folder):
    with joblib.parallel_config(backend="loky", inner_max_num_threads=1):
        found = consensus(
            trained, image, n_jobs=2, tile_size=48, work_folder=tmp_path / "work" if folder else None
        ).cut()
    assert_same(found, whole)


@pytest.mark.parametrize("scale", [1.0, 0.8, 1.3])
def test_a_region_shows_what_the_whole_image_does(trained, image, scale):
    region = Region(87, 101, 170, 130)  # neither at a window's corner nor at a batch's
    whole = consensus(trained, image, scale)
    alone = consensus(trained, image, scale, region=region, tile_size=48)
    assert len(alone.graph.tiling) >= 4
    # Batches at the border lack the windows beyond it, which may change the last bit of a sample, and by it a pixel's
    # mass by one 255th or, at half an object's height, by a visit.
    foreground = alone.graph.foreground()
    difference = np.abs(foreground - _within_frame(whole, image, region, scale))
    assert (difference > 0).sum() < 1e-4 * foreground.size
    assert difference.max() <= 1 / whole.graph.rule.n_visits
    large, small = whole.cut(), alone.cut()
    assert small.labels.shape == region.shape
    inner = (slice(20, -20), slice(20, -20))
    expected = large.labels[region.slices][inner]
    assert len(np.unique(expected)) > 10
    # Of components that the border cuts, the solver sees another graph.
    assert adjusted_rand_score(small.labels[inner].ravel(), expected.ravel()) > 0.95


def _within_frame(whole, image, region, scale):
    """The foreground of the whole image at working scale in the region."""
    frame = prepare_image(image[None], scale=scale, diameter=16).working_region(region)
    return whole.graph.foreground()[frame.slices]


def test_a_region_with_whole_tiles_has_the_very_samples(trained, image):
    region = Region(40, 60, 200, 210)
    whole, alone = consensus(trained, image), consensus(trained, image, region=region)
    found, part = (c.graph.store.load("found-0") for c in (whole, alone))
    corner = [record["window_origin"][record["window"]] for record in (found, part)]
    inside = ((corner[0] >= (40, 60)) & (corner[0] + 48 <= (240, 270))).all(axis=1)
    there = ((corner[1] >= 0) & (corner[1] + 48 <= (200, 210))).all(axis=1)
    assert inside.sum() > 100
    np.testing.assert_array_equal(corner[0][inside] - (40, 60), corner[1][there])
    np.testing.assert_allclose(found["z_what"][inside], part["z_what"][there], atol=1e-4)


def test_a_finished_cut_is_not_done_again(trained, image, whole, tmp_path, monkeypatch):
    consensus(trained, image, work_folder=tmp_path).cut()
    monkeypatch.setattr("cellsegmenter.inference._infer", lambda *_: pytest.fail("inference again"))
    monkeypatch.setattr("cellsegmenter.consensus.work.solve_graph", lambda *_, **__: pytest.fail("again"))
    assert_same(consensus(trained, image, work_folder=tmp_path).cut(), whole)


def test_a_second_cut_leaves_the_first_alone_whatever_the_scale(trained, image, tmp_path):
    def at_scale(**options):
        return consensus(trained, image, 0.8, **options)

    stored = at_scale(work_folder=tmp_path)
    cuts = {"coarse": AbsoluteResolution(0.05), "fine": AbsoluteResolution(0.6)}
    kept = {name: stored.cut(resolution) for name, resolution in cuts.items()}
    kept["large"] = stored.cut(cuts["fine"], min_size=90)
    assert len(kept["fine"]) > len(kept["large"])
    for name, resolution in cuts.items():
        assert_same(kept[name], at_scale().cut(resolution))


@pytest.mark.parametrize("change", ["image", "model", "sizes", "seed", "merge_tolerance"])
def test_a_work_folder_of_another_computation_is_refused(
    trained, segmenter, image, tmp_path, change, monkeypatch
):
    consensus(trained, image, work_folder=tmp_path)
    other = image.copy()
    if change == "image":
        other[-1, -1] += 1
    elif change == "merge_tolerance":
        monkeypatch.setattr("cellsegmenter.segmenting.MERGE_TOLERANCE", 0.0)
    elif change == "model":
        with torch.no_grad():
            next(segmenter.model_.parameters())[0] += 1e-3
    elif change == "sizes":  # which the weights do not show
        low, high = segmenter.model_.config.object_size
        segmenter.model_.config = replace(segmenter.model_.config, object_size=(low, high + 4))
    name = "model" if change == "sizes" else change
    with pytest.raises(WorkFolderError, match=f"another computation: {name} was .* and is .*delete"):
        consensus(segmenter, other, work_folder=tmp_path, seed=int(change == "seed"))


def test_a_folder_of_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(WorkFolderError, match="holds other files"):
        FolderStore(tmp_path, {})


def _double(store, name):
    return {"x": 2 * store.load(name)["x"]}


@pytest.mark.parametrize("kind", ["memory", "folder"])
def test_tasks_make_only_what_is_missing(kind, tmp_path):
    store = MemoryStore() if kind == "memory" else FolderStore(tmp_path / "work", {"a": 1})
    store.save("one", {"x": np.arange(3)})
    store.save("made", {"x": np.arange(2)})
    run_tasks(store, [Task("made", pytest.fail, (), ()), Task("two", _double, ("one",), ("one",))])
    np.testing.assert_array_equal(store.load("two")["x"], [0, 2, 4])
    store.discard("two")
    assert not store.has("two")


def test_a_record_that_fails_leaves_nothing_behind(tmp_path):
    store = FolderStore(tmp_path / "work", {})
    with pytest.raises(ZeroDivisionError):
        run_tasks(store, [Task("bad", lambda _: {"x": np.array(1 / 0)}, (), ())])
    assert [path.name for path in store.path.iterdir()] == ["manifest.json"]


def test_an_image_takes_its_room_at_once(tmp_path, monkeypatch):
    store = FolderStore(tmp_path / "work", {})
    image = store.new_image("labels", (512, 512), np.int32)
    if hasattr(os, "posix_fallocate"):
        assert image.path.stat().st_blocks * 512 >= 2**20

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(OSError, match=r"No space left on device: .*more\.npy"):
        store.new_image("more", (512, 512), np.int32)
    assert store.image("more") is None


SCRIPT = """
import sys, numpy as np, torch
sys.path.insert(0, sys.argv[1])
torch.set_num_threads(1)
from cellsegmenter import CellSegmenter
from test_streaming import consensus
segmenter = CellSegmenter.load(sys.argv[2])
found = consensus(segmenter, np.load(sys.argv[3]), work_folder=sys.argv[4], tile_size=48).cut()
np.save(sys.argv[5], found.labels)
"""


def test_killed_at_any_moment_it_goes_on_and_gives_the_same(trained, image, whole, tmp_path, request):
    trained.save(tmp_path / "model.safetensors")
    np.save(tmp_path / "image.npy", image)
    files = [request.path.parent, *(tmp_path / name for name in ("model.safetensors", "image.npy", "work"))]
    command = [sys.executable, "-c", SCRIPT, *map(str, files), str(tmp_path / "labels.npy")]
    made = []
    for n_files in (3, 12):  # during inference, and later
        process = subprocess.Popen(command)
        while process.poll() is None and len(list(files[-1].glob("[!.]*"))) < n_files:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        made.append({path.name: path.stat().st_mtime_ns for path in files[-1].glob("found-*")})
    assert made[0]
    subprocess.run(command, check=True)
    assert made[0].items() <= made[1].items()  # nothing was done twice
    np.testing.assert_array_equal(np.load(tmp_path / "labels.npy"), whole.labels)


def test_present_objects_are_what_rendering_gives(trained, image):
    settings = trained._window_settings(0)
    windows = (
        torch.from_numpy(prepare_image(image[None], diameter=16)[:, :96, :96])
        .unfold(1, 48, 48)
        .unfold(2, 48, 48)
    )
    windows = windows.reshape(1, 4, 48, 48).transpose(0, 1).contiguous()
    with torch.inference_mode():
        posterior = trained.model_.infer(
            windows, None, max_objects=settings.max_objects, overlap_threshold=0.9
        ).posterior
        expected = render(posterior).mixing_prob[posterior.presence > 0.5]
        drawn = present_objects(posterior)
    assert len(expected) > 8
    assert (expected.sum(0) > 0.99).any()
    found = torch.zeros(len(expected), 48 + 200, 48 + 200)
    number = torch.arange(len(expected))[:, None, None]
    found[number, drawn.row[:, :, None] + 100, drawn.column[:, None, :] + 100] = drawn.mixing_prob
    torch.testing.assert_close(found[:, 100:148, 100:148], expected, atol=1e-6, rtol=1e-5)
    assert found.sum() == pytest.approx(float(expected.sum()), rel=1e-5)


@pytest.mark.slow
def test_a_cluster_gives_the_same_labels_also_when_a_worker_dies(trained, image, whole, tmp_path):
    distributed = pytest.importorskip("distributed")
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
        client.run(torch.set_num_threads, 1)

        def kill_a_worker():
            while not list(tmp_path.glob("found-*")):  # at work
                time.sleep(0.01)
            os.kill(next(iter(cluster.workers.values())).pid, signal.SIGKILL)

        killer = threading.Thread(target=kill_a_worker, daemon=True)
        killer.start()
        with joblib.parallel_config(backend="dask", n_jobs=-1):
            found = consensus(trained, image, n_jobs=None, tile_size=48, work_folder=tmp_path).cut()
        killer.join()
    assert_same(found, whole)
