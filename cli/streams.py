"""Standard streams that never end a run: what cannot be encoded is spelled out, what cannot be written is dropped.

Results go to files.  A closed pipe, a full disk or an old encoding must cost messages only.
"""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

__all__ = ["SPELLED_OUT", "ForgivingStream", "forgiving_streams"]

# The name of our handler of characters that an encoding lacks, as `errors=` of a stream.
SPELLED_OUT = "cellsegmenter.spelled_out"
_SPELLINGS = {"γ": "gamma", "σ": "sigma", "α": "alpha", "µ": "u", "×": "x", "·": "*", "…": "...", "²": "2"}
_ESCAPED_BYTES = range(0xDC80, 0xDD00)  # how Python holds the bytes of a file's name that are no text


class ForgivingStream:
    """A text stream that drops what cannot be written; everything else is the wrapped stream's.

    Attributes
    ----------
    lost : Exception or None
        Why something could not be written.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.lost: Exception | None = None

    def write(self, text: str) -> int:
        if self.lost is None:
            try:
                return self._stream.write(text)
            except (OSError, ValueError) as error:  # ValueError: the stream is closed
                self._lose(error)
        return len(text)

    def flush(self) -> None:
        if self.lost is None:
            try:
                self._stream.flush()
            except (OSError, ValueError) as error:
                self._lose(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _lose(self, error: Exception) -> None:
        """Write no more; what is still buffered goes nowhere, so that Python's own flush at the end succeeds."""
        self.lost = error
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            try:
                os.dup2(nowhere, self._stream.fileno())
            finally:
                os.close(nowhere)


@contextmanager
def forgiving_streams() -> Iterator[None]:
    """Standard output and error that spell out and drop."""
    _occupy_descriptors()
    outer: list[TextIO | None] = [
        sys.stdout,
        sys.stderr,
    ]  # None where the descriptor was closed from the start
    streams = [stream or open(os.devnull, "w", encoding="utf-8") for stream in outer]  # noqa: SIM115
    errors = [_set_errors(stream, SPELLED_OUT) for stream in streams]
    forgiving = [ForgivingStream(stream) for stream in streams]
    sys.stdout, sys.stderr = forgiving
    try:
        yield
    finally:
        sys.stdout, sys.stderr = outer
        for wrapper, stream, given, before in zip(forgiving, streams, outer, errors, strict=True):
            wrapper.flush()
            if wrapper.lost is None:
                _set_errors(stream, before)
            if stream is not given:
                stream.close()


def _set_errors(stream: Any, errors: str | None) -> str | None:
    """Change how a stream takes characters that its encoding lacks; what it was, or None where it has no say."""
    if errors is None or not hasattr(stream, "reconfigure"):
        return None
    before: str = stream.errors
    stream.reconfigure(errors=errors)
    return before


def _occupy_descriptors() -> None:
    """Open what is closed of the descriptors 0 to 2: a result that got one of them would receive messages, too."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            with suppress(OSError):
                os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest that is free


def _spell_out(error: UnicodeError) -> tuple[str, int]:
    """Replacements in ASCII: words for our own symbols, and a byte that is no text as its number."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_spelling, error.object[error.start : error.end])), error.end


def _spelling(character: str) -> str:
    if ord(character) in _ESCAPED_BYTES:
        return f"\\x{ord(character) - 0xDC00:02x}"
    return _SPELLINGS.get(character, "?")


codecs.register_error(SPELLED_OUT, _spell_out)
