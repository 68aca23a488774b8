"""`cellseg info`: a model's card."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from . import options, reporting
from .models import load_model


@click.command()
@click.argument("model", required=False, type=options.FILE)
@click.option("--json", "as_json", is_flag=True, help="Print the card as JSON.")
def info(model: Path | None, as_json: bool) -> None:
    """Print the card of a model.

    It says what MODEL, or else the built-in model, was trained on, how, and how well it does.
    """
    card = load_model(model).card_
    reporting.answer(json.dumps(card, indent=2) if as_json else "\n".join(lines(card)))


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
