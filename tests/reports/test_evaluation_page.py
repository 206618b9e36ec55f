"""The page of an evaluation: escaped, rounded, complete by itself, and what it says in words."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from uadray.evaluation.budget import budget
from uadray.evaluation.comparison import compared
from uadray.evaluation.figures import figures_of_slides
from uadray.evaluation.judged import judged_slides
from uadray.evaluation.validity_report import validity_report
from uadray.reports.evaluation_page import evaluation_page
from uadray.schemas import SLIDE_DECISIONS
from uadray.slides.manifest import SlideRow

CHROMIUM = Path("/usr/bin/chromium")


def screened(n: int = 40, *, shift: float = 2.0, site: str = "North") -> tuple[dict[str, Any], list[SlideRow]]:
    """Decisions of slides, every second one anomalous, and their manifest."""
    rng = np.random.default_rng(0)
    rows = [SlideRow(f"s{i}", f"s{i}.tif", label=("normal", "tumor")[i % 2]) for i in range(n)]
    decisions = {}
    for i, score in enumerate(rng.normal(size=n) + shift * (np.arange(n) % 2)):
        p_value = float(np.clip(1 / (1 + np.exp(2 * score)), 0.01, 1))
        decisions[f"s{i}"] = dict.fromkeys(SLIDE_DECISIONS.names) | {
            "slide_id": f"s{i}", "uri": f"s{i}.tif", "state": "scored", "reason": None, "score": float(score),
            "decision": "anomalous" if p_value <= 0.1 else "normal", "p_value": p_value, "alpha": 0.1, "note": None,
            "calibration_group_slides": 30, "n_tiles": 100 + i, "site": site if i < n // 2 else "South",
        }  # fmt: skip
    return decisions, rows


@pytest.fixture
def figures() -> dict[str, Any]:
    decisions, rows = screened(site="<i>North</i>")
    judged = judged_slides(decisions, rows)
    froc = {"score": 0.8, "sensitivities": {"0.25": 0.7, "8": 0.9}, "curve": [[0, 0.5], [1, 0.8], [8, 0.9]]}
    return figures_of_slides(decisions, rows) | {
        "budget": budget(judged, 10, unscored=2),
        "comparison": compared(judged, judged, name="<u>other</u>"),
        "froc": froc,
        "aupro": {"score": 0.6, "limit": 0.3, "curve": [[0, 0], [0.3, 0.9]]},
        "validity": validity_report(decisions, [row for row in rows if row.label == "normal"]),
        "aggregations": [{"method": "top_share", "auroc": 0.91234}, {"method": "max", "auroc": None}],
    }


class Tags(HTMLParser):
    """The names and ids of all elements, and whether each that is opened is closed."""

    VOID = ("meta", "br", "link", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: list[str] = []
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_escapes_html() -> None:
    page = evaluation_page("<script>alert(1)</script>&", {"<b>key</b>": "<i>value</i>", "nested": {"<u>": None}})
    assert not any(tag in page for tag in ("<script", "<b>", "<i>", "<u>"))
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&amp;" in page
    assert "nested: &lt;u&gt;" in page


def test_the_page_rounds_and_says_what_is_missing() -> None:
    page = evaluation_page("t", {"auroc": 0.98765, "auroc_ci95": [0.9, 1.0], "tile_auroc": None, "n_normal": 12})
    for cell in ("0.988", "0.900 to 1.000", "<td>-</td>", "<td>12</td>", "auroc ci95"):
        assert cell in page


def test_a_page_with_every_section(figures: dict[str, Any]) -> None:
    page = evaluation_page("out", figures)
    tags = Tags(page)
    assert tags.open == []
    assert len(tags.ids) == len(set(tags.ids))
    assert not any(tag in page for tag in ("<i>", "<u>", "<b>", " style=", "http://", "https://", "<img", "<script"))
    headings = re.findall(r'<h2 id="([\w-]+)">', page)
    assert headings == [
        "slides", "decisions", "budget", "localisation", "comparison", "validity", "aggregations", "subgroups", "all",
    ]  # fmt: skip
    assert [name for name in re.findall(r'href="#([\w-]+)"', page) if name not in headings] == []
    assert tags.names.count("svg") == page.count('role="img"') + page.count('aria-hidden="true"')
    for plot in ("ROC curve", "Precision and recall", "Workload saved", "FROC curve", "Overlap with outlines"):
        assert f"<figcaption>{plot}</figcaption>" in page
    for words in ("&lt;u&gt;other&lt;/u&gt;", "&lt;i&gt;North&lt;/i&gt;", "Research use only", "top_share", "0.912"):
        assert words in page
    assert not re.search(r"\bnan\b", page)


def test_each_plot_is_described(figures: dict[str, Any]) -> None:
    page = evaluation_page("out", figures)
    described = re.findall(r'aria-labelledby="([\w-]+) ([\w-]+)"', page)
    assert len(described) == 8
    for title, says in described:
        assert re.search(rf'<title id="{title}">[^<]+</title>', page)
        assert re.search(rf'<desc id="{says}">[^<]+</desc>', page)


def verdicts(figures: dict[str, Any]) -> list[tuple[str, str]]:
    return re.findall(r'<li class="(\w*)">(.*?)</li>', evaluation_page("t", figures))


def test_the_verdicts_say_what_the_figures_mean() -> None:
    """The detector is far above trivial scores; the number of tissue tiles is one."""
    told = verdicts(figures_of_slides(*screened()))
    assert told[0][0] == "good"
    assert "the best trivial score, the number of tissue tiles, has" in told[0][1].lower()
    assert "Decisions at alpha 0.1" in told[1][1]
    assert any("20 anomalous slides and 20 normal ones are few" in text for _, text in told)


def test_a_detector_that_is_not_above_a_trivial_score_is_told() -> None:
    decisions, rows = screened(shift=0.0)
    kind, text = verdicts(figures_of_slides(decisions, rows))[0]
    assert kind == "bad"
    assert "the detector is not clearly above it" in text


def test_false_alarms_above_what_was_promised_are_told() -> None:
    decisions, rows = screened()
    for row in decisions.values():
        row |= {"p_value": 0.05, "decision": "anomalous"}
    told = verdicts(figures_of_slides(decisions, rows))
    assert any(kind == "bad" and "more than the 10 % promised" in text for kind, text in told)


def test_slides_that_were_used_are_told() -> None:
    decisions, rows = screened()
    decisions["s0"]["note"], decisions["s2"]["note"] = "training", "calibration"
    text = " ".join(text for _, text in verdicts(figures_of_slides(decisions, rows)))
    assert "Left out, because they were used before: 1 of the calibration and 1 of the training" in text


@pytest.fixture
def browser() -> Iterator[Any]:
    if not CHROMIUM.exists():
        pytest.skip(f"NOT TESTED in a browser: {CHROMIUM} is absent (apt-get install chromium)")
    sync_api = pytest.importorskip("playwright.sync_api", reason="NOT TESTED in a browser: playwright is absent")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        yield started
        started.close()


@pytest.mark.browser
def test_the_page_in_a_browser(tmp_path: Path, figures: dict[str, Any], browser: Any) -> None:
    """Nothing is refused by its own policy, the plots are drawn, no text runs out of its plot or over another."""
    (tmp_path / "page.html").write_text(evaluation_page("out", figures), encoding="utf-8")
    for width in (1400, 420):
        page = browser.new_page(viewport={"width": width, "height": 900})
        problems: list[str] = []
        page.on("console", lambda message, into=problems: into.append(message.text))
        page.goto((tmp_path / "page.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        boxes = page.evaluate(
            """[...document.querySelectorAll('figure > svg')].map(svg => {
                const outer = svg.getBoundingClientRect();
                const texts = [...svg.querySelectorAll('text')].map(text => text.getBoundingClientRect());
                const apart = texts.every((a, i) => texts.slice(i + 1).every(b => a.right <= b.left + 1
                    || b.right <= a.left + 1 || a.bottom <= b.top + 2 || b.bottom <= a.top + 2));
                const inside = texts.every(t => t.left >= outer.left - 1 && t.right <= outer.right + 1);
                return {inside, apart, width: outer.width};
            })"""
        )
        assert len(boxes) == 8
        assert all(box["inside"] and box["apart"] and box["width"] > 250 for box in boxes)
        assert problems == []
        if find_spec("axe_playwright_python") is not None:
            axe = import_module("axe_playwright_python.sync_playwright").Axe()
            found = axe.run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}).response
            assert [(v["id"], [node["html"] for node in v["nodes"]][:3]) for v in found["violations"]] == []
