"""`bench partition`: a worker is cut off for a minute in the middle of a screening that was handed over as a Ray job.

Three Ray nodes, each in a network namespace (see `uadray.bench.network`), with a token; S3 (SeaweedFS) on a fourth
host, and a fifth, without a Ray node, from which `ray job submit` sends `uadray screen`. When a third of the slides is
decided, iptables on one worker drops all that comes and goes. After a minute it is let through again; its Ray node,
which finds itself declared dead, ends, and is started again as systemd does.

Each slide takes `SLOW_S` longer to open than it would, without work, so that two cores can stand for three machines:
the rate follows the number of readers.

Where Prometheus is installed (Debian: prometheus) it runs beside the head, with `uadray exporter`, and its data stays
in `--out`.

Needs root, `ip`, `unshare` and `iptables`: where they are missing `goals_met` is null, and `skipped` says why.
"""

import json
import os
import secrets
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from uadray.bench import sabotage
from uadray.bench.command import Command, is_named, shortened
from uadray.bench.faults import Stage, ledger_figures, made_stage
from uadray.bench.network import what_is_missing
from uadray.bench.processes import SCORER, title
from uadray.bench.ray_nodes import DASHBOARD_PORT, Cluster, RayNode, ray_cluster
from uadray.bench.scraping import Scraping, scraped
from uadray.cluster.patience import KEEPALIVE
from uadray.errors import WorkError
from uadray.screening import decision_segments

GOALS = {"lost": 0, "doubled": 0, "wrongly_failed": 0, "exit_status": 0, "noticed_s": 40.0}
"""The most of each figure. A node that is lost is noticed after 25 s by `HEALTH`, and then the driver has to see it."""

HEAD, CUT, OTHER, DESK, STORE = range(5)
"""The hosts: three Ray nodes, the one from which the job is sent, and the one of S3."""

CPUS = 2
SLOW_S = 5.0
CUT_S = 60.0
LIMIT_S = 220.0
"""A job that takes longer counts as one that does not end, and is killed."""

HEALTH = {
    "RAY_health_check_period_ms": "2000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "5",
    **KEEPALIVE,
}
"""As in deploy/machines.md: a node is declared dead after 5 x (2 + 3) s, and a request to it that hangs ends."""


@dataclass
class Story:
    """What was seen, in seconds since the job was sent.

    Attributes:
        seen: for each look how many slides were decided.
        events: when it began, was cut off, noticed, let through and back; when 80 and 95 % were done.
    """

    seen: list[tuple[float, int]] = field(default_factory=list)
    events: dict[str, float] = field(default_factory=dict)

    def per_second(self, since: str, until: str) -> float | None:
        """Decisions a second between two events; None where one of them did not come."""
        if since not in self.events or until not in self.events:
            return None
        within = [(at, n) for at, n in self.seen if self.events[since] <= at <= self.events[until]]
        if len(within) < 2:
            return None
        return round((within[-1][1] - within[0][1]) / (within[-1][0] - within[0][0]), 2)

    def rates(self) -> dict[str, float | None]:
        """Decisions a second with all nodes, while one was cut off (noticed or not), with it back, and at the end."""
        spans = {"before": ("first", "cut"), "while": ("cut", "through"), "after": ("back", "nearly_done")}
        return {
            name: self.per_second(*span) for name, span in (spans | {"at_the_end": ("late", "nearly_done")}).items()
        }


def run(*, slides: int = 150, out: str | None = None) -> dict[str, Any]:
    """Play it and return the figures; four minutes.

    Args:
        slides: how many slides, of three parts each.
        out: folder in which Prometheus' data stays; without one it is thrown away.
    """
    missing = what_is_missing("iptables")
    if missing:
        return {"skipped": missing, "goals": GOALS, "goals_met": None}
    with made_stage(slides) as stage, _cluster(stage) as cluster, tempfile.TemporaryDirectory() as unkept:
        network, out_uri = stage.network, f"{stage.bucket}/out"
        with scraped(
            Path(out or unkept).resolve(), inside=cluster.inside[HEAD], address=network.address(HEAD),
            discovery=cluster.temporary / "prom_metrics_service_discovery.json", out_uri=out_uri,
            environment=cluster.environment,
        ) as prometheus:  # fmt: skip
            figures = _screened(stage, cluster, out_uri) | {"scraped": _asked(prometheus)}
        figures |= ledger_figures(stage, "out")
    over = [name for name, most in GOALS.items() if figures[name] is None or figures[name] > most]
    return {"slides": slides, "cores": os.cpu_count(), **figures, "missed": over, "goals": GOALS, "goals_met": not over}


@contextmanager
def _cluster(stage: Stage) -> Iterator[Cluster]:
    """Three nodes with slow slides; what is not the head is started again whenever it ends."""
    path = os.pathsep.join([str(stage.folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    common = HEALTH | {"PYTHONPATH": path, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    nodes = [
        RayNode(
            host, CPUS, {sabotage.FAULT: f"slow:{SLOW_S}", "UADRAY_CACHE": str(stage.folder / f"cache{host}")},
            restarts=host != HEAD,
        )
        for host in (HEAD, CUT, OTHER)
    ]  # fmt: skip
    with ray_cluster(stage.network, nodes, common, dashboard=True) as cluster:
        yield cluster


def _screened(stage: Stage, cluster: Cluster, out_uri: str) -> dict[str, Any]:
    """Hand the job over once all nodes are there, and follow it to its end with the cut midway."""
    network, story, n = stage.network, Story(), len(stage.slide_ids)
    head, address, began = network.address(HEAD), network.address(CUT), datetime.now(UTC)
    _wait_for_nodes(cluster, head, 3)
    with Command(_job(stage, cluster, out_uri), cluster.environment) as command:
        scorer_cut_off = False
        while (status := command.wait(0.5)) is None and command.seconds < LIMIT_S:
            decided, alive = len(decision_segments.list_decisions(out_uri)), _living(cluster, head)
            now = command.seconds
            story.seen.append((now, decided))
            event = next_event(story, decided, n, is_alive=address in alive if alive else None)
            if event == "cut":
                scorer_cut_off = any(title(pid).startswith(SCORER) for pid in network.pids(CUT))
                network.drop(CUT)
            elif event == "through":
                network.undrop(CUT)
            if event:
                story.events[event] = now
        seconds = command.seconds
    events = story.events
    return {
        "seconds": round(seconds, 1), "exit_status": status, "began": began.isoformat(timespec="seconds"),
        "events": {name: round(at, 1) for name, at in events.items()}, "scorer_cut_off": scorer_cut_off,
        "noticed_s": round(events["noticed"] - events["cut"], 1) if "noticed" in events else None,
        "back_s": round(events["back"] - events["through"], 1) if "back" in events else None,
        "per_second": story.rates(), "is_named": is_named(command.lines, address),
        "printed": shortened(command.lines),
    }  # fmt: skip


def next_event(story: Story, decided: int, n: int, *, is_alive: bool | None) -> str:
    """What has come about since the last look; empty for nothing."""
    events, now = story.events, story.seen[-1][0]
    due = {
        "first": decided > 0,
        "cut": decided >= n / 3,
        "noticed": "cut" in events and is_alive is False,
        "through": "cut" in events and now - events["cut"] >= CUT_S,
        "back": "through" in events and is_alive is True,
        "late": "back" in events and decided >= 0.8 * n,
        "nearly_done": "back" in events and decided >= 0.95 * n,
    }
    return next((name for name, has_come in due.items() if has_come and name not in events), "")


def _wait_for_nodes(cluster: Cluster, head: str, n: int, *, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while len(_living(cluster, head)) < n:
        if time.monotonic() > deadline:
            raise WorkError(f"the cluster does not start: {cluster.log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.5)


def _living(cluster: Cluster, head: str) -> set[str]:
    """Addresses of the nodes that the head takes for alive; none where it does not answer."""
    header = {"Authorization": f"Bearer {cluster.environment['RAY_AUTH_TOKEN']}"}
    request = urllib.request.Request(f"{_dashboard(head)}/api/v0/nodes", headers=header)  # noqa: S310 - ours
    with suppress(OSError, ValueError, KeyError), urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310
        nodes = json.load(answer)["data"]["result"]["result"]
        return {node["node_ip"] for node in nodes if node["state"] == "ALIVE"}
    return set()


def _job(stage: Stage, cluster: Cluster, out_uri: str) -> list[str]:
    """`ray job submit`, typed on a machine that has the token and no Ray node."""
    binaries = Path(sys.executable).parent
    submit = [str(binaries / "ray"), "job", "submit", "--address", _dashboard(stage.network.address(HEAD)), "--"]
    screen = [str(binaries / "uadray"), "screen", f"{stage.bucket}/bundle"]
    screen += ["--slides", f"{stage.bucket}/manifest.csv", "--out", out_uri]
    return [*stage.network.inside(DESK), *submit, *screen]


def _dashboard(head: str) -> str:
    return f"http://{head}:{DASHBOARD_PORT}"


def _asked(prometheus: Scraping | None) -> dict[str, Any] | None:
    """What Prometheus has kept, before it ends: to be compared with the ledger."""
    if prometheus is None:
        return None
    scored = prometheus.number('sum(ray_uadray_slides_total{state="scored"})')
    return {
        "targets": sorted(series["metric"]["instance"] for series in prometheus.ask("up")), "slides_counted": scored,
        "nodes_seen": prometheus.number('max_over_time(count(up{job="ray"} == 1)[1h:5s])'),
        "least_nodes": prometheus.number('min_over_time(count(up{job="ray"} == 1)[3m:5s])'),
        "series": prometheus.number('count({job="ray"})'),
        "ledger_slides": prometheus.number('sum(uadray_ledger_slides{state="scored"})'),
    }  # fmt: skip
