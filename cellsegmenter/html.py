"""Pages in one file: pictures inside, nothing loaded from elsewhere, light and dark."""

from __future__ import annotations

import base64
import html
import io
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from PIL import Image
from skimage.segmentation import find_boundaries

from cellsegmenter.io import ImageFileError, replacing

__all__ = [
    "OBJECT_COLOURS",
    "filled_template",
    "grey_picture",
    "outline_picture",
    "page_file",
    "picture_uri",
    "write_page",
]

OBJECT_COLOURS = np.array(  # bright and apart from each other, also for most colour-blind eyes
    [(255, 194, 10), (64, 176, 255), (255, 90, 140), (110, 230, 90), (255, 140, 40), (190, 140, 255)],
    np.uint8,
)
_TINT = 36  # opacity of an object's inside, of 255


def page_file(name: str) -> str:
    """A style sheet, script or template that ships with the package."""
    return (resources.files("cellsegmenter") / "data" / name).read_text(encoding="utf-8")


def filled_template(name: str, **values: Any) -> str:
    """A template of the package with its values; plain strings are escaped by the caller where they come from users."""
    return Template(page_file(name)).substitute(values)


def write_page(
    path: str | Path, *, title: str, body: str, styles: tuple[str, ...] = (), script: str = ""
) -> None:
    """Write one self-contained HTML file.

    Parameters
    ----------
    path : str or Path
        Ends in ``.html``.
    title : str
        Plain text.
    body : str
        HTML.
    styles : tuple of str
        Style sheets of the package, after the common one.
    script : str
        JavaScript, run at the end.

    Raises
    ------
    ImageFileError
        If the path cannot be written to or is not a page's.
    """
    if Path(path).suffix.lower() not in (".html", ".htm"):
        raise ImageFileError(f"{path} is a page and must end in .html")
    style = "\n".join(page_file(name) for name in ("page.css", *styles))
    ending = f"<script>{script}</script>" if script else ""
    content = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{style}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n"
        f"{ending}\n</body>\n</html>\n"
    )
    with replacing(path) as temporary:
        temporary.write_text(content, encoding="utf-8")


def picture_uri(picture: Image.Image) -> str:
    """A picture as the address of an <img>, in PNG."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def grey_picture(pixels: np.ndarray) -> Image.Image:
    """Normalised intensities (H, W), 0 black and 1 white."""
    return Image.fromarray((255 * np.clip(pixels, 0, 1)).astype(np.uint8))


def outline_picture(labels: np.ndarray) -> Image.Image:
    """Outlines of labels (H, W) on nothing, insides tinted a little; neighbours seldom share a colour."""
    colour = labels % len(OBJECT_COLOURS)
    index = np.where(labels > 0, 1 + colour, 0)
    index[find_boundaries(labels, mode="inner") & (labels > 0)] += len(OBJECT_COLOURS)
    picture = Image.frombytes("P", labels.shape[::-1], index.astype(np.uint8).tobytes())
    picture.putpalette([0, 0, 0, *np.tile(OBJECT_COLOURS.ravel(), 2).tolist()])
    opacity = [0] + len(OBJECT_COLOURS) * [_TINT] + len(OBJECT_COLOURS) * [255]
    picture.info["transparency"] = bytes(opacity)
    return picture
