"""`bench nodes`: one, two and four Ray nodes on this machine, each in a separate network namespace.

A bridge in this machine joins a head without CPUs, where the driver is, and worker nodes (see `uadray.bench.network`).
Slides lie in a folder that all see.

- Efficiency: slides are streamed through `stream` to one scorer a node. A scorer sleeps for a fixed time a part, as if
  a GPU worked, so that two cores can stand for four machines: how work is spread is measured, not how fast tiles are
  read. The rate counts from when all scorers have answered once (until then is `startup_s`) to the last part;
  efficiency is the rate on n nodes over n times the rate on one.
- A node is killed (signal 9 to all processes in its namespace) while a real screening runs on two nodes: each slide has
  to end in the ledger exactly once.

Needs root, `ip` (Debian: iproute2) and `unshare`: where they are missing `goals_met` is null, and `skipped` says why.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from uadray.bench.network import HERE, Network, made_network, what_is_missing
from uadray.bench.ray_nodes import RayNode, ray_cluster, wait_for_cores
from uadray.bench.slides import upload_copies, write_slide, write_tiny_bundle
from uadray.errors import WorkError
from uadray.screening.parts import from_ipc, part_row
from uadray.slides.manifest import read_manifest, write_manifest

GOALS = {"efficiency": 0.9, "slides_decided_once": 1.0}
"""The least efficiency on two and on four nodes; the share of slides that end in the ledger once with a node killed."""

NODES = (1, 2, 4)
PART_S = 0.5
"""Seconds that a scorer sleeps for a part: long against what two cores need to read a part for each of four nodes."""

CPUS = 2
"""CPUs of a node: for one scorer, and readers beside it."""


def run(*, slides: int = 40, nodes: tuple[int, ...] = NODES, part_s: float = PART_S) -> dict[str, Any]:
    """Measure; prints nothing. Takes a few minutes.

    Args:
        slides: how many slides, of three parts each.
        nodes: numbers of nodes; the others are compared with the first.
        part_s: seconds that a scorer sleeps for a part.
    """
    missing = what_is_missing()
    if missing:
        return {"skipped": missing, "goals": GOALS, "goals_met": None}
    with tempfile.TemporaryDirectory(prefix="uadray-bench-") as name, made_network() as network:
        folder = Path(name)
        write_tiny_bundle(str(folder / "bundle"))
        rows = upload_copies(write_slide(folder / "slide.tif", repeats=6, phantom_px=512), name, slides)
        write_manifest(rows, str(folder / "m.csv"))
        streamed = {n: _on_nodes(network, n, _streamed, name, n, part_s) for n in nodes}
        screened = _on_nodes(network, 2, _screened_with_a_loss, name)
    rates = {n: figures["parts_per_s"] for n, figures in streamed.items()}
    efficiency = {n: round(rate / rates[nodes[0]] * nodes[0] / n, 3) for n, rate in rates.items()}
    for n, figures in streamed.items():
        figures["of_ideal"] = round(figures["parts_per_s"] * part_s / n, 3)
    met = min(efficiency.values()) >= GOALS["efficiency"] and screened["slides_decided_once"] == 1
    return {
        "efficiency": efficiency, "streamed": streamed, "one_node_killed": screened, "part_s": part_s,
        "cores": os.cpu_count(), "goals": GOALS, "goals_met": met,
    }  # fmt: skip


class Sleeper:
    """A scorer that takes a fixed time and no CPU for a part, and writes its node into the header of the part."""

    def __init__(self, part_s: float, threads: int) -> None:
        import ray

        self.part_s, self.node = part_s, ray.util.get_node_ip_address()

    def __call__(self, table: pa.Table) -> pa.Table:
        """A row of the reader -> a row of the scorer."""
        (row,) = table.to_pylist()
        if row["part"] < 0:
            return table
        time.sleep(self.part_s)
        header = json.loads(row["header"]) | {"node": self.node, "n": len(from_ipc(row["tiles"]))}
        return part_row(row["slide"], row["part"], header=header)


def _streamed(network: Network, folder: str, nodes: int, part_s: float) -> dict[str, Any]:
    """Stream all slides through one scorer a node."""
    from uadray.bench.slides import TINY
    from uadray.cluster.connection import connect
    from uadray.cluster.nodes import Nodes
    from uadray.cluster.stream import stream
    from uadray.cluster.watch_actor import DriversWatch
    from uadray.cluster.workers import StreamConfig
    from uadray.screening.parts import failed_part
    from uadray.screening.slide_reader import slide_read_tasks
    from uadray.tiles.spec import TileSpec

    began = time.perf_counter()
    connect()
    rows, spec = read_manifest(f"{folder}/m.csv"), TileSpec.model_validate(TINY["tiles"])
    config = StreamConfig(score_workers=nodes, threads=1)
    ends: list[float] = []
    parts_of_node: Counter[str] = Counter()
    seen: Counter[tuple[int, int]] = Counter()
    first: dict[str, int] = {}
    for part in stream(
        slide_read_tasks(rows, spec), scorer=Sleeper, arguments={"part_s": part_s}, failed_row=failed_part,
        config=config, nodes=Nodes(), watch=DriversWatch(),
    ):  # fmt: skip
        if part is None:
            continue
        header = json.loads(part["header"])
        if part["part"] < 0:
            raise WorkError(f"the bench's own slide: {header}")
        ends.append(time.perf_counter() - began)
        first.setdefault(header["node"], len(ends))
        parts_of_node[header["node"]] += 1
        seen[part["slide"], part["part"]] += 1
    if len(first) != nodes:
        raise WorkError(f"{nodes} nodes, and parts came from {dict(parts_of_node)}")
    start = max(first.values())
    return {
        "parts": len(ends), "parts_by_node": sorted(parts_of_node.values()), "parts_twice": len(ends) - len(seen),
        "startup_s": round(ends[start - 1], 1),
        "parts_per_s": round((len(ends) - start) / (ends[-1] - ends[start - 1]), 3),
    }  # fmt: skip


def _screened_with_a_loss(network: Network, folder: str) -> dict[str, Any]:
    """Screen all slides; kill the last node when a third of them is decided."""
    from uadray.cluster.connection import connect
    from uadray.cluster.workers import StreamConfig
    from uadray.detectors.bundle import read_bundle
    from uadray.screening.bundles import ScreeningBundle, read_calibration
    from uadray.screening.decision_segments import read_decisions
    from uadray.screening.job import ScreenConfig, screen

    uri, out, rows = f"{folder}/bundle", f"{folder}/out", read_manifest(f"{folder}/m.csv")
    bundle = read_bundle(uri)
    killed: list[int] = []

    def watch(done: int, total: int, tiles: int, note: str = "") -> None:
        if done >= total / 3 and not killed:
            killed.append(done)
            network.kill(len(network.hosts) - 1)

    began = time.perf_counter()
    connect()
    config = ScreenConfig(stream=StreamConfig(score_workers=2, threads=1))
    summary = screen(
        rows, bundles=[ScreeningBundle(uri, bundle, read_calibration(uri, bundle))], out=out, config=config,
        progress=watch,
    )  # fmt: skip
    decided = Counter(read_decisions(out).table["slide_id"].to_pylist())
    once = sum(decided[row.slide_id] == 1 for row in rows) / len(rows)
    return {
        "slides": len(rows), "scored": summary["scored"], "failed": summary["failed"], "slides_decided_once": once,
        "decided_when_killed": killed[0] if killed else None, "seconds": round(time.perf_counter() - began, 1),
    }  # fmt: skip


def _on_nodes(network: Network, n: int, function: Any, *arguments: Any) -> Any:
    """Start Ray with n nodes, and return what a function of `DRIVERS` returns in a driver there."""
    network.grow(n)
    # no token, for the bridge leads nowhere else
    ray_nodes = [RayNode(HERE, 0), *(RayNode(i, CPUS) for i in range(n))]
    with ray_cluster(network, ray_nodes, {"RAY_AUTH_MODE": "disabled"}) as cluster:
        call = "from uadray.bench import nodes; nodes.drive()"
        driver = subprocess.run(
            [sys.executable, "-c", call], input=json.dumps([n, function.__name__, asdict(network), arguments]),
            env=cluster.environment, text=True, capture_output=True, check=False, timeout=1800,
        )  # fmt: skip
        if driver.returncode:
            printed = driver.stderr[-2000:] + cluster.log.read_text(errors="replace")[-2000:]
            raise WorkError(f"{function.__name__} on {n} nodes failed: {printed}")
    return json.loads(driver.stdout.strip().splitlines()[-1])


def drive() -> None:
    """Wait for the nodes, call the function that standard input names, and print its answer. Runs in the driver."""
    n, name, network, arguments = json.load(sys.stdin)
    wait_for_cores(n * CPUS)
    print(json.dumps(DRIVERS[name](Network(**network), *arguments)))


DRIVERS = {function.__name__: function for function in (_streamed, _screened_with_a_loss)}
