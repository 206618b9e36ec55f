"""`bench serve --only scale`: replicas over time in a burst of slides, and an endpoint that is changed while it works.

Burst: `SLIDES` slides come at once to an endpoint that has no replica of `SlideStage` and one of `AllStages`. Serve's
status is looked at twice a second, and Ray's metrics every ten seconds, as Prometheus would: both say how many replicas
there are. Afterwards it is waited until there are as few as before.

Change: clients send tiles all the time while the bundle of a name is put anew (`PUT /v1/bundles/{name}`), and while the
file is deployed again with another option of the stages. No request may fail, and from some request on the answers are
of the new bundle.
"""

import re
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any, Self

from uadray.bench.endpoint import Endpoint, running_endpoint
from uadray.bench.serve_kills import TileClients
from uadray.bench.serve_material import Material, asked, mosaics_or_painted, npz_request, tiles
from uadray.bench.slides import write_calibration
from uadray.config import parse_config
from uadray.detectors.building import build_networks
from uadray.detectors.bundle import Bundle, write_bundle
from uadray.errors import WorkError
from uadray.screening import decision_segments
from uadray.training.config import TrainConfig, detector_of

GOALS = {"lost_requests": 0, "undecided": 0, "most_slide_replicas": 3, "up_s": 60.0, "down_s": 120.0}
"""At most: requests that failed while something was changed; slides without a decision; seconds until there are as many
replicas as there may be, and from the last decision until there are as few as before. At least: replicas of
`SlideStage` at the peak."""

SLIDES = 50
MOST = 3
WATCHED = ("SlideStage", "AllStages")

SMALL = {
    "detector": {"kind": "fanogan", "input_px": 32, "width": 4, "latent_dim": 8},
    "tiles": {"mpp": 0.972, "tile_px": 96},
}
"""The detector that takes the place of the first."""

QUICK = {"upscale_delay_s": 1.0, "downscale_delay_s": 10.0, "look_back_period_s": 5.0, "target_ongoing_requests": 2}
"""The endpoint waits a minute before there are fewer replicas: a benchmark does not."""

OPTIONS = {
    name: {"autoscaling_config": QUICK | {"min_replicas": least, "max_replicas": MOST}}
    for name, least in (("SlideStage", 0), ("AllStages", 1))
}

METRIC = re.compile(r"ray_serve_deployment_replica_healthy\{(?P<labels>[^}]*)\} (?P<value>\S+)")


def run(place: Material, *, slides: int = SLIDES) -> dict[str, Any]:
    """Measure; some minutes."""
    most = {"replicas": 1, "max_replicas": MOST, "cpus": 0.5}
    arguments = place.arguments(
        "scale", detector=most, slide={"replicas": 0, "max_replicas": MOST, "cpus": 0}, max_tiles_per_request=256
    )
    rows = mosaics_or_painted(place, slides)
    with running_endpoint(arguments, options=OPTIONS, cpus=4) as endpoint:
        burst = _burst(place, endpoint, asked(rows))
        change = _change(place, endpoint, arguments)
    figures = {
        "lost_requests": change["lost_requests"] + (not change["is_new"]), "undecided": burst["undecided"],
        "most_slide_replicas": burst["most"]["SlideStage"], "up_s": burst["up_s"], "down_s": burst["down_s"],
    }  # fmt: skip
    met = figures["most_slide_replicas"] >= GOALS["most_slide_replicas"] and all(
        figures[name] is not None and figures[name] <= goal
        for name, goal in GOALS.items()
        if name != "most_slide_replicas"
    )
    return figures | {"slides": slides, "burst": burst, "change": change, "met": met}


def _burst(place: Material, endpoint: Endpoint, slides: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The replicas while slides come, and after them."""
    out = f"{place.root}/scale"

    def decided() -> int:
        return len(decision_segments.list_decisions(out))

    endpoint.wait(lambda: running(endpoint)["SlideStage"] == 0, 60, "scale to zero")
    with ReplicaWatch(endpoint) as watch:
        batch = endpoint.ask("/v1/batches", {"slides": list(slides)})
        if batch.status != 202:
            raise WorkError(f"the bench's own batch: {batch.status} {batch.body[:300]!r}")
        endpoint.wait(lambda: decided() >= len(slides), 600, "decisions", every_s=0.5)
        all_s = watch.seconds()
        _wait_quietly(lambda: running(endpoint)["SlideStage"] == 0 and running(endpoint)["AllStages"] == 1, 180)
    return watch.facts(all_s) | {"undecided": len(slides) - decided(), "all_decided_s": round(all_s, 1)}


def _wait_quietly(condition: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.5)


def running(endpoint: Endpoint) -> dict[str, int]:
    """Replicas that run, by deployment, as Serve says."""
    from ray import serve

    deployments = serve.status().applications["uadray"].deployments
    return {name: int(deployments[name].replica_states.get("RUNNING", 0)) for name in WATCHED}


def metric_replicas() -> dict[str, int]:
    """Replicas that are healthy, by deployment, as Ray's metrics say."""
    import ray

    (node,) = ray.nodes()
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return replicas_of(answer.read().decode())


def replicas_of(metrics: str) -> dict[str, int]:
    """The same, of Ray's metrics as text."""
    found = [(match["labels"], float(match["value"])) for match in METRIC.finditer(metrics)]
    return {
        name: int(sum(value for labels, value in found if f'deployment="{name}"' in labels)) for name in WATCHED
    }  # fmt: skip


class ReplicaWatch:
    """Looks at the replicas all the time. A context manager."""

    METRICS_S = 10.0

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._looks: list[tuple[float, dict[str, int]]] = []
        self._metrics: list[tuple[float, dict[str, int]]] = []
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._go_on, daemon=True)
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()

    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._began

    def facts(self, all_s: float) -> dict[str, Any]:
        """Changes of the replicas, the most there were, and how long they took up and down.

        Args:
            all_s: when all slides were decided.
        """
        up = [at for at, now in self._looks if now["SlideStage"] >= MOST]
        down = [at for at, now in self._looks if at > all_s and now == {"SlideStage": 0, "AllStages": 1}]
        return {
            "most": {name: max(now[name] for _, now in self._looks) for name in WATCHED},
            "up_s": round(up[0], 1) if up else None,
            "down_s": round(down[0] - all_s, 1) if down else None,
            "replicas": changes(self._looks), "metrics": changes(self._metrics),
        }  # fmt: skip

    def _go_on(self) -> None:
        next_metrics = 0.0
        while not self._ends.wait(0.5):
            self._looks.append((self.seconds(), running(self._endpoint)))
            if self.seconds() >= next_metrics:
                next_metrics = self.seconds() + self.METRICS_S
                self._metrics.append((self.seconds(), metric_replicas()))


def changes(looks: Sequence[tuple[float, dict[str, int]]]) -> list[tuple[float, dict[str, int]]]:
    """The looks at which something was other than at the one before, with rounded times.

    >>> changes([(0.5, {"a": 0}), (1.04, {"a": 0}), (1.5, {"a": 2})])
    [(0.5, {'a': 0}), (1.5, {'a': 2})]
    """
    found: list[tuple[float, dict[str, int]]] = []
    for at, now in looks:
        if not found or found[-1][1] != now:
            found.append((round(at, 1), now))
    return found


def _change(place: Material, endpoint: Endpoint, arguments: dict[str, Any]) -> dict[str, Any]:
    """What clients are answered while the bundle and the deployment change."""
    second = f"{place.root}/bundles/b"
    new = write_other_bundle(second, place.bundle)
    request = npz_request(tiles(4, place.bundle.tiles.tile_px))
    with TileClients(endpoint, request) as clients:
        time.sleep(2)
        clients.phase = "bundle"
        put = endpoint.ask("/v1/bundles/a", {"uri": second}, method="PUT")
        if put.status not in (200, 201):
            raise WorkError(f"the bench's own bundle: {put.status} {put.body[:300]!r}")
        time.sleep(8)
        clients.phase = "options"
        before = set(endpoint.pids("AllStages"))
        began = time.monotonic()
        endpoint.deploy(arguments | {"batch_tiles": 32}, OPTIONS)
        endpoint.wait(lambda: _are_new(endpoint, before), 120, "new replicas")
        seconds = time.monotonic() - began
        clients.phase = "after"
        time.sleep(2)
    outcomes = [outcome for phase in clients.outcomes.values() for outcome in phase]
    lost = [each for each in outcomes if each.status != 200]
    return {
        "lost_requests": len(lost), "requests": {phase: len(each) for phase, each in clients.outcomes.items()},
        "why": [f"{each.status} {each.body[:200]}" for each in lost[:5]], "redeployed_s": round(seconds, 1),
        "slowest_s": round(max(each.seconds for each in outcomes), 2),
        "bundles": {phase: len(ids) for phase, ids in clients.bundle_ids.items()},
        "is_new": clients.bundle_ids["after"] == {new.id},
    }  # fmt: skip


def _are_new(endpoint: Endpoint, before: set[int]) -> bool:
    now = set(endpoint.pids("AllStages"))
    return bool(now) and not now & before


def write_other_bundle(uri: str, like: Bundle) -> Bundle:
    """Write another detector, untrained, on the same tiles."""
    config = parse_config(TrainConfig, {**SMALL, "name": "other"}, source="uadray.bench.serve_scale")
    detector = detector_of(config)
    bundle = write_bundle(uri, build_networks(detector), name="other", detector=detector, tiles=like.tiles)
    write_calibration(uri, bundle)
    return bundle
