"""`deploy/monitoring` as it is, for servers of this machine: other addresses, and shorter durations, and nothing else.

What an alert takes hours to say is said in a minute, when each `for`, window and offset is 60 times shorter: the
conditions stay as they are written, thresholds included.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from uadray.errors import InputError

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_DURATION = re.compile(r"(?<![\w.])(\d+)(ms|[smhdw])(?!\w)")
_WINDOW = re.compile(r"(?<=\[)(\d+(?:ms|[smhdw]))(?=\])|(?<=\boffset )(\d+(?:ms|[smhdw]))\b")
_FOR = re.compile(r"^( *for: )(\d+(?:ms|[smhdw]))$", re.M)


def monitoring_folder() -> Path:
    """`deploy/monitoring` of this checkout.

    Raises:
        InputError: uadray was installed without it.
    """
    folder = Path(__file__).parents[2] / "deploy" / "monitoring"
    if not folder.is_dir():
        raise InputError(f"there is no {folder}: this needs a checkout of uadray")
    return folder


def seconds(duration: str) -> float:
    """A duration as Prometheus writes it.

    >>> seconds("15m")
    900.0
    """
    match = _DURATION.fullmatch(duration)
    if match is None:
        raise ValueError(f"no duration: {duration}")
    return int(match[1]) * _UNITS_S[match[2]]


def shortened(rules: str, *, by: float, least_window_s: float) -> str:
    r"""The text of a rule file with shorter durations: after `for:`, in `[...]` and after `offset`; no other character.

    Args:
        rules: the text.
        by: how many times.
        least_window_s: of windows and offsets: several scrapes must be in one.

    >>> shortened("expr: increase(x[15m]) > 900 * 15\nfor: 5m\n", by=60, least_window_s=4)
    'expr: increase(x[15000ms]) > 900 * 15\nfor: 5000ms\n'
    """

    def window(match: re.Match[str]) -> str:
        return f"{round(1000 * max(least_window_s, seconds(match[0]) / by))}ms"

    def wait(match: re.Match[str]) -> str:
        return f"{match[1]}{round(1000 * seconds(match[2]) / by)}ms"

    return _FOR.sub(wait, _WINDOW.sub(window, rules))


def without_durations(rules: str) -> str:
    """A rule file's text with a mark in the place of each duration that `shortened` changes."""
    return _FOR.sub(r"\1-", _WINDOW.sub("-", rules))


def write_monitoring(
    folder: Path, *, prometheus: str, alertmanager: str, exporter: str, discovery: Path, notify: str, scrape_s: float,
    shorter_by: float, least_window_s: float,
) -> None:  # fmt: skip
    """Write `prometheus.yml`, `rules/` and `alertmanager.yml` into `folder`.

    Args:
        folder: where to.
        prometheus: its own host:port.
        alertmanager: likewise.
        exporter: likewise.
        discovery: the file in which Ray names its nodes.
        notify: URL that takes what Alertmanager tells; in the place of each of its receivers.
        scrape_s: between scrapes, and between evaluations.
        shorter_by: see `shortened`.
        least_window_s: see `shortened`.
    """
    source = monitoring_folder()
    (folder / "rules").mkdir(parents=True, exist_ok=True)
    for path in (source / "rules").glob("*.yml"):
        text = path.read_text(encoding="utf-8")
        (folder / "rules" / path.name).write_text(shortened(text, by=shorter_by, least_window_s=least_window_s))
    config = yaml.safe_load((source / "prometheus.yml").read_text(encoding="utf-8"))
    config["global"] |= dict.fromkeys(("scrape_interval", "scrape_timeout", "evaluation_interval"), f"{scrape_s:g}s")
    addresses = {"localhost:9090": prometheus, "localhost:9093": alertmanager, "localhost:9464": exporter}
    for job in [*config["scrape_configs"], *config["alerting"]["alertmanagers"]]:
        for static in job.get("static_configs", ()):
            static["targets"] = [addresses[target] for target in static["targets"]]
        for file in job.get("file_sd_configs", ()):
            file |= {"files": [str(discovery)], "refresh_interval": "1s"}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    told = yaml.safe_load((source / "alertmanager.yml").read_text(encoding="utf-8"))
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(_alertmanager(told, notify, shorter_by)))


def _alertmanager(config: dict[str, Any], notify: str, shorter_by: float) -> dict[str, Any]:
    """The same routes and inhibitions, faster; each receiver is one URL."""
    receivers = [{"name": each["name"], "webhook_configs": [{"url": notify}]} for each in config["receivers"]]
    return config | {"receivers": receivers, "route": _faster(config["route"], shorter_by)}


def _faster(route: Mapping[str, Any], by: float) -> dict[str, Any]:
    waits = ("group_wait", "group_interval", "repeat_interval")
    made = {k: f"{max(1, round(1000 * seconds(v) / by))}ms" if k in waits else v for k, v in route.items()}
    return made | ({"routes": [_faster(each, by) for each in route["routes"]]} if "routes" in route else {})
