"""`CellSegmenter`, the scikit-learn estimator: it connects the parts and computes nothing itself."""

from __future__ import annotations

import copy
from dataclasses import replace
from importlib import resources
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils import Tags, check_array, check_random_state

from cellsegmenter.consensus import AbsoluteResolution, check_resolution
from cellsegmenter.image_consensus import ImageConsensus
from cellsegmenter.inference import BATCH_SIZE, InferenceSettings, sample_windows
from cellsegmenter.io import check_writable
from cellsegmenter.learning import (
    continued_model,
    learn,
    new_model,
    noise_scale_of,
    training_objective,
    training_settings,
)
from cellsegmenter.metrics import average_precision
from cellsegmenter.model.config import PRESETS, ModelConfig
from cellsegmenter.model.device import channels_last_pays, resolve_device
from cellsegmenter.model.rendering import render
from cellsegmenter.model.structured_vae import StructuredVAE
from cellsegmenter.parameters import Bounds, check_bounds_together, model_config, warn_of_conflicts
from cellsegmenter.preparation import Region, check_region, prepare_image
from cellsegmenter.segmenting import OVERLAP_THRESHOLD, PREDICTION_SLOTS, consensus_of, working_scale
from cellsegmenter.serialization import (
    ModelFileError,
    half_precision,
    parameter_value,
    plain_value,
    read_model_file,
    write_model_file,
)
from cellsegmenter.tables import (
    feature_names,
    latent_columns,
    latent_output,
    object_columns,
    posterior_arrays,
    stack_tables,
)
from cellsegmenter.tuning import ResolutionSweep, region_pixels, sweep_resolutions
from cellsegmenter.types import PosteriorSamples
from cellsegmenter.validation import ImageView, check_choice, check_images, check_number, is_single_image
from cellsegmenter.windows import check_stride, random_crop

__all__ = ["CellSegmenter"]

_ON_THE_CARD = ("density", "area", "object_size", "window_size", "diameter")
# Parameters that belong to a machine or a session and do not travel with a model.
_NOT_SAVED = ("checkpoint", "device", "n_jobs", "verbose")


class GeneratedImages(NamedTuple):
    """What `CellSegmenter.sample` draws."""

    images: np.ndarray  # (n, C, H, W) float32, normalised intensities
    labels: np.ndarray  # (n, H, W) int32: 0 background, k the k-th object of the window


class DecodedCodes(NamedTuple):
    """What `CellSegmenter.inverse_transform` gives, each object in its own raster of R × R px."""

    appearance: np.ndarray  # (n, C, R, R) float32, normalised intensities
    mixing_weight: np.ndarray  # (n, R, R) float32 in 0..1


class CellSegmenter(TransformerMixin, BaseEstimator):
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
        "reference" has the paper's sizes, "small" suits a CPU; "auto" takes the former on a GPU.
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
    sapr : bool, default=True
        False switches the constraints off; for experiments.
    presence_update : {"mean_field", "straight_through"}, default="mean_field"
        How presence is learned; the second is the paper's literal form.
    intensity : {"log", "linear"}, default="log"
        How intensities are normalised; see `cellsegmenter.normalize`.
    diameter : float or "auto", optional
        Diameter of the objects in the images, px.  Images are then rescaled so that it becomes the one which
        the bounds imply (``working_diameter_``); the bounds speak of rescaled images.  "auto" estimates it
        image by image.  By default images are taken as they are.
    channel_axis : int, optional
        Axis of the channels; by default images are grey.
    augment : bool, default=False
        Train on random flips and quarter turns too.
    stride : int, optional
        Distance of the windows in prediction, px; a divisor of ``window_size``.  By default a quarter of it, so that
        every pixel is seen 16 times.
    n_samples : int, default=1
        Posterior samples of every window in prediction.
    resolution : "auto", float or AbsoluteResolution, default="auto"
        Of the consensus in `predict`, `transform` and `detect`: gamma as published (relative to the graph of an
        image), or an absolute one, which carries over between images.
    min_size : int, optional
        Objects of fewer px are dropped; by default a quarter of the smallest bounding box.
    device : str, default="auto"
        "auto" is CUDA, else MPS, else the CPU.
    random_state : int, RandomState or None, default=None
        Of training and sampling.
    warm_start : bool, default=False
        Whether another `fit` goes on from the model at hand.
    checkpoint : str or Path, optional
        File for the state of the training; a `fit` that finds it goes on from there.
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

    def __init__(
        self,
        density: tuple[float, float] = (5, 10),
        area: tuple[float, float] = (0.10, 0.15),
        object_size: tuple[float, float] = (8, 28),
        *,
        window_size: int = 80,
        max_objects: int | None = None,
        network: str = "auto",
        appearance: str = "smooth",
        latent_dim: int = 20,
        n_steps: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        noise_scale: float | None = None,
        overlap_penalty: float = 0.0,
        sapr: bool = True,
        presence_update: str = "mean_field",
        intensity: Literal["log", "linear"] = "log",
        diameter: float | Literal["auto"] | None = None,
        channel_axis: int | None = None,
        augment: bool = False,
        stride: int | None = None,
        n_samples: int = 1,
        resolution: Literal["auto"] | float | AbsoluteResolution = "auto",
        min_size: int | None = None,
        device: str = "auto",
        random_state: Any = None,
        warm_start: bool = False,
        checkpoint: str | Path | None = None,
        n_jobs: int = 1,
        verbose: bool = False,
    ) -> None:
        self.density = density
        self.area = area
        self.object_size = object_size
        self.window_size = window_size
        self.max_objects = max_objects
        self.network = network
        self.appearance = appearance
        self.latent_dim = latent_dim
        self.n_steps = n_steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.noise_scale = noise_scale
        self.overlap_penalty = overlap_penalty
        self.sapr = sapr
        self.presence_update = presence_update
        self.intensity = intensity
        self.diameter = diameter
        self.channel_axis = channel_axis
        self.augment = augment
        self.stride = stride
        self.n_samples = n_samples
        self.resolution = resolution
        self.min_size = min_size
        self.device = device
        self.random_state = random_state
        self.warm_start = warm_start
        self.checkpoint = checkpoint
        self.n_jobs = n_jobs
        self.verbose = verbose

    # --- learning -----------------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any = None) -> CellSegmenter:
        """Learn a model from images without labels.

        Parameters
        ----------
        X : array-like or list of array-likes
            (H, W): one grey image; (N, H, W): a batch; a list: images of any sizes.  With ``channel_axis``
            one more axis.  Arrays that load lazily are read crop by crop.
        y : ignored

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            Naming the parameter or the image, its value and the remedy.
        """
        bounds = self._bounds()
        warn_of_conflicts(bounds)
        preset = self._check_parameters()
        self._sampling(bounds.window_size)
        device = resolve_device(self.device)
        views, interpretation = check_images(X, channel_axis=self.channel_axis)
        self._say(f"fit on {interpretation}")
        n_channels = views[0].shape[0]
        check_images(X, channel_axis=self.channel_axis, n_channels=n_channels)
        images = [
            prepare_image(
                view, scale=working_scale(view, bounds.diameter, self.diameter), intensity=self.intensity
            )
            for view in views
        ]
        seed = self._seed()
        estimated_scale = noise_scale_of(images, bounds.window_size, seed)
        noise_scale = estimated_scale if self.noise_scale is None else self.noise_scale
        config = model_config(
            bounds,
            n_channels=n_channels,
            preset=preset,
            appearance=self.appearance,
            latent_dim=self.latent_dim,
        )
        goes_on = self.warm_start and hasattr(self, "model_")
        model = continued_model(self.model_, config) if goes_on else new_model(config, seed)
        objective = training_objective(
            bounds,
            noise_scale,
            sapr=self.sapr,
            overlap_penalty=self.overlap_penalty,
            presence_update=self.presence_update,
        )
        settings = training_settings(
            bounds,
            preset,
            n_steps=self.n_steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            augment=self.augment,
            checkpoint=self.checkpoint,
            seed=seed,
            progress=self.verbose,
        )
        learned = learn(model, objective, images, settings, device)

        self.model_ = model
        self.n_channels_in_ = n_channels
        self.noise_scale_ = float(noise_scale)
        self.working_diameter_ = bounds.diameter
        self.history_, self.penalties_ = learned
        self.card_ = self._card(interpretation)
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
        diameter: float | Literal["auto"] | None = None,
        random_state: Any = None,
        work_folder: str | Path | None = None,
    ) -> ImageConsensus:
        """Sample the posterior of one image of any size, ready to be cut at any resolution.

        Parameters
        ----------
        image : array-like (H, W), or with ``channel_axis`` one axis more
        region : (row, column, height, width), optional
            Only this part, px; intensities, diameter and windows are those of the whole image, so that away from
            the border of the region the samples are those that `predict` draws there.
        n_samples, stride, diameter, random_state : optional
            Instead of the estimator's own.
        work_folder : str or Path, optional
            Where everything that grows with the image is kept, instead of in memory.  The same call with the same
            folder goes on where an earlier one was interrupted, even killed, and a further cut has nothing to
            sample; the folder is for this image, model and parameters only.  Needs a ``random_state``.

        Returns
        -------
        ImageConsensus
            ``.cut(resolution)`` gives labels, confidence and the absolute resolution.

        Raises
        ------
        WorkFolderError
            If the folder holds something else.
        """
        self._check_fitted()
        view, interpretation = self._one_image(image)
        self._say(interpretation)
        settings = self._inference_settings(self._seed(random_state), n_samples=n_samples, stride=stride)
        wanted = self.diameter if diameter is None else diameter
        place = None if region is None else check_region(region, view.shape)
        return self._consensus_of(view, settings, wanted, self._ready_model(), place, work_folder)

    def sweep(
        self,
        image: Any,
        *,
        region: tuple[int, int, int, int] | None = None,
        n_samples: int | None = None,
        stride: int | None = None,
        diameter: float | Literal["auto"] | None = None,
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
        return sweep_resolutions(consensus, region_pixels(view, place))

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
        """
        return _in_the_form_of(X, [s.labels for s in self._segment(X, resolution)], self.channel_axis)

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
            `cellsegmenter.measurements.measure_objects` says; confidence; z_0, z_1, ...  In px, rows before
            columns.  ``pandas.DataFrame(segmenter.detect(X))`` makes it a frame, and
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
            Images in the order of X, objects in the order of their labels.  With
            ``set_output(transform="pandas")`` a frame indexed by (image, label).
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

    def sample_posterior(self, X: Any, n_samples: int | None = 16) -> PosteriorSamples:
        """Posterior samples of images that fit into one window.

        Parameters
        ----------
        X : as in `predict`
            Images of at most ``window_size``, taken as they are whatever the ``diameter``; smaller ones are padded
            by reflection.  Use `consensus` for larger ones.
        n_samples : int or None
            None gives the most probable values instead: posterior means, and objects with p > 1/2.

        Returns
        -------
        PosteriorSamples
            Arrays (n_images, n_samples, ...).
        """
        self._check_fitted()
        views, _ = check_images(X, channel_axis=self.channel_axis, n_channels=self.n_channels_in_)
        size = self.model_.config.window_size
        for view in views:
            if max(view.shape[1:]) > size:
                raise ValueError(
                    f"{view.name} has {view.shape[1]} × {view.shape[2]} px, more than a window of {size} px; crop it, "
                    "or use consensus(image) for images of any size"
                )
        settings = self._inference_settings(self._seed(), n_samples=n_samples, stride=size)
        if n_samples is None:
            settings = replace(settings, n_samples=None)
        device = self._ready_model()
        # The only crop of an image no larger than a window is the image, up to its padding.
        random = np.random.default_rng(0)
        parts = []
        for start in range(0, len(views), BATCH_SIZE):
            batch = [prepare_image(v, intensity=self.intensity) for v in views[start : start + BATCH_SIZE]]
            windows = np.stack([random_crop(image, size, random) for image in batch])
            corners = np.array([(start + i, 0) for i in range(len(batch))])
            samples = sample_windows(self.model_, windows, corners, settings, device)
            parts.append([posterior for _, posterior in samples])
        return posterior_arrays(parts)

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
        device = self._ready_model()
        with torch.inference_mode():
            weight, appearance = self.model_.decode(torch.tensor(codes, device=device).unsqueeze(0))
        return DecodedCodes(appearance[0].cpu().numpy(), weight[0].cpu().numpy())

    def sample(self, n_samples: int = 1) -> GeneratedImages:
        """Draw new images from the model, with exact samples of the DPP."""
        self._check_fitted()
        check_number("n_samples", n_samples, low=1, integer=True)
        self._ready_model()
        drawn = render(self.model_.generate(n_samples, np.random.default_rng(self._seed())))
        prob = drawn.mixing_prob
        foreground = prob.sum(1) > 0.5
        labels = torch.where(foreground, prob.argmax(1) + 1, 0)
        return GeneratedImages(drawn.reconstruction.cpu().numpy(), labels.cpu().numpy().astype(np.int32))

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
        What belongs to this machine stays here: ``device``, ``n_jobs``, ``checkpoint``, ``verbose``.
        """
        self._check_fitted()
        description = {
            "parameters": {
                name: plain_value(v) for name, v in self.get_params().items() if name not in _NOT_SAVED
            },
            "config": self.model_.config.to_dict(),
            "n_channels_in_": self.n_channels_in_,
            "noise_scale_": self.noise_scale_,
            "working_diameter_": self.working_diameter_,
            "penalties_": self.penalties_,
            "history_": {name: [float(f"{v:.5g}") for v in values] for name, values in self.history_.items()},
            "card_": self.card_,
        }
        tensors = self.model_.state_dict()
        write_model_file(Path(path), half_precision(tensors) if half else tensors, description)

    @classmethod
    def load(cls, path: str | Path) -> CellSegmenter:
        """Read a model that `save` wrote.  Executes no code of the file's.

        Raises
        ------
        FileNotFoundError, ModelFileError
        """
        tensors, description = read_model_file(Path(path))
        try:
            parameters = description["parameters"]
            segmenter = cls(**{name: parameter_value(name, value) for name, value in parameters.items()})
            segmenter.model_ = StructuredVAE(ModelConfig.from_dict(description["config"]))
            segmenter.model_.load_state_dict(tensors)
            for name in ("n_channels_in_", "noise_scale_", "working_diameter_", "penalties_", "card_"):
                setattr(segmenter, name, description[name])
            segmenter.history_ = {name: np.array(values) for name, values in description["history_"].items()}
        except (KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise ModelFileError(
                f"{path} does not hold a model of this version ({error}); load it with the version that wrote it"
            ) from error
        segmenter.model_.eval()
        return segmenter

    @classmethod
    def pretrained(cls) -> CellSegmenter:
        """The nuclei model that ships with the package; ``.card_`` says how it was made and how good it is."""
        with resources.as_file(resources.files("cellsegmenter") / "data" / "nuclei.safetensors") as path:
            return cls.load(path)

    # --- what connects them -------------------------------------------------------------------------------

    def _bounds(self) -> Bounds:
        return check_bounds_together(
            density=self.density,
            area=self.area,
            object_size=self.object_size,
            window_size=self.window_size,
            max_objects=self.max_objects,
        )

    def _check_parameters(self) -> str:
        """Check what is not a bound; the preset that "auto" stands for."""
        check_choice("network", self.network, ("auto", *PRESETS))
        check_choice("appearance", self.appearance, ("smooth", "free"))
        check_choice("presence_update", self.presence_update, ("mean_field", "straight_through"))
        check_choice("intensity", self.intensity, ("log", "linear"))
        check_number("latent_dim", self.latent_dim, low=1, integer=True)
        check_number("overlap_penalty", self.overlap_penalty, low=0)
        for name, low, integer in (
            ("n_steps", 1, True),
            ("batch_size", 2, True),
            ("learning_rate", 1e-9, False),
            ("noise_scale", 1e-6, False),
        ):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), low=low, integer=integer)
        if self.checkpoint is not None:
            check_writable(self.checkpoint)
        self._check_prediction()
        if self.network != "auto":
            return self.network
        return "reference" if resolve_device(self.device).type == "cuda" else "small"

    def _check_prediction(self) -> None:
        """Check the parameters of predictions: in `fit` too, as nobody wants to hear of them after the training."""
        check_resolution(self.resolution)
        if self.min_size is not None:
            check_number("min_size", self.min_size, low=0, integer=True)
        if self.n_jobs is not None and check_number("n_jobs", self.n_jobs, integer=True) == 0:
            raise ValueError("n_jobs is 0; give a number of processes, or -1 for one on each core")

    def _sampling(
        self, window_size: int, n_samples: int | None = None, stride: int | None = None
    ) -> tuple[int, int]:
        """Samples of each window and stride of a prediction: those given, else the estimator's; checked."""
        samples = self.n_samples if n_samples is None else n_samples
        step = next(s for s in (stride, self.stride, window_size // 4) if s is not None)
        check_number("n_samples", samples, low=1, integer=True)
        check_number("stride", step, low=1, high=window_size, integer=True)
        check_stride(window_size, int(step))
        return int(samples), int(step)

    def _one_image(self, image: Any) -> tuple[ImageView, str]:
        """What must be one image rather than several, and in words how it was understood."""
        if not is_single_image(image, channel_axis=self.channel_axis):
            what = (
                f"a {type(image).__name__}" if isinstance(image, list | tuple) else f"shape {np.shape(image)}"
            )
            raise ValueError(f"one image is needed, not {what}; call it for each image, or set channel_axis")
        views, words = check_images(image, channel_axis=self.channel_axis, n_channels=self.n_channels_in_)
        return views[0], words

    def _inference_settings(
        self, seed: int, *, n_samples: int | None = None, stride: int | None = None
    ) -> InferenceSettings:
        self._check_prediction()
        config = self.model_.config
        samples, step = self._sampling(config.window_size, n_samples, stride)
        return InferenceSettings(
            stride=step,
            n_samples=samples,
            max_objects=min(PREDICTION_SLOTS * self._bounds().max_objects, int(np.prod(config.grid_shape))),
            overlap_threshold=OVERLAP_THRESHOLD,
            seed=seed,
            progress=self.verbose,
        )

    def _segment(self, X: Any, resolution: Any) -> list[Any]:
        """A segmentation for each image."""
        self._check_fitted()
        views, interpretation = check_images(
            X, channel_axis=self.channel_axis, n_channels=self.n_channels_in_
        )
        self._say(interpretation)
        settings = self._inference_settings(self._seed())
        wanted = self.resolution if resolution is None else resolution
        check_resolution(wanted)
        device = self._ready_model()
        found = []
        for view in views:
            consensus = self._consensus_of(view, settings, self.diameter, device)
            found.append(consensus.cut(wanted))
            self._say(f"{len(found[-1])} objects at {found[-1].resolution}")
        return found

    def _consensus_of(
        self,
        view: ImageView,
        settings: InferenceSettings,
        diameter: Any,
        device: torch.device,
        region: Region | None = None,
        work_folder: str | Path | None = None,
    ) -> ImageConsensus:
        scale = working_scale(view, self.working_diameter_, diameter)
        if scale != 1.0:
            self._say(f"rescaled by {scale:.3g} to the model's diameter of {self.working_diameter_:.1f} px")
        return consensus_of(
            self.model_,
            prepare_image(view, scale=scale, intensity=self.intensity),
            scale,
            settings,
            working_diameter=self.working_diameter_,
            resolution=self.resolution,
            min_size=self.min_size,
            n_jobs=self.n_jobs,
            device=device,
            region=region,
            work_folder=work_folder,
        )

    def _ready_model(self) -> torch.device:
        device = resolve_device(self.device)
        self.model_.to(device).eval()
        if channels_last_pays(device):  # as in training, so that a loaded model gives the same numbers
            self.model_.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return device

    def _seed(self, random_state: Any = None) -> int:
        """A seed from the estimator's or this call's random state; global generators are left alone."""
        state = self.random_state if random_state is None else random_state
        if state is None:
            return int(np.random.default_rng().integers(2**31))
        if isinstance(state, Integral):
            return int(check_number("random_state", state, low=0, high=2**32 - 1, integer=True))
        try:
            return int(check_random_state(state).randint(2**31 - 1))
        except ValueError as error:
            raise ValueError(
                f"random_state={state!r} is no seed; give a whole number, a RandomState or None"
            ) from error

    def _check_fitted(self) -> None:
        if not hasattr(self, "model_"):
            raise NotFittedError(
                "this CellSegmenter is not fitted yet; call fit(images), CellSegmenter.load(path) or "
                "CellSegmenter.pretrained()"
            )

    def _card(self, interpretation: str) -> dict[str, Any]:
        rows = self.history_
        return {
            "name": "CellSegmenter",
            "trained_on": interpretation,
            "labels_used": "none",
            "steps": int(rows["step"][-1]) if rows else 0,
            "seconds": round(float(rows["seconds"][-1]), 1) if rows else 0.0,
            "parameters": {name: plain_value(getattr(self, name)) for name in _ON_THE_CARD},
            "objects_per_window": round(float(rows["objects"][-1]), 2) if rows else None,
            "working_diameter_px": round(self.working_diameter_, 1),
            "weights": sum(p.numel() for p in self.model_.parameters()),
        }

    def _say(self, message: str) -> None:
        if self.verbose:
            print(message)

    def __getstate__(self) -> dict[str, Any]:
        """Pickles hold the model on the CPU, so that they open where there is no GPU."""
        state = super().__getstate__()
        if "model_" in state:
            state = {**state, "model_": copy.deepcopy(state["model_"]).cpu()}
        return state

    def __sklearn_tags__(self) -> Tags:
        """Images, not rows of features."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.three_d_array = False, True
        tags.transformer_tags.preserves_dtype = []
        return tags

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "model_")


def _in_the_form_of(X: Any, labels: list[np.ndarray], channel_axis: int | None) -> Any:
    """One array for one image, a stack for a batch, a list for a list."""
    if isinstance(X, list | tuple):
        return labels
    return labels[0] if is_single_image(X, channel_axis=channel_axis) else np.stack(labels)
