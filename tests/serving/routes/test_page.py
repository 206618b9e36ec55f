"""The page's files, and the page in a real browser over a real screening."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import small_screening
from serving_client import listening, plain_services
from small_screening import STRANGE_ID

from uadray.reports import colours, page, ranking
from uadray.serving.access.tokens import FixedTokens, Token, TokenSource, digest
from uadray.serving.config import ServeConfig
from uadray.serving.routes.page import page_files
from uadray.serving.views.notes import FLAGS, MAX_TEXT
from uadray.serving.views.slide_views import SlideViews

CHROMIUM = Path("/usr/bin/chromium")
SIZES = {"phone": (375, 800), "laptop": (1280, 800), "4k": (3840, 2160)}
READY = "() => !document.querySelector('.scope') || document.querySelector('.scale-bar span')?.textContent"
SETTLED_MS = 400
"""The address follows a movement after so long."""


@contextmanager
def serving(folder: Path, out: Path, tokens: TokenSource | None = None) -> Iterator[str]:
    """The address of an endpoint over a copy of a screened folder."""
    shutil.copytree(folder / "out", out)
    bundles = {name: str(folder / "bundles" / name) for name in ("tiny0", "tiny1")}
    config = ServeConfig(out=str(out), bundles=bundles, slides=(str(folder / "slides"),), insecure=True)
    views = SlideViews()
    with listening(plain_services(config, tokens=tokens, views=views)) as port:
        yield f"http://127.0.0.1:{port}"
    views.close()


@pytest.fixture(scope="module")
def address(screened: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(screened, tmp_path_factory.mktemp("page") / "out") as found:
        yield found


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


@contextmanager
def looking(
    browser: Any, address: str, place: str = "", *, size: tuple[int, int] = (1280, 800), told: tuple[str, ...] = ()
) -> Iterator[Any]:
    """A tab on a place of the page. At the end its console may have told of what was provoked, and of nothing else."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, reduced_motion="reduce")
    tab = context.new_page()
    problems: list[str] = []
    tab.set_default_timeout(15_000)
    tab.on("console", lambda message: problems.append(message.text))
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.on("dialog", lambda dialog: problems.append(dialog.message))
    tab.goto(f"{address}/{place}")
    yield tab
    context.close()
    assert [text for text in problems if not any(words in text for words in told)] == []


def cards(tab: Any) -> list[str]:
    return list(tab.eval_on_selector_all(".card", "all => all.map(card => card.dataset.id)"))


def opened(tab: Any) -> Any:
    """The tab, once the slide's picture is there."""
    tab.wait_for_selector(".scope canvas")
    tab.wait_for_function(READY)
    tab.wait_for_load_state("networkidle")
    return tab


def place_of(tab: Any) -> dict[str, str]:
    tab.wait_for_timeout(SETTLED_MS)
    return dict(tab.evaluate("Object.fromEntries(new URLSearchParams(location.hash.slice(1)))"))


def colour_at(tab: Any, x: float, y: float) -> list[int]:
    """The colour that a person sees at shares of the first picture."""
    box = tab.locator(".scope").first.bounding_box()
    png = tab.screenshot(
        clip={"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"], "width": 1, "height": 1}
    )
    read = """async (bytes) => {
      const bitmap = await createImageBitmap(new Blob([new Uint8Array(bytes)]));
      const context = new OffscreenCanvas(1, 1).getContext("2d");
      context.drawImage(bitmap, 0, 0);
      return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
    }"""
    return list(tab.evaluate(read, list(png)))


def test_files_and_nothing_else_are_sent(address: str) -> None:
    with httpx.Client(base_url=address) as client:
        index = client.get("/")
        names = re.findall(r'(?:src|href)="(viewer/[^"]+)"', index.text)
        assert len(names) >= 5
        for name in [*names, *(f"viewer/{name}" for name in page_files())]:
            answer = client.get(f"/{name}")
            assert answer.status_code == 200
            assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
        assert "unsafe" not in index.headers["content-security-policy"]
        assert not re.search(r"<script(?![^>]* src=)|<style|\son\w+=|\sstyle=", index.text)
        for name in ("vendor/README.md", "none.js", "../config.py", "%2e%2e/config.py", "..%2fconfig.py", "", "vendor"):
            assert client.get(f"/viewer/{name}").status_code == 404, name


def test_files_are_kept_by_their_etag_and_packed(address: str) -> None:
    with httpx.Client(base_url=address) as client:
        first = client.get("/viewer/vendor/openseadragon.min.js")
        assert first.headers["content-encoding"] == "gzip"
        assert first.content == page_files()["vendor/openseadragon.min.js"].content
        again = client.get("/viewer/vendor/openseadragon.min.js", headers={"If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        plain = client.get("/", headers={"Accept-Encoding": "identity", "If-None-Match": '"another"'})
        assert plain.status_code == 200
        assert "content-encoding" not in plain.headers
        assert client.head("/").status_code == 200


def test_the_page_writes_nothing_as_html() -> None:
    own = {name: file.content.decode() for name, file in page_files().items() if "vendor/" not in name}
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|localStorage\.setItem\(KEY"
    assert [name for name, text in own.items() if re.search(forbidden, text)] == []
    assert sorted(name for name in own if re.search(r"https?://(?!www\.w3\.org)", own[name])) == []


@pytest.mark.browser
def test_words_numbers_and_colours_are_the_worklists(address: str, browser: Any) -> None:
    numbers = [0.03226, 12.5, 0.00001234, 0.0, -3.0129, 1234.6, -23456.0, 9.9e6, 3e7, 0.99999, 123.4, 1e-4, 0.0999]
    shares = [0.0323, 0.9996, 1, 0.0002, 0.5, 0.10049, 0.0]
    with looking(browser, address) as tab:
        words = tab.evaluate(
            """async ([numbers, shares]) => {
              const w = await import("/viewer/words.js");
              return {numbers: [...numbers, null].map((x) => w.number(x)), shares: [...shares, null].map(w.percent),
                      thousands: [7, 1234, 1234567].map(w.thousands), legend: w.LEGEND, groups: w.GROUPS,
                      flags: Object.keys(w.FLAGS)};
            }""",
            [numbers, shares],
        )
        longest = tab.evaluate("async () => (await import('/viewer/scale_bar.js')).roundLength(2, 'µm', 150)")
    assert words["numbers"] == [page.number(value) for value in [*numbers, None]]
    assert words["shares"] == [page.percent(value) for value in [*shares, None]]
    assert words["thousands"] == [page.thousands(value) for value in (7, 1234, 1234567)]
    assert words["legend"] == colours.legend_colours(9)
    assert words["groups"] == ranking.GROUPS
    assert words["flags"] == list(FLAGS)
    assert longest == {"length": 100, "words": "200 µm"}
    assert f"maxlength: {MAX_TEXT}" in page_files()["notes.js"].content.decode()


@pytest.mark.browser
def test_a_search_is_not_lost_where_slides_come_before_it_is_asked_for(address: str, browser: Any) -> None:
    """The page asks a quarter of a second after the last letter; until then another question may be answered."""
    with looking(browser, address) as tab:
        tab.wait_for_selector(".card")
        tab.fill("#q", "%2F")
        tab.wait_for_function("() => document.querySelectorAll('.card').length === 1")
        tab.fill("#q", "")
        tab.focus("#more-filters")
        tab.select_option("#sort", "slide_id asc")
        tab.wait_for_function("() => document.querySelectorAll('.card').length === 4")


@pytest.mark.browser
def test_gallery_sorts_filters_and_pages(address: str, browser: Any) -> None:
    with looking(browser, address) as tab:
        tab.wait_for_selector(".card")
        assert sorted(cards(tab)) == sorted(["a", "b", STRANGE_ID, "broken"])
        assert cards(tab)[-1] == "broken"  # what has no p-value comes last
        assert tab.inner_text(".count.failed") == "1\nfailed" or "1" in tab.inner_text(".count.failed")
        assert "1 slide failed and was NOT screened" in tab.inner_text("#counted")
        tab.wait_for_function("() => [...document.querySelectorAll('.card img')].every(i => i.naturalWidth > 0)")
        tab.click('button[data-show="failed"]')
        tab.wait_for_function("() => document.querySelectorAll('.card').length === 1")
        assert cards(tab) == ["broken"]
        tab.reload()
        tab.wait_for_selector(".card")
        assert cards(tab) == ["broken"]  # the address says so
        tab.click('button[data-show=""]')
        tab.fill("#q", "%2F")
        tab.wait_for_function("() => document.querySelectorAll('.card').length === 1")
        assert cards(tab) == [STRANGE_ID]
        tab.fill("#q", "")
        tab.select_option("#sort", "slide_id asc")
        tab.wait_for_function("() => document.querySelector('.card')?.dataset.id.startsWith('7')")
        tab.click("#more-filters")
        tab.select_option("select[name=site]", "South")
        tab.wait_for_function("() => document.querySelectorAll('.card').length === 1")
        assert cards(tab) == ["b"]
        tab.fill("input[name=min_score]", "1000")
        tab.wait_for_selector("#nothing >> text=No slide matches.")
        tab.click("#filters button[type=reset]")
        tab.wait_for_function("() => document.querySelectorAll('.card').length === 4")


@pytest.mark.browser
def test_more_slides_come_a_page_at_a_time(address: str, browser: Any) -> None:
    asked: list[str] = []

    def shorter(route: Any) -> None:
        asked.append(route.request.url)
        route.continue_(url=route.request.url.replace("limit=48", "limit=1"))

    with looking(browser, address) as tab:
        tab.wait_for_selector(".card")
        tab.route("**/slides?*limit=48*", shorter)
        tab.reload()
        tab.wait_for_function("() => document.querySelectorAll('.card').length === 4")
        assert len(set(cards(tab))) == 4
        assert len(asked) == 4
        assert "cursor=" in asked[1]
        assert tab.is_hidden("#more")


@pytest.mark.browser
def test_picture_zooms_and_the_address_restores_it(address: str, browser: Any) -> None:
    with looking(browser, address, "#slide=a") as tab:
        opened(tab)
        assert re.fullmatch(r"\d+ µm", tab.inner_text(".scale-bar span"))
        assert tab.locator(".overview canvas").count() == 1
        tab.focus(".scope")
        before = place_of(tab)
        for key in ("+", "+", "ArrowRight", "ArrowDown"):
            tab.keyboard.press(key)
        after = place_of(tab)
        assert float(after["zoom"]) == pytest.approx(float(before["zoom"]) / 2.25, rel=0.02)
        assert float(after["x"]) > float(before["x"])
        tab.keyboard.press("h")
        tab.keyboard.press("m")
        changed = place_of(tab)
        assert "heat" not in changed["layers"].split()
        assert "masks" in changed["layers"].split()
        tab.reload()
        opened(tab)
        assert place_of(tab) == changed
        assert not tab.is_checked("input[name=heat]")
        assert tab.is_checked("input[name=masks]")
        tab.keyboard.press("0")
        tab.wait_for_timeout(SETTLED_MS)
        assert float(place_of(tab)["zoom"]) == pytest.approx(float(before["zoom"]), rel=0.05)  # the legend has grown


@pytest.mark.browser
def test_heat_lies_over_the_picture(address: str, browser: Any) -> None:
    with looking(browser, address, "#slide=a&layers=none") as tab:
        opened(tab)
        seen = [colour_at(tab, x, 0.5) for x in (0.4, 0.5, 0.6)]
        assert any(max(colour) - min(colour) > 20 for colour in seen)  # stained tissue
        tab.keyboard.press("h")
        tab.wait_for_timeout(SETTLED_MS)
        heated = [colour_at(tab, x, 0.5) for x in (0.4, 0.5, 0.6)]
        assert heated != seen
        with tab.expect_response(lambda answer: "/heat/" in answer.url and "threshold=" in answer.url):
            tab.evaluate(
                "() => { const s = document.querySelector('[name=threshold]'); s.value = 100;"
                " s.dispatchEvent(new Event('input', {bubbles: true})); }"
            )
        tab.wait_for_load_state("networkidle")
        tab.wait_for_timeout(SETTLED_MS)
        assert float(place_of(tab)["threshold"]) > 0
        hot = [colour_at(tab, x, 0.5) for x in (0.4, 0.5, 0.6)]
        tab.keyboard.press("h")
        tab.wait_for_timeout(SETTLED_MS)
        assert hot == [colour_at(tab, x, 0.5) for x in (0.4, 0.5, 0.6)]  # no tile there scores so high
        tab.keyboard.press("h")
        assert "99 % of normal tiles score less" in tab.inner_text("#legend")


@pytest.mark.browser
def test_a_tile_is_explained(address: str, browser: Any) -> None:
    with looking(browser, address, "#slide=a") as tab:
        opened(tab)
        tab.keyboard.press("t")
        tab.wait_for_selector("#tile img")
        assert tab.eval_on_selector_all("#tile img", "all => all.every(i => i.naturalWidth > 0)")
        marked = tab.inner_text("#marked button[aria-current=true]").split()[1]
        assert f"score {marked}" in tab.inner_text("#tile")
        assert [tab.inner_text(f"#tile figcaption >> nth={i}") for i in range(3)][:2] == ["Tile", "Reconstruction"]
        assert "of this slide's tiles score less" in tab.inner_text("#tile")
        tab.keyboard.press("T")
        tab.wait_for_function("() => document.querySelector('#marked li:last-child button').ariaCurrent === 'true'")
        box = tab.locator(".scope").bounding_box()
        tab.keyboard.press("0")
        tab.wait_for_timeout(SETTLED_MS)
        tab.mouse.click(box["x"] + 4, box["y"] + box["height"] / 2)  # beside the slide
        tab.wait_for_selector("#tile >> text=No tile was cut here")
        tab.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        tab.wait_for_function("() => /score|left out|No tile/.test(document.getElementById('tile').textContent)")


@pytest.mark.browser
def test_review_by_keyboard_alone(screened: Path, tmp_path: Path, browser: Any) -> None:
    with (
        serving(screened, tmp_path / "out") as address,
        looking(browser, address, "#sort=slide_id&order=asc", told=("status of 412",)) as tab,
    ):
        tab.wait_for_selector(".card")
        press = tab.keyboard.press
        press("j")
        assert tab.evaluate("document.activeElement.closest('.card')?.dataset.id") == cards(tab)[0]
        press("j")
        press("Enter")
        opened(tab)
        assert tab.inner_text("#slide-title") == "a"
        assert "2 of 4" in tab.inner_text("#place")
        press("f")
        tab.wait_for_selector(".note-form .said >> text=Saved.")
        press("n")
        tab.keyboard.type("mitoses? <b>upper left</b>")
        press("Control+Enter")
        tab.wait_for_function("() => document.querySelector('.who').textContent.includes('UTC')")
        tab.wait_for_selector(".scope:focus")  # on to the next slide
        path = f"{address}/v1/screenings/main/slides"
        note = httpx.get(f"{path}/a").json()
        assert (note["note"]["flag"], note["note"]["text"]) == ("follow_up", "mitoses? <b>upper left</b>")

        mine = {"flag": "benign", "text": "seen by another"}
        httpx.put(f"{path}/a/note", json=mine, headers={"If-Match": note["note_etag"]}).raise_for_status()
        press("n")
        tab.keyboard.type(" and more")
        press("Control+Enter")
        tab.wait_for_selector(".conflict >> text=seen by another")
        assert httpx.get(f"{path}/a").json()["note"]["text"] == "seen by another"
        press("Tab")
        press("Tab")
        press("Enter")  # join both
        tab.wait_for_selector(".conflict", state="hidden")
        tab.wait_for_selector(".note-form .said >> text=Saved.")
        joined = httpx.get(f"{path}/a").json()["note"]
        assert joined["text"] == "seen by another\nmitoses? <b>upper left</b> and more"

        press("Escape")  # out of the text, where keys write
        press("j")
        tab.wait_for_function("() => document.getElementById('slide-title').textContent === 'b'")
        opened(tab)
        press("k")
        tab.wait_for_function("() => document.getElementById('slide-title').textContent === 'a'")
        opened(tab)
        press("g")
        tab.wait_for_selector(".card:focus-within")
        assert tab.evaluate("document.activeElement.closest('.card').dataset.id") == "a"
        assert "Follow up, note" in tab.inner_text(".card:focus-within")
        press("j")
        press("f")
        tab.wait_for_selector(".card:focus-within >> text=Follow up")
        press("?")
        assert tab.is_visible("#help >> text=next marked tile")
        press("Escape")


@pytest.mark.browser
def test_two_bundles_move_together(address: str, browser: Any) -> None:
    with looking(browser, address, "#slide=b&beside=main%2Ftiny1") as tab:
        opened(tab)
        tab.wait_for_function("() => document.querySelectorAll('.scope').length === 2")
        second = tab.locator(".scope").nth(1)
        second.focus()
        tab.keyboard.press("+")
        tab.keyboard.press("ArrowLeft")
        tab.wait_for_timeout(SETTLED_MS)
        bars = tab.eval_on_selector_all(".scale-bar", "all => all.map(b => [b.textContent, b.lastChild.style.width])")
        assert bars[0] == bars[1]
        tab.keyboard.press("Enter")
        tab.wait_for_function("() => document.querySelectorAll('#tile h3').length === 2")
        assert tab.eval_on_selector_all("#tile h3", "all => all.map(h => h.textContent)") == ["tiny0", "tiny1"]
        tab.keyboard.press("b")
        tab.wait_for_function("() => document.querySelectorAll('.scope').length === 1")
        assert "beside" not in place_of(tab)


@pytest.mark.browser
def test_slides_that_cannot_be_shown_say_why(screened: Path, tmp_path: Path, browser: Any) -> None:
    rows = small_screening.painted_rows(tmp_path / "slides")[1:]
    shutil.copytree(screened / "bundles", tmp_path / "bundles")
    small_screening.screen_here(str(tmp_path / "out"), [str(tmp_path / "bundles" / "tiny0")], rows)
    Path(rows[0].uri).unlink()
    with serving(tmp_path, tmp_path / "copy") as address:
        with looking(browser, address, "#slide=broken") as tab:
            tab.wait_for_selector("#panes >> text=This slide failed")
            assert "What to do:" in tab.inner_text("#facts")
            tab.keyboard.press("n")
            assert tab.evaluate("document.activeElement.name") == "text"
        with looking(browser, address, "#slide=b", told=("status of 404",)) as tab:
            tab.wait_for_selector("#panes >> text=The slide's file cannot be opened now")
            tab.wait_for_function("() => document.querySelector('#panes img').naturalWidth > 0")
            assert "p-value" in tab.inner_text("#facts")
        with looking(browser, address, "#slide=no+such+slide", told=("status of 404",)) as tab:
            tab.wait_for_selector("#trouble >> text=Not there")


@pytest.mark.browser
def test_tiles_that_do_not_come_are_told_of(address: str, browser: Any) -> None:
    with looking(browser, address, told=("status of 503", "failed to load")) as tab:
        tab.route("**/image/10/**", lambda route: route.fulfill(status=503, headers={"Retry-After": "5"}, body="{}"))
        tab.click(".card[data-id=a]")
        opened(tab)
        tab.wait_for_selector("#panes [role=alert] >> text=The endpoint is busy; try again in 5 s")


@pytest.mark.browser
def test_a_token_is_asked_for_once_and_stands_in_no_address(screened: Path, tmp_path: Path, browser: Any) -> None:
    tokens = FixedTokens((Token("ward", frozenset({"read"}), digest("s3cret")),))
    asked: list[str] = []
    with (
        serving(screened, tmp_path / "out", tokens) as address,
        looking(browser, address, "#slide=a", told=("status of 401", "status of 403")) as tab,
    ):
        tab.on("request", lambda request: asked.append(request.url))
        tab.fill("#token input", "wrong")
        tab.keyboard.press("Enter")
        tab.wait_for_selector("#token[open] >> text=The token was refused")
        tab.fill("#token input", "s3cret")
        tab.keyboard.press("Enter")
        opened(tab)
        tab.reload()
        opened(tab)
        assert tab.locator("#token[open]").count() == 0
        assert sum("/image/" in url for url in asked) > 2
        assert [url for url in asked if "s3cret" in url] == []
        tab.keyboard.press("n")
        tab.keyboard.type("x")
        tab.keyboard.press("Control+Enter")
        tab.wait_for_selector(".said >> text=This token may not do that")
        tab.evaluate("document.querySelector('.note-form textarea').value = ''")


@pytest.mark.browser
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_every_size_fits_and_is_accessible(address: str, browser: Any, size: tuple[int, int]) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="NOT TESTED: axe is absent").Axe()
    only = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}

    def check(tab: Any, what: str) -> None:
        found = axe.run(tab, options=only).response["violations"]
        assert [f"{what}: {v['id']} {[node['html'] for node in v['nodes']][:3]}" for v in found] == []
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), what

    with looking(browser, address, size=size) as tab:
        tab.wait_for_selector(".card")
        tab.click("#more-filters")
        check(tab, "gallery")
        tab.keyboard.press("?")
        check(tab, "help")
        tab.keyboard.press("Escape")
        tab.click(".card[data-id=a]")
        opened(tab)
        tab.keyboard.press("t")
        tab.wait_for_selector("#tile img")
        check(tab, "slide")
        scope = tab.locator(".scope").bounding_box()
        assert scope["width"] * scope["height"] > 0.25 * size[0] * size[1]
