"""`bench worklist`: the page of 100,000 slides, written as a screening writes it and opened in Chromium from a folder.

The decisions are made up; their evidence is of some hundred files, each that of many slides, with noise in its pictures
so that they have the bytes of tissue. The browser draws without a GPU. In each round a browser is started, and the page
is opened, scrolled, filtered, sorted, searched, and a slide of it opened; then the page is left.
"""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from uadray.bench.processes import peak_rss
from uadray.errors import InputError
from uadray.reports.evidence_sheet import evidence_sheet
from uadray.reports.pictures import encode_jpeg
from uadray.reports.small_pictures import small_picture
from uadray.reports.worklist import Run
from uadray.schemas import SLIDE_DECISIONS
from uadray.screening.worklist_files import CSV, DATA, PLAIN, WORKLIST, XLSX, write_worklist

CHROMIUM = Path("/usr/bin/chromium")

GOALS = {"opens_s": 2.0, "frame_p95_s": 0.05, "filter_s": 0.3, "slide_s": 1.0}
"""The most of each, in the median over rounds: until the rows are there and take keys; between two pictures while the
page scrolls; until a filter shows; until an open slide has its pictures."""

SLIDES = 100_000
SHEETS = 200
"""Files of evidence."""

_BATCH = 10_000

_SCROLL = """async () => {
  const frames = [];
  let last = await new Promise(requestAnimationFrame);
  for (let i = 0; i < 90; i += 1) {
    scrollBy(0, i < 60 ? 400 : 40_000);
    const now = await new Promise(requestAnimationFrame);
    frames.push((now - last) / 1000);
    last = now;
  }
  return frames;
}"""
_ACT = """async () => {
  const began = performance.now();
  ACT;
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  return (performance.now() - began) / 1000;
}"""


def run(
    *, slides: int = SLIDES, rounds: int = 3, sheets: int = SHEETS, side: int = 112, plain: int = PLAIN
) -> dict[str, Any]:
    """Measure; prints nothing. Takes about two minutes.

    Args:
        slides: on the page.
        rounds: in which the page is opened.
        sheets: files of evidence.
        side: of the pictures of tiles, in pixels.
        plain: slides that stand in a page at most.

    Raises:
        InputError: there is no Chromium, or no Playwright.
    """
    if not CHROMIUM.exists():
        raise InputError(f"{CHROMIUM} is not there: apt-get install chromium")
    with tempfile.TemporaryDirectory(prefix="uadray-bench-") as name:
        folder = Path(name)
        write_evidence(folder, sheets, side=side)
        table = made_up_decisions(slides, sheets=sheets)
        before = peak_rss(os.getpid())
        written, renewed = (_seconds_to_write(folder, table, plain=plain) for _ in range(2))
        figures: dict[str, Any] = {
            "write_s": written, "renew_s": renewed, "table_mb": round(table.nbytes / 1e6),
            "write_peak_mb": round((peak_rss(os.getpid()) - before) / 1e6),
            **{f"{what}_mb": round((folder / what).stat().st_size / 1e6, 2) for what in (WORKLIST, CSV, XLSX)},
            "data_mb": round(sum(path.stat().st_size for path in (folder / DATA).iterdir()) / 1e6, 2),
            "data_files": len(list((folder / DATA).iterdir())),
        }  # fmt: skip
        looks = [_look(folder / WORKLIST, slides) for _ in range(rounds)]
    figures |= {name: round(statistics.median(look[name] for look in looks), 4) for name in looks[0]}
    figures["opens_s_worst"] = round(max(look["opens_s"] for look in looks), 4)
    met = all(figures[name] <= goal for name, goal in GOALS.items())
    return {"n_slides": slides, "rounds": rounds, **figures, "goals": GOALS, "goals_met": met}


def _seconds_to_write(folder: Path, table: pa.Table, *, plain: int = PLAIN) -> float:
    began = time.perf_counter()
    run: Run = {"bundle": "made up", "alpha": 0.05, "n_calibration": 1000, "tile_um": 128.0, "n_manifest": len(table)}
    run |= {"viewer": "https://endpoint.example/#screening=main"}
    write_worklist(
        str(folder), table, title="Worklist: made up", run=run, picture_kinds=("tile", "reconstruction"),
        thumbnails="evidence", plain=plain,
    )  # fmt: skip
    return round(time.perf_counter() - began, 2)


def _look(path: Path, slides: int) -> Mapping[str, float]:
    """Seconds of each step in a browser that has just been started, and megabytes of the page's script."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise InputError("playwright is not installed: pip install playwright") from error
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        began = time.perf_counter()
        page.goto(path.as_uri(), wait_until="commit")
        page.wait_for_selector("html[data-ready] .slide .badge")
        opens_s = time.perf_counter() - began
        frames = sorted(page.evaluate(_SCROLL))
        look = {
            "opens_s": opens_s,
            "rows_on_page": page.locator(".slide").count(),
            "frame_median_s": statistics.median(frames),
            "frame_p95_s": frames[int(0.95 * len(frames))],
            "filter_s": _seconds_of(page, "document.querySelector('[data-show=anomalous]').click()"),
            "sort_s": _seconds_of(page, "document.querySelector('[data-sort=id]').click()"),
            "search_s": _seconds_of(
                page, "search.value = '77'; search.dispatchEvent(new Event('input', { bubbles: true }))"
            ),
        }
        page.goto("about:blank")
        began = time.perf_counter()
        page.goto(f"{path.as_uri()}#slide=slide_{slides - 1:06d}", wait_until="commit")
        page.wait_for_function(
            "() => { const all = [...document.querySelectorAll('.slide[open] .body img')];"
            " return all.length && all.every((image) => image.complete && image.naturalWidth); }"
        )
        look["deep_link_s"] = time.perf_counter() - began
        began = time.perf_counter()
        page.keyboard.press("k")
        page.keyboard.press("Enter")
        page.wait_for_function(
            "() => { const all = [...document.activeElement.closest('.slide').querySelectorAll('.body img')];"
            " return all.length && all.every((image) => image.complete && image.naturalWidth); }"
        )
        look["slide_s"] = time.perf_counter() - began
        session = page.context.new_cdp_session(page)
        session.send("HeapProfiler.collectGarbage")
        look["heap_mb"] = session.send("Runtime.getHeapUsage")["usedSize"] / 1e6
        browser.close()
    return look


def _seconds_of(page: Any, act: str) -> float:
    """Until a page shows what a line of script has done."""
    return float(page.evaluate(_ACT.replace("ACT", act)))


def write_evidence(folder: Path, n: int, *, side: int) -> None:
    """Files of evidence: a slide's thumbnail and heatmap, and five tiles with a reconstruction each."""
    rng = np.random.default_rng(0)
    for i in range(n):
        tissue = _tissue(rng, 384, 512)
        pictures = {"thumbnail": encode_jpeg(tissue), "heatmap": encode_jpeg(tissue[::-1])}
        for place in range(5):
            pictures[f"tile_{place}"] = encode_jpeg(_tissue(rng, side, side))
            pictures[f"reconstruction_{place}"] = encode_jpeg(_tissue(rng, side, side))
        small = small_picture(pictures["thumbnail"], pictures["heatmap"])
        sheet = evidence_sheet(pictures, sizes=dict.fromkeys(("thumbnail", "heatmap"), (512, 384)), preview=small)
        (folder / "evidence").mkdir(exist_ok=True)
        (folder / "evidence" / f"sheet_{i}.svg").write_bytes(sheet)


def _tissue(rng: np.random.Generator, height: int, width: int) -> Any:
    """A round piece of pink noise on white."""
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    noise = rng.normal(0, 14, (height, width, 1)) + np.array([200, 150, 190]) + rng.normal(0, 20, 3)
    inside = (x - rng.normal(0, 0.1)) ** 2 + (y - rng.normal(0, 0.1)) ** 2 < rng.uniform(0.4, 0.9)
    return np.where(inside[..., None], noise, 255).clip(0, 255).astype(np.uint8)


def made_up_decisions(n: int, *, sheets: int, seed: int = 0) -> pa.Table:
    """So many slides of five sites: one in twelve anomalous, one in a hundred without a decision."""
    rng = np.random.default_rng(seed)
    p, score, places = rng.uniform(0.001, 1, n), rng.gamma(4, 0.05, n), rng.integers(0, 90_000, (n, 5, 2))
    sites, scanners = rng.integers(0, 5, n), rng.integers(0, 4, n)
    rows, tables = [], []
    for i in range(n):
        slide_id = f"slide_{i:06d}"
        row: dict[str, Any] = {
            "slide_id": slide_id, "uri": f"s3://archive/2026/{slide_id}.svs", "fingerprint": "0123456789abcdef",
            "site": f"Site {sites[i]}", "scanner": f"S{scanners[i]}60", "width_level0_px": 98_000 + i % 977,
            "height_level0_px": 73_500 + i % 641, "mpp_level0": 0.25, "decided_at": "2026-11-27T00:00:00.000Z",
        }  # fmt: skip
        if i % 100 == 7:
            failed = i % 200 == 7
            row |= (
                {"state": "failed", "reason": "unreadable"} if failed else {"state": "not_assessable", "reason": "pen"}
            )
            row |= {"decision": None if failed else "not_assessable", "message": f"{row['uri']}: not read to its end"}
        else:
            tiles = [
                {"tile_id": f"{slide_id}/{k}", "x_level0_px": int(x), "y_level0_px": int(y), "score": 0.9 - 0.1 * k}
                for k, (x, y) in enumerate(places[i])
            ]
            row |= {
                "state": "scored", "decision": "anomalous" if p[i] <= 0.083 else "normal", "p_value": float(p[i]),
                "score": float(score[i]), "threshold": 0.35, "alpha": 0.083, "n_tiles": 4000 + i % 999,
                "n_scored": 3900 + i % 999, "coverage": 1.0, "flags": '{"pen": 60, "blur": 40}',
                "evidence": json.dumps(tiles), "pictures": f"evidence/sheet_{i % sheets}.svg",
                "calibration_group": f"site=Site {sites[i]}", "calibration_group_slides": 200 + int(sites[i]),
                "false_alarm_low": 0.06, "false_alarm_high": 0.11, "calibration_holds": bool(sites[i] != 4),
                "q_value": float(min(1.0, 3 * p[i])),
            }  # fmt: skip
        rows.append(row)
        if len(rows) == _BATCH or i == n - 1:
            tables.append(pa.Table.from_pylist(rows, schema=SLIDE_DECISIONS))
            rows = []
    return pa.concat_tables(tables)
