"""`bench serve --only kills`: kill -9 of each part of an endpoint while it works, one after the other.

Before each kill slides are sent, the last of which nobody can read, and one is at work; clients send tiles meanwhile.
Afterwards the slides must be decided, each once: their decisions' etags are looked at all the time, and the server's
journal says how often each was put. Tile requests may fail as 429 or 503 with Retry-After; a broken connection is that
of a proxy which was killed.

- score: a replica of `ScoreStage`      - slide: a replica of `SlideStage`, which had a slide
- reader: the process that reads for it - ingress: the replica that takes requests
- proxy: the process that listens       - s3: the S3 server, which is started again after `S3_AWAY_S`
"""

import os
import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count, pairwise
from typing import Any, Self

from uadray.bench.endpoint import PROXY, Endpoint, running_endpoint, submitted
from uadray.bench.http_load import BROKEN, Outcome, Request, counts
from uadray.bench.processes import descendants, title
from uadray.bench.seaweed import SeaweedServer
from uadray.bench.serve_material import Material, asked, npz_request, painted, tiles
from uadray.errors import UadrayError, WorkError
from uadray.screening import decision_segments
from uadray.storage import objects

GOALS = {"lost": 0, "doubled": 0, "rewritten": 0, "wrong_answers": 0}
"""The most of each: accepted slides without a decision; decisions that were put more than once; decisions whose etag
changed; answers to tile requests that are none of those above."""

S3_AWAY_S = 3.0
SLIDES_EACH = 4
CLIENTS = 2
DONE_S = 120.0


def run(place: Material, *, only: Sequence[str] = (), slides_each: int = SLIDES_EACH) -> dict[str, Any]:
    """Kill; some minutes.

    Args:
        place: what is served.
        only: names of victims; all unless given.
        slides_each: slides that are sent before each kill; the last of them cannot be read.
    """
    victims = {name: kill for name, kill in VICTIMS.items() if not only or name in only}
    rows = painted(place, slides_each * len(victims))
    for row in rows[slides_each - 1 :: slides_each]:
        objects.write_bytes(row.uri, b"no slide")
    slides = iter(asked(rows))
    arguments = place.arguments("kills", one_replica=False, slide={"replicas": 2, "cpus": 0})
    phases: dict[str, dict[str, Any]] = {}
    puts = Counter[str]()
    with running_endpoint(arguments, cpus=4) as endpoint:
        request = npz_request(tiles(4, place.bundle.tiles.tile_px))
        with TileClients(endpoint, request) as clients, EtagWatch(f"{place.root}/kills") as watch:
            for name, kill in victims.items():
                clients.phase = name
                puts |= _puts(place)  # a server that is killed forgets the end of its journal
                jobs = submitted(endpoint, [next(slides) for _ in range(slides_each)])
                phases[name] = _phase(place, endpoint, jobs, kill)
            clients.phase = "end"
            endpoint.wait(clients.is_answered, 60, "answer to tiles")
        puts |= _puts(place)
        states = Counter(decision_segments.read_decisions(watch.out).table["state"].to_pylist())
    return _report(phases, clients.outcomes, watch, [row.slide_id for row in rows], puts) | {"states": dict(states)}


def _puts(place: Material) -> Counter[str]:
    """How often each slide's decision was put, as far as the server knows."""
    return Counter({name.removesuffix(".json"): n for name, n in _server(place).puts("kills/decisions").items()})


def _phase(
    place: Material, endpoint: Endpoint, jobs: Sequence[str], kill: Callable[[Material, Endpoint], int]
) -> dict[str, Any]:
    """Kill once one of these jobs runs, and wait until all are done."""
    endpoint.wait(lambda: any(_is_at_work(endpoint, job) for job in jobs), DONE_S, "job at work", every_s=0.02)
    began = time.monotonic()
    before = sum(_state(endpoint, job) == "done" for job in jobs)
    killed = kill(place, endpoint)
    left = set(jobs)
    while left and time.monotonic() - began < DONE_S:
        left -= {job for job in left if _state(endpoint, job) == "done"}
        time.sleep(0.2)
    return {"killed": killed, "done_before": before, "undone": len(left), "done_s": round(time.monotonic() - began, 1)}


def _state(endpoint: Endpoint, job: str) -> str:
    answer = endpoint.ask(f"/v1/slides/{job}", timeout_s=15)
    return str(answer.json["state"]) if answer.status == 200 else "unknown"


def _is_at_work(endpoint: Endpoint, job: str) -> bool:
    """Whether some tiles of a slide have been scored, or it is done already."""
    answer = endpoint.ask(f"/v1/slides/{job}", timeout_s=15)
    if answer.status != 200:
        return False
    return answer.json["state"] == "done" or bool((answer.json["progress"] or {}).get("tiles"))


def _killed(pids: Sequence[int], n: int = 1) -> int:
    for pid in pids[:n]:
        os.kill(pid, signal.SIGKILL)
    if not pids:
        raise WorkError("the bench's own endpoint: no process of the kind to be killed")
    return len(pids[:n])


def _kill_replica(deployment: str) -> Callable[[Material, Endpoint], int]:
    return lambda place, endpoint: _killed(endpoint.pids(deployment))


def _kill_worker(place: Material, endpoint: Endpoint) -> int:
    """The replica of `SlideStage` that works on a slide: it has a reader."""
    at_work = [pid for pid in endpoint.pids("SlideStage") if readers(pid)]
    return _killed(at_work or endpoint.pids("SlideStage"))


def _kill_reader(place: Material, endpoint: Endpoint) -> int:
    return _killed([reader for pid in endpoint.pids("SlideStage") for reader in readers(pid)])


def _kill_s3(place: Material, endpoint: Endpoint) -> int:
    server = _server(place)
    server.kill()
    time.sleep(S3_AWAY_S)
    server.start()
    return 1


def _server(place: Material) -> SeaweedServer:
    if place.server is None:
        raise WorkError("the S3 server is another process's")
    return place.server


def readers(pid: int) -> list[int]:
    """The processes that read slides for a replica."""
    return [each for each in descendants(pid) if "uadray.serving.jobs.reader_process" in title(each)]


VICTIMS: dict[str, Callable[[Material, Endpoint], int]] = {
    "score": _kill_replica("ScoreStage"),
    "slide": _kill_worker,
    "reader": _kill_reader,
    "ingress": _kill_replica("Ingress"),
    "proxy": _kill_replica(PROXY),
    "s3": _kill_s3,
}


class TileClients:
    """Clients that send tiles one request after the other. A context manager.

    Attributes:
        phase: under which outcomes are noted.
        outcomes: by phase.
        bundle_ids: that scored, by phase.
    """

    def __init__(self, endpoint: Endpoint, request: Request) -> None:
        self.phase, self.outcomes = "start", defaultdict[str, list[Outcome]](list)
        self.bundle_ids = defaultdict[str, set[str]](set)
        self._endpoint, self._request = endpoint, request
        self._ends = threading.Event()
        self._threads = [threading.Thread(target=self._go_on, daemon=True) for _ in range(CLIENTS)]
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join()

    def is_answered(self) -> bool:
        """Whether the last request of this phase got its scores."""
        outcomes = self.outcomes[self.phase]
        return bool(outcomes) and outcomes[-1].status == 200

    def _go_on(self) -> None:
        while not self._ends.is_set():
            phase, at = self.phase, time.monotonic()
            answer = self._endpoint.ask(self._request.path, self._request.body, headers=dict(self._request.headers))
            if answer.status == 200:
                self.bundle_ids[phase].add(answer.json["bundle_id"])
            said = "" if answer.status == 200 else answer.body[:300].decode(errors="replace")
            took_s, retry_after = time.monotonic() - at, answer.headers.get("retry-after", "")
            self.outcomes[phase].append(Outcome(at - self._began, took_s, answer.status, retry_after, said))
            self._ends.wait(0.0 if answer.status == 200 else 0.1)


class EtagWatch:
    """Lists the decisions of a folder all the time. A context manager.

    Attributes:
        out: the folder.
        etags: every etag that a slide's decision has had.
    """

    def __init__(self, out: str) -> None:
        self.out, self.etags = out, defaultdict[str, set[str]](set)
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._go_on, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()
        self._look()

    def _go_on(self) -> None:
        while not self._ends.wait(0.3):
            with suppress(UadrayError):  # while the server is away
                self._look()

    def _look(self) -> None:
        for slide_id, info in decision_segments.list_decisions(self.out).items():
            self.etags[slide_id].add(info.etag)


def _report(
    phases: dict[str, dict[str, Any]], outcomes: dict[str, list[Outcome]], watch: EtagWatch, slide_ids: Sequence[str],
    puts: dict[str, int],
) -> dict[str, Any]:  # fmt: skip
    wrong = {phase: [each for each in found if not is_allowed(each, phase)] for phase, found in outcomes.items()}
    figures = {
        "lost": sum(slide_id not in watch.etags for slide_id in slide_ids),
        "doubled": sum(n > 1 for n in puts.values()),
        "rewritten": sum(len(etags) > 1 for etags in watch.etags.values()),
        "wrong_answers": sum(map(len, wrong.values())),
    }
    numbers = count()
    return figures | {
        "again": {
            slide_id: {"puts": n, "etags": sorted(watch.etags[slide_id])} for slide_id, n in puts.items() if n > 1
        },
        "slides": len(slide_ids), "decided": len(watch.etags), "puts": sum(puts.values()), "phases": phases,
        "tile_answers": {phase: counts(found) for phase, found in outcomes.items()},
        "longest_without_scores_s": {phase: _longest_gap(found) for phase, found in outcomes.items()},
        "wrong": [
            f"{phase}: {each.status} after {each.seconds:.2f} s {each.body[:200]}"
            for phase, found in wrong.items() for each in found if next(numbers) < 8
        ],
        "met": all(figures[name] <= goal for name, goal in GOALS.items()) and not any(
            phase["undone"] for phase in phases.values()
        ),
    }  # fmt: skip


def _longest_gap(outcomes: Sequence[Outcome]) -> float:
    """The longest time in which no client got its scores.

    >>> _longest_gap([Outcome(0, 1, 200), Outcome(1, 0.5, 503), Outcome(1.6, 1, 200), Outcome(2.6, 1, 200)])
    1.6
    """
    times = sorted(each.at_s + each.seconds for each in outcomes if each.status == 200)
    ends = [min((each.at_s for each in outcomes), default=0.0), *times]
    return round(max((after - before for before, after in pairwise(ends)), default=0.0), 2)


def is_allowed(outcome: Outcome, phase: str) -> bool:
    """Whether a tile request may have ended so: scored, refused with Retry-After, or broken with its proxy."""
    if outcome.status in (429, 503):
        return bool(outcome.retry_after)
    return outcome.status == 200 or (outcome.status == BROKEN and phase == "proxy")
