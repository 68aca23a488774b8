"""Candidates of a whole image: what the recognition network proposes, and what the generative model says of it.

The recognition network gives each candidate its outline and a score, the pixels a contrast, and the generative model a
second opinion and the latent code (`cellsegmenter.recognition.witness`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from cellsegmenter.model.device import threads_for
from cellsegmenter.normalize import KNEE, linear_intensity
from cellsegmenter.preparation import PreparedImage
from cellsegmenter.recognition.blocks import Surroundings, block_lattice, read_around
from cellsegmenter.recognition.calibration import Evidence
from cellsegmenter.recognition.fitted import FittedModel
from cellsegmenter.recognition.network import RecognitionNetwork
from cellsegmenter.recognition.stars import RAYS, Stars
from cellsegmenter.recognition.witness import read_for_witness, testify
from cellsegmenter.region import Region
from cellsegmenter.store import Record, Store, Task, run_tasks

__all__ = [
    "Candidates",
    "concatenated",
    "contrast_of",
    "find_candidates",
    "in_order",
    "load_candidates",
    "propose",
]

# The network sees pixels at this part of their brightness.  It learned from what a teacher is sure of, and takes
# faint things for objects too easily: 57 training images of nuclei, mean of four APs, eight networks: .771 to .777
# without, .783 to .790 with it.
_DIMMING = 0.6
# Least score of a candidate.
_LEAST_SCORE = 0.2
# At most so many candidates to the area of a typical object's square, the best ones: noise bounds memory, too.
_MOST_PER_OBJECT = 4
# Where a star's contrast is measured: at these shares of its radii, which stand for equal areas, and so many
# sixteenths of a diameter outside; its texture counts from so much on, normalised intensity.
_INSIDE = np.sqrt((np.arange(4) + 0.5) / 4).astype(np.float32)
_RING, _DARKER_QUARTER, _TEXTURE = np.array([2.0, 3.5], np.float32), 0.25, 0.03
# px by which an image is continued by reflection.
_PADDING = 16


class Candidates(NamedTuple):
    """n candidates, px at working scale; by row and column of their centres."""

    stars: Stars
    evidence: Evidence
    z_what: np.ndarray  # (n, D) float32 latent codes: posterior means

    def take(self, index: np.ndarray) -> Candidates:
        return Candidates(self.stars.take(index), self.evidence.take(index), self.z_what[index])


def find_candidates(
    model: FittedModel,
    image: Any,
    store: Store,
    *,
    region: Region,
    name: str = "found",
    n_jobs: int | None = 1,
    progress: bool = False,
) -> int:
    """Make `NAME-b`, the candidates of a block, for every block that touches a region and lacks it.

    Parameters
    ----------
    model : FittedModel
        With a recognition network.
    image : array-like (C, H, W)
        Normalised, at working scale; read block by block.
    store : Store
    region : Region
        px at working scale; blocks are always those of the whole image.
    name : str
        Of the records; each view of an image has its own.
    n_jobs : int or None
        For joblib.
    progress : bool
        Show a bar.

    Returns
    -------
    int
        The number of blocks.
    """
    blocks = [block for block in block_lattice(image.shape[-2:]) if block.meets(region)]
    tasks = [
        Task(f"{name}-{number}", _find_in_block, (), partial(_arguments, model, image, block))
        for number, block in enumerate(blocks)
    ]
    run_tasks(store, tasks, n_jobs, progress="inference" if progress else None)
    return len(blocks)


def load_candidates(store: Store, name: str, n_blocks: int) -> Candidates:
    """The candidates of all blocks, in an order that does not depend on them."""
    found = [store.load(f"{name}-{number}") for number in range(n_blocks)]
    return in_order(
        concatenated(
            [
                Candidates(
                    Stars(record["centre"], record["radii"]),
                    Evidence(*(record[field] for field in Evidence._fields)),
                    record["z_what"],
                )
                for record in found
            ]
        )
    )


def concatenated(candidates: Sequence[Candidates]) -> Candidates:
    """Several sets of candidates as one."""
    stars = Stars(*map(np.concatenate, zip(*(one.stars for one in candidates), strict=True)))
    evidence = Evidence(*map(np.concatenate, zip(*(one.evidence for one in candidates), strict=True)))
    return Candidates(stars, evidence, np.concatenate([one.z_what for one in candidates]))


def in_order(candidates: Candidates) -> Candidates:
    """Candidates by row and column of their centres."""
    row, column = candidates.stars.centre.T
    return candidates.take(np.lexsort((column, row)))


class _BlockPixels(NamedTuple):
    """What the two networks read around a block."""

    block: Region
    known: np.ndarray  # (h, w) bool: where there are data, of what the recognition network reads
    recognition: Surroundings
    generative: Surroundings


def _arguments(model: FittedModel, image: Any, block: Region) -> tuple[Any, ...]:
    return model, _read(model, image, block)


def _read(model: FittedModel, image: Any, block: Region) -> _BlockPixels:
    assert model.recognition is not None
    config = model.recognition.config
    narrow = read_around(
        image, block, halo=config.halo, padding=max(_PADDING, config.multiple), multiple=config.multiple
    )
    wide = read_for_witness(model.generative, image, block)
    shape = narrow.pixels.shape[1:]
    place = Region(*narrow.corner.tolist(), *shape).common(Region(0, 0, *image.shape[-2:]))
    known = np.zeros(shape, bool)
    inside = tuple(
        slice(first - low, first - low + n)
        for first, low, n in zip(place.corner, narrow.corner, place.shape, strict=True)
    )
    known[inside] = image.known(place) if isinstance(image, PreparedImage) else True
    return _BlockPixels(block, known, narrow, wide)


def _find_in_block(store: Store, model: FittedModel, pixels: _BlockPixels) -> Record:
    assert model.recognition is not None
    block = pixels.block
    with threads_for(block.height * block.width):
        stars, score = propose(
            model.recognition, pixels.recognition, pixels.known, block, model.intensity, model.device
        )
        witness, z_what = testify(model.generative, pixels.generative, stars, model.device)
    return {
        "centre": stars.centre,
        "radii": stars.radii,
        "score": score,
        "witness": witness,
        "contrast": contrast_of(stars, pixels.recognition, model.working_diameter),
        "z_what": z_what,
    }


@torch.inference_mode()
def propose(
    network: RecognitionNetwork,
    around: Surroundings,
    known: np.ndarray,
    block: Region,
    intensity: Literal["log", "linear"],
    device: torch.device,
) -> tuple[Stars, np.ndarray]:
    """The local maxima of the score in a block: their outlines and logits (n,).

    Parameters
    ----------
    network : RecognitionNetwork
        On `device`, in evaluation mode.
    around : Surroundings
        The block with its halo.
    known : (h, w) bool array
        Which of its pixels show the image; centres lie there.
    block : Region
    intensity : {"log", "linear"}
        Scale of the pixels.
    device : torch.device
    """
    pitch = network.config.pitch
    image = torch.tensor(around.pixels, dtype=torch.float32, device=device)[None]
    seen = network(dimmed(image, intensity))
    logit, radii = seen.logit[0], seen.radii[0]
    # What is seen in the reflection of the image, or where it has no data, competes with nothing.
    shown = torch.from_numpy(known[::pitch, ::pitch]).to(logit.device)
    logit = logit.masked_fill(~shown, -torch.inf)
    peak = logit == max_pool2d(logit[None, None], 3, stride=1, padding=1)[0, 0]
    peak &= logit > math.log(_LEAST_SCORE / (1 - _LEAST_SCORE))
    row, column = peak.nonzero(as_tuple=True)
    place = torch.stack([row, column], 1).cpu().numpy() * pitch + around.corner  # first pixel of each point
    inside = np.all((place >= block.corner) & (place < block.corner + block.shape), axis=1)
    index = np.flatnonzero(inside)
    score = logit[row, column].cpu().numpy()[index]
    most = max(64, round(_MOST_PER_OBJECT * block.height * block.width / network.config.diameter**2))
    if len(index) > most:
        best = np.sort(np.argsort(-score, kind="stable")[:most])
        index, score = index[best], score[best]
    chosen = torch.from_numpy(index).to(row.device)
    outline = radii[:, row[chosen], column[chosen]].T.cpu().numpy()
    return Stars((place[index] + 0.5).astype(np.float32), outline.astype(np.float32)), score


def dimmed(image: Tensor, intensity: Literal["log", "linear"]) -> Tensor:
    """An image as the network sees it in prediction: less bright than in training."""
    linear = _DIMMING * linear_intensity(image, intensity)
    if intensity == "linear":
        return linear
    return torch.copysign(torch.log1p(linear.abs() / KNEE), linear) / math.log1p(1 / KNEE)


def contrast_of(stars: Stars, around: Surroundings, diameter: float) -> np.ndarray:
    """How far the inside of each star is above its surroundings, over the inside's standard deviation, (n,).

    The surroundings are the darker quarter of a ring, as the rest may be neighbours.
    """
    bright = around.pixels.max(axis=0)
    unit = diameter / 16
    inside = _values_at(bright, stars, around, stars.radii[..., None] * _INSIDE)
    ring = _values_at(bright, stars, around, stars.radii[..., None] + unit * _RING)
    level = np.quantile(ring, _DARKER_QUARTER, axis=1) if len(ring) else np.zeros(0)
    return ((inside.mean(axis=1) - level) / (inside.std(axis=1) + _TEXTURE)).astype(np.float32)


def _values_at(plane: np.ndarray, stars: Stars, around: Surroundings, distance: np.ndarray) -> np.ndarray:
    """(n, 32 k) values of a plane at k distances (n, 32, k) along the rays of stars; those of its edge beyond it."""
    place = stars.centre[:, None, None] + distance[..., None] * RAYS[:, None] - around.corner  # (n, 32, k, 2)
    row, column = (
        np.clip(np.floor(place[..., axis]).astype(np.int64), 0, side - 1)
        for axis, side in enumerate(plane.shape)
    )
    return plane[row, column].reshape(len(place), math.prod(distance.shape[1:]))
