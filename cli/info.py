"""`cellseg info`: a model's card, or what an image file holds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import options, reporting
from .models import load_model

if TYPE_CHECKING:
    from cellsegmenter.io import Series


@click.command()
@click.argument("file", required=False, type=options.FILE)
@click.option("--json", "as_json", is_flag=True, help="Print the same as JSON.")
def info(file: Path | None, as_json: bool) -> None:
    """Print the card of a model, or what an image file holds.

    Of a model, or without FILE of the built-in one, it says what it was trained on, how, and how well it does. Of an
    image file it lists the images that --series, --well and --field choose from.
    """
    if file is None or file.suffix == ".safetensors":
        card = load_model(file).card_
        reporting.answer(json.dumps(card, indent=2) if as_json else "\n".join(lines(card)))
        return
    from cellsegmenter.io import list_series

    images = list_series(file)
    if as_json:
        reporting.answer(json.dumps([as_plain(series) for series in images], indent=2))
    else:
        reporting.answer("\n".join(image_lines(file, images)))


def lines(card: Mapping[str, object], indent: str = "") -> Iterator[str]:
    """One line for each entry, with nested entries indented."""
    for name, value in card.items():
        title = f"{indent}{name.replace('_', ' ')}:"
        if isinstance(value, Mapping):
            yield title
            yield from lines(value, indent + "  ")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            yield f"{title} {text}"


def image_lines(file: Path, images: list[Series]) -> Iterator[str]:
    """One line for each image of a file."""
    several = len(images) > 1
    how = "--well and --field, or --series" if any(series.well for series in images) else "--series"
    yield f"{file}: {len(images)} images; choose by {how}" if several else f"{file}: one image"
    for series in images:
        words = [series.name] if series.name else []
        if series.shape:
            size = " × ".join(map(str, series.shape))
            words += [f"{series.axes} {size}", series.dtype]
        else:
            words += ["missing or damaged"]
        if series.pixel_size.um is not None:
            words += [f"{series.pixel_size.um:.4g} µm per px"]
        if series.channel_names:
            words += [f"channels {', '.join(series.channel_names)}"]
        yield f"  {series.number}: {', '.join(words)}"
        if series.pixel_size.doubt:
            yield f"     it {series.pixel_size.doubt}"


def as_plain(series: Series) -> dict[str, Any]:
    """What JSON can hold of an image."""
    from cellsegmenter.files import path_text

    size = series.pixel_size
    return {**series._asdict(), "path": path_text(series.path), "pixel_size": size.um, "doubt": size.doubt}
