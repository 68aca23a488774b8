"""The screenshots in the documentation: the report of the built-in model, and the page that chooses a resolution.

python docs/make_screenshots.py        # needs playwright, and Chromium
"""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from playwright.sync_api import Browser, sync_playwright

from cellsegmenter import CellSegmenter
from cellsegmenter.datasets import load_nuclei
from cellsegmenter.report import write_report
from cellsegmenter.tuning import write_tuning_page
from cellsegmenter.tuning.page import GAMMA_PLACE

IMAGES = Path(__file__).parent / "images"
REGION = (0, 0, 200, 200)  # of the built-in image: row, column, height, width in px


class Screenshot(NamedTuple):
    """A page, and how much of its head is shown."""

    name: str
    write: Callable[[Path], None]
    width: int  # px
    height: int  # px


def report(path: Path) -> None:
    """As `cellseg report` writes it."""
    write_report(path, CellSegmenter.pretrained(), title="The built-in nuclei model")


def tune(path: Path) -> None:
    """As `cellseg tune` writes it."""
    sweep = CellSegmenter.pretrained().sweep(load_nuclei()[0], region=REGION, random_state=0)
    row, column, height, width = REGION
    write_tuning_page(
        path,
        sweep,
        command=f"cellseg predict big.tif --gamma-abs {GAMMA_PLACE}",
        subtitle=f"big.tif, rows {row} to {row + height} and columns {column} to {column + width}, cut at "
        f"{len(sweep.cuts)} resolutions with the built-in model",
    )


SCREENSHOTS = (Screenshot("report", report, 1000, 850), Screenshot("tune", tune, 600, 1190))


def take(screenshot: Screenshot, browser: Browser, folder: Path, target: Path) -> Path:
    """Write the page and a picture of it."""
    page_file = folder / f"{screenshot.name}.html"
    screenshot.write(page_file)
    page = browser.new_page(viewport={"width": screenshot.width, "height": screenshot.height})
    page.goto(page_file.as_uri())
    page.wait_for_load_state("networkidle")
    picture = target / f"{screenshot.name}.png"
    page.screenshot(path=str(picture))
    page.close()
    return picture


def main(target: Path = IMAGES) -> None:
    """Take all of them."""
    # A Chromium of the system if there is one, else the one of `playwright install chromium`.
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for screenshot in SCREENSHOTS:
            print(f"wrote {take(screenshot, browser, Path(folder), target)}")
        browser.close()


if __name__ == "__main__":
    main()
