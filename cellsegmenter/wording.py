"""Numbers in messages."""

from __future__ import annotations

__all__ = ["counted"]


def counted(number: int, noun: str) -> str:
    """A number of things in words: 1 image, 2 images."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
