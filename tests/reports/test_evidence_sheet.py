"""A sheet holds the pictures as they are, and a browser shows each by its name."""

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from uadray.reports.evidence_sheet import evidence_sheet
from uadray.reports.pictures import encode_jpeg

CHROMIUM = Path("/usr/bin/chromium")
COLOURS = {"thumbnail": (250, 40, 40), "heatmap": (40, 250, 40), "tile_0": (40, 40, 250), "tile_1": (250, 250, 40)}


def _sheet() -> tuple[dict[str, bytes], bytes]:
    pictures = {name: encode_jpeg(np.full((48, 64, 3), colour, np.uint8)) for name, colour in COLOURS.items()}
    return pictures, evidence_sheet(pictures, sizes={"thumbnail": (400, 300), "heatmap": (400, 300)})


def test_a_sheet_holds_the_pictures_as_they_are() -> None:
    pictures, sheet = _sheet()
    pairs = re.findall(r'<view id="(\w+)".*base64,([^"]*)"', sheet.decode())
    assert {name: base64.b64decode(text) for name, text in pairs} == pictures


@pytest.fixture
def browser() -> Iterator[Any]:
    if not CHROMIUM.exists():
        pytest.skip(f"NOT TESTED in a browser: {CHROMIUM} is absent (apt-get install chromium)")
    sync_api = pytest.importorskip("playwright.sync_api", reason="NOT TESTED in a browser: playwright is absent")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.mark.browser
def test_a_page_shows_each_picture_by_its_name(tmp_path: Path, browser: Any) -> None:
    """From a folder, under the policy of the worklist: at every point of a picture there is its colour."""
    (tmp_path / "s 1.svg").write_bytes(_sheet()[1])
    images = "".join(f'<img src="s%201.svg#{name}" width="80" height="60">' for name in COLOURS)
    policy = "default-src 'none'; img-src 'self' file:"
    (tmp_path / "page.html").write_text(f'<meta http-equiv="Content-Security-Policy" content="{policy}">{images}')
    page = browser.new_page()
    page.goto((tmp_path / "page.html").as_uri())
    import cv2

    for name, colour in COLOURS.items():
        shot = np.frombuffer(page.locator(f'img[src$="#{name}"]').screenshot(), np.uint8)
        seen = cv2.imdecode(shot, cv2.IMREAD_COLOR_RGB)
        middle = seen[10:-10, 15:-15].reshape(-1, 3)
        assert np.abs(middle.astype(int) - colour).max() < 12, name
