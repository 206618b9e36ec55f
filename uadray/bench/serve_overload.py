"""`bench serve --only load`: twice what the endpoint can do, for minutes, over HTTP on this machine.

First its capacity is measured: requests of `TILES` tiles that four clients send one after the other. Then twice as many
requests a second come, whatever is answered, and slide jobs besides. Every answer is counted; none may be anything
but 200, 202, 429 or 503. The memory of each process of the endpoint is looked at every second: its own, without the
object store, which has a limit of its own. Afterwards a client asks until it is answered as fast as before.

The generator runs on the machine that it loads, so the capacity is less than that of the endpoint alone.
"""

import statistics
import threading
import time
from collections import defaultdict
from typing import Any, Self

from uadray.bench.endpoint import DEPLOYMENTS, PROXY, Endpoint, running_endpoint, submitted
from uadray.bench.http_load import Load, Outcome, Request, counts, facts, quantile_s, send_apart
from uadray.bench.processes import memory
from uadray.bench.serve_material import Material, asked, mosaics_or_painted, npz_request, tiles
from uadray.detectors.detector import BATCH

GOALS = {"other_answers": 0, "growth_mb": 1000, "late_growth_mb": 150, "recovery_s": 5.0, "slides_lost": 0}
"""The most of each: answers that are none of `ALLOWED`; megabytes that any process has at its peak beyond those before
the load, and late in the load beyond those early in it; seconds until a request is answered as before."""

ALLOWED = frozenset((200, 202, 429, 503))

TILES = 8
SLIDES = 8
MOST_UNDER_WAY = 600
OVER = 2.0


def run(
    place: Material, *, minutes: float = 2.0, options: dict[str, dict[str, Any]] | None = None
) -> dict[str, Any]:  # fmt: skip
    """Measure; takes the minutes, and one more.

    Args:
        place: what is served.
        minutes: of the load.
        options: Serve's own, by deployment.
    """
    request = npz_request(tiles(TILES, place.bundle.tiles.tile_px))
    slides = asked(mosaics_or_painted(place, SLIDES))
    arguments = place.arguments("load", slide={"replicas": 1, "cpus": 0})
    with running_endpoint(arguments, options=options) as endpoint:
        # as many tiles as a forward pass has: the memory that it takes stays, and is no growth
        send_apart(endpoint.port, npz_request(tiles(4 * BATCH, place.bundle.tiles.tile_px)), Load(seconds=3, clients=2))
        send_apart(endpoint.port, request, Load(seconds=3, clients=4))
        alone, _ = send_apart(endpoint.port, request, Load(seconds=4, clients=1))
        full, _ = send_apart(endpoint.port, request, Load(seconds=10, clients=4))
        capacity = sum(outcome.status == 200 for outcome in full) / max(each.at_s + each.seconds for each in full)
        jobs = submitted(endpoint, slides)
        with MemoryWatch(endpoint) as watch:
            load = Load(seconds=60 * minutes, rate_per_s=OVER * capacity, clients=MOST_UNDER_WAY)
            sent, unsent = send_apart(endpoint.port, request, load)
            watch.mark_end(load.seconds)
        recovery = _recovery(endpoint, request, before_s=quantile_s(alone, 0.5) or 1.0)
        done = _done(endpoint, jobs)
    return _report(capacity, alone, sent, unsent, watch, recovery, lost=len(jobs) - done) | {"slides_done": done}


def _report(
    capacity: float, alone: list[Outcome], sent: list[Outcome], unsent: int, watch: "MemoryWatch",
    recovery: dict[str, Any], *, lost: int,
) -> dict[str, Any]:  # fmt: skip
    others = [outcome for outcome in sent if outcome.status not in ALLOWED]
    unhurried = [each for each in sent if each.status in (429, 503) and not each.retry_after]
    growth = watch.growth_mb()
    figures = {
        "other_answers": len(others) + len(unhurried),
        "growth_mb": max((each["peak"] for each in growth.values()), default=0.0),
        "late_growth_mb": max((each["late"] for each in growth.values()), default=0.0),
        "recovery_s": recovery["seconds"],
        "slides_lost": lost,
    }
    return figures | {
        "capacity_per_s": round(capacity, 2), "accepted_per_s": round(_accepted_per_s(sent), 2),
        "tiles_a_request": TILES, "rate_per_s": round(OVER * capacity, 2),
        "alone": facts(alone), "under_load": facts(sent), "unsent": unsent, "without_retry_after": len(unhurried),
        "others": [f"{each.status} after {each.seconds:.2f} s: {each.body[:200]}" for each in others[:5]],
        "memory_mb": growth, "recovery": recovery,
        "met": all(figures[name] <= goal for name, goal in GOALS.items()),
    }  # fmt: skip


def _accepted_per_s(sent: list[Outcome]) -> float:
    return sum(each.status == 200 for each in sent) / max(max(each.at_s for each in sent), 1.0)


def _recovery(endpoint: Endpoint, request: Request, *, before_s: float) -> dict[str, Any]:
    """Seconds after the load until the first 200, and until one that took no more than twice as long as before."""
    began, first_s = time.perf_counter(), None
    statuses: list[Outcome] = []
    while time.perf_counter() - began < 60:
        at = time.perf_counter()
        answer = endpoint.ask(request.path, request.body, headers=dict(request.headers))
        took_s, since_s = time.perf_counter() - at, time.perf_counter() - began
        statuses.append(Outcome(since_s, took_s, answer.status))
        if answer.status == 200 and first_s is None:
            first_s = round(since_s, 2)
        if answer.status == 200 and took_s <= 2 * before_s:
            return {"seconds": round(since_s, 2), "first_200_s": first_s, "statuses": counts(statuses)}
        time.sleep(0.05)
    return {"seconds": 60.0, "first_200_s": first_s, "statuses": counts(statuses)}


def _done(endpoint: Endpoint, jobs: list[str], seconds: float = 120.0) -> int:
    """How many of these jobs are done, when all are or the time is up."""
    until, left = time.monotonic() + seconds, set(jobs)
    while left and time.monotonic() < until:
        left -= {job for job in left if _is_done(endpoint, job)}
        time.sleep(0.5)
    return len(jobs) - len(left)


def _is_done(endpoint: Endpoint, job: str) -> bool:
    answer = endpoint.ask(f"/v1/slides/{job}")
    return answer.status == 200 and answer.json["state"] == "done"


class MemoryWatch:
    """Looks at the memory of each process of an endpoint, every second. A context manager.

    Processes that were replaced count as one of their role: the largest at each look.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._looks: dict[str, list[tuple[float, float]]] = defaultdict(list)
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="uadray-bench-memory", daemon=True)
        self._began = time.monotonic()
        self._seconds = 0.0

    def __enter__(self) -> Self:
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()

    def mark_end(self, seconds: float) -> None:
        """The load lasted so long, from the beginning."""
        self._look()
        self._seconds = seconds

    def growth_mb(self) -> dict[str, dict[str, float]]:
        """By role: megabytes before the load, at the peak beyond that, and late in it beyond those early in it."""
        return {role: _growth(looks, self._seconds) for role, looks in self._looks.items()}

    def _go_on(self) -> None:
        while not self._ends.wait(1.0):
            self._look()

    def _look(self) -> None:
        at = time.monotonic() - self._began
        for role in (*DEPLOYMENTS, PROXY):
            sizes = [memory(pid) for pid in self._endpoint.pids(role)]
            if sizes:
                self._looks[role.removeprefix("ray::")].append((at, max(each.own for each in sizes) / 1e6))


def _growth(looks: list[tuple[float, float]], seconds: float) -> dict[str, float]:
    """Growth of one process: `late` is from the second quarter of the time to the last one, as medians.

    >>> _growth([(0, 100.0), (5, 190.0), (15, 180.0), (35, 160.0)], 40)
    {'before': 100.0, 'peak': 90.0, 'late': -20.0}
    """
    before = looks[0][1]

    def median(start: float, end: float) -> float:
        within = [mb for at, mb in looks if start * seconds <= at <= end * seconds]
        return statistics.median(within or [looks[-1][1]])

    peak, late = max(mb for _, mb in looks) - before, median(0.75, 1.0) - median(0.25, 0.5)
    return {"before": round(before, 1), "peak": round(peak, 1), "late": round(late, 1)}
