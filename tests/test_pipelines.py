"""The estimator inside scikit-learn: pipelines of objects, searches over images, pooling to images."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.cluster import HDBSCAN, KMeans
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cellsegmenter import AbsoluteResolution, CellSegmenter, ImagePooler
from cellsegmenter.datasets import make_nuclei


@pytest.fixture
def frozen(trained):
    return FrozenEstimator(trained)


@pytest.fixture(scope="module")
def n_objects(trained, scenes):
    return [labels.max() for labels in trained.predict(list(scenes[0]))]


class TestObjects:
    def test_codes_are_clustered_in_the_order_of_the_labels(self, frozen, scenes, n_objects):
        pipeline = make_pipeline(frozen, StandardScaler(), KMeans(3, n_init=3, random_state=0))
        clusters = pipeline.fit_predict(scenes[0])
        assert clusters.shape == (sum(n_objects),)
        # The rows of the first image are those that it has alone.
        np.testing.assert_array_equal(pipeline.predict(scenes[0][:1]), clusters[: n_objects[0]])

    def test_hdbscan(self, frozen, scenes, n_objects):
        found = make_pipeline(frozen, StandardScaler(), HDBSCAN(min_cluster_size=5, copy=True))
        assert len(found.fit_predict(scenes[0])) == sum(n_objects)

    def test_frames_keep_image_and_label_through_the_pipeline(self, segmenter, scenes, n_objects):
        pytest.importorskip("pandas")
        pipeline = make_pipeline(FrozenEstimator(segmenter), StandardScaler()).set_output(transform="pandas")
        frame = pipeline.fit_transform(scenes[0])
        assert frame.index.names == ["image", "label"]
        assert list(frame.columns) == list(segmenter.get_feature_names_out())
        assert list(frame.loc[1].index) == list(range(1, n_objects[1] + 1))
        np.testing.assert_allclose(frame.mean(), 0, atol=1e-5)

    def test_a_frozen_model_is_not_trained_again(self, frozen, trained, scenes):
        weights = {name: value.clone() for name, value in trained.model_.state_dict().items()}
        fitted = make_pipeline(clone(frozen), StandardScaler()).fit(scenes[0][:2])
        after = fitted[0].estimator.model_.state_dict()
        assert all((after[name] == value).all() for name, value in weights.items())

    def test_a_search_over_images_finds_the_resolution_that_scores_best(self, trained, scenes):
        images, labels = list(scenes[0][:6]), list(scenes[1][:6])
        choices = [AbsoluteResolution(0.3), AbsoluteResolution(0.999)]

        class Ready(CellSegmenter):
            """Is trained already, and searched for its parameters of prediction alone."""

            def fit(self, X, y=None):
                self.__dict__.update({k: v for k, v in trained.__dict__.items() if k.endswith("_")})
                return self

        ready = Ready(**trained.get_params())
        search = GridSearchCV(ready, {"resolution": choices}, cv=3, error_score="raise").fit(images, labels)
        assert search.best_params_["resolution"] == choices[0]
        scores = search.cv_results_["mean_test_score"]
        assert scores[0] > scores[1]
        # `trained` has the first choice itself; the folds are two images each.
        expected = [trained.score(images[i : i + 2], labels[i : i + 2]) for i in (0, 2, 4)]
        assert scores[0] == pytest.approx(np.mean(expected))

    def test_a_search_trains_a_model_for_each_choice(self):
        made = make_nuclei(4, size=64, count=(4, 7), diameter=12, random_state=0)
        tiny = CellSegmenter(
            density=(3, 6), area=(0.15, 0.25), object_size=(8, 20), window_size=48, latent_dim=2, network="small",
            n_steps=1, batch_size=2, stride=48, resolution=AbsoluteResolution(0.3), device="cpu", random_state=0,
        )  # fmt: skip
        search = GridSearchCV(tiny, {"latent_dim": [2, 3]}, cv=2, error_score="raise")
        search.fit(made.images, made.labels)
        assert search.best_estimator_.transform(made.images).shape[1] == search.best_params_["latent_dim"]


class TestPooling:
    def test_a_row_is_what_its_objects_are(self, frozen, trained, scenes):
        pooled = ImagePooler(frozen).fit(scenes[0]).transform(scenes[0])
        assert pooled.shape == (12, 1 + 2 * 4)
        codes = trained.transform(scenes[0][2])
        np.testing.assert_allclose(
            pooled[2], [len(codes), *codes.mean(0), *codes.std(0)], rtol=1e-5, atol=1e-6
        )

    def test_an_image_without_objects_is_a_row_of_zeros(self, frozen, scenes):
        images = [scenes[0][0], np.zeros((64, 64), np.float32)]
        pooled = ImagePooler(frozen).fit(images).transform(images)
        assert pooled[0, 0] > 0
        assert not pooled[1].any()

    def test_the_columns_have_names_and_can_be_chosen(self, frozen, scenes):
        pytest.importorskip("pandas")
        pooler = ImagePooler(frozen, statistics=("std", "count")).set_output(transform="pandas")
        frame = pooler.fit(scenes[0][:2]).transform(scenes[0][:2])
        assert list(frame.columns) == ["std_z_0", "std_z_1", "std_z_2", "std_z_3", "count"]

    def test_images_are_classified(self, frozen):
        few = make_nuclei(10, size=64, count=(2, 3), diameter=12, brightness=(0.5, 1), random_state=1).images
        many = make_nuclei(10, size=64, count=(7, 9), diameter=12, brightness=(0.5, 1), random_state=2).images
        images, kind = [*few, *many], [0] * 10 + [1] * 10
        classifier = make_pipeline(ImagePooler(frozen, ("count",)), StandardScaler(), LogisticRegression())
        assert cross_val_score(classifier, images, kind, cv=2, error_score="raise").mean() > 0.85

    def test_an_unfitted_segmenter_is_cloned_and_fitted(self, scenes):
        segmenter = CellSegmenter(
            n_steps=1, batch_size=2, window_size=48, object_size=(8, 20), stride=48, device="cpu"
        )
        pooler = clone(ImagePooler(segmenter)).fit(scenes[0][:2])
        assert not hasattr(segmenter, "model_")
        assert pooler.transform(scenes[0][:2]).shape == (2, 41)

    @pytest.mark.parametrize("statistics", ["mean", (), ("mean", "median")])
    def test_unknown_statistics(self, frozen, scenes, statistics):
        with pytest.raises(ValueError, match="statistics"):
            ImagePooler(frozen, statistics=statistics).fit(scenes[0][:1])
