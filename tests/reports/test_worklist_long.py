"""The page of many slides in a real browser: every slide is there, as the page of few slides shows it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from decision_rows import all_kinds, decision_table, scored, unscored

from uadray.reports import pictures, worklist
from uadray.reports.evidence_sheet import evidence_sheet
from uadray.reports.small_pictures import small_picture
from uadray.screening.worklist_files import write_worklist

CHROMIUM = Path("/usr/bin/chromium")
RUN: worklist.Run = {
    "bundle": "b-1",
    "alpha": 0.1,
    "n_calibration": 19,
    "tile_um": 96.0,
    "viewer": "https://e.example/",
}
NASTY = "</script><script>alert(1)</script>&\u2028'\"=1"
KINDS = ("tile", "reconstruction")
CANONICAL = """(slide) => {
  const told = (node) => {
    if (node.nodeType === Node.TEXT_NODE) return node.data.replace(/\\s+/g, " ");
    const names = [...node.attributes].filter(({ name }) => !["style", "open", "data-of"].includes(name));
    const attributes = names.map(({ name, value }) => `${name}=${value.trim()}`).sort().join("|");
    const children = [...node.childNodes].map(told).reduce((all, one) => {
      if (typeof one === "string" && typeof all.at(-1) === "string") all[all.length - 1] += one;
      else all.push(one);
      return all;
    }, []).map((one) => (typeof one === "string" ? one.replace(/\\s+/g, " ").trim() : one)).filter(Boolean);
    return [node.nodeName.toLowerCase(), attributes, ...(node.className === "preview" ? [] : children)];
  };
  return JSON.stringify(told(slide));
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not CHROMIUM.exists():
        pytest.skip(f"NOT TESTED in a browser: {CHROMIUM} is absent (apt-get install chromium)")
    sync_api = pytest.importorskip("playwright.sync_api", reason="NOT TESTED in a browser: playwright is absent")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that says nothing on the console, asks nothing, and runs no script of others."""
    opened = browser.new_page(viewport={"width": 1400, "height": 900})
    problems: list[str] = []
    opened.on("console", lambda message: problems.append(message.text))
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("dialog", lambda dialog: problems.append(dialog.message))
    yield opened
    opened.close()
    assert [problem for problem in problems if "ERR_FILE_NOT_FOUND" not in problem] == []  # made-up slides have none


def write(folder: Path, table: pa.Table, *, plain: int = 0, run: worklist.Run = RUN) -> str:
    write_worklist(
        str(folder), table, title="Archive", run=run, picture_kinds=KINDS, thumbnails="evidence", plain=plain
    )
    return (folder / "worklist.html").as_uri()


def of_all_kinds() -> pa.Table:
    """Slides of every kind, each as odd as it can be."""
    five = [{"tile_id": f"t{k}", "x_level0_px": 300 * k, "y_level0_px": 200, "score": 1000.0 / 10**k} for k in range(5)]
    alone = [five[0] | {"has_reconstruction": False}, five[1]]
    return pa.concat_tables(
        [
            all_kinds(),
            decision_table(
                scored("five", "anomalous", 1.234e-5, 0.70001, evidence=json.dumps(five), site="North", scanner="S1"),
                scored("alone", "normal", 0.999999, 12345.6, evidence=json.dumps(alone), site="South", coverage=1.0),
                scored("drifted", "anomalous", 0.02, 0.7, calibration_holds=False, q_value=0.25, site="North",
                       calibration_group="site=North", calibration_group_slides=34, false_alarm_low=0.02,
                       false_alarm_high=0.3, flags='{"pen": 1}', note="training"),
                scored("bare", "normal", 0.5, 0.1, evidence=None, n_scored=0, coverage=None, mpp_level0=None,
                       pictures="evidence/b e&.svg", calibration_holds=True),
                unscored(NASTY, "failed", NASTY, NASTY + "m" * 100) | {"uri": NASTY, "site": NASTY},
                scored(NASTY + "2", "normal", 0.4, 0.2, scanner=NASTY, note=NASTY, calibration_group=NASTY,
                       calibration_group_slides=3, pictures=f"evidence/{NASTY}.svg"),
            ),
        ]
    )  # fmt: skip


def rows_of(table: pa.Table, n: int) -> pa.Table:
    """So many more slides, normal ones."""
    many = [scored(f"many-{i}", "normal", 0.6 + i / 1e5, 0.1, site=f"site {i % 3}", evidence=None) for i in range(n)]
    return pa.concat_tables([table, decision_table(*many)])


def ids(page: Any) -> list[str]:
    return list(page.eval_on_selector_all(".slide", "all => all.map(s => s.dataset.id)"))


def places(page: Any) -> list[str]:
    return list(page.eval_on_selector_all(".item", "all => all.map(s => s.getAttribute('aria-posinset'))"))


@pytest.mark.browser
def test_slides_look_the_same_on_both_pages(tmp_path: Path, browser: Any) -> None:
    told = []
    for plain in (100, 0):
        opened = browser.new_page(viewport={"width": 1400, "height": 12_000})
        opened.add_init_script("addEventListener('error', (event) => event.stopImmediatePropagation(), true)")
        opened.goto(write(tmp_path / str(plain), of_all_kinds(), plain=plain))
        if plain == 0:
            opened.click("#expand")
            opened.wait_for_function("() => [...document.querySelectorAll('.body')].every((b) => b.firstElementChild)")
        told.append([json.loads(opened.locator(".slide").nth(i).evaluate(CANONICAL)) for i in range(14)])
        opened.close()
    for server, built in zip(*told, strict=True):
        assert built == server


@pytest.mark.browser
def test_every_slide_is_there_and_rows_come_into_view(tmp_path: Path, page: Any) -> None:
    page.goto(write(tmp_path, rows_of(all_kinds(), 3000)))
    assert ids(page)[:5] == ["a1", "a2", "a3", "n0", "n1"]
    assert len(ids(page)) < 60
    assert page.locator("#shown").inner_text() == "3\u202f008 of 3\u202f008 shown"
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    page.wait_for_selector('[data-id="f1"]')
    assert ids(page)[-3:] == ["u1", "f0", "f1"]
    assert places(page) == sorted(places(page), key=int)
    assert page.locator(".item").last.get_attribute("aria-setsize") == "3008"
    page.click('[data-jump="failed"]')
    assert ids(page) == ["f0", "f1"]


@pytest.mark.browser
def test_filters_count_what_they_would_show(tmp_path: Path, page: Any) -> None:
    table = decision_table(
        scored("a", "anomalous", 0.01, 0.9, site="North", scanner="S1", q_value=0.02, calibration_holds=True),
        scored("b", "anomalous", 0.02, 0.8, site="South", scanner="S1", q_value=0.2, calibration_holds=False),
        scored("c", "normal", 0.5, 0.1, site="North", scanner="S2", q_value=0.9),
        scored("d", "normal", 0.6, 0.1, scanner="S2", q_value=0.9),
        unscored("e", "failed", "missing") | {"site": "North"},
    )
    page.goto(write(tmp_path, table))

    def options(name: str) -> list[str]:
        return list(page.eval_on_selector_all(f"label:has-text('{name}') option", "all => all.map(o => o.text)"))

    assert options("Site") == ["all (5)", "North (3)", "South (1)", "not known (1)"]
    assert options("Reason") == ["all (5)", "missing (1)", "not known (4)"]
    assert options("Calibration") == ["all (5)", "does not hold (1)", "holds (1)", "not known (3)"]
    page.select_option("label:has-text('Site') select", label="North (3)")
    assert ids(page) == ["a", "c", "e"]
    assert options("Site") == ["all (5)", "North (3)", "South (1)", "not known (1)"]  # what another one would show
    assert options("Scanner") == ["all (3)", "S1 (1)", "S2 (1)", "not known (1)"]
    assert page.locator('[data-show="anomalous"] i').inner_text() == "1"
    page.click('[data-show="normal"]')
    assert ids(page) == ["c"]
    assert page.url.endswith("#site=North&show=normal")
    page.click("#clear")
    assert ids(page) == list("abcde")
    page.fill("#q", "0.2")
    assert ids(page) == ["a", "b"]
    page.fill("#q", "")
    page.click('[data-sort="score"]')
    page.fill("#search", "NO SUCH")
    assert page.is_visible("#nothing")
    page.goto("about:blank")
    page.goto(f"{(tmp_path / 'worklist.html').as_uri()}#site=&sort=id&down=1")
    assert ids(page) == ["d"]
    page.evaluate("location.hash = '#calibration=does+not+hold'")
    page.wait_for_function("() => document.querySelectorAll('.slide').length === 1")
    assert ids(page) == ["b"]


@pytest.mark.browser
def test_keys_and_addresses(tmp_path: Path, page: Any) -> None:
    table = rows_of(all_kinds(), 600)
    address = write(tmp_path, table)
    page.goto(address)

    def at() -> str:
        return str(page.evaluate("document.activeElement.closest('.slide')?.dataset.id"))

    page.keyboard.press("j")
    page.keyboard.press("j")
    assert at() == "a2"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("k")
    page.keyboard.press("Enter")
    page.wait_for_selector('[data-id="a2"] .uri >> text="/slides/a2.tif"')
    assert page.url.endswith("#slide=a2")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Escape")
    assert page.locator(".slide[open]").count() == 0
    page.keyboard.press("End")
    assert at() == "f1"
    assert page.evaluate("document.activeElement.getBoundingClientRect().bottom <= innerHeight")
    page.keyboard.press("Home")
    assert at() == "a1"
    top = page.evaluate("document.activeElement.getBoundingClientRect().top")
    assert top >= page.evaluate("document.querySelector('.tools').getBoundingClientRect().bottom - 1")
    page.keyboard.press("/")
    page.keyboard.type("many-77")
    assert ids(page) == ["many-77"]
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    assert at() != "many-77"  # a key after a search is a key of the list
    page.goto("about:blank")
    page.goto(f"{address}#show=failed&slide=many-599")
    page.wait_for_selector('[data-id="many-599"] .viewer')
    assert at() == "many-599"
    assert page.get_attribute('[data-id="many-599"] .viewer', "href") == "https://e.example/#slide=many-599"
    top = page.evaluate("document.querySelector('[data-id=\"many-599\"]').getBoundingClientRect().top")
    assert 0 <= top < 900
    page.goto("about:blank")
    page.goto(f"{address}#slide=%3Cb%3Enone")
    assert page.inner_text("#unknown") == "No slide <b>none on this page."


@pytest.mark.browser
def test_details_that_were_left_behind_are_said(tmp_path: Path, browser: Any) -> None:
    address = write(tmp_path, all_kinds())
    for path in (tmp_path / "worklist_data").glob("*.js"):
        path.unlink()
    opened = browser.new_page()
    opened.goto(f"{address}#slide=a1")
    opened.wait_for_selector("text=is not beside this page. Copy the folder along with the page")
    opened.close()


def with_pictures(folder: Path) -> pa.Table:
    """A slide with a sheet of five tiles that have two pictures each."""
    (folder / "evidence").mkdir(parents=True)
    grey = pictures.encode_jpeg(np.full((64, 64, 3), 128, np.uint8))
    made = {"thumbnail": grey, "heatmap": grey}
    made |= {f"{kind}_{k}": grey for kind in KINDS for k in range(5)}
    sheet = evidence_sheet(made, sizes={}, preview=small_picture(grey, grey))
    (folder / "evidence" / "s.svg").write_bytes(sheet)
    tiles = [{"tile_id": f"t{k}", "x_level0_px": 9 * k, "y_level0_px": 0, "score": 1.0} for k in range(5)]
    more = {"pictures": "evidence/s.svg", "evidence": json.dumps(tiles), "width_level0_px": 1000}
    return decision_table(scored("s", "anomalous", 0.01, 0.9, **more))


@pytest.mark.browser
@pytest.mark.parametrize("plain", [100, 0])
def test_the_fifth_tile_is_not_cut(tmp_path: Path, page: Any, plain: int) -> None:
    page.goto(f"{write(tmp_path, with_pictures(tmp_path), plain=plain)}#slide=s")
    loaded = "() => [...document.querySelectorAll('.body img')].filter((i) => i.naturalWidth).length === 12"
    page.wait_for_function(loaded)
    for width in (1920, 1400, 1385, 1280, 1000):  # 1385: 1400 with a scroll bar
        page.set_viewport_size({"width": width, "height": 900})
        tiles = page.eval_on_selector_all("figure.tile", "all => all.map(t => t.getBoundingClientRect().right)")
        end = page.evaluate("document.querySelector('.slide').getBoundingClientRect().right")
        assert len(tiles) == 5
        assert max(tiles) <= end - 8, width
        assert page.evaluate("(t => t.scrollWidth <= t.clientWidth)(document.querySelector('.tiles'))"), width
    page.set_viewport_size({"width": 420, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.browser
def test_small_pictures_are_those_of_the_slide(tmp_path: Path, page: Any) -> None:
    page.goto(write(tmp_path, with_pictures(tmp_path)))
    page.wait_for_function("() => document.querySelector('.preview img')?.naturalWidth > 0")
    shot = pictures.cv2.imdecode(np.frombuffer(page.locator(".preview img").screenshot(), np.uint8), 1)
    assert np.abs(shot[8:40, 4:92].astype(int) - 128).max() < 8


@pytest.mark.browser
def test_axe_finds_nothing(tmp_path: Path, browser: Any) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="NOT TESTED: axe is absent").Axe()
    for plain in (1000, 0):
        opened = browser.new_page(viewport={"width": 1400, "height": 900}, bypass_csp=True)
        opened.goto(f"{write(tmp_path / str(plain), of_all_kinds(), plain=plain)}#slide=drifted")
        opened.wait_for_selector('[data-id="drifted"] .viewer')
        found = axe.run(opened).response["violations"]
        assert [(each["id"], [node["html"][:200] for node in each["nodes"][:3]]) for each in found] == []
        opened.close()
