"""A contact sheet of what was counted: outlines on the images, numbers, and a window for scale."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from skimage.segmentation import find_boundaries

from cellsegmenter.io import ImageFileError, marked_png, replacing
from cellsegmenter.wording import counted

if TYPE_CHECKING:
    from cellsegmenter.counting import CountedTile
    from cellsegmenter.suggest import SuggestedBounds

__all__ = ["write_counting_picture"]

_COLUMNS, _ROWS = 3, 3
_WIDTH, _CAPTION, _MARGIN = 1104, 44, 12  # px of the sheet
_PAPER, _INK, _FRAME = (24, 26, 30), (236, 238, 240), (64, 176, 255)
_OUTLINE = (255, 194, 10)


def write_counting_picture(path: str | Path, suggested: SuggestedBounds) -> None:
    """Write a PNG that shows up to nine of the images, evenly spread, with the objects that were counted.

    Of few images, each is larger.

    Parameters
    ----------
    path : str or Path
        Ends in ``.png``.
    suggested : SuggestedBounds

    Raises
    ------
    ImageFileError
        If the path cannot be written to or is not a PNG's.
    """
    if Path(path).suffix.lower() != ".png":
        raise ImageFileError(f"{path} is a picture and must end in .png")
    n = len(suggested.counted)
    shown = np.unique(np.linspace(0, n - 1, _COLUMNS * _ROWS).astype(int))
    columns = min(len(shown), _COLUMNS)
    rows = -(-len(shown) // columns)
    square = _WIDTH // columns - _MARGIN
    step = square + _MARGIN
    sheet = Image.new("RGB", (columns * step + _MARGIN, rows * (step + _CAPTION) + _MARGIN), _PAPER)
    font = ImageFont.load_default(size=13)
    draw = ImageDraw.Draw(sheet)
    for place, index in enumerate(shown):
        tile, scale = suggested.counted[index], suggested.scales[index]
        left, top = _MARGIN + place % columns * step, _MARGIN + place // columns * (step + _CAPTION)
        crop, zoom = _outlined(tile, square)
        sheet.paste(crop, (left, top))
        # Only a cut-out may be shown; the frame is one window, in its own size.
        side = min(suggested.window_size / scale * zoom, square - 2)
        draw.rectangle([left, top, left + side, top + side], outline=_FRAME)
        draw.text((left, top + square + 3), _caption(tile, scale), fill=_INK, font=font)
    with replacing(path) as temporary:
        sheet.save(temporary, pnginfo=marked_png())


def _outlined(tile: CountedTile, square: int) -> tuple[Image.Image, float]:
    """The middle of a tile, `square` px high and wide, with the outlines of its objects, and its magnification."""
    height, width = tile.labels.shape
    side = min(max(height, width), max(square, min(height, width)))  # whole, or a square of the shorter side
    top, left = max(0, (height - side) // 2), max(0, (width - side) // 2)
    cut = np.s_[top : top + side, left : left + side]
    pixels = (255 * np.clip(tile.pixels[cut], 0, 1)).astype(np.uint8)
    zoom = square / max(pixels.shape)
    size = (max(1, round(pixels.shape[1] * zoom)), max(1, round(pixels.shape[0] * zoom)))
    grey = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))
    labels = np.asarray(
        Image.fromarray(tile.labels[cut].astype(np.int32)).resize(size, Image.Resampling.NEAREST)
    )
    colour = np.repeat(grey[..., None], 3, axis=2)
    colour[find_boundaries(labels, mode="inner")] = _OUTLINE
    return Image.fromarray(colour), zoom


def _caption(tile: CountedTile, scale: float) -> str:
    rescaled = "" if scale == 1 else f", rescaled by {scale:.2g}"
    size = f"{tile.diameter:.0f} px across" if len(tile.areas) else "none"
    objects = counted(len(tile.areas), "object")
    return f"{objects}, {size}\n{np.mean(tile.labels > 0):.1%} of the area{rescaled}; blue: one window"
