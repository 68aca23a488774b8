"""Writing a file in one go, so that what has its name is complete; and names of files as text."""

from __future__ import annotations

import hashlib
import os
import shlex
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

__all__ = [
    "in_one_go",
    "named_errors",
    "pasteable",
    "path_beside",
    "path_from_text",
    "path_text",
    "text_of",
    "under_utf8_name",
]

_URI = "file://"


def path_beside(path: Path) -> Path:
    """Where this process prepares what will be at `path`: hidden, in the same folder, with the same suffix.

    The name is short whatever that of `path` is, because file systems limit names to about 255 bytes.
    """
    name = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]
    return path.with_name(f".{name}.{os.getpid()}.part{path.suffix}")


@contextmanager
def in_one_go(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place once it is complete, or vanishes.

    Raises
    ------
    OSError
        Naming `path`, if the file cannot be written, for example because the disk is full.
    """
    temporary = path_beside(path)
    try:
        with named_errors(path, temporary):
            yield temporary
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def named_errors(path: Path, temporary: Path) -> Iterator[None]:
    """Errors of the operating system name `path` where they name nothing, or the temporary file in its place."""
    try:
        yield
    except OSError as error:
        if error.filename is not None and not str(error.filename).startswith(str(temporary)):
            raise
        if error.errno is None:  # of a library, which says in words what happened
            raise OSError(f"{path} cannot be written: {error}") from error
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def text_of(name: str) -> str:
    """A file's name as text that any program can read.

    Names are bytes on most systems.  One that is not UTF-8 is percent-encoded as in a URI: ``10%B5m.tif``.
    """
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return quote_from_bytes(os.fsencode(name))
    return name


def path_text(path: Path) -> str:
    """An absolute path as text; one that is not UTF-8 as a URI, such as ``file:///data/10%B5m.tif``."""
    absolute = str(path.absolute())
    text = text_of(absolute)
    return absolute if text == absolute else f"{_URI}{text}"


def path_from_text(text: str) -> Path:
    """The path that `path_text` has written."""
    if text.startswith(_URI):
        return Path(os.fsdecode(unquote_to_bytes(text.removeprefix(_URI))))
    return Path(text)


@contextmanager
def under_utf8_name(path: Path) -> Iterator[Path]:
    """A path to the same file for libraries that refuse names which are not UTF-8."""
    if text_of(str(path)) == str(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder, f"file{path.suffix}")
        link.symlink_to(path.absolute())
        yield link


def pasteable(words: Iterable[object]) -> str:
    """Words as a shell reads them again; in names that are not UTF-8 with the escapes of bash and zsh."""
    return " ".join(map(_shell_word, map(str, words)))


def _shell_word(word: str) -> str:
    if text_of(word) == word:
        return shlex.quote(word)
    plain = (
        chr(byte) if chr(byte).isalnum() and byte < 128 else f"\\x{byte:02x}" for byte in os.fsencode(word)
    )
    return f"$'{''.join(plain)}'"
