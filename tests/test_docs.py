"""What README and documentation show is what runs.

The Python of a page runs from top to bottom in one namespace, in a folder that holds the files it speaks of, on small
images and with a few training steps.  Commands are parsed by the command line itself.
"""

import ast
import copy
import doctest
import json
import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import click
import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from PIL import Image

from cellsegmenter import CellSegmenter, ImagePooler, block_map, datasets, learning, parameters, suggest
from cellsegmenter.consensus import work
from cellsegmenter.io import _rois
from cellsegmenter.model.config import grid_level_for
from cellsegmenter.training.constraints import PENALTY_RANGE
from cellsegmenter.training.loop import HISTORY_INTERVAL, TrainingSettings
from cellsegmenter.training.watch import CollapseWatch
from cellsegmenter_cli.main import cellseg

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
FENCED = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Not in the extra [test]: a page that imports them runs that far.
OPTIONAL = ("napari", "scanpy", "umap")


def blocks(page, *languages):
    """(code, line) of a page's fenced blocks, with the line that each begins in."""
    text = page.read_text(encoding="utf-8")
    return [
        (found[2], text.count("\n", 0, found.start(2)))
        for found in FENCED.finditer(text)
        if found[1] in languages
    ]


def commands(page):
    """The `cellseg` command lines of a page's blocks, and those in its sentences."""
    lines = [line for code, _ in blocks(page, "", "sh") for line in code.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line.startswith("cellseg ")]


def inline_code(page):
    return re.findall(r"`([^`\n]+)`", FENCED.sub("", page.read_text(encoding="utf-8")))


def by_name(page):
    return page.name


def with_python():
    """Pages with Python; one of them starts a cluster of processes."""
    pages = [page for page in PAGES if blocks(page, "python")]
    slow = pytest.mark.slow
    return [pytest.param(page, marks=slow if page.name == "large-images.md" else ()) for page in pages]


class TestPython:
    @pytest.fixture(autouse=True)
    def small_world(self, monkeypatch, tmp_path):
        """A few training steps, coarse windows, small images, and the files that pages open."""
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(learning, "_TRAINING", dict.fromkeys(learning._TRAINING, (12, 4, 5e-3)))
        image, labels = (array[64:160, 64:160] for array in datasets.load_nuclei())
        monkeypatch.setattr(datasets, "load_nuclei", lambda: (image, labels))
        built_in = CellSegmenter.pretrained()
        if built_in.recognition_ is None:
            built_in.set_params(stride=40)
        monkeypatch.setattr(CellSegmenter, "pretrained", lambda: copy.deepcopy(built_in))
        tifffile.imwrite("big.tif", image)
        Image.fromarray(np.dstack([255 - image // 2, 255 - image, 255 - image // 3])).save("tissue.png")
        Image.fromarray(np.full_like(image, 255)).save("mask.png")
        Path("plate").mkdir()
        for name, turned in (("a", image), ("b", image.T)):
            tifffile.imwrite(f"plate/{name}.tif", turned)

    @pytest.mark.parametrize("page", with_python(), ids=by_name)
    def test_it_runs(self, page, monkeypatch):
        images = list(datasets.make_nuclei(4, size=96, count=(4, 7), random_state=0).images)
        namespace = {"__name__": "__docs__", "image": images[0], "images": images}
        if page.name == "latents.md" and CellSegmenter.pretrained().recognition_ is None:
            pytest.skip("the built-in model has no recognition network")
        for code, line in blocks(page, "python"):
            for name in sorted(imports(code) & set(OPTIONAL)):
                module = pytest.importorskip(name)
                if name == "napari":  # its layers without a window
                    monkeypatch.setattr(module, "Viewer", module.components.ViewerModel)
            # The empty lines make a traceback point into the page.
            exec(compile("\n" * line + code, str(page), "exec"), namespace)
        labels = namespace.get("labels")
        assert labels is None or np.max(labels) > 0, "what the page shows finds no object"

    @pytest.mark.parametrize("public", [CellSegmenter, ImagePooler], ids=lambda public: public.__name__)
    def test_examples_of_docstrings_run(self, public):
        found = doctest.DocTestFinder().find(public)
        assert any(test.examples for test in found)
        for test in found:
            assert doctest.DocTestRunner().run(test).failed == 0


def imports(code):
    """Top-level names of the packages that a piece of code imports."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(str(node.module).partition(".")[0])
    return found


class TestCommands:
    @pytest.fixture(autouse=True)
    def elsewhere(self, monkeypatch, tmp_path):
        """Parsing --log-file opens the file."""
        monkeypatch.chdir(tmp_path)

    @pytest.mark.parametrize("line", dict.fromkeys(line for page in PAGES for line in commands(page)))
    def test_commands_have_the_options_shown(self, line):
        _, name, *arguments = shlex.split(line, comments=True)
        context = click.Context(cellseg)
        command = cellseg.get_command(context, name)
        assert command is not None
        command.make_context(name, arguments, parent=context)  # parses, does not run

    @pytest.mark.parametrize("page", PAGES, ids=by_name)
    def test_sentences_name_commands_and_options_that_exist(self, page):
        options = {name: set(options_of(command)) for name, command in cellseg.commands.items()}
        everywhere = set().union({"--debug", "--version"}, *options.values())
        for code in inline_code(page):
            words = code.split()
            known = everywhere
            if words[0] == "cellseg" and len(words) > 1 and not words[1].startswith("-"):
                assert words[1] in options, f"{page.name}: there is no command `{code}`"
                known = options[words[1]]
            elif words[0] != "cellseg" and not words[0].startswith("--"):
                continue
            unknown = {word for word in words if word.startswith("--")} - known
            assert not unknown, f"{page.name}: there is no option {unknown} as in `{code}`"

    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_shells_complete_as_documented(self, shell):
        page = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
        assert f"{shell}_source" in page
        [variable] = set(re.findall(r"(\w+)=\w+_source", page))
        steps = {"source": "", "complete": "cellseg fit --diam"}
        given = {"COMP_WORDS": steps["complete"], "COMP_CWORD": "--diam" if shell == "fish" else "2"}
        for step, words in steps.items():
            environment = {variable: f"{shell}_{step}", **given}
            shown = CliRunner().invoke(cellseg, [], env=environment, prog_name="cellseg").output
            assert variable in shown if not words else "--diameter" in shown

    def test_all_commands_are_documented(self):
        shown = {line.split()[1] for page in PAGES for line in commands(page)}
        assert shown >= set(cellseg.commands)


def options_of(command):
    return [
        name
        for option in [*command.params, command.get_help_option(click.Context(command))]
        for name in option.opts
    ]


class TestPlaces:
    """`training/kl.py::grid_divergence` in a page means that function of that file."""

    @pytest.mark.parametrize("page", PAGES, ids=by_name)
    def test_files_and_names_exist(self, page):
        for code in inline_code(page):
            found = re.fullmatch(r"(?:python )?([\w/.]+\.(?:py|json))(?:::([\w.]+))?(?: .*)?", code)
            if found is None or "/" not in found[1]:
                continue
            places = [base / found[1] for base in (ROOT, ROOT / "cellsegmenter")]
            existing = [place for place in places if place.is_file()]
            assert existing, f"{page.name} speaks of {code}, which is not there"
            for name in (found[2] or "").split("."):
                source = existing[0].read_text(encoding="utf-8")
                assert not name or re.search(
                    rf"^\s*(?:def|class) {name}\b|^{name} =", source, re.MULTILINE
                ), f"{page.name} speaks of {code}, and the file has no {name}"

    @pytest.mark.parametrize("page", PAGES, ids=by_name)
    def test_links_lead_somewhere(self, page):
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"


def numbers():
    """(page, sentence): what a page says of a constant, written with that constant."""
    default = CellSegmenter()
    small, reference = (learning._TRAINING[preset] for preset in ("small", "reference"))
    low, high = PENALTY_RANGE
    n_views = (default.window_size // (default.window_size // 4)) ** 2
    comfortable = "about {:g} to {:g} px".format(*suggest._COMFORTABLE)
    yield "bounds.md", "| {:g} to {:g} |".format(*default.density)
    yield "bounds.md", "| {:.2f} to {:.2f} |".format(*default.area)
    yield "bounds.md", "| {:g} to {:g} |".format(*default.object_size)
    yield "bounds.md", f"`window_size` ({default.window_size} px)"
    yield "bounds.md", f"({parameters._SLOTS_OVER_DENSITY:g} times the upper density)"
    yield "bounds.md", f"{comfortable} across in an {default.window_size}-px window"
    yield "bounds.md", f"({2 ** grid_level_for(7)} px below 8, else {2 ** grid_level_for(8)})"
    samples = parameters._IMAGE_SAMPLES, parameters._WINDOW_SAMPLES
    yield "gamma.md", f"{samples[0]} of the whole image by default, or {samples[1]} of each sliding window"
    yield "hand-off.md", f"| `z_0` … `z_{default.latent_dim - 1}` |"
    yield "hand-off.md", f"images of up to {_rois.LARGEST:,} px a side"
    yield "large-images.md", f"(in bands of {block_map._BAND} rows, or"
    yield "limits.md", f"Components of more than {work._LARGEST_COMPONENT:,} pixels"
    yield "method.md", f"{n_views} windows see every pixel"
    yield "method.md", f"Pieces above {work._LARGEST_COMPONENT:,} px"
    yield "latents.md", f"a latent code of {default.latent_dim} numbers"
    yield "quickstart.md", f"{small[0]} steps of {small[1]} windows on a CPU"
    yield "quickstart.md", f"{reference[0]:,} steps of {reference[1]} windows on a GPU"
    yield "training.md", f"between {low:g} and {high:g}; at {high:g} a bound could not be enforced"
    yield "training.md", f"A watch sees them after {CollapseWatch.patience} steps"
    yield "training.md", f"saved every {TrainingSettings.checkpoint_interval} steps"


def measured_confidence():
    """What benchmarks/confidence.py measured last."""
    results = json.loads((ROOT / "benchmarks" / "results" / "confidence.json").read_text(encoding="utf-8"))
    if "one_pass" not in results:
        pytest.skip(
            "results/confidence.json is older than the recognition network; run benchmarks/confidence.py"
        )
    return results


def in_one_line(name):
    return " ".join((ROOT / "docs" / name).read_text(encoding="utf-8").split())


class TestNumbers:
    @pytest.mark.parametrize(("name", "sentence"), [*numbers()])
    def test_pages_say_the_numbers_of_the_code(self, name, sentence):
        assert sentence in in_one_line(name)

    def test_the_table_of_confidences_is_the_measured_one(self):
        text = (ROOT / "docs" / "limits.md").read_text(encoding="utf-8")
        _, header, table = text.partition(
            "| confidence | objects | their mean | right |\n| --- | --- | --- | --- |\n"
        )
        assert header
        said = table.partition("\n\n")[0].splitlines()
        measured = measured_confidence()["one_pass"]["found"]["by_confidence"]
        assert [line.replace(",", "").strip() for line in said] == [
            "| {from:.1f} to {to:.1f} | {objects} | {confidence:.2f} | {right:.2f} |".format(**row)
            for row in measured
        ]

    @pytest.mark.parametrize("name", ["limits.md", "hand-off.md"])
    def test_pages_say_a_measured_auroc(self, name):
        results = measured_confidence()
        measured = {
            f"{judged['auroc']:.2f}"
            for way in ("one_pass", "windows")
            for judged in results[way].values()
            if "auroc" in judged
        }
        said = re.findall(r"AUROC (?:is |of )?(\d\.\d+)", in_one_line(name))
        assert set(said) <= measured

    def test_the_built_in_models_resolution(self):
        absolute = CellSegmenter.pretrained().resolution.value
        assert f"The built-in model has γ_abs {absolute:g} as its own default" in in_one_line("gamma.md")

    def test_the_history_has_a_row_for_every_ten_steps(self):
        assert HISTORY_INTERVAL == 10  # "every ten steps" on several pages and in docstrings

    def test_the_docstring_says_the_defaults(self):
        text = CellSegmenter.__doc__.partition("    Attributes\n")[0]
        described = re.findall(r"^    ([a-z_]+(?:, [a-z_]+)*) : (.*)$", text, re.MULTILINE)
        names = [name for words, _ in described for name in words.split(", ")]
        defaults = CellSegmenter().get_params()
        assert sorted(names) == sorted(defaults)
        for words, kind in described:
            said = re.search(r"default=(.*)$", kind)
            for name in words.split(", "):
                expected = "None" if said is None else said[1]  # "optional"
                assert ast.literal_eval(expected) == defaults[name], name


class TestReadme:
    def test_the_quickstart_is_the_readmes(self):
        first, _ = blocks(README, "python")[0]
        assert first in (ROOT / "examples" / "quickstart.py").read_text(encoding="utf-8")

    def test_the_two_commands_exist(self):
        scripts = re.findall(r"^\./(\w+)", README.read_text(encoding="utf-8"), re.MULTILINE)
        assert scripts == ["demo", "check"]
        assert all((ROOT / script).stat().st_mode & 0o100 for script in scripts)

    def test_it_is_a_front_door(self):
        assert README.read_text(encoding="utf-8").count("\n") <= 120

    def test_it_links_every_page(self):
        text = README.read_text(encoding="utf-8")
        missing = [page.name for page in PAGES[1:] if f"(docs/{page.name})" not in text]
        assert not missing


@pytest.mark.skipif(
    find_spec("mkdocs") is None or find_spec("mkdocstrings") is None or find_spec("material") is None,
    reason="the extra [docs] is not installed",
)
def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "true"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "api" / "index.html").read_text(encoding="utf-8")
    assert 'id="cellsegmenter.CellSegmenter.predict"' in page
