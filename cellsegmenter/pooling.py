"""One row for each image: what a classifier or a regressor of images needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from cellsegmenter.validation import check_choice, check_images

__all__ = ["ImagePooler"]

_STATISTICS = ("count", "mean", "std")


class ImagePooler(TransformerMixin, BaseEstimator):
    """Pool the objects of each image to one row: their number, and the mean and spread of their latent codes.

    `CellSegmenter.transform` has a row for each object; this has one for each image, so that it can stand in front
    of supervised estimators, whose targets belong to images.

    Parameters
    ----------
    segmenter : CellSegmenter
        Is cloned and fitted without labels by `fit`.  Within
        ``sklearn.frozen.FrozenEstimator`` a fitted one is used as it is.
    statistics : sequence of {"count", "mean", "std"}, default=("count", "mean", "std")
        What to give, in this order; count is the number of objects, the others have a column for each latent dimension.

    Attributes
    ----------
    segmenter_ : CellSegmenter

    Examples
    --------
    >>> from sklearn.frozen import FrozenEstimator
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from cellsegmenter import CellSegmenter, ImagePooler
    >>> segmenter = FrozenEstimator(CellSegmenter.pretrained())
    >>> classifier = make_pipeline(ImagePooler(segmenter), LogisticRegression())
    """

    def __init__(self, segmenter: Any, statistics: Sequence[str] = _STATISTICS) -> None:
        self.segmenter = segmenter
        self.statistics = statistics

    def fit(self, X: Any, y: Any = None) -> ImagePooler:
        """Fit the segmenter on images; see `CellSegmenter.fit`; `y` plays no part in it."""
        self._check_statistics()
        self.segmenter_ = clone(self.segmenter).fit(X, y)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Pool images.

        Parameters
        ----------
        X : array-like or list of array-likes
            As in `CellSegmenter.predict`.

        Returns
        -------
        ndarray (n_images, n_columns), float64
            In the order of X.  An image without objects has zeros; the spread of a single object is zero.
        """
        check_is_fitted(self, "segmenter_")
        self._check_statistics()
        table = self.segmenter_.detect(X)
        n_images = len(check_images(X, channel_axis=self.segmenter_.channel_axis)[0])
        names = self.segmenter_.get_feature_names_out()
        codes = np.stack([table[name] for name in names], axis=1).astype(float)
        count = np.bincount(table["image"], minlength=n_images)
        shared = np.maximum(count, 1)[:, None]
        mean = _sums(codes, table["image"], n_images) / shared
        variance = _sums((codes - mean[table["image"]]) ** 2, table["image"], n_images) / shared
        columns = {"count": count[:, None], "mean": mean, "std": np.sqrt(variance)}
        return np.concatenate([columns[name] for name in self.statistics], axis=1).astype(float)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Names of the columns: count, mean_z_0, ..., std_z_0, ..."""
        check_is_fitted(self, "segmenter_")
        names = self.segmenter_.get_feature_names_out()
        columns = {"count": ["count"]} | {s: [f"{s}_{name}" for name in names] for s in ("mean", "std")}
        return np.array([name for s in self.statistics for name in columns[s]], dtype=object)

    def _check_statistics(self) -> None:
        if isinstance(self.statistics, str) or not len(self.statistics):
            raise ValueError(f"statistics={self.statistics!r} must be a sequence of {', '.join(_STATISTICS)}")
        for statistic in self.statistics:
            check_choice("statistics", statistic, _STATISTICS)

    def __sklearn_tags__(self) -> Tags:
        """Images, not rows of features."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.three_d_array = False, True
        return tags


def _sums(values: np.ndarray, group: np.ndarray, n_groups: int) -> np.ndarray:
    """Sums of rows (n, D) by group, (n_groups, D)."""
    total = np.zeros((n_groups, values.shape[1]))
    np.add.at(total, group, values)
    return total
