"""`bench follow`: `uadray screen --follow` while slides arrive, and what weeks of it take.

`arrivals`: small slides come into a bucket, at times drawn at random, three seconds apart in the mean (200 in ten
minutes). The command runs as its user runs it, on the Ray that it starts. It is killed twice, with all that descends
from it, and started again at once; at the end it is stopped by SIGTERM. A slide's latency goes from the end of its
upload to the first listing, twice a second, that shows its decision: what a kill costs is in it. A slide is doubled if
its decision was put more than once by the journal of the server. Server, arrivals and command share the machine.

`weeks`: see `follow_weeks`.
"""

import json
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from uadray.bench import follow_weeks
from uadray.bench.command import Command
from uadray.bench.processes import descendants, memory
from uadray.bench.seaweed import SeaweedServer, served
from uadray.bench.slides import write_slide, write_tiny_bundle
from uadray.errors import InputError, WorkError
from uadray.screening import decision_segments
from uadray.storage import objects

GOALS = {"lost": 0, "doubled": 0, "exit_status": 0, "memory_growth": 1.1, "requests_growth": 1.2}
"""The most of each figure."""

CASES = ("arrivals", "weeks")
EVERY_S = 3.0
KILLS = 2
SCREEN = "import sys; from uadray.cli import main; sys.exit(main())"
IDLE_S = 30.0
"""For so long nothing comes before the command is stopped: what it asks of the store meanwhile is counted."""

LIMIT_S = 600.0
"""The bench gives up where slides are undecided so long after the last has come."""


def run(*, only: Sequence[str] = (), slides: int = 200) -> dict[str, Any]:
    """Measure; prints nothing. Takes a quarter of an hour.

    Args:
        only: `arrivals` or `weeks`; both unless given.
        slides: that arrive, one every `EVERY_S`, and fifty times as many in `weeks`.

    Raises:
        InputError: there is no such case.
    """
    unknown = set(only) - set(CASES)
    if unknown:
        raise InputError(f"no case {', '.join(sorted(unknown))}; there are: {', '.join(CASES)}")
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="uadray-bench-") as name:
        for case in only or CASES:
            (Path(name) / case).mkdir()
            with served(Path(name) / case) as server:
                figures[case] = _arrivals(Path(name), server, slides) if case == "arrivals" else _weeks(server, slides)
    flat = {goal: value for case in figures.values() for goal, value in case.items()}
    missed = [goal for goal, most in GOALS.items() if flat.get(goal, 0) is None or flat.get(goal, 0) > most]
    return {"slides": slides, "cores": os.cpu_count(), **figures, "goals": GOALS, "goals_met": not missed}


def _weeks(server: SeaweedServer, slides: int) -> dict[str, Any]:
    return follow_weeks.measured(server, arrivals=max(80, 50 * slides // 80 * 80))


def _arrivals(folder: Path, server: SeaweedServer, slides: int) -> dict[str, Any]:
    """The figures of slides that arrive while the command runs, is killed, and runs again."""
    bucket = f"s3://{server.bucket}"
    write_tiny_bundle(f"{bucket}/bundle")
    data = write_slide(folder / "slide.tif", repeats=2, phantom_px=512).read_bytes()
    come, decided = dict[str, float](), dict[str, float]()
    ended = threading.Event()
    arriving = threading.Thread(target=_arrive, args=(f"{bucket}/in", data, slides, come, ended), daemon=True)
    watching = threading.Thread(target=_watch, args=(f"{bucket}/out", decided, ended), daemon=True)
    memories: list[dict[str, float]] = []
    kills_at = [slides * (i + 1) // (KILLS + 1) for i in range(KILLS)]
    try:
        arriving.start()
        watching.start()
        for count in kills_at:
            with _command(bucket) as command:
                memories.append(_observed(command, until=lambda count=count: len(come) >= count))
        with _command(bucket) as command:
            memories.append(_observed(command, until=lambda: len(decided) >= slides or _is_late(come, slides)))
            figures = _idle_and_stopped(server, command)
    finally:
        ended.set()
    latencies = sorted(decided[slide_id] - come[slide_id] for slide_id in decided)
    return {
        "lost": slides - len(decided),
        "doubled": sum(n > 1 for n in server.puts("out/decisions").values()),
        "kills": KILLS,
        "latency_s": {
            "median": round(statistics.median(latencies), 1),
            "p95": round(latencies[int(0.95 * (len(latencies) - 1))], 1),
            "max": round(latencies[-1], 1),
        },
        "memory_mb": memories,
        **figures,
    }


def _command(bucket: str) -> Command:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    options = ["--follow", "--renew-minutes", "1", "--score-workers", "1"]
    arguments = ["screen", f"{bucket}/bundle", "--slides", f"{bucket}/in/", "--out", f"{bucket}/out", *options]
    return Command([sys.executable, "-c", SCREEN, *arguments], kept)


def _arrive(folder: str, data: bytes, n: int, come: dict[str, float], ended: threading.Event) -> None:
    """Put slides one after the other; `come` gets when each was there."""
    draw = random.Random(0)  # noqa: S311 - no secret
    due = time.monotonic()
    for number in range(n):
        due += draw.expovariate(1 / EVERY_S)
        if ended.wait(max(0.0, due - time.monotonic())):
            return
        objects.write_bytes(f"{folder}/{number:04}.tif", data)
        come[f"{number:04}.tif"] = time.monotonic()


def _watch(out: str, decided: dict[str, float], ended: threading.Event) -> None:
    """`decided` gets when each decision was first seen."""
    while not ended.wait(0.5):
        now = time.monotonic()
        for slide_id in decision_segments.list_decisions(out):
            decided.setdefault(slide_id, now)


def _is_late(come: dict[str, float], slides: int) -> bool:
    return len(come) == slides and time.monotonic() - max(come.values()) > LIMIT_S


def _observed(command: Command, until: Any) -> dict[str, float]:
    """The most memory of the command, in MB: of the driver alone and of all its processes."""
    peak = {"driver": 0.0, "job": 0.0}
    while not until():
        status = command.wait(0.5)
        if status is not None:
            raise WorkError(f"the command ended with {status}: {[line for _, line in command.lines[-3:]]}")
        with suppress(OSError):
            peak["driver"] = max(peak["driver"], memory(command.pid).own / 1e6)
            peak["job"] = max(peak["job"], sum(memory(pid).own for pid in descendants(command.pid)) / 1e6)
    return {name: round(size, 1) for name, size in peak.items()}


def _idle_and_stopped(server: SeaweedServer, command: Command) -> dict[str, Any]:
    """What the command asks of the store while nothing comes, and how it ends."""
    before = server.requests()
    command.wait(IDLE_S)
    idle = server.requests() - before
    idle_polls = 2 * IDLE_S  # of this bench: it lists what is decided
    os.kill(command.pid, signal.SIGTERM)
    began = time.monotonic()
    status = command.wait(60)
    stopped_s = time.monotonic() - began
    answer = json.loads(command.lines[-1][1]) if status == 0 else {}
    return {
        "idle_requests_per_minute": round((sum(idle.values()) - idle_polls) * 60 / IDLE_S, 1),
        "exit_status": status,
        "stopped_s": round(stopped_s, 1),
        "lines": len(command.lines),
        "summary": {name: answer.get(name) for name in ("slides", "scored", "failed", "open", "slides_now")},
    }
