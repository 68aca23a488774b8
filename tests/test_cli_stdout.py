"""Messages that cannot be printed cost no result: closed pipes, full disks, encodings that lack a character."""

import errno
import io
import os
import shlex
import subprocess
import sys

import pytest
import tifffile

from cellsegmenter_cli.main import cellseg
from cellsegmenter_cli.streams import ForgivingStream

RUN = "import sys; from cellsegmenter_cli.main import cellseg; sys.exit(cellseg())"
FULL = "/dev/full"

needs_full_disk = pytest.mark.skipif(not os.path.exists(FULL), reason="there is no /dev/full")
needs_shell = pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")


@pytest.fixture
def images(tmp_path, nuclei):
    paths = [tmp_path / f"{name}.tif" for name in "ab"]
    for path in paths:
        tifffile.imwrite(path, nuclei[0])
    return paths


def shell(*arguments, redirected, **environment):
    """`cellseg` with these arguments in a shell, its streams redirected; the exit code and what came out."""
    command = shlex.join([sys.executable, "-c", RUN, *map(str, arguments)])
    # What a pipeline's last command reads does not say how the first one ended.
    script = f"{{ {command}; echo $? >code; }} {redirected}"
    done = subprocess.run(
        ["sh", "-c", script],
        cwd=arguments[1].parent,
        env=os.environ | environment,
        capture_output=True,
        timeout=120,
    )
    return int((arguments[1].parent / "code").read_text()), (done.stdout + done.stderr).decode(
        environment.get("PYTHONIOENCODING", "utf-8")
    )


def results(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != "code")


ALL = ["a.tif", "a_labels.tif", "a_manifest.json", "b.tif", "b_labels.tif", "b_manifest.json"]


@needs_shell
@pytest.mark.parametrize(
    "redirected", ["| head -n 1", "| true", ">&- 2>&-", pytest.param(f">{FULL}", marks=needs_full_disk)]
)
def test_results_are_written_whatever_becomes_of_messages(images, redirected):
    code, output = shell("predict", *images, redirected=redirected)
    assert code == 0, output
    assert results(images[0].parent) == ALL
    assert "Traceback" not in output
    assert "Broken pipe" not in output


@needs_shell
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_characters_that_an_encoding_lacks_are_spelled_out(images, encoding):
    code, output = shell("predict", images[0], redirected="2>&1", PYTHONIOENCODING=encoding)
    assert code == 0, output
    assert "at gamma_abs = " in output
    assert results(images[0].parent)[:3] == ["a.tif", "a_labels.tif", "a_manifest.json"]


@needs_shell
@needs_full_disk
def test_a_log_file_on_a_full_disk_is_said_once(images):
    code, output = shell("predict", *images, "--log-file", FULL, redirected="2>&1")
    assert code == 0, output
    assert output.count("the log file /dev/full cannot be written: No space left on device") == 1
    assert results(images[0].parent) == ALL


@needs_shell
@needs_full_disk
def test_an_answer_that_cannot_be_printed_is_an_error():
    command = shlex.join([sys.executable, "-c", RUN, "info"])
    done = subprocess.run(f"{command} >{FULL}", shell=True, capture_output=True, text=True)
    assert (done.returncode, "cannot be printed: No space left" in done.stderr) == (1, True)
    assert subprocess.run(f"{command} | head -n 1", shell=True, capture_output=True, text=True).stderr == ""


@needs_shell
def test_an_error_keeps_its_exit_code_without_anyone_to_tell(images):
    images[1].write_text("no image")
    code, _ = shell("predict", *images, redirected=">&- 2>&-")
    assert code == 3


class Failing(io.StringIO):
    """A stream that takes a few characters."""

    def __init__(self, room):
        super().__init__()
        self.room = room

    def write(self, text):
        self.room -= len(text)
        if self.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(text)


def test_a_stream_drops_what_follows_a_failure():
    stream = Failing(4)
    forgiving = ForgivingStream(stream)
    assert forgiving.write("abc") == 3
    assert forgiving.lost is None
    assert forgiving.write("def") == 3
    assert forgiving.lost.errno == errno.ENOSPC
    forgiving.write("g")
    forgiving.flush()
    assert stream.getvalue() == "abc"


def test_a_closed_stream_drops_everything():
    stream = io.StringIO()
    stream.close()
    forgiving = ForgivingStream(stream)
    forgiving.write("a")
    forgiving.flush()
    assert isinstance(forgiving.lost, ValueError)


def test_streams_are_given_back_as_they_were():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    before = sys.stdout
    sys.stdout = stream
    try:
        cellseg.main(["--version"], standalone_mode=False)
        assert sys.stdout is stream
        assert stream.errors == "strict"
    finally:
        sys.stdout = before
