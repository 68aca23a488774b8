"""Shapes in which results leave the estimator: tables, frames, stacked samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.utils._set_output import _get_output_config

from cellsegmenter.consensus import Segmentation
from cellsegmenter.measurements import measure_objects
from cellsegmenter.model.rendering import render
from cellsegmenter.types import PosteriorSamples, WindowPosterior
from cellsegmenter.validation import is_single_image

__all__ = [
    "feature_names",
    "labels_like",
    "latent_columns",
    "latent_output",
    "object_columns",
    "posterior_arrays",
    "stack_tables",
]


_COUNT_COLUMNS = ("count_low", "count_high")


def feature_names(latent_dim: int) -> np.ndarray:
    """z_0, z_1, ... as scikit-learn wants them."""
    return np.array([f"z_{d}" for d in range(latent_dim)], dtype=object)


def object_columns(
    segmentation: Segmentation, image: Any, *, pixel_size: float | None = None
) -> dict[str, np.ndarray]:
    """The table of a segmentation, one row per object in label order.

    Parameters
    ----------
    segmentation : Segmentation
    image : array-like (C, H, W) or (H, W)
        The user's intensities; may stay on disk.
    pixel_size : float, optional
        µm per pixel.

    Returns
    -------
    dict of str to ndarray (n,)
        The columns of `measure_objects`, then confidence, count_low and count_high (the image's number of objects, with
        90 %; the same in each row; not with sliding windows), and z_0, z_1, ... (latent code).
    """
    measured = measure_objects(segmentation.labels, image, pixel_size=pixel_size)
    columns = measured | {"confidence": segmentation.confidence}
    if segmentation.count_interval is not None:
        for name, bound in zip(_COUNT_COLUMNS, segmentation.count_interval, strict=True):
            columns[name] = np.full(len(segmentation), bound)
    return columns | latent_columns(segmentation)


def latent_columns(segmentation: Segmentation) -> dict[str, np.ndarray]:
    """The label and the latent code of each object: label, z_0, z_1, ..., each (n,)."""
    codes = segmentation.z_what
    names = feature_names(codes.shape[1])
    return {"label": np.arange(1, len(codes) + 1)} | {name: codes[:, d] for d, name in enumerate(names)}


def stack_tables(tables: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The tables of several images below each other, with the image's position in front."""
    image = np.repeat(np.arange(len(tables)), [len(table["label"]) for table in tables])
    return {"image": image} | {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}


def latent_output(estimator: Any, table: dict[str, np.ndarray], latent_dim: int) -> Any:
    """Latent codes (n, D) of a table; as a frame indexed by (image, label) where set_output asks for pandas."""
    codes = np.stack([table[name] for name in feature_names(latent_dim)], axis=1).astype(np.float32)
    # scikit-learn would wrap the array itself, but without the index, as rows are objects and not images.
    if _get_output_config("transform", estimator)["dense"] != "pandas":
        return codes
    import pandas as pd

    index = pd.MultiIndex.from_arrays([table["image"], table["label"]], names=["image", "label"])
    return pd.DataFrame(codes, index=index, columns=feature_names(latent_dim))


def labels_like(X: Any, labels: list[np.ndarray], channel_axis: int | None) -> Any:
    """Label images in the form of the images: one array for one, a stack for a batch, a list for a list."""
    if isinstance(X, list | tuple):
        return labels
    return labels[0] if is_single_image(X, channel_axis=channel_axis) else np.stack(labels)


def posterior_arrays(
    posteriors: list[list[WindowPosterior]], mixing_probs: list[list[torch.Tensor]]
) -> PosteriorSamples:
    """Join posteriors, a list of samples for each batch of windows, to arrays (n_images, n_samples, ...).

    Parameters
    ----------
    posteriors : list of lists of WindowPosterior
    mixing_probs : list of lists of Tensor (B, K, H, W)
        Of the same samples: what is shown of each object.
    """
    slots = max(posterior.presence.shape[1] for samples in posteriors for posterior in samples)

    def padded(values: torch.Tensor, has_slots: bool) -> np.ndarray:
        array = values.float().cpu().numpy()
        missing = slots - array.shape[1] if has_slots else 0
        return np.pad(array, [(0, 0), (0, missing)] + [(0, 0)] * (array.ndim - 2)) if missing else array

    def joined(batches: list[list[Any]], field: Any, has_slots: bool) -> np.ndarray:
        return np.concatenate(
            [np.stack([padded(field(part), has_slots) for part in samples], axis=1) for samples in batches]
        )

    return PosteriorSamples(
        presence=joined(posteriors, lambda p: p.presence, True) > 0.5,
        presence_prob=joined(posteriors, lambda p: p.presence_prob, True),
        boxes=joined(posteriors, lambda p: torch.stack(list(p.boxes), -1), True),
        z_what=joined(posteriors, lambda p: p.z_what.mean, True),
        z_background=joined(posteriors, lambda p: p.z_background.mean, False),
        mixing_prob=joined(mixing_probs, lambda prob: prob, True),
        background=joined(posteriors, lambda p: p.background, False),
        reconstruction=joined(posteriors, lambda p: render(p).reconstruction, False),
    )
