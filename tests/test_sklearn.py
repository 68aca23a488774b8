"""scikit-learn's own checks, on an estimator of rows.

The checks feed tables, (n_samples, n_features).  Told that an estimator takes images they run next to nothing,
so here a subclass turns each row into a small image.  Objects are found in images, and a row of `transform`
is an object: the few checks that expect a row out for each row in are listed by name.
"""

import numpy as np
from sklearn.utils.estimator_checks import (
    check_get_feature_names_out_error,
    parametrize_with_checks,
)
from sklearn.utils.validation import validate_data

from cellsegmenter import AbsoluteResolution, CellSegmenter

SIDE = 16
# Something to see even where all features are the same.
SPOT = np.outer(np.hanning(SIDE), np.hanning(SIDE))


class RowSegmenter(CellSegmenter):
    """Segments images of 16 × 16 px, whose pixels repeat the features of a row."""

    def _images(self, X, *, reset=False):
        rows = validate_data(self, X, reset=reset)
        return np.stack([np.resize(row, (SIDE, SIDE)) + SPOT for row in rows])

    def fit(self, X, y=None):
        return super().fit(self._images(X, reset=True))

    def predict(self, X):
        self._check_fitted()
        return super().predict(self._images(X))

    def transform(self, X):
        self._check_fitted()
        return super().transform(self._images(X))

    def score(self, X, y):
        """Every target stands for an image that is one object."""
        self._check_fitted()
        return super().score(self._images(X), np.ones((len(y), SIDE, SIDE), int))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.three_d_array = True, False
        return tags


ROWS = RowSegmenter(
    density=(1, 3),
    area=(0.1, 0.3),
    object_size=(8, 20),
    window_size=32,
    latent_dim=2,
    network="small",
    n_steps=1,
    batch_size=2,
    stride=32,
    resolution=AbsoluteResolution(0.3),
    device="cpu",
    random_state=0,
)

ROWS_ARE_OBJECTS = "rows of transform are objects, not images"
EXPECTED_TO_FAIL = {
    "check_transformer_data_not_an_array": ROWS_ARE_OBJECTS,
    "check_transformer_general": ROWS_ARE_OBJECTS,
    "check_methods_sample_order_invariance": ROWS_ARE_OBJECTS,  # its predict is tested in test_estimator.py
}


@parametrize_with_checks([ROWS], expected_failed_checks=lambda _: EXPECTED_TO_FAIL)
def test_common_checks(estimator, check):
    check(estimator)


def test_feature_names_need_a_model():
    check_get_feature_names_out_error("RowSegmenter", ROWS)


def test_images_are_no_table():
    tags = CellSegmenter().__sklearn_tags__()
    assert tags.input_tags.three_d_array
    assert not tags.input_tags.two_d_array
    assert not tags.target_tags.required
