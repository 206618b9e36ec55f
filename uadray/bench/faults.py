"""`bench faults`: what `uadray screen` does while something goes wrong on the cluster, seen as its user sees it.

Three Ray nodes in network namespaces (see `uadray.bench.network`), Ray's token mode; the command runs on a fourth host,
whose Ray node has no CPUs, and SeaweedFS on a fifth. Slides, bundle and output are in S3. Each scenario starts a new
cluster with a new output and has one fault, which is real: processes are killed, hosts are unplugged, and nodes start
with an environment that breaks them (`uadray.bench.sabotage`).

Lines are those of standard output and standard error together, off a terminal. A silence is a time without a line, from
the start of the command to its end. A slide is lost if it has no decision at the end, doubled if its decision was put
more than once by the journal of the server, and wrongly failed if it failed without being the cause of the fault.

Needs root, `ip` (Debian: iproute2) and `unshare`: where they are missing `goals_met` is null, and `skipped` says why.
"""

import logging
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uadray.bench import sabotage
from uadray.bench.command import Command, is_named, longest_silence, shortened
from uadray.bench.fault_scenarios import BAD, DESK, GOOD, HEAD, KILLER, LIMIT_S, SCENARIOS, STORE, Scenario
from uadray.bench.network import Network, made_network, what_is_missing
from uadray.bench.ray_nodes import Cluster, RayNode, ray_cluster
from uadray.bench.seaweed import SeaweedServer, served
from uadray.bench.slides import upload_copies, write_slide, write_tiny_bundle
from uadray.errors import InputError, WorkError
from uadray.screening import decision_segments
from uadray.slides.manifest import write_manifest

log = logging.getLogger(__name__)

GOALS = {
    "lost": 0,
    "doubled": 0,
    "wrongly_failed": 0,
    "lines": 20,
    "longest_silence_s": 30.0,
    "head_lost_to_end_s": 60.0,
}
"""The most of each figure in each scenario. Beside these the exit status must be right, no traceback be printed, and
the fault be named (`Scenario.named`)."""

CPUS = 2
"""CPUs of a Ray node: for readers, and a scorer beside them."""

HEALTH = {
    "RAY_health_check_period_ms": "3000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "3",
}
"""With these Ray declares a node dead after 3 x (3 + 5) s instead of 5 x (3 + 10) s."""


@dataclass(frozen=True)
class Stage:
    """The hosts, the server and the slides that all scenarios share.

    Attributes:
        network: the hosts.
        server: S3, on one of the hosts.
        folder: a folder that all hosts see.
        slide_ids: the slides of the manifest.
    """

    network: Network
    server: SeaweedServer
    folder: Path
    slide_ids: tuple[str, ...]

    @property
    def bucket(self) -> str:
        """The URI of the server's bucket."""
        return f"s3://{self.server.bucket}"


def run(*, only: Sequence[str] = (), slides: int = 24) -> dict[str, Any]:
    """Play the scenarios and return their figures; logs a line for each. Takes ten minutes and more.

    Args:
        only: names of scenarios; all unless given.
        slides: how many slides, of three parts each.

    Raises:
        InputError: there is no such scenario.
    """
    unknown = set(only) - SCENARIOS.keys()
    if unknown:
        raise InputError(f"no scenario {', '.join(sorted(unknown))}; there are: {', '.join(SCENARIOS)}")
    missing = what_is_missing()
    if missing:
        return {"skipped": missing, "goals": GOALS, "goals_met": None}
    scenarios: dict[str, dict[str, Any]] = {}
    with made_stage(slides) as stage:
        for name in only or SCENARIOS:
            figures = scenarios[name] = played(stage, name)
            if "0" in scenarios:
                figures["seconds_over_no_fault"] = round(figures["seconds"] - scenarios["0"]["seconds"], 1)
            log.info("%s: missed %s", name, ", ".join(figures["missed"]) or "nothing")
    met = not any(figures["missed"] for figures in scenarios.values())
    return {"slides": slides, "cores": os.cpu_count(), "scenarios": scenarios, "goals": GOALS, "goals_met": met}


@contextmanager
def made_stage(slides: int) -> Iterator[Stage]:
    """Hosts, server, bundle and slides for a `with` block; how nodes are broken is in the folder."""
    with tempfile.TemporaryDirectory(prefix="uadray-bench-") as name, made_network() as network:
        folder = Path(name)
        network.grow(STORE + 1)
        shutil.copy(sabotage.__file__, folder / "sitecustomize.py")
        with served(folder / "s3", address=network.address(STORE), inside=network.inside(STORE)) as server:
            bucket = f"s3://{server.bucket}"
            write_tiny_bundle(f"{bucket}/bundle")
            rows = upload_copies(write_slide(folder / "slide.tif", repeats=6, phantom_px=512), f"{bucket}/in", slides)
            write_manifest(rows, f"{bucket}/manifest.csv")
            yield Stage(network, server, folder, tuple(row.slide_id for row in rows))


def played(stage: Stage, name: str) -> dict[str, Any]:
    """Play one scenario; returns its figures."""
    scenario, network = SCENARIOS[name], stage.network
    with _cluster(stage, name) as cluster:
        if scenario.before is not None:
            scenario.before(network)
        figures = _screened(stage, cluster, name)
    network.unblock(BAD, STORE)
    network.plug_in(HEAD)
    if name == "g":
        with _cluster(stage, "0") as cluster:
            again = _screened(stage, cluster, name, is_again=True)
            figures["rerun"] = {key: again[key] for key in ("seconds", "exit_status", "last_line")}
    strikes = _struck(stage, name)
    if scenario.fault:
        figures |= {"strikes": len(strikes)}
    bad_address = figures.get("where") or (strikes[0] if strikes and name == "e" else network.address(BAD))
    figures |= ledger_figures(stage, f"out-{name}")
    if scenario.is_named_where:
        is_said = is_named(figures["printed"], scenario.named, bad_address)
        figures |= {"where": bad_address, "is_named": is_said}
    elif scenario.named:
        figures["is_named"] = is_named(figures["printed"], scenario.named)
    printed = figures.pop("printed")
    return {"what": scenario.what, "missed": missed(scenario, figures), **figures, "printed": shortened(printed)}


@contextmanager
def _cluster(stage: Stage, name: str) -> Iterator[Cluster]:
    scenario, network = SCENARIOS[name], stage.network
    path = [str(stage.folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    nodes = []
    for host in (HEAD, BAD, GOOD):
        environment = {
            "PYTHONPATH": os.pathsep.join(path),
            "UADRAY_CACHE": str(stage.folder / f"cache{host}"),
            sabotage.ADDRESS: network.address(host),
            sabotage.STRUCK: str(stage.folder / f"struck-{name}"),
        }
        if scenario.fault and (scenario.everywhere or host == BAD):
            environment[sabotage.FAULT] = scenario.fault
        if host == BAD:
            environment |= scenario.environment
        nodes.append(RayNode(host, CPUS, environment))
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with ray_cluster(network, [*nodes, RayNode(DESK, 0)], HEALTH | token) as cluster:
        wait = f"from uadray.bench import ray_nodes; ray_nodes.wait_for_cores({CPUS * len(nodes)})"
        waiting = [*cluster.inside[DESK], sys.executable, "-c", wait]
        waited = subprocess.run(waiting, env=cluster.environment, check=False, capture_output=True, text=True)
        if waited.returncode:
            raise WorkError(f"the cluster of scenario {name} does not start: {waited.stderr[-2000:]}")
        yield cluster


def _screened(stage: Stage, cluster: Cluster, name: str, *, is_again: bool = False) -> dict[str, Any]:
    """Run the command to its end or to `LIMIT_S`, with the fault midway; returns the figures of what it printed."""
    out, midway = f"{stage.bucket}/out-{name}", None if is_again else SCENARIOS[name].midway
    command_line = [*cluster.inside[DESK], str(Path(sys.executable).with_name("uadray"))]
    command_line += ["screen", f"{stage.bucket}/bundle", "--slides", f"{stage.bucket}/manifest.csv", "--out", out]
    figures: dict[str, Any] = {}
    with Command(command_line, cluster.environment) as command:
        while (status := command.wait(0.3)) is None and command.seconds < LIMIT_S:
            if midway is not None and len(decision_segments.list_decisions(out)) >= len(stage.slide_ids) / 3:
                figures, midway = midway(stage.network, command), None
        seconds = command.seconds
    lines = command.lines
    return figures | {
        "seconds": round(seconds, 1), "ended": status is not None, "exit_status": status,
        "last_line": lines[-1][1][:300] if lines else "", "lines": len(lines),
        "longest_silence_s": round(longest_silence([at for at, _ in lines], seconds), 1),
        "has_traceback": any("Traceback (most recent" in text for _, text in lines),
        "printed": lines,
    }  # fmt: skip


def ledger_figures(stage: Stage, out: str) -> dict[str, Any]:
    """How many slides were lost, doubled and wrongly failed, in a folder of the bucket."""
    decisions = decision_segments.read_decisions(f"{stage.bucket}/{out}").table
    rows = {row["slide_id"]: row for row in decisions.select(["slide_id", "state", "reason"]).to_pylist()}
    failed = {slide_id: row["reason"] for slide_id, row in rows.items() if row["state"] == "failed"}
    killer = {"killer": failed.pop(KILLER, None)} if out == "out-a" else {}
    puts = stage.server.puts(f"{out}/decisions")
    return {
        "lost": len(set(stage.slide_ids) - rows.keys()), "doubled": sum(n > 1 for n in puts.values()),
        "wrongly_failed": len(failed), "reasons": sorted(set(failed.values())), **killer,
    }  # fmt: skip


def _struck(stage: Stage, name: str) -> list[str]:
    """For each time that the scenario's fault has struck, the address of the node on which it did."""
    with suppress(FileNotFoundError):
        return (stage.folder / f"struck-{name}").read_text().split()
    return []


def missed(scenario: Scenario, figures: dict[str, Any]) -> list[str]:
    """The goals that a scenario has missed."""
    over = [name for name, most in GOALS.items() if figures.get(name, 0) > most]
    right = {
        "ended": figures["ended"],
        "exit_status": figures["exit_status"] == scenario.exit_status,
        "no_traceback": not figures["has_traceback"],
        "is_named": figures.get("is_named", True),
        "killer": figures.get("killer", "crashed") == "crashed",
        "fault_happened": figures.get("strikes", 1) > 0 and (scenario.midway is None or "fault_after_s" in figures),
        "rerun": figures.get("rerun", {"exit_status": 0})["exit_status"] == 0,
    }
    return over + [name for name, is_right in right.items() if not is_right]
