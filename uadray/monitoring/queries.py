"""PromQL for dashboards: what a series is narrowed to by the dashboard's variables, and how series are put together.

Ray exports each metric once a process, so every query sums; `by` names the labels that stay.
"""

from typing import Any

from uadray.monitoring.panels import DATASOURCE, Json, target

CLUSTER = 'SessionName=~"$SessionName",ray_io_cluster=~"$Cluster"'
"""Ray's own labels, with the names that its dashboards give to their variables."""

RUN = f'{CLUSTER},run=~"$run"'

SCREENING = 'screening=~"$screening"'

APPLICATION = f'{CLUSTER},application=~"$Application"'

OF_CLUSTER = "ray_node_network_receive_speed"
"""The metric that Ray's own dashboards take the names of clusters and sessions from."""


def of_run(metric: str, where: str = "") -> str:
    """Series of `uadray.metrics`, which Ray exports with a prefix."""
    return f"ray_{metric}{{{_both(RUN, where)}}}"


def of_screening(metric: str, where: str = "") -> str:
    """Series of `uadray exporter`."""
    return f"{metric}{{{_both(SCREENING, where)}}}"


def of_serve(metric: str, where: str = "") -> str:
    """Series of Ray Serve."""
    return f"{metric}{{{_both(APPLICATION, where)}}}"


def total(series: str, by: str = "") -> str:
    """Their sum, by labels."""
    return _aggregated("sum", series, by)


def highest(series: str, by: str = "") -> str:
    """Their highest, by labels: of what each process tells anew, and of ages."""
    return _aggregated("max", series, by)


def rate(series: str, by: str = "") -> str:
    """What counters gain a second, by labels."""
    return total(f"rate({series}[$__rate_interval])", by)


def gain(series: str, by: str = "") -> str:
    """What counters gain in the dashboard's time range, by labels."""
    return total(f"increase({series}[$__range])", by)


def ratio(over: str, under: str, on: str | None = None) -> str:
    """One by the other, for the labels `on`; nothing where the divisor is 0, rather than a share that is none."""
    match = "" if on is None else f"on ({on}) group_left () "
    return f"({over}) / {match}(({under}) > 0)"


def with_total(series: str, by: str) -> list[Json]:
    """Queries of what counters gain an hour: in all, and by a label, of those values that occur."""
    of_value = f"3600 * {rate(series, by)} > 0"
    return [target(f"3600 * {rate(series)}", "all"), target(of_value, f"{{{{{by}}}}}")]


def quantile(share: float, buckets: str, by: str) -> str:
    """A quantile of a histogram, by labels."""
    return f"histogram_quantile({share}, {rate(buckets, f'le, {by}' if by else 'le')})"


def datasource_variable() -> Json:
    """Which Prometheus is asked."""
    return _variable("datasource", "datasource", "Prometheus", "prometheus", refresh=1) | {
        "includeAll": False, "multi": False, "regex": "",
    }  # fmt: skip


def cluster_variables() -> list[Json]:
    """Ray's own: the cluster, where Kubernetes names it, and the session, which a cluster has one of in its life."""
    of_cluster = f'{OF_CLUSTER}{{ray_io_cluster=~"$Cluster"}}'
    return [
        _label("Cluster", "Ray cluster", OF_CLUSTER, "ray_io_cluster"),
        _label("SessionName", "Ray session", of_cluster, "SessionName"),
    ]


def run_variable(kinds: str) -> Json:
    """Runs of these kinds, a regular expression."""
    info = f'ray_uadray_run_info{{{CLUSTER},kind=~"{kinds}"}}'
    return _label("run", "Run", info, "run", is_many=True, all_value=None)


def screening_variable() -> Json:
    """Screenings that the exporter reads."""
    return _label("screening", "Screening", "uadray_ledger_up", "screening", is_many=True)


def application_variable() -> Json:
    """Applications of Ray Serve; as on Ray's own dashboard of Serve."""
    series = f"ray_serve_deployment_replica_healthy{{{CLUSTER}}}"
    return _label("Application", "Application", series, "application", is_many=True)


def deployment_variable() -> Json:
    """Deployments that scale."""
    series = of_serve("ray_serve_autoscaling_target_replicas")
    return _label("Deployment", "Deployment", series, "deployment", is_many=True, all_value=None)


def ray_link(uid: str, title: str) -> Json:
    """A link to one of Ray's own dashboards; it keeps the time range and the variables that have the same names."""
    return _link(title, type_="link", url=f"/d/{uid}", tooltip="Drawn by Ray")


def own_links() -> Json:
    """A list of uadray's dashboards."""
    return _link("uadray", type_="dashboards", tags=["uadray"], is_dropdown=True, tooltip="uadray's dashboards")


def _both(first: str, second: str) -> str:
    return f"{first},{second}" if second else first


def _aggregated(operation: str, series: str, by: str) -> str:
    return f"{operation} by ({by}) ({series})" if by else f"{operation}({series})"


def _variable(name: str, kind: str, label: str, query: Any, *, refresh: int) -> Json:
    return {
        "current": {"selected": False, "text": "", "value": ""}, "hide": 0,
        "id": "00000000-0000-0000-0000-000000000000",
        "label": label, "name": name, "query": query, "refresh": refresh, "skipUrlSync": False, "type": kind,
    }  # fmt: skip


def _label(name: str, label: str, series: str, of: str, *, is_many: bool = False, all_value: str | None = ".*") -> Json:
    """A variable with a label's values, of which all are chosen at first.

    Without `all_value`, all are the values found: a run of another kind stays out.
    """
    made = _variable(name, "query", label, {"query": f"label_values({series}, {of})", "refId": name}, refresh=2)
    made |= {
        "current": {"selected": True, "text": "All", "value": "$__all"}, "datasource": DATASOURCE, "includeAll": True,
        "multi": is_many, "regex": "", "sort": 1,
    }  # fmt: skip
    return made if all_value is None else made | {"allValue": all_value}


def _link(
    title: str,
    *,
    type_: str,
    url: str = "",
    tags: list[str] | None = None,
    is_dropdown: bool = False,
    tooltip: str = "",
) -> Json:
    return {
        "asDropdown": is_dropdown, "icon": "external link", "includeVars": True, "keepTime": True, "tags": tags or [],
        "targetBlank": False, "title": title, "tooltip": tooltip, "type": type_, "url": url,
    }  # fmt: skip
