"""`cellseg doctor`: what it finds, and that it notices what is broken."""

import json

import pytest
from click.testing import CliRunner

from cellsegmenter import CellSegmenter, diagnosis
from cellsegmenter_cli.main import cellseg


def run(*arguments):
    return CliRunner().invoke(cellseg, ["doctor", *arguments], catch_exceptions=False)


def test_this_installation_works():
    result = run()
    assert result.exit_code == 0, result.output
    for words in ("torch", "[zarr]", "threads", "memory", "nuclei in", "everything needed works"):
        assert words in result.output
    assert "[test]" not in result.output


@pytest.fixture
def without_model(monkeypatch):
    works = diagnosis.Finding("model", "built-in model", "not tried")
    monkeypatch.setattr(diagnosis, "_model", lambda: works)


def findings():
    result = run("--json")
    return {finding["name"]: finding for finding in json.loads(result.output)}, result.exit_code


def test_a_missing_package_is_broken_and_a_missing_extra_is_not(without_model, monkeypatch):
    installed = diagnosis._installed
    gone = ("igraph", "zarr")
    monkeypatch.setattr(diagnosis, "_installed", lambda n: None if n.endswith(gone) else installed(n))
    found, code = findings()
    assert code == 1
    assert not found["python-igraph"]["works"]
    assert "pip install 'python-igraph>=" in found["python-igraph"]["remedy"]
    assert found["[zarr] zarr"]["works"]
    assert found["[zarr] zarr"]["remedy"] == "pip install 'zarr>=3'"


def test_a_package_that_is_too_old_is_broken(without_model, monkeypatch):
    installed = diagnosis._installed
    monkeypatch.setattr(diagnosis, "_installed", lambda n: "1.0" if n == "torch" else installed(n))
    found, code = findings()
    assert code == 1
    assert [name for name, finding in found.items() if not finding["works"]] == ["torch"]


def test_a_model_that_does_not_load_is_broken(monkeypatch):
    def broken():
        raise RuntimeError("damaged weights")

    monkeypatch.setattr(CellSegmenter, "pretrained", broken)
    result = run()
    assert result.exit_code == 1
    assert "RuntimeError: damaged weights" in result.output
    assert "does not work: built-in model" in result.output


def test_a_model_that_finds_nothing_is_broken(monkeypatch):
    monkeypatch.setattr(CellSegmenter, "predict", lambda self, X: 0 * X)
    assert "average precision 0.00" in run().output


def test_the_memory_is_what_a_container_allows(without_model, monkeypatch, tmp_path):
    limit = tmp_path / "memory.max"
    limit.write_text(f"{2**30}\n")
    monkeypatch.setattr(diagnosis, "_CGROUP_LIMIT", limit)
    found, code = findings()
    assert code == 0
    assert found["memory"]["value"] == "1.0 GiB"
    assert "large images" in found["memory"]["remedy"]
    limit.write_text("max\n")
    assert findings()[0]["memory"]["value"] != "1.0 GiB"
