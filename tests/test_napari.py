"""The napari widget, offscreen: its layers, and that the slider cuts the graph again."""

import copy
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import cellsegmenter
from cellsegmenter import CellSegmenter

pytestmark = pytest.mark.filterwarnings("default")  # napari's own warnings are not ours to mend
MANIFEST = Path(cellsegmenter.__file__).with_name("napari.yaml")


@pytest.fixture
def widget(trained, scenes, monkeypatch):
    monkeypatch.setitem(os.environ, "QT_QPA_PLATFORM", "offscreen")
    pytest.importorskip("magicgui")
    components = pytest.importorskip("napari.components")
    widgets = pytest.importorskip("qtpy.QtWidgets")
    application = widgets.QApplication.instance() or widgets.QApplication([])
    from cellsegmenter.napari_widget import ResolutionWidget

    ready = copy.deepcopy(trained).set_params(resolution="auto")
    monkeypatch.setattr(CellSegmenter, "pretrained", lambda: ready)
    viewer = components.ViewerModel()
    opened = ResolutionWidget(viewer)
    opened.settle = lambda: settle(opened, application)
    viewer.add_image(scenes[0][0], name="cells")
    yield opened, viewer
    settle(opened, application)


def settle(opened, application, seconds=30):
    """Let Qt work until the widget's task is done and shown."""
    end = time.monotonic() + seconds
    while opened.busy and time.monotonic() < end:
        application.processEvents()
        time.sleep(0.005)
    application.processEvents()
    assert not opened.busy


def test_a_click_makes_labels_and_confidence(widget, trained, scenes):
    opened, viewer = widget
    opened.segment.changed.emit(True)
    opened.settle()
    assert [layer.name for layer in viewer.layers] == ["cells", "cells confidence", "cells labels"]
    expected = trained.consensus(scenes[0][0], random_state=0).cut("auto")
    labels, confidence = viewer.layers["cells labels"].data, viewer.layers["cells confidence"].data
    np.testing.assert_array_equal(labels, expected.labels)
    np.testing.assert_allclose(confidence[labels == 1], expected.confidence[0])
    assert not confidence[labels == 0].any()
    assert opened.gamma.value == pytest.approx(expected.resolution.absolute, abs=0.01)
    assert f"{len(expected)} objects" in opened.found.value


def test_the_slider_cuts_the_same_graph_again(widget, trained, scenes, monkeypatch):
    opened, viewer = widget
    opened.run()
    opened.settle()
    monkeypatch.setattr(CellSegmenter, "consensus", None)  # nothing is inferred a second time
    before = viewer.layers["cells labels"].data
    opened.gamma.value = 0.9
    opened.settle()
    after = viewer.layers["cells labels"].data
    assert (before != after).any()
    assert len(viewer.layers) == 3
    assert "--gamma-abs 0.9" in opened.found.value
    opened.automatic.changed.emit(True)
    opened.settle()
    np.testing.assert_array_equal(viewer.layers["cells labels"].data, before)


def test_what_cannot_be_segmented_is_said(widget):
    opened, viewer = widget
    viewer.layers.clear()
    opened.run()
    assert opened.found.value == "Open an image first."
    viewer.add_image(np.zeros((2, 3, 4, 64, 64)), name="much")
    opened.run()
    opened.settle()
    assert "one image is needed" in opened.found.value
    assert opened.segment.enabled
    assert not opened.gamma.enabled


def test_the_viewer_is_not_blocked_meanwhile(widget, trained, scenes, monkeypatch):
    opened, viewer = widget
    gate, threads = threading.Event(), []
    consensus = CellSegmenter.consensus

    def slow(*arguments, **options):
        threads.append(threading.current_thread())
        assert gate.wait(30)
        return consensus(*arguments, **options)

    monkeypatch.setattr(CellSegmenter, "consensus", slow)
    opened.run()  # comes back although nothing is done yet
    assert opened.busy
    assert "segmenting cells" in opened.found.value
    assert not opened.segment.enabled
    assert not opened.gamma.enabled
    viewer.add_image(np.zeros((8, 8)), name="another")  # somebody works on
    gate.set()
    opened.settle()
    assert threads[0] is not threading.main_thread()
    assert "cells labels" in viewer.layers
    assert opened.segment.enabled
    assert opened.gamma.enabled


def test_an_unexpected_error_frees_the_widget(widget, monkeypatch):
    opened, _ = widget
    monkeypatch.setattr(CellSegmenter, "consensus", lambda *_, **__: 1 / 0)
    opened.run()
    opened.settle()
    assert opened.found.value == "ZeroDivisionError: division by zero"
    assert opened.segment.enabled


def test_napari_reads_the_manifest():
    npe2 = pytest.importorskip("npe2")
    manifest = npe2.PluginManifest.from_file(MANIFEST)
    [contribution] = manifest.contributions.widgets
    [command] = manifest.contributions.commands
    assert contribution.command == command.id
    pytest.importorskip("napari.qt.threading")
    module, _, name = command.python_name.partition(":")
    assert hasattr(__import__(module, fromlist=[name]), name)


def test_the_manifest_is_installed_and_announced():
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    entry = project["project"]["entry-points"]["napari.manifest"]["cellsegmenter"]
    assert entry == "cellsegmenter:napari.yaml"
    assert MANIFEST.is_file()
    assert MANIFEST.name in project["tool"]["setuptools"]["package-data"]["cellsegmenter"]
