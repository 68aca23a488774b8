"""A napari widget: segment a layer once, then move the resolution and see the labels change.

napari (the extra [napari]) is imported by whoever opens the widget; it brings magicgui and Qt.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from magicgui.widgets import ComboBox, Container, FileEdit, FloatSlider, Label, PushButton

from cellsegmenter.consensus import AbsoluteResolution, Segmentation
from cellsegmenter.estimator import CellSegmenter

if TYPE_CHECKING:
    from napari.components import ViewerModel

__all__ = ["ResolutionWidget"]

_LOW, _HIGH, _STEP = 0.02, 0.95, 0.01  # of γ_abs


class ResolutionWidget(Container):
    """Segments an image layer and keeps its graph, so that another resolution takes a moment only.

    Parameters
    ----------
    viewer : napari.Viewer
    """

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = viewer
        self._consensus: Any = None
        self._name = ""
        self._moving = False
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

    def run(self) -> None:
        """Segment the chosen layer with the chosen model, at the automatic resolution."""
        layer = self.layer.value
        if layer is None:
            self.found.value = "Open an image first."
            return
        chosen = self.model.value
        named = chosen is not None and Path(chosen).is_file()
        segmenter = CellSegmenter.load(chosen) if named else CellSegmenter.pretrained()
        pixels = np.asarray(layer.data)
        try:
            segmenter.set_params(channel_axis=-1 if layer.rgb else None)
            self._consensus = segmenter.consensus(pixels, random_state=0)
        except ValueError as error:  # not one image, or not of the model's channels
            self.found.value = str(error)
            return
        self._name = layer.name
        self.gamma.enabled = self.automatic.enabled = True
        self._cut("auto")

    def _moved(self, value: float) -> None:
        if not self._moving:
            self._cut(AbsoluteResolution(value))

    def _cut(self, resolution: Any) -> None:
        """Cut the graph at hand, and show it."""
        segmentation = self._consensus.cut(resolution)
        absolute = segmentation.resolution.absolute
        self._moving = True  # the slider follows the automatic choice, which is no wish of the user's
        if np.isfinite(absolute):
            self.gamma.value = float(np.clip(round(absolute / _STEP) * _STEP, _LOW, _HIGH))
        self._moving = False
        self.found.value = f"{len(segmentation)} objects; cellseg predict --gamma-abs {absolute:.3g}"
        self._show(segmentation)

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
