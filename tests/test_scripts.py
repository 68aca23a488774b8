"""The scripts at the top: what they install, and that they do so once."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(
    sys.platform == "win32" or shutil.which("bash") is None, reason="needs bash and POSIX permissions"
)


@pytest.fixture
def checkout(tmp_path):
    """What the scripts read of the repository, and a virtual environment whose programs write down their calls."""
    root = tmp_path / "checkout"
    for name in ("pyproject.toml", "scripts/venv", "demo", "check", ".ci/constraints.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    programs = root / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("python", "cellseg"):
        (programs / name).write_text(f'#!/bin/sh\necho "{name} $*" >>"{root}/calls"\n')
        (programs / name).chmod(0o755)
    return root


def calls(root, *command):
    """What a script called, without the look whether torch is there."""
    (root / "calls").write_text("")
    subprocess.run(command, cwd=root, check=True, capture_output=True, env=os.environ)
    lines = (root / "calls").read_text().splitlines()
    return [line for line in lines if "import torch" not in line]


def test_the_demo_installs_the_core_alone_and_once(checkout):
    install, demo = calls(checkout, "./demo", "-q")
    assert install.endswith("--editable .")
    assert demo == "cellseg demo -q"
    assert calls(checkout, "./demo") == ["cellseg demo"]


def test_the_checks_need_an_extra_and_bring_the_core(checkout):
    assert [call.rpartition(" ")[2] for call in calls(checkout, "scripts/venv", ".venv", "test")] == [
        ".[test]"
    ]
    assert calls(checkout, "scripts/venv", ".venv", "test") == []
    assert calls(checkout, "./demo") == ["cellseg demo"]


def test_the_core_does_not_stand_for_the_extra(checkout):
    calls(checkout, "./demo")
    assert len(calls(checkout, "scripts/venv", ".venv", "test")) == 1


def test_a_change_of_what_is_needed_installs_again(checkout):
    calls(checkout, "./demo")
    stamp = (checkout / ".venv" / ".installed").stat().st_mtime
    os.utime(checkout / "pyproject.toml", (stamp + 5, stamp + 5))
    assert len(calls(checkout, "./demo")) == 2
