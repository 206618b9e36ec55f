"""The queries of the dashboards, as tests ask them: with the values that Grafana would put in for its variables."""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from uadray.commands import dashboards


class Query(NamedTuple):
    """One query of a panel.

    Attributes:
        board: name of the dashboard.
        panel: title of the panel.
        expr: with variables.
        legend: of its series.
        is_instant: whether the end of the time range alone is asked for.
    """

    board: str
    panel: str
    expr: str
    legend: str = ""
    is_instant: bool = False

    def filled(self) -> str:
        """With all values of each variable."""
        built = {"__rate_interval": "1m", "__range": "10m", "run": ".+"}
        return re.sub(r"\$(\w+)", lambda found: built.get(found[1], ".*"), self.expr)


def boards() -> dict[str, Any]:
    """Name -> the dashboard's JSON."""
    return {name.removesuffix(".json"): json.loads(text) for name, text in dashboards.texts().items()}


def of_panels() -> Iterator[Query]:
    """Every query of every panel."""
    for name, board in boards().items():
        for panel in board["panels"]:
            for target in panel.get("targets", ()):
                yield Query(name, panel["title"], target["expr"], target["legendFormat"], target["instant"])


def of_variables() -> Iterator[Query]:
    """What the variables' values are asked for with, as queries."""
    for name, board in boards().items():
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                found = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
                assert found is not None, variable["name"]
                yield Query(name, f"${variable['name']}", f"sum by ({found[2]}) ({found[1]})")


def series(expr: str) -> list[tuple[str, dict[str, str]]]:
    """Metrics in a query, and what their labels are compared with."""
    without = re.sub(r"(by|on) \([^)]*\)", "", expr)
    found = re.findall(r"\b((?:ray_)?uadray_\w+|ray_\w+|ALERTS)\b(?:\{([^}]*)\})?", without)
    names = [(name, matchers) for name, matchers in found if name != "ray_io_cluster"]
    return [(name, dict(re.findall(r'(\w+)(?:=~|!~|!=|=)"([^"]*)"', matchers))) for name, matchers in names]
