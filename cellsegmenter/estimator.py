"""`CellSegmenter`, the scikit-learn estimator: it connects the parts and computes nothing itself."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils import Tags, check_array

from cellsegmenter.callbacks import CallbackSupport
from cellsegmenter.consensus import check_resolution
from cellsegmenter.fitting import fit_attributes
from cellsegmenter.generation import (
    DecodedCodes,
    GeneratedImages,
    decode_codes,
    draw_images,
    posterior_of_windows,
)
from cellsegmenter.image_consensus import ImageConsensus
from cellsegmenter.image_posterior import ImagePosterior
from cellsegmenter.inference import InferenceSettings
from cellsegmenter.metrics import average_precision
from cellsegmenter.model.device import channels_last_pays, resolve_device
from cellsegmenter.model.structured_vae import StructuredVAE
from cellsegmenter.parameters import (
    Parameters,
    bounds_of,
    check_for_prediction,
    check_for_training,
    check_repeatable,
    prediction_overlap,
    prediction_slots,
    predicts_by_windows,
    samples_of,
    seed_of,
    stride_of,
    warn_of_conflicts,
)
from cellsegmenter.preparation import check_region
from cellsegmenter.recognition.fitted import FittedModel
from cellsegmenter.recognition.network import RecognitionNetwork
from cellsegmenter.region import Region
from cellsegmenter.scale_search import see, see_by_estimate
from cellsegmenter.scales import SeenImage, said_of_scale, warn_of_extreme_scale
from cellsegmenter.segmenting import RecognitionSettings, consensus_of, image_posterior
from cellsegmenter.serialization import load_segmenter, save_segmenter
from cellsegmenter.tables import (
    feature_names,
    labels_like,
    latent_columns,
    latent_output,
    object_columns,
    stack_tables,
)
from cellsegmenter.tuning import ResolutionSweep, region_pixels, sweep_resolutions
from cellsegmenter.types import PosteriorSamples
from cellsegmenter.validation import ImageView, check_images, check_number, is_single_image
from cellsegmenter.wording import counted
from cellsegmenter.workspace import Workspace

__all__ = ["CellSegmenter"]


class CellSegmenter(CallbackSupport, Parameters, TransformerMixin, BaseEstimator):
    """Segment cells and other small objects without labels.

    A structured deep generative model with a DPP prior, amortised inference without recurrence, posterior
    constraints (SAPR) from the bounds given here, and a consensus segmentation by graph communities.

    Parameters
    ----------
    density : (float, float), default=(5, 10)
        About how many objects a window of ``window_size`` holds.
    area : (float, float), default=(0.10, 0.15)
        About which fraction of the pixels they cover.
    object_size : (float, float), default=(8, 28)
        Shortest and longest side of a bounding box, px.
    window_size : int, default=80
        Side of the windows that the model works on, px; a multiple of 16.
    max_objects : int, optional
        The most objects a window can hold in training (K_max).  By default 1.5 times the upper density.
    network : {"auto", "small", "reference"}, default="auto"
        "reference" has the paper's sizes, "small" suits a CPU; "auto" takes the former on a GPU, and with
        ``warm_start`` that of the model at hand.
    shape : {"auto", "blob", "free"}, default="auto"
        The form of a mask: one smooth blob, for most cells and nuclei, or any, as in the paper.  "auto" counts objects
        in the images and takes blobs if most are convex and at most 2.5 times as long as wide.
    appearance : {"smooth", "free"}, default="smooth"
        How an object's intensities are drawn: a level and a tilt, or free pixels as in the paper.
    latent_dim : int, default=20
        Dimension of an object's latent code.
    n_steps, batch_size, learning_rate : optional
        Of the training; by default 3000 steps of 16 windows at 0.005 for "small", and 10000 of 128 at 0.002 for
        "reference".  Training ends earlier when it has converged before
        half of its steps.
    noise_scale : float, optional
        Scale of the reconstruction error (sigma), normalised intensity; estimated from the images by default.
    overlap_penalty : float, default=0.0
        Weight of the pairwise overlap of mixing weights (Suppl. S6).
    overlap_threshold : float or "auto", default="auto"
        The largest overlap of two objects' boxes, as a fraction of the smaller box (alpha, Suppl. S5); of two boxes
        that overlap more, one is suppressed.  "auto" is 0.4 in training (0.55 with blobs) and 0.3 in prediction.
    sapr : bool, default=True
        False switches the constraints off; for experiments.
    presence_update : {"mean_field", "straight_through"}, default="mean_field"
        How presence is learned; the second is the paper's literal form.
    intensity : {"log", "linear"}, default="log"
        How intensities are normalised; see `cellsegmenter.normalize`.
    diameter : float, sequence of float or "auto", optional
        Diameter of the objects in the images, px.  Images are then rescaled so that it becomes the one which
        the bounds imply (``working_diameter_``); the bounds speak of rescaled images.  Of several, each is looked for,
        and what is found competes.  "auto" finds it image by image: in prediction the recognition network tells at
        which scale, or scales, it finds most (`cellsegmenter.scale_search`); `fit`, and models without this network,
        estimate it.  By default images are taken as they are.
    polarity : {"auto", "bright", "dark"}, default="auto"
        Whether objects are brighter or darker than what is around them.  In prediction "auto" lets the recognition
        network look at both, where it is not sure; `fit` takes objects for bright.
    channel_axis : int, optional
        Axis of the channels; by default images are grey.
    augment : bool, default=False
        Train on random flips and quarter turns too.
    recognition : {"auto", "one_pass", "windows"}, default="auto"
        How objects are found.  "windows" slides windows over the image, as published.  "one_pass" lets a recognition
        network see the whole image at once; `fit` teaches it, in a sleep phase, what the model is sure of.  "auto"
        teaches it for blobs, and uses it where the model has one and no ``stride`` is given.
    recognition_steps : int, optional
        Of the sleep phase; by default 1400, or ``n_steps`` if these are fewer.
    stride : int, optional
        Distance of sliding windows in prediction, px; a divisor of ``window_size``.  By default a quarter of it, so
        that every pixel is seen 16 times.
    n_samples : int, optional
        Posterior samples in prediction: by default 32 of the whole image, or one of every window.
    resolution : "auto", float or AbsoluteResolution, default="auto"
        Of the consensus in `predict`, `transform` and `detect`: gamma as published (relative to the graph of an
        image), or an absolute one, which carries over between images.
    min_size : int, optional
        Objects of fewer px are dropped; by default a quarter of the smallest bounding box.
    device : str, default="auto"
        "auto" is CUDA, else MPS, else the CPU.
    random_state : int, RandomState or None, default=None
        Of training and sampling.  With None every call draws new samples, so the labels of `predict` and the codes of
        `transform` are of different ones.  For labels, table and codes of the same samples see `consensus`.
    warm_start : bool, default=False
        Whether another `fit` goes on from the model at hand: without a warm-up, and by default at a fifth of the
        learning rate.
    checkpoint : str or Path, optional
        File for the state of the training; a `fit` that finds it goes on from there.  The sleep phase has a file beside
        it, NAME-sleep.
    tensorboard : str or Path, optional
        Folder for TensorBoard (the extra [tensorboard]): the history is written there while the training runs.
    n_jobs : int, default=1
        Processes for sampling and consensus; the result does not depend on it.
    verbose : bool, default=False
        Print how the images were understood, progress, and the resolution.

    Attributes
    ----------
    model_ : StructuredVAE
    history_ : dict of str to ndarray
        Means over every ten steps: the terms of the loss, counts, areas, penalties, and the step's number too.
    n_channels_in_ : int
    noise_scale_ : float
    working_diameter_ : float
        px.
    penalties_ : dict of str to float
        The learned strengths of the constraints.
    card_ : dict
        What the model was trained on and how, in words and numbers.
    recognition_ : RecognitionNetwork or None
        None if there was no sleep phase, or nothing to learn in it.
    recognition_history_ : dict of str to ndarray
        As ``history_``, of the sleep phase.
    recognition_examples_ : ndarray (n, 2, h, w) of uint8
        Some of the composites that it learned from: grey values, and the number of the object at each pixel.

    Examples
    --------
    >>> from cellsegmenter import CellSegmenter
    >>> from cellsegmenter.datasets import make_nuclei
    >>> images = make_nuclei(20, size=96, count=(4, 8), random_state=0).images
    >>> segmenter = CellSegmenter(density=(5, 10), n_steps=20, random_state=0).fit(images)
    >>> segmenter.predict(images[0]).shape
    (96, 96)
    """

    model_: StructuredVAE
    history_: dict[str, np.ndarray]
    n_channels_in_: int
    noise_scale_: float
    working_diameter_: float
    penalties_: dict[str, float]
    card_: dict[str, Any]
    recognition_: RecognitionNetwork | None
    recognition_history_: dict[str, np.ndarray]
    recognition_examples_: np.ndarray

    # --- learning -----------------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any = None) -> CellSegmenter:
        """Learn a model from images without labels.

        Parameters
        ----------
        X : array-like or list of array-likes
            (H, W): one grey image; (N, H, W): a batch; a list: images of any sizes.  With ``channel_axis``
            one more axis.  Arrays that load lazily are read a few times in bands or blocks, for what normalises
            them and, with "auto", for the form and the diameter of objects, and then crop by crop.
        y : ignored

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            Naming the parameter or the image, its value and the remedy.
        """
        bounds, preset = check_for_training(self)
        warn_of_conflicts(bounds)
        for name, value in fit_attributes(self, X, y, bounds, preset).items():
            setattr(self, name, value)
        return self

    def fit_predict(self, X: Any, y: Any = None) -> Any:
        """`fit`, then `predict` on the same images."""
        return self.fit(X).predict(X)

    # --- segmenting ---------------------------------------------------------------------------------------

    def consensus(
        self,
        image: Any,
        *,
        region: tuple[int, int, int, int] | None = None,
        n_samples: int | None = None,
        stride: int | None = None,
        diameter: float | Sequence[float] | Literal["auto"] | None = None,
        random_state: Any = None,
        work_folder: str | Path | None = None,
        max_memory: int | None = None,
    ) -> ImageConsensus:
        """Sample the posterior of one image of any size, ready to be cut at any resolution.

        Parameters
        ----------
        image : array-like (H, W), or with ``channel_axis`` one axis more
        region : (row, column, height, width), optional
            Only this part, px; intensities, diameter and blocks are those of the whole image, so that away from the
            border of the region the samples are those that `predict` draws there.
        n_samples, stride, diameter, random_state : optional
            Instead of the estimator's own.
        work_folder : str or Path, optional
            Where all that is known of pixels is kept, instead of in memory; candidates stay there.  The same call with
            the same folder goes on where an earlier one was interrupted, even killed, and a further cut has nothing to
            sample; the folder is for this image, model and parameters only.  Needs a whole number as ``random_state``:
            without a seed, every call draws new samples.
        max_memory : int, optional
            Bytes.  If about as many will do, the work folder is left alone.

        Returns
        -------
        ImageConsensus
            ``.cut(resolution)`` gives labels, confidence, latent codes (``z_what``) and the absolute resolution, all of
            the same samples, and `table` its table; ``.n_objects`` the number of objects in each posterior sample.

        Raises
        ------
        WorkFolderError
            If the folder holds something else.
        ValueError
            If there is a `work_folder` and no seed, or `image` is not one image.

        Examples
        --------
        >>> from cellsegmenter import CellSegmenter
        >>> from cellsegmenter.datasets import load_nuclei
        >>> image, segmenter = load_nuclei()[0], CellSegmenter.pretrained()
        >>> cut = segmenter.consensus(image).cut()  # one set of samples, with or without a seed
        >>> table = segmenter.table(cut, image)
        >>> len(table["label"]) == len(cut.z_what) == int(cut.labels.max())
        True
        """
        self._check_fitted()
        if work_folder is not None:
            check_repeatable(self.random_state if random_state is None else random_state, work_folder)
        if max_memory is not None:
            check_number("max_memory", max_memory, low=1, integer=True)
        view, interpretation = self._one_image(image)
        self._say(interpretation)
        return self._consensus_of(
            view,
            self._sampling(self._seed(random_state), n_samples=n_samples, stride=stride),
            self.diameter if diameter is None else diameter,
            self._ready_model(),
            self._workspace(work_folder, max_memory),
            region=None if region is None else check_region(region, view.shape),
        )

    def sweep(
        self,
        image: Any,
        *,
        region: tuple[int, int, int, int] | None = None,
        n_samples: int | None = None,
        stride: int | None = None,
        diameter: float | Sequence[float] | Literal["auto"] | None = None,
        random_state: Any = None,
    ) -> ResolutionSweep:
        """Cut an image, or better a region of it, at some twenty resolutions, to choose one by eye.

        Parameters are those of `consensus`.

        Returns
        -------
        ResolutionSweep
            With the number of objects and the agreement with posterior samples of each cut.
            `cellsegmenter.tuning.write_tuning_page` shows it; ``predict(image, AbsoluteResolution(chosen))`` applies
            what was chosen to the whole image.
        """
        consensus = self.consensus(
            image,
            region=region,
            n_samples=n_samples,
            stride=stride,
            diameter=diameter,
            random_state=random_state,
        )
        view, _ = self._one_image(image)
        place = check_region(region or (0, 0, *view.shape[1:]), view.shape)
        return sweep_resolutions(consensus, region_pixels(view, place), progress=self.verbose)

    def predict(self, X: Any, resolution: Any = None) -> Any:
        """Label images.

        Parameters
        ----------
        X : array-like or list of array-likes
            As in `fit`.
        resolution : optional
            Instead of the estimator's own: "auto", a number (gamma as published, relative to the graph of each
            image) or an AbsoluteResolution.

        Returns
        -------
        ndarray of int32, or list of them
            (H, W) for one image, (N, H, W) for a batch, a list for a list.  0 is background, 1..n the objects.

        Notes
        -----
        Without a seed, another call such as `transform` draws other samples; see `consensus`.
        """
        return labels_like(X, [s.labels for s in self._segment(X, resolution)], self.channel_axis)

    def detect(self, X: Any, *, pixel_size: float | None = None) -> dict[str, np.ndarray]:
        """The table of all predicted objects, with their latent codes.

        Parameters
        ----------
        X : as in `predict`
        pixel_size : float, optional
            µm per pixel; adds columns in µm and µm².

        Returns
        -------
        dict of str to ndarray (n_objects,)
            image (position in X); label, bbox-0..3, centroid-0..1, area, eccentricity, ..., mean_intensity, ... as
            `cellsegmenter.measurements.measure_objects` says; confidence; count_low and count_high (of the image's
            number of objects, 90 %; not with sliding windows); z_0, z_1, ...  In px, rows before columns.
            ``pandas.DataFrame(segmenter.detect(X))`` makes it a frame, and
            ``cellsegmenter.io.to_anndata(segmenter.detect(X))`` what scanpy works on.
        """
        segmentations = self._segment(X, None)
        views, _ = check_images(X, channel_axis=self.channel_axis)
        return stack_tables(
            [object_columns(s, v, pixel_size=pixel_size) for s, v in zip(segmentations, views, strict=True)]
        )

    def table(
        self, segmentation: Any, image: Any, *, pixel_size: float | None = None
    ) -> dict[str, np.ndarray]:
        """The table of one segmentation of one image; see `detect` for its columns."""
        self._check_fitted()
        return object_columns(segmentation, self._one_image(image)[0], pixel_size=pixel_size)

    def transform(self, X: Any) -> Any:
        """Latent codes: one row for every predicted *object*, not for every image.

        Returns
        -------
        ndarray (n_objects, latent_dim), float32
            Images in the order of X, objects in the order of their labels: those of `predict` with the same seed,
            see `consensus`.  With ``set_output(transform="pandas")`` a frame indexed by (image, label).
        """
        table = stack_tables([latent_columns(s) for s in self._segment(X, None)])
        return latent_output(self, table, self.model_.config.latent_dim)

    def fit_transform(self, X: Any, y: Any = None) -> Any:
        """`fit`, then `transform` of the same images."""
        return self.fit(X).transform(X)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Names of the columns of `transform`: z_0, z_1, ..."""
        self._check_fitted()
        return feature_names(self.model_.config.latent_dim)

    def score(self, X: Any, y: Any) -> float:
        """Average precision TP / (TP + FP + FN) at IoU 0.5, mean over images.

        Parameters
        ----------
        X : as in `predict`
        y : label image, or sequence of them
            The annotation.
        """
        predicted = [s.labels for s in self._segment(X, None)]
        truth = [y] if is_single_image(X, channel_axis=self.channel_axis) else list(y)
        if len(truth) != len(predicted):
            raise ValueError(f"y has {len(truth)} label images for the {len(predicted)} images of X")
        return float(np.mean([average_precision(t, p) for t, p in zip(truth, predicted, strict=True)]))

    # --- the generative model -----------------------------------------------------------------------------

    def sample_posterior(
        self, X: Any, n_samples: int | None = 16
    ) -> PosteriorSamples | ImagePosterior | list[ImagePosterior]:
        """Posterior samples of images.

        Parameters
        ----------
        X : as in `predict`
            Of any size with a recognition network.  With sliding windows, images of at most ``window_size``, taken as
            they are whatever the ``diameter``.  Smaller ones are continued by reflection below and to the right, so
            that pixel (i, j) of the window is pixel (i, j) of the image.
        n_samples : int or None
            None gives the most probable sample instead.

        Returns
        -------
        ImagePosterior, or list of them
            With a recognition network: each sample is a segmentation of the whole image.  One for one image.
        PosteriorSamples
            With sliding windows: arrays (n_images, n_samples, ...) of the whole window, with what the generative model
            draws.  What is found in the padding of a smaller image is in it, and counted.

        Raises
        ------
        ValueError
            If windows are slid and an image is larger than one.
        """
        self._check_fitted()
        check_for_prediction(self)
        views, _ = check_images(X, channel_axis=self.channel_axis, n_channels=self.n_channels_in_)
        if not predicts_by_windows(self, has_network=self.recognition_ is not None):
            model, workspace = self._ready_model(), self._workspace()
            how = RecognitionSettings(n_samples, self._seed())
            if n_samples is not None:
                samples_of(self, n_samples, by_windows=False)
            found = [
                image_posterior(model, self._see(model, view, self.diameter, one_pass=True), how, workspace)
                for view in views
            ]
            return found[0] if is_single_image(X, channel_axis=self.channel_axis) else found
        size = self.model_.config.window_size
        for view in views:
            if max(view.shape[1:]) > size:
                raise ValueError(
                    f"{view.name} has {view.shape[1]} × {view.shape[2]} px, more than a window of {size} px; crop it, "
                    "or use consensus(image) for images of any size"
                )
        working, intensity = self.working_diameter_, self.intensity
        images = [
            see_by_estimate(view, None, self.polarity, working_diameter=working, intensity=intensity).views[0]
            for view in views
        ]
        return self._posterior_of(images, n_samples)

    def inverse_transform(self, Z: Any) -> DecodedCodes:
        """Decode latent codes.

        Parameters
        ----------
        Z : array-like (n, latent_dim)
        """
        self._check_fitted()
        codes = check_array(Z, dtype=np.float32, ensure_min_samples=0, input_name="Z")
        latent_dim = self.model_.config.latent_dim
        if codes.shape[1] != latent_dim:
            raise ValueError(f"Z has shape {codes.shape}; give codes of shape (n, {latent_dim})")
        return decode_codes(self.model_, codes, self._ready_model().device)

    def sample(self, n_samples: int = 1) -> GeneratedImages:
        """Draw new images from the model, with exact samples of the DPP."""
        self._check_fitted()
        check_number("n_samples", n_samples, low=1, integer=True)
        self._ready_model()
        return draw_images(self.model_, n_samples, self._seed())

    # --- files --------------------------------------------------------------------------------------------

    def save(self, path: str | Path, *, half: bool = False) -> None:
        """Write the model: weights as safetensors, parameters and card as JSON in the same file.

        Parameters
        ----------
        path : str or Path
        half : bool
            Store weights as float16.

        Raises
        ------
        ImageFileError
            If nothing can be written to `path`.

        Notes
        -----
        What belongs to this machine or this fit stays here: ``device``, ``n_jobs``, ``checkpoint``, ``tensorboard``,
        ``verbose``, ``warm_start``.
        """
        self._check_fitted()
        save_segmenter(Path(path), self, half=half)

    @classmethod
    def load(cls, path: str | Path) -> CellSegmenter:
        """Read a model that `save` wrote.  Executes no code of the file's.

        Raises
        ------
        FileNotFoundError, ModelFileError
        """
        return load_segmenter(Path(path), cls)

    @classmethod
    def pretrained(cls) -> CellSegmenter:
        """The nuclei model that ships with the package; ``.card_`` says how it was made and how good it is."""
        with resources.as_file(resources.files("cellsegmenter") / "data" / "nuclei.safetensors") as path:
            return cls.load(path)

    # --- what connects them -------------------------------------------------------------------------------

    def _one_image(self, image: Any) -> tuple[ImageView, str]:
        """What must be one image rather than several, and in words how it was understood."""
        if not is_single_image(image, channel_axis=self.channel_axis):
            what = (
                f"a {type(image).__name__}" if isinstance(image, list | tuple) else f"shape {np.shape(image)}"
            )
            check_images(image, channel_axis=self.channel_axis)  # what is wrong with it by itself comes first
            raise ValueError(f"one image is needed, not {what}; call it for each image, or set channel_axis")
        views, words = check_images(image, channel_axis=self.channel_axis, n_channels=self.n_channels_in_)
        return views[0], words

    def _sampling(
        self, seed: int, *, n_samples: int | None = None, stride: int | None = None
    ) -> RecognitionSettings | InferenceSettings:
        """How the posterior of an image is sampled: in one pass or by sliding windows."""
        check_for_prediction(self)
        if predicts_by_windows(self, has_network=self.recognition_ is not None, stride=stride):
            return self._window_settings(seed, n_samples=n_samples, stride=stride)
        return RecognitionSettings(samples_of(self, n_samples, by_windows=False), seed)

    def _window_settings(
        self, seed: int, *, n_samples: int | None = None, stride: int | None = None
    ) -> InferenceSettings:
        check_for_prediction(self)
        config = self.model_.config
        return InferenceSettings(
            stride=stride_of(self, config.window_size, stride),
            n_samples=samples_of(self, n_samples, by_windows=True),
            max_objects=prediction_slots(bounds_of(self), config),
            overlap_threshold=prediction_overlap(self),
            intensity=self.intensity,
            seed=seed,
            progress=self.verbose,
        )

    def _workspace(self, folder: str | Path | None = None, max_memory: int | None = None) -> Workspace:
        return Workspace(None if folder is None else Path(folder), max_memory, self.n_jobs, self.verbose)

    def _posterior_of(self, images: Sequence[Any], n_samples: int | None) -> PosteriorSamples:
        """`sample_posterior` of prepared images (C, H, W), or of parts of such."""
        stride = self.model_.config.window_size
        settings = self._window_settings(self._seed(), n_samples=n_samples, stride=stride)
        if n_samples is None:
            settings = replace(settings, n_samples=None)
        return posterior_of_windows(self.model_, images, settings, self._ready_model().device)

    def _segment(self, X: Any, resolution: Any) -> list[Any]:
        """A segmentation for each image."""
        self._check_fitted()
        views, interpretation = check_images(
            X, channel_axis=self.channel_axis, n_channels=self.n_channels_in_
        )
        self._say(interpretation)
        settings = self._sampling(self._seed())
        wanted = self.resolution if resolution is None else resolution
        check_resolution(wanted)
        model, workspace = self._ready_model(), self._workspace()
        found = []
        for view in views:
            consensus = self._consensus_of(view, settings, self.diameter, model, workspace)
            found.append(consensus.cut(wanted))
            self._say(f"{counted(len(found[-1]), 'object')} at {found[-1].resolution}")
        return found

    def _see(self, model: FittedModel, view: ImageView, diameter: Any, *, one_pass: bool) -> SeenImage:
        """An image as the model sees it; says what was done to it, and warns of what is in doubt."""
        seen = see(model, view, diameter, self.polarity, one_pass=one_pass)
        if len(seen.diameters) > 1 and not one_pass:
            raise ValueError(
                f"diameter={diameter!r} has several numbers, and sliding windows see an image at one scale; give one "
                'of them, or set recognition="one_pass" and leave out the stride'
            )
        warn_of_extreme_scale(seen.diameters, model.working_diameter)
        for words in (*seen.notes, said_of_scale(seen.diameters, model.working_diameter)):
            if words:
                self._say(words)
        for doubt in seen.doubts:
            warnings.warn(doubt, stacklevel=2)
        return seen

    def _consensus_of(
        self,
        view: ImageView,
        settings: RecognitionSettings | InferenceSettings,
        diameter: Any,
        model: FittedModel,
        workspace: Workspace,
        *,
        region: Region | None = None,
    ) -> ImageConsensus:
        return consensus_of(
            model,
            self._see(model, view, diameter, one_pass=isinstance(settings, RecognitionSettings)),
            settings,
            workspace,
            resolution=self.resolution,
            min_size=self.min_size,
            region=region,
        )

    def _ready_model(self) -> FittedModel:
        device = resolve_device(self.device)
        for network in (self.model_, self.recognition_):
            if network is not None:
                network.to(device).eval()
                if channels_last_pays(
                    device
                ):  # as in training, so that a loaded model gives the same numbers
                    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return FittedModel(self.model_, self.recognition_, self.working_diameter_, self.intensity, device)

    def _seed(self, random_state: Any = None) -> int:
        return seed_of(self.random_state if random_state is None else random_state)

    def _check_fitted(self) -> None:
        if not hasattr(self, "model_"):
            raise NotFittedError(
                "this CellSegmenter is not fitted yet; call fit(images), CellSegmenter.load(path) or "
                "CellSegmenter.pretrained()"
            )

    def _say(self, message: str) -> None:
        if self.verbose:
            print(message)

    def __getstate__(self) -> dict[str, Any]:
        """Pickles hold the model on the CPU, so that they open where there is no GPU."""
        state = super().__getstate__()
        for name in ("model_", "recognition_"):
            if state.get(name) is not None:
                state = {**state, name: copy.deepcopy(state[name]).cpu()}
        return state

    def __sklearn_tags__(self) -> Tags:
        """Images, not rows of features."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.three_d_array = False, True
        tags.transformer_tags.preserves_dtype = []
        return tags

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "model_")
