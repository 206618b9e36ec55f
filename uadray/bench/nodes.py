"""`bench nodes`: one, two and four Ray nodes on this machine, each in a network namespace of its own.

A bridge in this machine joins a head without CPUs, where the driver is, and worker nodes, each with an own address, its
own /dev/shm and its own folder for Ray's files. All traffic stays on the bridge. Slides lie in a folder that all see.

- Efficiency: slides are streamed through `stream` to one scorer a node that sleeps for a fixed time a part, as a GPU
  would, so that two cores can stand for four machines; what is measured is how work is spread, not how fast tiles are
  read. The rate counts from when every scorer has answered once (starting them is `startup_s`) to the last part, tail
  included; efficiency is the rate on n nodes over n times the rate on one.
- A node is killed (signal 9 to all in its namespace) while a real screening runs on two nodes of it: every slide has
  to end in the ledger once.

Needs root, `ip` (Debian: iproute2) and `unshare`: where they are missing `goals_met` is null, and `skipped` says why.
"""

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from uadray.bench.slides import upload_copies, write_slide, write_tiny_bundle
from uadray.data.cluster import ENVIRONMENT
from uadray.data.stream import from_ipc, part_row
from uadray.errors import WorkError
from uadray.manifest import read_manifest, write_manifest

GOALS = {"efficiency": 0.9, "slides_decided_once": 1.0}
"""Least efficiency on two and on four nodes; share of slides that end in the ledger exactly once with a node killed."""

NODES = (1, 2, 4)
PART_S = 0.5
"""Sleep of a part: long against what two cores need to read and to pass on a part for four nodes."""

CPUS = 2
"""Of a node: one scorer, and readers beside it."""

STORE_BYTES = 100 * 2**20


def run(*, slides: int = 40, nodes: tuple[int, ...] = NODES, part_s: float = PART_S) -> dict[str, Any]:
    """Measure; prints nothing. Some minutes.

    Args:
        slides: of three parts each.
        nodes: how many at a time; the first is what the others are compared with.
        part_s: seconds of sleep a part.
    """
    missing = what_is_missing()
    if missing:
        return {"skipped": missing, "goals": GOALS, "goals_met": None}
    with tempfile.TemporaryDirectory(prefix="uadray-bench-") as name, _network() as network:
        folder = Path(name)
        write_tiny_bundle(str(folder / "bundle"))
        rows = upload_copies(write_slide(folder / "slide.tif", repeats=6, phantom_px=512), name, slides)
        write_manifest(rows, str(folder / "m.csv"))
        streamed = {n: _on_nodes(network, n, _streamed, name, n, part_s) for n in nodes}
        screened = _on_nodes(network, 2, _screened_with_a_loss, name)
    rates = {n: found["parts_per_s"] for n, found in streamed.items()}
    efficiency = {n: round(rate / rates[nodes[0]] * nodes[0] / n, 3) for n, rate in rates.items()}
    for n, found in streamed.items():
        found["of_ideal"] = round(found["parts_per_s"] * part_s / n, 3)
    met = min(efficiency.values()) >= GOALS["efficiency"] and screened["slides_decided_once"] == 1
    return {
        "efficiency": efficiency, "streamed": streamed, "one_node_killed": screened, "part_s": part_s,
        "cores": os.cpu_count(), "goals": GOALS, "goals_met": met,
    }  # fmt: skip


def what_is_missing() -> str:
    """Why there can be no namespaces here; empty where there can."""
    if os.geteuid() != 0:
        return "not root: network namespaces cannot be made"
    tools = [tool for tool in ("ip", "unshare", "mount") if shutil.which(tool) is None]
    if tools:
        return f"{', '.join(tools)} missing (Debian: apt-get install iproute2 util-linux)"
    probe = subprocess.run(["ip", "link", "add", f"{_prefix()}p", "type", "bridge"], capture_output=True, check=False)
    _quietly("ip", "link", "del", f"{_prefix()}p")
    return "" if probe.returncode == 0 else f"no bridge can be made here: {probe.stderr.decode().strip()}"


class Sleeper:
    """A scorer whose parts take a fixed time and no CPU; says in the part's header where it was."""

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


def _streamed(network: "Network", folder: str, nodes: int, part_s: float) -> dict[str, Any]:
    """Stream all slides through one scorer a node."""
    from uadray.bench.slides import TINY
    from uadray.data.cluster import connect
    from uadray.data.nodes import Nodes
    from uadray.data.stream import StreamConfig, slide_reads, stream
    from uadray.data.watch import DriversWatch
    from uadray.tiling import TileSpec

    began = time.perf_counter()
    connect()
    rows, spec = read_manifest(f"{folder}/m.csv"), TileSpec.model_validate(TINY["tiles"])
    config = StreamConfig(score_workers=nodes, threads=1)
    ends: list[float] = []
    where: Counter[str] = Counter()
    seen: Counter[tuple[int, int]] = Counter()
    first: dict[str, int] = {}
    for part in stream(
        slide_reads(rows, spec), scorer=Sleeper, arguments={"part_s": part_s}, config=config, nodes=Nodes(),
        watch=DriversWatch(),
    ):  # fmt: skip
        if part is None:
            continue
        header = json.loads(part["header"])
        if part["part"] < 0:
            raise WorkError(f"the bench's own slide: {header}")
        ends.append(time.perf_counter() - began)
        first.setdefault(header["node"], len(ends))
        where[header["node"]] += 1
        seen[part["slide"], part["part"]] += 1
    if len(first) != nodes:
        raise WorkError(f"{nodes} nodes, and parts came from {dict(where)}")
    start = max(first.values())
    return {
        "parts": len(ends), "parts_by_node": sorted(where.values()), "parts_twice": len(ends) - len(seen),
        "startup_s": round(ends[start - 1], 1),
        "parts_per_s": round((len(ends) - start) / (ends[-1] - ends[start - 1]), 3),
    }  # fmt: skip


def _screened_with_a_loss(network: "Network", folder: str) -> dict[str, Any]:
    """Screen all slides; kill the last node when a third of them is decided."""
    from uadray.bundle import read_bundle
    from uadray.calibration import read_calibration
    from uadray.data.cluster import connect
    from uadray.data.stream import StreamConfig
    from uadray.decisions import read_decisions
    from uadray.screening import ScreenConfig, screen

    uri, out, rows = f"{folder}/bundle", f"{folder}/out", read_manifest(f"{folder}/m.csv")
    bundle = read_bundle(uri)
    killed: list[int] = []

    def watch(done: int, total: int, tiles: int, note: str = "") -> None:
        if done >= total / 3 and not killed:
            killed.append(done)
            network.kill(len(network.nodes) - 1)

    began = time.perf_counter()
    connect()
    config = ScreenConfig(stream=StreamConfig(score_workers=2, threads=1))
    summary = screen(
        rows, bundle_uri=uri, bundle=bundle, calibration=read_calibration(uri, bundle), out=out, config=config,
        progress=watch,
    )  # fmt: skip
    decided = Counter(read_decisions(out).table["slide_id"].to_pylist())
    once = sum(decided[row.slide_id] == 1 for row in rows) / len(rows)
    return {
        "slides": len(rows), "scored": summary["scored"], "failed": summary["failed"], "slides_decided_once": once,
        "decided_when_killed": killed[0] if killed else None, "seconds": round(time.perf_counter() - began, 1),
    }  # fmt: skip


@dataclass
class Network:
    """A bridge with this machine on it, and namespaces behind it.

    Attributes:
        prefix: of the names of bridge, links and namespaces.
        subnet: first three numbers of their addresses; this machine is `.1`, node i is `.(i + 2)`.
        nodes: names of the namespaces.
    """

    prefix: str
    subnet: str
    nodes: list[str] = field(default_factory=list)

    def grow(self, n: int) -> None:
        """Make namespaces until there are n."""
        while len(self.nodes) < n:
            i = len(self.nodes)
            name, link = f"{self.prefix}n{i}", f"{self.prefix}v{i}"
            self.nodes.append(name)
            _do("ip", "netns", "add", name)
            _do("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
            _do("ip", "link", "set", link, "master", f"{self.prefix}b", "up")
            _do("ip", "-n", name, "addr", "add", f"{self.address(i)}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _do("ip", "-n", name, "link", "set", device, "up")

    def address(self, node: int) -> str:
        """Of node i; of this machine for -1."""
        return f"{self.subnet}.{node + 2}"

    def kill(self, node: int) -> None:
        """Signal 9 to every process in a namespace, until there is none."""
        while pids := _do("ip", "netns", "pids", self.nodes[node]).split():
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            time.sleep(0.05)


@contextmanager
def _network() -> Iterator[Network]:
    """A network that is gone afterwards, with all that runs in it."""
    network = Network(_prefix(), f"10.77.{os.getpid() % 250 + 1}")
    bridge = f"{network.prefix}b"
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what follows `finally` is done
    try:
        _do("ip", "link", "add", bridge, "type", "bridge")
        _do("ip", "addr", "add", f"{network.address(-1)}/24", "dev", bridge)
        _do("ip", "link", "set", bridge, "up")
        yield network
    finally:
        for i, name in enumerate(network.nodes):
            with suppress(WorkError):
                network.kill(i)
            _quietly("ip", "netns", "del", name)
            _quietly("ip", "link", "del", f"{network.prefix}v{i}")
        _quietly("ip", "link", "del", bridge)
        signal.signal(signal.SIGTERM, before)


def _on_nodes(network: Network, n: int, function: Any, *arguments: Any) -> Any:
    """Start Ray with n nodes, and call a function in a driver on it."""
    network.grow(n)
    with _ray(network, n) as (environment, log):
        call = "from uadray.bench import nodes; nodes.drive()"
        driver = subprocess.run(
            [sys.executable, "-c", call], input=json.dumps([n, function.__name__, asdict(network), arguments]),
            env=environment, text=True, capture_output=True, check=False, timeout=1800,
        )  # fmt: skip
        if driver.returncode:
            said = driver.stderr[-2000:] + log.read_text(errors="replace")[-2000:]
            raise WorkError(f"{function.__name__} on {n} nodes failed: {said}")
    return json.loads(driver.stdout.strip().splitlines()[-1])


@contextmanager
def _ray(network: Network, n: int) -> Iterator[tuple[dict[str, str], Path]]:
    """A head here and n nodes in their namespaces; the environment of their drivers, and what starting them said."""
    temporary = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # short: a socket's path has 107 characters at most
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    # no token, for the bridge leads nowhere else; and no message of Ray's after the driver's answer (see `console`)
    environment = kept | ENVIRONMENT | {"RAY_AUTH_MODE": "disabled", "RAY_DEDUP_LOGS_SKIP_REGEX": "."}
    head = f"{network.address(-1)}:6399"
    ray = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats"]
    store = f"--object-store-memory={STORE_BYTES}"
    first = [
        *(*ray, "--head", f"--node-ip-address={network.address(-1)}", "--port=6399", "--num-cpus=0", store),
        *("--include-dashboard=false", f"--temp-dir={temporary}", "--ray-client-server-port=6398"),
    ]
    commands = [first]
    for i in range(n):
        mounts = f"mount -t tmpfs tmpfs {shlex.quote(temporary)} && mount -t tmpfs tmpfs /dev/shm"
        node = [*ray, f"--address={head}", f"--node-ip-address={network.address(i)}", f"--num-cpus={CPUS}", store]
        inside = ["unshare", "-m", "sh", "-c", f'{mounts} && exec "$@"', "sh", *node]
        commands.append(["ip", "netns", "exec", network.nodes[i], *inside])
    running: list[subprocess.Popen[bytes]] = []
    log = Path(temporary) / "start.log"
    try:
        for command in commands:
            running.append(_started(command, environment, log=log))
            if len(running) == 1:
                _wait_for(head, log=log)
        yield environment | {"RAY_ADDRESS": head}, log
    finally:
        for i in range(n):
            network.kill(i)
        for process in running:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(temporary, ignore_errors=True)


def _started(command: list[str], environment: dict[str, str], *, log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        return subprocess.Popen(
            command, env=environment, start_new_session=True, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )


def _wait_for(address: str, *, log: Path, seconds: float = 120) -> None:
    host, _, port = address.partition(":")
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
            return
        time.sleep(0.1)
    raise WorkError(f"Ray's head does not answer at {address}: {log.read_text(errors='replace')[-2000:]}")


def drive() -> None:
    """In the driver: read from standard input what is to be called, wait for the nodes, call it, print its answer."""
    import ray

    from uadray.data.cluster import connect, cores

    n, name, network, arguments = json.load(sys.stdin)
    connect()
    deadline = time.monotonic() + 180
    while cores() < n * CPUS:
        if time.monotonic() > deadline:
            raise WorkError(f"only {len(ray.nodes()) - 1} of {n} nodes came")
        time.sleep(0.2)
    print(json.dumps(DRIVERS[name](Network(**network), *arguments)))


DRIVERS = {function.__name__: function for function in (_streamed, _screened_with_a_loss)}


def _prefix() -> str:
    """Of interfaces, whose names have 15 characters at most."""
    return f"ua{os.getpid() % 10**7}"


def _do(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise WorkError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
    return done.stdout


def _quietly(*command: str) -> None:
    subprocess.run(command, capture_output=True, check=False)
