"""Pictures of the dashboards from a Prometheus, without Grafana: a page draws them in Chromium.

    python -m uadray.bench.dashboard_pictures http://127.0.0.1:9090 --out pictures --minutes 10

writes one picture a dashboard, and with `--panels` one a panel. It says of each panel whether it has data.
"""

import json
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from uadray.commands import dashboards
from uadray.errors import InputError

PAGE = Path(__file__).with_name("dashboard_page.html")

CHROMIUM = Path("/usr/bin/chromium")

WIDTH_PX = 24 * 64 + 24


def draw(
    prometheus_url: str,
    out: Path,
    *,
    names: Sequence[str] = (),
    minutes: float = 30,
    end: float | None = None,
    scrape_s: float = 15,
    given: Mapping[str, str] | None = None,
    panels: bool = False,
) -> dict[str, list[dict[str, str]]]:
    """Draw dashboards into PNG files; what each of their panels shows: `{"title", "state": data, empty or error}`.

    Args:
        prometheus_url: of a server that lets pages of other origins ask (Prometheus does unless it is told not to).
        out: folder of the pictures.
        names: of dashboards; all unless given.
        minutes: length of the time range.
        end: of the time range, in seconds since 1970; now unless given.
        scrape_s: seconds between scrapes, for `$__rate_interval`.
        given: chosen values of variables; all values unless given.
        panels: a picture of each panel as well, in a folder a dashboard.

    Raises:
        InputError: there is no such dashboard, or no Chromium.
    """
    made = {name.removesuffix(".json"): json.loads(text) for name, text in dashboards.texts().items()}
    if unknown := set(names) - made.keys():
        raise InputError(f"no dashboard {', '.join(sorted(unknown))}; there are: {', '.join(sorted(made))}")
    if not CHROMIUM.exists():
        raise InputError(f"{CHROMIUM} is not there: apt-get install chromium")
    until = time.time() if end is None else end
    options = {"prometheus": prometheus_url.rstrip("/"), "start": until - 60 * minutes, "end": until}
    options |= {"scrape": scrape_s, "given": dict(given or {})}
    out.mkdir(parents=True, exist_ok=True)
    return _drawn({name: made[name] for name in names or made}, options, out, panels=panels)


def _drawn(made: Mapping[str, Any], options: dict[str, Any], out: Path, *, panels: bool) -> dict[str, Any]:
    from playwright.sync_api import sync_playwright

    found: dict[str, Any] = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": WIDTH_PX, "height": 900})
        page.goto(PAGE.as_uri())
        for name, dashboard in made.items():
            found[name] = page.evaluate("([dashboard, options]) => draw(dashboard, options)", [dashboard, options])
            page.screenshot(path=str(out / f"{name}.png"), full_page=True)
            if panels:
                _each_panel(page, out / name)
        browser.close()
    return found


def _each_panel(page: Any, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for index, box in enumerate(page.locator(".panel[data-state]").all()):
        title = re.sub(r"\W+", "-", box.get_attribute("data-title").lower()).strip("-")
        box.screenshot(path=str(folder / f"{index:02}-{title}.png"))


def main(
    prometheus_url: Annotated[str, typer.Argument(help="URL of a Prometheus.")],
    names: Annotated[list[str] | None, typer.Argument(help="Dashboards; all unless given.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the pictures.")] = Path("dashboard-pictures"),
    minutes: Annotated[float, typer.Option(help="Length of the time range.")] = 30,
    end: Annotated[
        float | None, typer.Option(help="Of the time range, in seconds since 1970; now unless given.")
    ] = None,
    scrape_seconds: Annotated[float, typer.Option(help="Between scrapes.")] = 15,
    panels: Annotated[bool, typer.Option("--panels", help="A picture of each panel as well.")] = False,
) -> None:
    """Draw uadray's dashboards from a Prometheus."""
    found = draw(
        prometheus_url, out, names=names or (), minutes=minutes, end=end, scrape_s=scrape_seconds, panels=panels
    )
    for name, each in found.items():
        for panel in each:
            print(f"{panel['state']:<6} {name}: {panel['title']}")


if __name__ == "__main__":
    typer.run(main)
