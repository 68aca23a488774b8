"""Lessons in telling neighbours apart: two known objects side by side (the sleep of wake-sleep).

Two objects that touch can be explained by one mask over both, and that is a fixed point of training: given the one,
what either of the two would add is nothing.  But from single objects that the model knows we can make windows that
show such a pair, and there the truth is known: two boxes, and neither half of one nor both in one.  So once there are
objects, every step puts one of them, cut from some window of the batch with its own pixels, into each window, and the
inference network learns from it where this one and a neighbour are.

That a network which infers can be taught by what the model makes up is due to Hinton, Dayan, Frey and Neal (The
wake-sleep algorithm for unsupervised neural networks, Science 268, 1995); that cut-outs are worth more than
drawings, to Dwibedi, Misra and Hebert (Cut, paste and learn, ICCV 2017).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cellsegmenter.model.boxes import SAME_BOX, intersection_over_union
from cellsegmenter.model.device import autocast_for
from cellsegmenter.model.spatial_transformer import crop, paste
from cellsegmenter.model.structured_vae import StructuredVAE
from cellsegmenter.training.presence import BOX_MARGIN, box_distance, mask_boxes, wanted_boxes
from cellsegmenter.types import Boxes, WindowPosterior

__all__ = ["N_DRAWS", "Lesson", "common_area", "lesson_loss", "put_beside"]

# Random numbers of a lesson, to a window.
N_DRAWS = 5
# The newcomer is made smaller or larger by a factor between these, log-uniform.
_ZOOM = (0.6, 1.25)
# Of the smaller mask, how much the other one of the pair may cover; and how much of the newcomer further objects may.
_PAIR_OVERLAP, _FURTHER_OVERLAP = 0.25, 0.1
# The middle of the newcomer stays this far from the window's border, px.
_BORDER = 4
# A mask is opaque where it is above the higher value, and clear below the lower one.
_CLEAR, _OPAQUE = 0.25, 0.5
# Normalised intensity by which a pixel has to stand out more than another to replace most of it.
_SOFTNESS = 0.05
# Weights against 1 for the cell with the best box: of "on" for others that draw the same box, of "off" for the rest.
_TWIN_WEIGHT, _OFF_WEIGHT = 0.25, 1.0


class Lesson(NamedTuple):
    """Windows with an object more, beside one that was there."""

    image: Tensor  # (B, C, H, W)
    pair: Boxes  # (B, 2) px: the object that was there and the newcomer
    further: Boxes  # (B, K) px: the other objects; of no size where there is none
    valid: Tensor  # (B,) bool: False where there was no pair to be made


@torch.no_grad()
def put_beside(
    image: Tensor,
    posterior: WindowPosterior,
    object_size: tuple[float, float],
    uniform: Tensor,
    *,
    touching: bool,
) -> Lesson:
    """Put an object of some window of the batch into each window, beside or away from an object of its own.

    Parameters
    ----------
    image : Tensor (B, C, H, W)
        Square windows.
    posterior : WindowPosterior
        A posterior sample of them with K slots.
    object_size : (float, float)
        Sides that a box may have, px.
    uniform : Tensor (B, N_DRAWS)
        Uniform in [0, 1): which object stays, from which window one comes, which one, how large, and where.
    touching : bool
        Whether the masks of the two have to touch.

    Notes
    -----
    The newcomer brings its own pixels.  Of two pixels the one that stands out more from its background is seen: in
    this way blurred edges add up, and no dark rim tells the newcomer apart.
    """
    size = image.shape[-1]
    bounding, visible = mask_boxes(posterior, margin=0.0)
    boxes = wanted_boxes(bounding, object_size)
    drawn, likely = posterior.presence > 0.5, posterior.presence_prob > 0.5
    known = visible & (
        drawn | likely
    )  # what nothing is put upon; objects that are not known cannot be spared
    sure = visible & drawn & likely
    whole = sure & _within(boxes.x, boxes.width, size) & _within(boxes.y, boxes.height, size)
    staying = _pick(sure, uniform[:, 0])
    giver = _pick(whole.any(1).expand(len(image), -1), uniform[:, 1]).squeeze(1)
    coming = _pick(whole[giver], uniform[:, 2])
    low, high = (math.log(factor) for factor in _ZOOM)
    largest = torch.maximum(bounding.width, bounding.height)[giver].gather(1, coming)
    zoom = torch.exp(low + (high - low) * uniform[:, 3:4])
    zoom = torch.minimum(zoom, (object_size[1] - 2 * BOX_MARGIN) / largest.clamp_min(1))
    salience = (image - posterior.background).abs().sum(1, keepdim=True)
    newcomer = _newcomer(torch.cat([image, salience], 1), posterior, bounding, giver, coming, zoom)

    stays = torch.zeros_like(known).scatter(1, staying, True)
    masks = paste(
        (posterior.mixing_weight * known[..., None, None]).unsqueeze(2), posterior.boxes, (size, size)
    )
    shown = masks.squeeze(2) > 0.5  # (B, K, H, W)
    host, further = ((shown & chosen[..., None, None]).any(1) for chosen in (stays, ~stays))
    places = _places(host, further, newcomer.mask[:, 0] > 0.5, touching).flatten(1)
    place = _pick(places, uniform[:, 4])
    # Shifts 0 … S - 1 come before -S … -1, as in a discrete Fourier transform.
    down, right = ((index + size) % (2 * size) - size for index in (place // (2 * size), place % (2 * size)))
    valid = sure.any(1) & whole.any() & places.any(1)

    opacity = ((newcomer.mask - _CLEAR) / (_OPAQUE - _CLEAR)).clamp(0, 1)
    pixels, its_salience, opacity = _shifted(torch.cat([newcomer.view, opacity], 1), down, right).split(
        [image.shape[1], 1, 1], dim=1
    )
    seen = opacity * torch.sigmoid((its_salience - salience) / _SOFTNESS) * valid[:, None, None, None]
    placed = newcomer.bounding._replace(x=newcomer.bounding.x + right, y=newcomer.bounding.y + down)
    placed = wanted_boxes(placed, object_size)
    rest = known & ~stays
    return Lesson(
        image=torch.lerp(image, pixels, seen),
        pair=Boxes(*(torch.cat(sides, 1) for sides in zip(boxes.take(staying), placed, strict=True))),
        further=boxes._replace(width=boxes.width * rest, height=boxes.height * rest),
        valid=valid,
    )


def lesson_loss(model: StructuredVAE, lesson: Lesson) -> Tensor:
    """Cross-entropy of presence and distance of boxes to what a lesson shows, near the pair only, a scalar.

    Of the cells whose middle lies in a box of the pair, or next to it, those that draw one of the two boxes should be
    on, and those that draw another should be off, unless it is a further object's; and all of them should draw the
    box of the nearer one.  What else is in the window is not known for certain, and nothing is asked of it.
    """
    with _kept_statistics(model.unet), autocast_for(lesson.image.device):
        proposals = model.proposal_head(model.unet(lesson.image).grid)
    c = model.config
    boxes = model.box_code(proposals.z_where.mean, c.grid_shape)
    with torch.no_grad():
        nearest, near = _nearest(lesson.pair, c.grid_shape, 2**c.grid_level)
        near = near & lesson.valid[:, None]
        likeness = intersection_over_union(boxes, lesson.pair) * near.unsqueeze(-1)  # (B, G, 2)
        best = torch.zeros_like(near).scatter(1, likeness.argmax(1), True) & near
        alike = (likeness > SAME_BOX).any(-1) & ~best
        known = (intersection_over_union(boxes, lesson.further) > SAME_BOX).any(-1)
        on = best + _TWIN_WEIGHT * alike
        off = _OFF_WEIGHT * (near & ~best & ~alike & ~known)
    softplus = nn.functional.softplus
    logit = proposals.presence_logit
    presence = on * softplus(-logit) + off * softplus(logit)
    return presence.sum(1).mean() + box_distance(boxes, lesson.pair.take(nearest), near)


class _Newcomer(NamedTuple):
    """Objects at their new sizes, each in the middle of a window of its own."""

    view: Tensor  # (B, C + 1, H, W) pixels and salience, there and around
    mask: Tensor  # (B, 1, H, W) w
    bounding: Boxes  # (B, 1) px, of the mask


def _newcomer(
    pixels: Tensor, posterior: WindowPosterior, bounding: Boxes, giver: Tensor, slot: Tensor, zoom: Tensor
) -> _Newcomer:
    """Cut an object out of `pixels` (B, C + 1, H, W): for each window that in a slot (B, 1) of its giver (B,).

    `bounding` (B, K) are the bounding boxes of the masks, which are not the boxes in which they are drawn.
    """
    size = pixels.shape[-1]
    middle = torch.full_like(zoom, size / 2)
    frame, box = (
        Boxes(*(side[giver].gather(1, slot) for side in its)) for its in (posterior.boxes, bounding)
    )
    weight = posterior.mixing_weight[giver[:, None], slot].unsqueeze(2)
    drawn = Boxes(middle, middle, frame.width * zoom, frame.height * zoom)
    around = Boxes(frame.x, frame.y, size / zoom, size / zoom)
    return _Newcomer(
        view=crop(pixels[giver], around, size)[:, 0],
        mask=paste(weight, drawn, (size, size))[:, 0],
        bounding=Boxes(
            x=middle + (box.x - frame.x) * zoom,
            y=middle + (box.y - frame.y) * zoom,
            width=box.width * zoom,
            height=box.height * zoom,
        ),
    )


def common_area(fixed: Tensor, moving: Tensor) -> Tensor:
    """The common area of two masks for every shift of the second, px.

    Parameters
    ----------
    fixed, moving : Tensor (B, S, S) bool

    Returns
    -------
    Tensor (B, 2S, 2S)
        At [d, e] that with `moving` shifted by d rows and e columns; shifts from S on stand for negative ones, 2S
        less.
    """
    shape = (2 * fixed.shape[-2], 2 * fixed.shape[-1])
    ours, theirs = (torch.fft.rfft2(mask.float(), s=shape) for mask in (fixed, moving))
    return torch.fft.irfft2(ours * theirs.conj(), s=shape).round()


def _places(host: Tensor, further: Tensor, newcomer: Tensor, touching: bool) -> Tensor:
    """The shifts (B, 2S, 2S) bool of a mask from the middle of its window to where it covers little of others."""
    own = newcomer.sum((1, 2))
    smaller = torch.minimum(host.sum((1, 2)), own)[:, None, None]
    common = common_area(host, newcomer)
    beside = (common >= int(touching)) & (common <= _PAIR_OVERLAP * smaller)
    free = common_area(further, newcomer) <= _FURTHER_OVERLAP * own[:, None, None]
    size = host.shape[-1]
    shift = torch.arange(2 * size, device=host.device)
    shift = (shift + size) % (2 * size) - size
    inside = shift.abs() < size / 2 - _BORDER
    drawn = (host.any((1, 2)) & (own > 0))[:, None, None]
    return drawn & beside & free & inside[:, None] & inside


def _pick(allowed: Tensor, uniform: Tensor) -> Tensor:
    """One of the allowed columns of each row (B, N), all of them alike, as an index (B, 1); any if there is none."""
    number = allowed.cumsum(1)
    wanted = (uniform * number[:, -1]).floor().clamp_max(number[:, -1] - 1)
    return (number > wanted[:, None]).int().argmax(1, keepdim=True)


def _within(centre: Tensor, side: Tensor, size: int) -> Tensor:
    return (centre - side / 2 >= 0) & (centre + side / 2 <= size)


def _shifted(values: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Each canvas of (B, C, S, S) shifted by its own (B, 1) rows and columns; zero where nothing comes from."""
    size = values.shape[-1]
    pixel = torch.arange(size, device=values.device)
    row, column = pixel - down, pixel - right  # (B, S)
    inside = ((row >= 0) & (row < size)).unsqueeze(2) & ((column >= 0) & (column < size)).unsqueeze(1)
    row, column = row.clamp(0, size - 1), column.clamp(0, size - 1)
    window = torch.arange(len(values), device=values.device)[:, None, None]
    return values.movedim(1, -1)[window, row.unsqueeze(2), column.unsqueeze(1)].movedim(
        -1, 1
    ) * inside.unsqueeze(1)


def _nearest(pair: Boxes, grid_shape: tuple[int, int], spacing: int) -> tuple[Tensor, Tensor]:
    """For every cell the object of the pair whose box it is nearer to, (B, G), and whether it is in that box or next
    to it.
    """
    index = torch.arange(grid_shape[0] * grid_shape[1], device=pair.x.device)[:, None]
    x, y = (index % grid_shape[1] + 0.5) * spacing, (index // grid_shape[1] + 0.5) * spacing
    across = (x - pair.x.unsqueeze(1)).abs() / (pair.width.unsqueeze(1) + spacing)
    along = (y - pair.y.unsqueeze(1)).abs() / (pair.height.unsqueeze(1) + spacing)
    distance, nearest = torch.maximum(across, along).min(-1)
    return nearest, distance < 0.5


@contextmanager
def _kept_statistics(network: nn.Module) -> Iterator[None]:
    """Batch normalisation that does not remember what it sees: in prediction no window is a lesson."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
