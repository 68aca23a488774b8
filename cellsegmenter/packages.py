"""Packages that only some uses need: what to say where one is missing."""

from __future__ import annotations

__all__ = ["install", "needs"]


def install(*packages: str) -> str:
    """The command that gets third-party packages; it works wherever this package itself came from."""
    return f"pip install {' '.join(packages)}"


def needs(what: object, *packages: str) -> str:
    """The message of an error: `what` cannot be done without packages that are not installed."""
    further = "a further package" if len(packages) == 1 else "further packages"
    return f"{what} needs {further}; run: {install(*packages)}"
