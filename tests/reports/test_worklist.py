"""Counts, escaping; and the page in a real browser."""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from decision_rows import all_kinds, decision_table, scored, unscored

from uadray.reports import pictures, worklist

CHROMIUM = Path("/usr/bin/chromium")
RUN: worklist.Run = {"bundle": "b-1", "detector": "f-AnoGAN", "alpha": 0.1, "n_calibration": 19, "tile_um": 96.0}
NASTY = "<script>alert(1)</script>"


@pytest.fixture
def decisions() -> pa.Table:
    return all_kinds()


def render(table: pa.Table, **options: Any) -> str:
    return worklist.render_worklist(table, **({"title": "Archive", "run": RUN} | options))


def words(page: str) -> str:
    body = page[page.index("<body>") :]
    return " ".join(re.sub(r"<[^>]*>", " ", body).split()).replace(" .", ".")


def listed(page: str) -> list[str]:
    return re.findall(r'<details class="slide [^>]*data-id="([^"]*)"', page)


def test_counts_add_up_and_failures_are_spelt_out(decisions: pa.Table) -> None:
    text = words(render(decisions))
    assert "8 in the manifest = 5 scored 3 anomalous 2 normal + 1 not assessable + 2 failed" in text
    assert "2 slides failed and were NOT screened." in text
    assert "1 slide could not be assessed and has no decision." in text
    assert "without a result" not in text
    unfinished = words(render(decisions, run={**RUN, "n_manifest": 11}))
    assert "11 in the manifest" in unfinished
    assert "3 slides of the manifest have no result yet." in unfinished


def test_one_failure_and_none() -> None:
    one = words(render(decision_table(unscored("f", "failed", "missing"))))
    assert "1 slide failed and was NOT screened. Nothing is known about it." in one
    none = words(render(decision_table(scored("n", "normal", 0.5, 0.3))))
    assert "none failed, all could be assessed" in none
    assert "NOT screened" not in none


def test_page_says_what_the_numbers_mean(decisions: pa.Table) -> None:
    text = words(render(decisions))
    assert "Research use only. Not a medical device." in text
    assert "Of slides known to be normal, about this share would score at least this high." in text
    assert "Calibrated on 19 normal slides, so no p-value is below 0.05" in text  # 1 / (19 + 1)
    assert "\N{GREEK SMALL LETTER ALPHA} = 10 %" in text
    assert "of the 5 slides scored here, were all normal, expect up to 0.5 false alarms" in text
    assert "About 1 % of slides known to be normal would score at least this high." in text
    assert "9 of 10 tissue tiles were scored; 1 could not be read." in text
    assert "No slide of this run can be called anomalous" not in text


def test_an_alpha_that_calibration_cannot_reach_is_said() -> None:
    page = render(decision_table(scored("n", "normal", 0.5, 0.3)), run={"alpha": 0.01, "n_calibration": 19})
    assert "No slide of this run can be called anomalous." in words(page)


def test_pictures_are_lazy_sized_and_quoted() -> None:
    page = render(decision_table(scored("a b&c/d#1", "anomalous", 0.01, 0.7)))
    images = re.findall(r"<img [^>]*>", page)
    names = [re.search(r'src="([^"]*)"', image)[1] for image in images]  # type: ignore[index]
    base = "evidence/a%20b%26c/d%231"
    assert sorted(set(names)) == sorted(
        f"{base}/{name}.jpg"
        for name in ("thumbnail", "heatmap", "tile_0", "reconstruction_0", "tile_1", "reconstruction_1")
    )
    assert all('loading="lazy"' in image and "width=" in image and "height=" in image for image in images)
    assert any('width="300" height="150"' in image for image in images)  # 2000 x 1000 level-0 px
    markers = re.findall(r'<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)"', page[page.index('class="markers"') :])
    assert [tuple(map(float, marker)) for marker in markers] == [(100, 200, 192), (0, 200, 192)]  # 96 um, 0.5 um/px


def test_numbers_of_neighbouring_tiles_hide_neither_tiles_nor_each_other() -> None:
    corners = [(50_000 + 500 * i, 20_000) for i in range(5)] + [(99_500, 0)]
    top = [{"tile_id": "t", "x_level0_px": x, "y_level0_px": y, "score": 1.0} for x, y in corners]
    size = {"width_level0_px": 100_000, "height_level0_px": 50_000, "mpp_level0": 0.25, "evidence": json.dumps(top)}
    page = render(decision_table(scored("x", "anomalous", 0.01, 0.7, **size)))
    lines = re.findall(r'<path d="M(\d+) (\d+)L(\d+) (\d+)"/><rect', page)
    tiles = [(float(x), float(y)) for x, y, _, _ in lines]
    numbers = [(float(x), float(y)) for _, _, x, y in lines]
    assert sorted(tiles) == sorted((x + 192, y + 192) for x, y in corners)  # 96 um are 384 px: their middles
    assert all(math.dist(a, b) > 5_000 for i, a in enumerate(numbers) for b in [*numbers[:i], *tiles])
    assert all(0 < x < 100_000 and 0 < y < 50_000 for x, y in numbers)


def test_folder_and_picture_kinds_are_the_callers() -> None:
    tile = {"tile_id": "t", "x_level0_px": 0, "y_level0_px": 0, "score": 1.0}
    evidence = json.dumps([tile, tile | {"has_difference": True}])
    table = decision_table(scored("x", "anomalous", 0.01, 0.7, evidence=evidence))
    page = render(table, folder=lambda slide_id: f"h%{slide_id}", picture_kinds=("tile", "residual"))
    assert "evidence/h%25x/residual_1.jpg" in page
    assert "residual_0" not in page  # a tile of an older screening has no such picture
    assert "reconstruction" not in page.lower().split("<body>")[1]


def test_a_tile_without_a_reconstruction_is_shown_alone() -> None:
    alone = [{"tile_id": "t", "x_level0_px": 0, "y_level0_px": 0, "score": 1.0, "has_reconstruction": False}]
    with_one = [{"tile_id": "t", "x_level0_px": 0, "y_level0_px": 0, "score": 1.0}]
    page = render(
        decision_table(
            scored("a", "anomalous", 0.01, 0.7, evidence=json.dumps(alone)),
            scored("b", "anomalous", 0.02, 0.6, evidence=json.dumps(with_one)),
            scored("c", "anomalous", 0.03, 0.5, evidence=json.dumps(alone + with_one)),
        )
    )
    kinds = re.findall(r'src="evidence/(\w)/((?:tile|reconstruction)_\d)', page)
    assert kinds == [
        *(("a", "tile_0"), ("b", "tile_0"), ("b", "reconstruction_0")),
        *(("c", "tile_0"), ("c", "tile_1"), ("c", "reconstruction_1")),
    ]
    labels = [re.findall(r'class="label">(\w+)', slide) for slide in page.split("<details")[1:]]
    assert labels == [["Tile"], ["Tile", "Reconstruction"], ["Tile", "Reconstruction"]]
    assert page.count('<span class="none">') == 1  # keeps the second row of c in line


def test_what_comes_from_outside_is_escaped() -> None:
    table = decision_table(
        scored(f'a"{NASTY}', "anomalous", 0.01, 0.7, uri=NASTY),
        unscored(NASTY, "failed", NASTY, f"</summary>{NASTY}"),
    )
    page = render(table, title=NASTY, run={**RUN, "bundle": NASTY, "detector": NASTY})
    assert NASTY not in page
    assert page.count("<script>") == 1  # ours
    assert 'data-id="a&#34;&lt;script&gt;' in page


def test_page_needs_nothing_from_elsewhere(decisions: pa.Table) -> None:
    page = render(decisions)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy
    assert policy[1].startswith("default-src 'none'; ")
    assert "unsafe" not in policy[1]
    assert not re.search(r'(src|href)="(?!evidence/)', page)
    assert not re.search(r"https?://", page)
    assert 'style="' not in page


def write_pictures(folder: Path, table: pa.Table) -> None:
    for row in table.to_pylist():
        place = folder / "evidence" / row["slide_id"]
        place.mkdir(parents=True)
        for name in ["thumbnail", "heatmap", *(f"{kind}_{i}" for kind in ("tile", "reconstruction") for i in range(2))]:
            (place / f"{name}.jpg").write_bytes(pictures.encode_jpeg(np.full((50, 100, 3), 180, np.uint8)))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not CHROMIUM.exists():
        pytest.skip(f"NOT TESTED in a browser: {CHROMIUM} is absent (apt-get install chromium)")
    sync_api = pytest.importorskip("playwright.sync_api", reason="NOT TESTED in a browser: playwright is absent")
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    arguments = [*flags.split(), "--disable-component-update", "--disable-sync"]
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=str(CHROMIUM), args=arguments)
        yield started
        started.close()


@pytest.mark.browser
def test_page_in_a_browser(tmp_path: Path, decisions: pa.Table, browser: Any) -> None:
    table = pa.concat_tables([decisions, decision_table(unscored(NASTY, "failed", "missing", NASTY))])
    write_pictures(tmp_path, decisions)
    (tmp_path / "worklist.html").write_text(render(table), encoding="utf-8")
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("dialog", lambda dialog: problems.append(dialog.message))
    page.goto((tmp_path / "worklist.html").as_uri())

    def shown() -> list[str]:
        return list(
            page.eval_on_selector_all(".slide", "all => all.filter(s => s.checkVisibility()).map(s => s.dataset.id)")
        )

    assert shown() == ["a1", "a2", "a3", "n0", "n1", "u1", NASTY, "f0", "f1"]
    assert page.eval_on_selector_all(".slide[open]", "all => all.map(s => s.dataset.id)") == ["a1", "a2", "a3"]
    page.click('button[data-show="failed"]')
    assert shown() == [NASTY, "f0", "f1"]
    page.click('button[data-show=""]')
    page.fill("#search", "A")
    assert shown() == ["a1", "a2", "a3", NASTY]  # "alert" has an a
    page.fill("#search", "no such slide")
    assert page.is_visible("#nothing")
    page.fill("#search", "")
    page.click('button[data-sort="score"]')
    assert shown()[:5] == ["a2", "a1", "a3", "n0", "n1"]
    page.click('button[data-sort="score"]')
    assert shown()[:5] == ["n1", "n0", "a3", "a1", "a2"]  # the slides without a score stay last
    page.click('[data-jump="not_assessable"]')
    assert shown() == ["u1"]
    page.click('button[data-show=""]')
    page.click("#expand")
    for image in page.query_selector_all("img"):
        if image.is_visible():
            image.scroll_into_view_if_needed()
    page.wait_for_function(
        "() => [...document.images].every(i => !i.checkVisibility() || (i.complete && i.naturalWidth > 0))"
    )
    assert page.locator(".lost").count() == 0
    page.click(".pictures a >> nth=0")
    enlarged = page.locator("dialog[open] img")
    assert enlarged.count() == 2  # slide and heatmap
    for image in enlarged.all():  # a box of other proportions would show what lies beside the picture in its sheet
        box, asked = image.bounding_box(), [float(image.get_attribute(side)) for side in ("width", "height")]
        assert box["width"] / box["height"] == pytest.approx(asked[0] / asked[1], rel=0.01)
        assert box["width"] > asked[0]
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert problems == []


@pytest.mark.browser
def test_a_missing_picture_is_said(tmp_path: Path, browser: Any) -> None:
    (tmp_path / "worklist.html").write_text(
        render(decision_table(scored("a", "anomalous", 0.01, 0.7))), encoding="utf-8"
    )
    page = browser.new_page()
    page.goto((tmp_path / "worklist.html").as_uri())
    page.wait_for_selector(".lost >> text=picture not found")
    assert page.locator(".pictures .lost").first.bounding_box()["width"] == 300
