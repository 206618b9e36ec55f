"""Panels and dashboards as Grafana 11 and 12 take them: plain functions that make their JSON.

Every panel has a title, a description that says what its figures mean and what to do about them, a unit and a legend.
What is written here is what grafana-foundation-sdk knows, with all that it would add, so that a dashboard that has gone
through it is the same.
Schema: https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

Json = dict[str, Any]

DATASOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}

GREEN, YELLOW, RED, BLUE, GREY = "green", "yellow", "red", "blue", "#8e8e8e"

WIDTH = 24
"""Columns of a dashboard."""

Format = Literal["time_series", "table", "heatmap"]


def target(expr: str, legend: str, *, instant: bool = False, form: Format = "time_series", hide: bool = False) -> Json:
    """One query and the name of what it answers; `{{label}}` in it stands for a label's value.

    Args:
        expr: PromQL.
        legend: name of each series.
        instant: ask for the end of the time range alone.
        form: heatmap takes the counts of a histogram's buckets apart.
        hide: asked, and not drawn.
    """
    return {
        "datasource": DATASOURCE, "editorMode": "code", "exemplar": False, "expr": expr, "format": form, "hide": hide,
        "instant": instant, "legendFormat": legend, "range": not instant, "refId": "A",
    }  # fmt: skip


def steps(*above: tuple[float, str], base: str = GREEN) -> list[Json]:
    """Colours of a value: `base`, and another one from each value on."""
    return [{"color": base, "value": None}, *({"color": color, "value": value} for value, color in above)]


def words(names: Mapping[int, tuple[str, str]]) -> list[Json]:
    """What the numbers of a state mean: number -> word, colour."""
    options = {
        str(number): {"color": color, "index": index, "text": text}
        for index, (number, (text, color)) in enumerate(names.items())
    }
    return [{"options": options, "type": "value"}]


def named(pattern: str, **properties: Any) -> Json:
    """Another look for the series whose name fits a regular expression; `__` in a property's name is a point."""
    return {
        "matcher": {"id": "byRegexp", "options": f"/^(?:{pattern})$/"},
        "properties": [{"id": name.replace("__", "."), "value": value} for name, value in properties.items()],
    }


def column(name: str, **properties: Any) -> Json:
    """Another look for a table's column, by its name; see `named`."""
    return {
        "matcher": {"id": "byName", "options": name},
        "properties": [{"id": key.replace("__", "."), "value": value} for key, value in properties.items()],
    }


def line(color: str = RED) -> dict[str, Any]:
    """Properties of a limit: a dashed line that is in no stack and has no filling."""
    return {
        "custom__lineStyle": {"dash": [8, 6], "fill": "dash"},
        "custom__fillOpacity": 0,
        "custom__stacking": {"group": "limit", "mode": "none"},
        "color": {"fixedColor": color, "mode": "fixed"},
    }


def time_series(
    title: str,
    description: str,
    targets: Sequence[Json],
    *,
    unit: str,
    is_stacked: bool = False,
    is_log: bool = False,
    least: float | None = 0,
    most: float | None = None,
    decimals: int | None = None,
    calcs: Sequence[str] = ("mean", "lastNotNull"),
    legend: Literal["bottom", "right"] = "bottom",
    thresholds: Sequence[Json] | None = None,
    overrides: Sequence[Json] = (),
    size: tuple[int, int] = (12, 8),
    repeat: str | None = None,
) -> Json:
    """Values over time.

    Args:
        title: of the panel.
        description: what is drawn, and what to do about it.
        targets: queries.
        unit: Grafana's name of it.
        is_stacked: one on the other.
        is_log: a logarithmic axis.
        least: of the axis.
        most: of the axis.
        decimals: of values; as many as tell them apart unless given.
        calcs: columns of the legend.
        legend: where it is; beside the picture where there are many series.
        thresholds: drawn as lines.
        overrides: other looks for some series.
        size: columns and rows.
        repeat: a variable; one panel a value of it.
    """
    custom = {
        "axisPlacement": "auto", "drawStyle": "line", "fillOpacity": 30 if is_stacked else 8, "lineWidth": 2,
        "scaleDistribution": {"log": 10, "type": "log"} if is_log else {"type": "linear"}, "showPoints": "auto",
        "pointSize": 4, "spanNulls": False, "stacking": {"group": "A", "mode": "normal" if is_stacked else "none"},
        "thresholdsStyle": {"mode": "dashed" if thresholds else "off"},
    }  # fmt: skip
    options = {
        "legend": {"calcs": list(calcs), "displayMode": "table", "placement": legend, "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    defaults = _defaults(unit, least=least, most=most, decimals=decimals, thresholds=thresholds, custom=custom)
    made = _panel("timeseries", title, description, targets, defaults, options, size=size, overrides=overrides)
    return made if repeat is None else made | {"repeat": repeat}


def stat(
    title: str,
    description: str,
    targets: Sequence[Json],
    *,
    unit: str,
    decimals: int | None = None,
    thresholds: Sequence[Json] | None = None,
    mappings: Sequence[Json] = (),
    graph: bool = True,
    name: bool = False,
    calc: str = "lastNotNull",
    size: tuple[int, int] = (4, 4),
) -> Json:
    """One figure, with its course behind it; several, with their names, where a query answers several."""
    options = {
        "colorMode": "value", "graphMode": "area" if graph else "none", "justifyMode": "auto", "orientation": "auto",
        "reduceOptions": {"calcs": [calc], "fields": "", "values": False},
        "textMode": "value_and_name" if name else "value",
    }  # fmt: skip
    mode = "thresholds" if thresholds or mappings else "fixed"
    defaults = _defaults(unit, thresholds=thresholds, mappings=mappings, mode=mode, decimals=decimals)
    return _panel("stat", title, description, targets, defaults, options, size=size)


def bars(
    title: str,
    description: str,
    targets: Sequence[Json],
    *,
    unit: str,
    least: float | None = 0,
    most: float | None = None,
    decimals: int | None = None,
    thresholds: Sequence[Json] | None = None,
    upright: bool = False,
    size: tuple[int, int] = (12, 8),
) -> Json:
    """One bar a series, of its last value."""
    options = {
        "displayMode": "basic", "minVizHeight": 16, "minVizWidth": 8,
        "orientation": "vertical" if upright else "horizontal",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "showUnfilled": True, "valueMode": "color",
    }  # fmt: skip
    mode = "thresholds" if thresholds else "fixed"
    defaults = _defaults(unit, least=least, most=most, thresholds=thresholds, mode=mode, decimals=decimals)
    return _panel("bargauge", title, description, targets, defaults, options, size=size)


def table(
    title: str,
    description: str,
    targets: Sequence[Json],
    *,
    columns: Mapping[str, str],
    unit: str = "none",
    sort_by: str | None = None,
    overrides: Sequence[Json] = (),
    mappings: Sequence[Json] = (),
    size: tuple[int, int] = (12, 8),
) -> Json:
    """A row a series, at the end of the time range.

    Args:
        title: of the panel.
        description: what is shown, and what to do about it.
        targets: queries, asked as tables; the value of each is a column `Value #A`, of one alone `Value`.
        columns: labels and values shown, in their order, and what each is called; every other one is hidden.
        unit: of the values.
        sort_by: a column by its new name, the largest first.
        overrides: other looks for columns.
        mappings: words for values.
        size: columns and rows.
    """
    asked = [one | {"format": "table", "instant": True, "range": False} for one in targets]
    transformations: list[Json] = [] if len(asked) == 1 else [{"id": "merge", "options": {}}]
    order = {name: index for index, name in enumerate(columns)}
    transformations += [
        {"id": "filterFieldsByName", "options": {"include": {"names": list(columns)}}},
        {"id": "organize", "options": {"excludeByName": {}, "indexByName": order, "renameByName": dict(columns)}},
    ]
    options: Json = {
        "cellHeight": "sm", "footer": {"countRows": False, "fields": "", "reducer": ["sum"], "show": False},
        "frameIndex": 0, "showHeader": True,
        "sortBy": [{"desc": True, "displayName": sort_by}] if sort_by else [],
    }  # fmt: skip
    custom = {"align": "auto", "cellOptions": {"type": "auto"}, "inspect": False}
    defaults = _defaults(unit, mappings=mappings, mode="thresholds", custom=custom)
    made = _panel("table", title, description, asked, defaults, options, size=size, overrides=overrides)
    return made | {"transformations": transformations}


def row(title: str, *panels: Json) -> list[Json]:
    """A headline over panels."""
    head = {"collapsed": False, "datasource": DATASOURCE, "panels": [], "title": title, "type": "row"}
    return [head, *panels]


def laid_out(rows: Sequence[Sequence[Json]]) -> list[Json]:
    """Panels with their numbers and places: from left to right, and below where a line is full."""
    placed: list[Json] = []
    y = 0
    for group in rows:
        x = tallest = 0
        for panel in group:
            width, height = (WIDTH, 1) if panel["type"] == "row" else (panel["gridPos"]["w"], panel["gridPos"]["h"])
            if x + width > WIDTH:
                x, y, tallest = 0, y + tallest, 0
            placed.append(panel | {"gridPos": {"h": height, "w": width, "x": x, "y": y}, "id": len(placed) + 1})
            x, tallest = x + width, max(tallest, height)
        y += tallest
    return placed


def dashboard(
    uid: str,
    title: str,
    description: str,
    rows: Sequence[Sequence[Json]],
    *,
    variables: Sequence[Json],
    links: Sequence[Json],
    hours: int = 6,
) -> Json:
    """The whole; the time range is the last `hours`."""
    return {
        "annotations": {"list": []}, "description": description, "editable": True, "fiscalYearStartMonth": 0,
        "graphTooltip": 1, "links": list(links), "panels": laid_out(rows), "refresh": "30s", "schemaVersion": 39,
        "style": "dark", "tags": ["uadray"], "templating": {"list": list(variables)},
        "time": {"from": f"now-{hours}h", "to": "now"}, "timezone": "browser", "title": title, "uid": uid,
    }  # fmt: skip


def _defaults(
    unit: str,
    *,
    least: float | None = None,
    most: float | None = None,
    decimals: int | None = None,
    thresholds: Sequence[Json] | None = None,
    mappings: Sequence[Json] = (),
    mode: str = "palette-classic",
    custom: Json | None = None,
) -> Json:
    color: Json = {"fixedColor": BLUE, "mode": "fixed"} if mode == "fixed" else {"mode": mode}
    found: Json = {
        "color": color, "mappings": list(mappings), "unit": unit,
        "thresholds": {"mode": "absolute", "steps": list(thresholds or steps())},
    }  # fmt: skip
    optional = {"min": least, "max": most, "decimals": decimals, "custom": custom}
    return found | {name: value for name, value in optional.items() if value is not None}


def _panel(
    kind: str,
    title: str,
    description: str,
    targets: Sequence[Json],
    defaults: Json,
    options: Json,
    *,
    size: tuple[int, int],
    overrides: Sequence[Json] = (),
) -> Json:
    width, height = size
    return {
        "datasource": DATASOURCE, "description": description,
        "fieldConfig": {"defaults": defaults, "overrides": list(overrides)}, "gridPos": {"h": height, "w": width},
        "options": options, "repeatDirection": "h", "title": title, "transformations": [], "transparent": False,
        "targets": [one | {"refId": chr(ord("A") + index)} for index, one in enumerate(targets)], "type": kind,
    }  # fmt: skip
