"""Plots of a fitted model, for notebooks and for the report.  They need matplotlib (the extra [plot])."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from skimage.segmentation import find_boundaries

from cellsegmenter.html import OBJECT_COLOURS
from cellsegmenter.packages import needs
from cellsegmenter.report.notes import constraints_of
from cellsegmenter.report.windows import telling_windows
from cellsegmenter.wording import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_history", "plot_posterior", "plot_prior", "plot_sleep"]

_LOSS_TERMS = {
    "loss": "loss",
    "reconstruction": "reconstruction",
    "latent_divergence": "latent codes",
    "presence": "presence",
    "boxes": "boxes",
    "overlap": "overlap",
}
_SLEEP_TERMS = {"objectness": "cross-entropy of objectness", "outlines": "error of outlines, radii"}
_BLUE, _BAND = "#1f6feb", "#2da44e"
_CURVES = ("#1f6feb", "#d1600c", "#2da44e", "#a34fc4", "#c93c5f", "#7a8088")


def _new_figure(width: float, height: float, n_rows: int, n_columns: int) -> tuple[Figure, np.ndarray]:
    """A figure of inches × inches that belongs to no window, with its axes (n_rows, n_columns)."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError:
        raise ImportError(needs("a plot", "matplotlib")) from None
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(h_pad=0.1))
    return figure, figure.subplots(n_rows, n_columns, squeeze=False)


def plot_history(segmenter: Any) -> Figure:
    """Plot a training: the terms of the loss, each constraint against its bounds, penalties and schedule.

    Parameters
    ----------
    segmenter : CellSegmenter
        Fitted.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If the model holds no history.
    ImportError
        Without matplotlib.
    """
    history = segmenter.history_
    if not history:
        raise ValueError("the model holds no history of its training; fit it, or load one that does")
    figure, axes = _new_figure(11, 6, 2, 3)
    steps = history["step"]
    # Without a weight the overlap is watched, and is no term of the loss.
    weightless = () if segmenter.overlap_penalty else ("overlap",)
    terms = {name: title for name, title in _LOSS_TERMS.items() if name in history and name not in weightless}
    _curves(axes[0, 0], steps, {title: history[name] for name, title in terms.items()}, "terms of the loss")
    axes[0, 0].set_yscale("log")
    constraints = constraints_of(segmenter)
    for axis, constraint in zip((axes[0, 1], axes[0, 2], axes[1, 0]), constraints, strict=True):
        if constraint.column in history:
            _curves(axis, steps, {"": history[constraint.column]}, constraint.title)
            axis.axhspan(constraint.low, constraint.high, color=_BAND, alpha=0.18, lw=0, label="bounds")
            axis.legend(frameon=False, loc="best")
    penalties = {
        name.removeprefix("penalty_"): history[name] for name in history if name.startswith("penalty_")
    }
    _curves(axes[1, 1], steps, penalties, "penalties λ")
    axes[1, 1].set_yscale("log")
    rates = {"warm-up": "warmup", "learning rate, of its highest": "learning_rate"}
    shown = {title: history[name] for title, name in rates.items() if name in history}
    relative = {
        title: values / max(values.max(), 1e-12) if "rate" in title else values
        for title, values in shown.items()
    }
    _curves(axes[1, 2], steps, relative, "schedule")
    for axis in axes[1]:
        axis.set_xlabel("step")
    return figure


def _curves(axis: Axes, steps: np.ndarray, values: dict[str, np.ndarray], title: str) -> None:
    for (name, curve), colour in zip(values.items(), _CURVES, strict=False):
        axis.plot(steps, curve, lw=1.4, color=colour, label=name or None)
    axis.set_title(title, loc="left", fontsize=10.5)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", alpha=0.25)
    if len(values) > 1:
        axis.legend(frameon=False, fontsize=8, ncols=2, loc="upper right")
        axis.margins(y=0.3)  # room for the legend above the curves


def plot_posterior(segmenter: Any, images: Sequence[Any], n_windows: int = 4, n_samples: int = 2) -> Figure:
    """Show windows beside what the model makes of them: reconstruction, samples with masks and boxes, consensus.

    Images are prepared as a whole, as for `CellSegmenter.predict`, whose labels the consensus shows.

    Parameters
    ----------
    segmenter : CellSegmenter
        Fitted.
    images : sequence of array-likes
        As in `CellSegmenter.predict`, of any sizes.
    n_windows : int
        At most; where the images have much to see.
    n_samples : int
        Posterior samples to show of each.

    Returns
    -------
    matplotlib.figure.Figure
        One row for each window.
    """
    windows = telling_windows(segmenter, images, n_windows)
    samples = segmenter._posterior_of([window.pixels for window in windows], n_samples)
    titles = ["image", "reconstruction", *(f"sample {s + 1}" for s in range(n_samples)), "consensus"]
    figure, axes = _new_figure(1.9 * len(titles), 2.05 * len(windows), len(windows), len(titles))
    for index, (row, window) in enumerate(zip(axes, windows, strict=True)):
        grey = window.pixels.max(axis=0)
        height, width = grey.shape
        found = segmenter.consensus(window.image, region=window.region).cut()
        reconstruction = samples.reconstruction[index, 0].max(axis=0)[:height, :width]
        _show(row[0], _stretched(grey))
        _show(row[1], np.clip(reconstruction, 0, 1))
        for s in range(n_samples):
            labels = samples.labels[index, s, :height, :width]
            _show(row[2 + s], _painted(_stretched(grey), labels))
            boxes = samples.boxes[index, s][samples.presence[index, s]]
            # An image smaller than a window has objects in its padding, too.
            boxes = boxes[np.all(boxes[:, :2] - boxes[:, 2:] / 2 < (width, height), axis=1)]
            _draw_boxes(row[2 + s], boxes)
            row[2 + s].set_xlabel(counted(len(boxes), "object"), fontsize=8.5)
        _show(row[-1], _painted(_stretched(grey), found.labels[np.ix_(window.rows, window.columns)]))
        row[-1].set_xlabel(counted(len(found), "object"), fontsize=8.5)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=10)
    return figure


def plot_prior(segmenter: Any, n_images: int = 8) -> Figure:
    """Show images that the model draws from its prior, with the outlines of their objects.

    Parameters
    ----------
    segmenter : CellSegmenter
        Fitted.
    n_images : int

    Returns
    -------
    matplotlib.figure.Figure
    """
    drawn = segmenter.sample(n_images)
    figure, axes = _new_figure(1.4 * n_images, 3, 2, n_images)
    for column, image, labels in zip(axes.T, drawn.images.max(axis=1), drawn.labels, strict=True):
        _show(column[0], np.clip(image, 0, 1))
        _show(column[1], _painted(np.clip(image, 0, 1), labels))
    return figure


def plot_sleep(segmenter: Any) -> Figure:
    """Show some of the composites that the recognition network learned from, and how its loss fell.

    Parameters
    ----------
    segmenter : CellSegmenter
        Fitted, with a recognition network.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If the model has no recognition network.
    """
    examples, history = segmenter.recognition_examples_, segmenter.recognition_history_
    if segmenter.recognition_ is None or not len(examples):
        raise ValueError("the model had no sleep phase; fit it with recognition='auto' or 'one_pass'")
    n_columns = len(examples) // 2 + 1
    figure, axes = _new_figure(2.1 * n_columns, 4.3, 2, n_columns)
    for axis, (grey, labels) in zip(axes[:, :-1].flat, examples, strict=False):
        _show(axis, _painted(grey / 255, labels.astype(np.int32)))
    for axis, (column, title) in zip(axes[:, -1], _SLEEP_TERMS.items(), strict=True):
        _curves(axis, history["step"], {"": history[column]}, title)
    axes[-1, -1].set_xlabel("step")
    return figure


def _show(axis: Axes, picture: np.ndarray) -> None:
    axis.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)


def _stretched(grey: np.ndarray) -> np.ndarray:
    """Between its 0.5th and 99.8th percentile."""
    low, high = np.percentile(grey, [0.5, 99.8])
    return np.clip((grey - low) / max(high - low, 1e-12), 0, 1)


def _painted(grey: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(H, W, 3): the masks tinted and outlined."""
    picture = np.repeat(grey[..., None], 3, axis=2)
    colour = OBJECT_COLOURS[labels % len(OBJECT_COLOURS)] / 255
    inside = labels > 0
    picture[inside] = 0.75 * picture[inside] + 0.25 * colour[inside]
    outline = find_boundaries(labels, mode="inner") & inside
    picture[outline] = colour[outline]
    return picture


def _draw_boxes(axis: Axes, boxes: np.ndarray) -> None:
    """Boxes (k, 4): x centre, y centre, width, height; a pixel's centre is at half, and imshow's at whole numbers."""
    limits = axis.axis()  # a box may reach beyond the window, which is to stay as large as the others
    for x, y, width, height in boxes:
        columns, rows = (at - 0.5 + np.array([-0.5, 0.5]) * side for at, side in ((x, width), (y, height)))
        axis.plot(columns[[0, 1, 1, 0, 0]], rows[[0, 0, 1, 1, 0]], color="white", lw=0.7, alpha=0.8)
    axis.axis(limits)
