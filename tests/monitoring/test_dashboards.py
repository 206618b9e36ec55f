"""Dashboards: the files are what the code makes, Grafana's own library loses nothing, and no two panels overlap."""

import json
import re
from itertools import pairwise
from typing import Any

import pytest
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
from house import ROOT

from uadray.commands import dashboards
from uadray.errors import WorkError

TEXTS = dashboards.texts()

MADE: dict[str, dict[str, Any]] = {name: json.loads(text) for name, text in TEXTS.items()}

ADDED = {"auto", "auto_count", "auto_min", "showTypeIcons"}
"""What the library adds to variables and tables: its defaults for what does not concern them."""

every_dashboard = pytest.mark.parametrize("name", sorted(MADE))


def _panels(name: str) -> list[dict[str, Any]]:
    return [panel for panel in MADE[name]["panels"] if panel["type"] != "row"]


def _differences(before: Any, after: Any, path: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        lost = [f"{path}/{key} is lost" for key in before.keys() - after.keys()]
        added = [f"{path}/{key} is added" for key in after.keys() - before.keys() - ADDED]
        both = before.keys() & after.keys()
        return [*lost, *added, *(one for key in both for one in _differences(before[key], after[key], f"{path}/{key}"))]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = enumerate(zip(before, after, strict=True))
        return [one for index, (old, new) in pairs for one in _differences(old, new, f"{path}/{index}")]
    return [] if before == after and type(before) is type(after) else [f"{path}: {before!r} became {after!r}"]


def test_the_files_are_what_the_code_makes() -> None:
    assert dashboards.run(str(ROOT / "dashboards"), check=True)["dashboards"] == sorted(MADE)
    assert {path.name for path in (ROOT / "dashboards").glob("*.json")} == set(MADE)


def test_a_stale_file_is_named(tmp_path: Any) -> None:
    dashboards.run(str(tmp_path), check=False)
    assert dashboards.run(str(tmp_path), check=True)
    (tmp_path / "cost.json").write_text("{}")
    with pytest.raises(WorkError, match=r"stale in .*: cost\.json; run `uadray dashboards"):
        dashboards.run(str(tmp_path), check=True)


@every_dashboard
def test_grafanas_library_loses_nothing(name: str) -> None:
    plugins.register_default_plugins()
    after = json.loads(JSONEncoder().encode(Dashboard.from_json(json.loads(TEXTS[name]))))
    assert _differences(MADE[name], after) == []


def test_what_is_lost_would_be_seen() -> None:
    assert _differences({"a": [{"b": 1}], "c": None}, {"a": [{"b": 2, "auto": False}], "d": 1}) == [
        "/c is lost", "/d is added", "/a/0/b: 1 became 2",
    ]  # fmt: skip


@every_dashboard
def test_every_panel_says_what_it_shows(name: str) -> None:
    for panel in _panels(name):
        assert panel["title"], name
        assert len(panel["description"]) > 10, panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]
        assert panel["type"] == "table" or all(target["legendFormat"] for target in panel["targets"]), panel["title"]


@every_dashboard
def test_panels_lie_side_by_side(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in MADE[name]["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells
    tops = [panel["gridPos"]["y"] for panel in MADE[name]["panels"]]
    assert all(first <= second for first, second in pairwise(tops))


@every_dashboard
def test_each_variable_in_a_query_is_the_dashboards(name: str) -> None:
    known = {variable["name"] for variable in MADE[name]["templating"]["list"]}
    for panel in _panels(name):
        for target in panel["targets"]:
            used = set(re.findall(r"\$(\w+)", target["expr"])) - {"__rate_interval", "__range"}
            assert used <= known, (panel["title"], used - known)


def test_they_are_told_apart_and_found_together() -> None:
    assert len({made["uid"] for made in MADE.values()}) == len({made["title"] for made in MADE.values()}) == len(MADE)
    assert all(8 <= len(made["uid"]) <= 40 and made["tags"] == ["uadray"] for made in MADE.values())


def test_alerts_lead_to_a_dashboard() -> None:
    rules = (ROOT / "deploy" / "monitoring" / "rules" / "alerts.yml").read_text(encoding="utf-8")
    named = set(re.findall(r"^ +dashboard_url: /d/(\S+)$", rules, re.M))
    assert named
    assert named <= {made["uid"] for made in MADE.values()}
