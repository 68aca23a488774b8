"""A napari widget: segment a layer once, then move the resolution and see the labels change.

napari (the extra [napari]) is imported by whoever opens the widget; it brings magicgui and Qt.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from magicgui.widgets import ComboBox, Container, FileEdit, FloatSlider, Label, PushButton
from napari.qt.threading import create_worker

from cellsegmenter.consensus import AbsoluteResolution, Segmentation
from cellsegmenter.estimator import CellSegmenter
from cellsegmenter.image_consensus import ImageConsensus
from cellsegmenter.wording import counted

if TYPE_CHECKING:
    from napari.components import ViewerModel

__all__ = ["ResolutionWidget"]

_LOW, _HIGH, _STEP = 0.02, 0.95, 0.01  # of γ_abs


class _Done(NamedTuple):
    """What a task gives."""

    consensus: ImageConsensus
    segmentation: Segmentation


def _segment(pixels: Any, rgb: bool, model: Path | None) -> _Done | str:
    """A layer's data segmented at the automatic resolution, or in words why they cannot be."""
    try:
        segmenter = CellSegmenter.pretrained() if model is None else CellSegmenter.load(model)
        segmenter.set_params(channel_axis=-1 if rgb else None)
        return _cut(segmenter.consensus(np.asarray(pixels), random_state=0), "auto")
    except ValueError as error:  # not one image, not of the model's channels, or no model
        return str(error)


def _cut(consensus: ImageConsensus, resolution: Any) -> _Done:
    return _Done(consensus, consensus.cut(resolution))


class ResolutionWidget(Container):
    """Segments an image layer and keeps its graph, so that another resolution takes a moment only.

    Parameters
    ----------
    viewer : napari.Viewer
    """

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = viewer
        self._consensus: ImageConsensus | None = None
        self._name = ""
        self._moving = False
        self._busy = False
        self.layer = ComboBox(label="image", choices=self._images)
        self.model = FileEdit(label="model", filter="*.safetensors", nullable=True, value=None)
        self.segment = PushButton(text="Segment")
        self.gamma = FloatSlider(
            label="γ_abs", min=_LOW, max=_HIGH, step=_STEP, tracking=False, enabled=False
        )
        self.automatic = PushButton(text="Automatic resolution", enabled=False)
        self.found = Label(value="")
        super().__init__(
            widgets=[self.layer, self.model, self.segment, self.gamma, self.automatic, self.found]
        )
        viewer.layers.events.inserted.connect(self._refresh)
        viewer.layers.events.removed.connect(self._refresh)
        self.segment.changed.connect(self.run)
        self.automatic.changed.connect(lambda: self._cut("auto"))
        self.gamma.changed.connect(self._moved)

    @property
    def busy(self) -> bool:
        """Whether something is being computed, in a thread of its own so that the viewer stays alive."""
        return self._busy

    def run(self) -> None:
        """Segment the chosen layer with the chosen model, at the automatic resolution."""
        layer = self.layer.value
        if layer is None:
            self.found.value = "Open an image first."
            return
        chosen = self.model.value
        named = chosen is not None and Path(chosen).is_file()
        self._name = layer.name
        self._start(partial(_segment, layer.data, layer.rgb, chosen if named else None), "segmenting")

    def _moved(self, value: float) -> None:
        if not self._moving:
            self._cut(AbsoluteResolution(value))

    def _cut(self, resolution: Any) -> None:
        """Cut the graph at hand."""
        assert self._consensus is not None  # the slider and the button are locked before
        self._start(partial(_cut, self._consensus, resolution), "cutting")

    def _start(self, task: Callable[[], _Done | str], what: str) -> None:
        """Do a task in another thread, with a bar in napari's activity dock; it must touch no widget and no layer."""
        self._lock(True)
        self.found.value = f"{what} {self._name} …"
        create_worker(
            task,
            _connect={"returned": self._finish, "errored": self._fail},
            _progress={"desc": f"{what} {self._name}"},
        )

    def _finish(self, done: _Done | str) -> None:
        """Show what a task found, or say why it found nothing."""
        if isinstance(done, str):
            self._lock(False)
            self.found.value = done
            return
        self._consensus = done.consensus
        self._lock(False)
        absolute = done.segmentation.resolution.absolute
        self._moving = True  # the slider follows the automatic choice, which is no wish of the user's
        if np.isfinite(absolute):
            self.gamma.value = float(np.clip(round(absolute / _STEP) * _STEP, _LOW, _HIGH))
        self._moving = False
        self.found.value = (
            f"{counted(len(done.segmentation), 'object')}; cellseg predict --gamma-abs {absolute:.3g}"
        )
        self._show(done.segmentation)

    def _fail(self, error: Exception) -> None:
        """Say what nobody thought of; napari shows the traceback."""
        self._lock(False)
        self.found.value = f"{type(error).__name__}: {error}"

    def _lock(self, busy: bool) -> None:
        """One task at a time; there is nothing to cut before an image was segmented."""
        self._busy = busy
        self.segment.enabled = not busy
        self.gamma.enabled = self.automatic.enabled = not busy and self._consensus is not None

    def _show(self, segmentation: Segmentation) -> None:
        labels = np.asarray(segmentation.labels)
        confidence = np.concatenate([[0.0], segmentation.confidence]).astype(np.float32)[labels]
        layers = self._viewer.layers
        names = f"{self._name} labels", f"{self._name} confidence"
        if names[0] in layers and names[1] in layers:
            layers[names[0]].data, layers[names[1]].data = labels, confidence
            return
        self._viewer.add_image(
            confidence, name=names[1], visible=False, colormap="viridis", contrast_limits=(0, 1)
        )
        self._viewer.add_labels(labels, name=names[0])

    def _images(self, *_: Any) -> list[Any]:
        """The layers that can be segmented; not our own confidence."""
        return [
            layer
            for layer in self._viewer.layers
            if type(layer).__name__ == "Image" and not layer.name.endswith(" confidence")
        ]

    def _refresh(self, *_: Any) -> None:
        self.layer.reset_choices()
