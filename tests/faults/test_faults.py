"""Faults, injected for real, into the whole job: processes killed, storage that breaks off, files that lie.

Slides, bundle and output lie in a real S3 server; the workers of one Ray cluster reach it through a proxy that can
misbehave (`fault_proxy`). Each job has to end as a plain run without Ray ends: every slide once, the same scores.
"""

import json
import os
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import start
from fault_proxy import FaultProxy, Request
from seaweed import SeaweedServer

from uadray.bench.processes import READER, SCORER, peak_rss, titled
from uadray.bench.slides import write_calibration, write_slide, write_tiny_bundle
from uadray.cluster.connection import ENVIRONMENT
from uadray.decisions.aggregation import slide_score
from uadray.detectors.bundle import Bundle, load_detector
from uadray.slides.manifest import SlideRow, write_manifest
from uadray.slides.opening import open_slide
from uadray.storage import objects
from uadray.tiles.chunks import read_chunks
from uadray.tiles.plan import plan_slide

pytestmark = [pytest.mark.ray, pytest.mark.s3, pytest.mark.slow, pytest.mark.timeout(600)]

NO_TOKEN = {"RAY_AUTH_MODE": "disabled"}  # a cluster that drivers of this test alone join, on 127.0.0.1
N_SLIDES = 6
CACHE_BYTES = 2 * 2**20
MAY_MOUNT = os.geteuid() == 0
READER_LIMIT_BYTES = 2 * 2**30
"""A worker with torch and OpenCV has 0.6 GB; the bombs below would take 4 and 12."""


@dataclass
class Archive:
    """What all jobs share.

    Attributes:
        server: holds everything in the bucket `slides`.
        proxy: the workers' way to it.
        cluster: pid of the Ray cluster's parent process.
        env: of a driver: the proxy as endpoint, the cluster as its cluster.
        bundle_uri: an untrained detector.
        slide: a good slide's bytes.
        score: of that slide, by a plain run.
        tile_scores: of that slide, likewise, by tile id without the slide's.
    """

    server: SeaweedServer
    proxy: FaultProxy
    cluster: int
    env: dict[str, str]
    bundle_uri: str
    slide: bytes
    score: float
    tile_scores: dict[str, float] = field(default_factory=dict)
    cache: Path = Path()

    @property
    def root(self) -> str:
        return f"s3://{self.server.bucket}"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, s3_server: SeaweedServer) -> Iterator[Archive]:
    folder = tmp_path_factory.mktemp("faults")
    with pytest.MonkeyPatch.context() as patch, FaultProxy(s3_server.endpoint) as proxy:
        for name, value in s3_server.env.items():
            patch.setenv(name, value)
        bundle_uri = f"s3://{s3_server.bucket}/faults/bundle"
        bundle = write_tiny_bundle(bundle_uri)
        path = write_slide(folder / "slide.tif", repeats=6, phantom_px=512)
        scores = _plain_run(path, bundle_uri, bundle)
        calibration = write_calibration(bundle_uri, bundle, scores=tuple(np.linspace(0, 2 * max(scores.values()), 19)))
        env = s3_server.env | {"AWS_ENDPOINT_URL": proxy.endpoint}
        with _cluster(folder, env) as (process, address):
            yield Archive(
                s3_server, proxy, process.pid, env | NO_TOKEN | {"RAY_ADDRESS": address}, bundle_uri, path.read_bytes(),
                slide_score(pa.table({"score": list(scores.values())}), calibration.aggregation), scores,
                folder / "cache",
            )  # fmt: skip


def _plain_run(path: Path, bundle_uri: str, bundle: Bundle) -> dict[str, float]:
    detector = load_detector(bundle_uri, bundle)
    with open_slide(path, slide_id="s") as slide:
        plan = plan_slide(slide, etag="", spec=bundle.tiles)
        chunks = list(read_chunks(slide, plan.tiles, spec=bundle.tiles))
    scores = np.concatenate([detector(chunk.pixels).score for chunk in chunks])
    assert len(chunks) >= 3
    return dict(zip([name.partition("/")[2] for name in plan.tiles["tile_id"].to_pylist()], scores, strict=True))


HOLDER = """
import json, sys, ray
address = ray.init(**json.loads(sys.argv[1])).address_info["address"]
print(address, flush=True)
sys.stdin.read()  # until the test closes it, or is gone
"""


@contextmanager
def _cluster(folder: Path, env: dict[str, str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A Ray cluster of four CPUs whose cache of slides lies on a disk of 2 MiB, where this user may mount one."""
    (folder / "cache").mkdir()
    options = {
        "num_cpus": 4, "include_dashboard": False, "object_store_memory": 300 * 2**20, "log_to_driver": False,
        "_temp_dir": tempfile.mkdtemp(prefix="ray", dir="/tmp"),  # a socket's path has 107 characters at most
    }  # fmt: skip
    command = [sys.executable, "-c", HOLDER, json.dumps(options)]
    if MAY_MOUNT:
        mount = f"mount -t tmpfs -o size={CACHE_BYTES} tmpfs {shlex.quote(str(folder / 'cache'))}"
        command = ["unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', "sh", *command]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    process = subprocess.Popen(
        command, env=kept | ENVIRONMENT | NO_TOKEN | env | {"UADRAY_CACHE_SLIDES": str(folder / "cache")}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        assert address, "Ray did not start"
        yield process, address
        process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        shutil.rmtree(options["_temp_dir"], ignore_errors=True)


@dataclass
class Job:
    """A driver at work on an archive of its own.

    Attributes:
        process: the driver.
        uri: its folder.
        out: of its output.
        names: its slides.
    """

    archive: Archive
    name: str
    rows: list[SlideRow]

    @property
    def uri(self) -> str:
        return f"{self.archive.root}/{self.name}"

    @property
    def command(self) -> tuple[str, ...]:
        """The same each time it is run."""
        return ("screen", self.archive.bundle_uri, "--slides", f"{self.uri}/m.csv", "--out", f"{self.uri}/out")

    def decided(self) -> dict[str, str]:
        """Etags of the decisions that are there."""
        decisions = objects.list_objects(f"{self.uri}/out/decisions")
        return {objects.name(info.uri).removesuffix(".json"): info.etag for info in decisions}

    def decisions(self) -> dict[str, dict[str, Any]]:
        """All decisions."""
        return {
            name: json.loads(objects.read_bytes(f"{self.uri}/out/decisions/{name}.json")) for name in self.decided()
        }


def _job(archive: Archive, name: str, n: int = N_SLIDES, **others: bytes) -> Job:
    """Slides `s0`, `s1`, ..., all alike, and others; and their manifest."""
    contents = {f"s{i}": archive.slide for i in range(n)} | others
    rows = [SlideRow(slide_id=key, uri=f"{archive.root}/{name}/slides/{key}.tif") for key in contents]
    for row in rows:
        objects.write_bytes(row.uri, contents[row.slide_id])
    write_manifest(rows, f"{archive.root}/{name}/m.csv")
    archive.proxy.requests.clear()
    archive.proxy.faults.clear()
    return Job(archive, name, rows)


def _as_undisturbed(job: Job, names: Iterable[str]) -> None:
    """Every slide was scored as a plain run scores it, tile by tile, and its decision written once."""
    archive, decisions = job.archive, job.decisions()
    assert set(names) <= set(decisions)
    for name in names:
        assert decisions[name]["state"] == "scored", decisions[name]["message"]
        assert decisions[name]["score"] == pytest.approx(archive.score, abs=1e-5)
        tiles = pq.read_table(pa.BufferReader(objects.read_bytes(f"{job.uri}/out/tiles/{name}.parquet")))
        pairs = zip(tiles["tile_id"].to_pylist(), tiles["score"].to_pylist(), strict=True)
        scores = {tile_id.partition("/")[2]: score for tile_id, score in pairs}
        assert scores.keys() == archive.tile_scores.keys()
        assert len(tiles) == len(scores)
        assert max(abs(scores[key] - archive.tile_scores[key]) for key in scores) < 1e-5
    puts = [r for r in archive.proxy.requests if r.method == "PUT" and "/decisions/" in r.path and r.status == 200]
    assert Counter(r.path for r in puts).most_common(1)[0][1] == 1


def _wait(condition: Callable[[], Any], process: "subprocess.Popen[str]", seconds: float = 240) -> Any:
    """Wait until something is true, while the driver lives."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.05)
    return value


def _end(process: "subprocess.Popen[str]", status: int = 0) -> dict[str, Any]:
    out, err = process.communicate(timeout=300)
    assert process.returncode == status, err
    summary: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    return summary


def test_readers_and_scorers_are_killed_and_storage_stumbles(archive: Archive) -> None:
    """Kill -9 of readers in the middle of a slide, and of every scoring actor; cut connections, 503, SlowDown."""
    job, gate = _job(archive, "killed"), threading.Event()
    plan = {1: "cut", 2: "reset", 3: "ServiceUnavailable", 4: "SlowDown"}

    def fault(request: Request) -> str | None:
        if request.method != "GET" or "/killed/slides/" not in request.path:
            return None
        if request.path.endswith(("s4.tif", "s5.tif")) and not gate.is_set():
            gate.wait(60)
        return plan.get(request.number) if request.path.endswith(("s1.tif", "s4.tif")) else None

    archive.proxy.fault = fault
    process = start(*job.command, env=archive.env)
    _wait(lambda: len(job.decided()) >= 2, process)
    readers = _wait(lambda: titled(archive.cluster, READER), process)
    scorers = _wait(lambda: titled(archive.cluster, SCORER), process)
    for pid in readers + scorers:
        os.kill(pid, signal.SIGKILL)
    gate.set()
    summary = _end(process)
    assert summary["scored"] == summary["slides_now"] == N_SLIDES
    assert {"cut", "ServiceUnavailable", "SlowDown"} <= archive.proxy.faults.keys()
    _as_undisturbed(job, [row.slide_id for row in job.rows])


def test_the_server_is_killed_and_comes_back_after_20_seconds(archive: Archive) -> None:
    job, gate = _job(archive, "down"), threading.Event()

    def fault(request: Request) -> str | None:
        if "/down/slides/" in request.path and request.path.endswith(("s3.tif", "s4.tif", "s5.tif")):
            gate.wait(60)
        return None

    archive.proxy.fault = fault
    process = start(*job.command, env=archive.env)
    _wait(lambda: len(job.decided()) >= 2, process)
    archive.server.kill()
    gate.set()
    time.sleep(20)
    archive.server.start()
    assert process.poll() is None, process.communicate()
    assert _end(process)["scored"] == N_SLIDES
    _as_undisturbed(job, [row.slide_id for row in job.rows])


def test_two_drivers_share_an_archive(archive: Archive) -> None:
    """Each slide is read by one of them, and both return when all is decided."""
    job = _job(archive, "shared")
    archive.proxy.fault = lambda request: None
    drivers = [start(*job.command, env=archive.env) for _ in range(2)]
    summaries = [_end(driver) for driver in drivers]
    assert [summary["scored"] for summary in summaries] == [N_SLIDES, N_SLIDES]
    assert sum(summary["slides_now"] for summary in summaries) == N_SLIDES
    for row in job.rows:
        heads = [r for r in archive.proxy.gets(f"/{row.slide_id}.tif") if (r.byte_range or "").startswith("bytes=0-")]
        assert len(heads) == 1, row.slide_id
    _as_undisturbed(job, [row.slide_id for row in job.rows])


def test_files_that_lie_and_a_full_disk(archive: Archive, data_dir: Path) -> None:
    """They fail by themselves, in bounded memory; what a full disk kept back is open for the next run."""
    good = archive.slide
    job = _job(
        archive, "lies", 2,
        truncated=good[: len(good) * 6 // 10], bomb=_with_huge_frames(good), endless=_with_a_billion_tiles(good),
        changing=good, jpeg2000=(data_dir / "wsi" / "tcga-cr-7395-01a-01-ts1.svs").read_bytes(),
    )  # fmt: skip
    rows = [replace(row, mpp=0.486) for row in job.rows]  # the last one does not say it
    write_manifest(rows, f"{job.uri}/m.csv")

    def fault(request: Request) -> str | None:
        if request.method == "GET" and request.path.endswith("/changing.tif") and request.number == 2:
            objects.write_bytes(f"{job.uri}/slides/changing.tif", good + b"!")
        return None

    archive.proxy.fault = fault
    process, peak = start(*job.command, env=archive.env), 0
    while process.poll() is None:
        peak = max([peak, *(peak_rss(pid) for pid in titled(archive.cluster, READER))])
        time.sleep(0.1)
    summary = _end(process, status=1)
    ends = {name: (d["state"], d["reason"]) for name, d in job.decisions().items()}
    assert ends.pop("changing") == ("failed", "changed")
    for name in ("truncated", "bomb", "endless"):
        assert ends.pop(name) == ("failed", "unreadable"), name
    assert summary["failed"] == 4
    assert summary["open"] == MAY_MOUNT  # a full disk is no fault of the slide's
    if MAY_MOUNT:
        assert "jpeg2000: disk_full: " in summary["why_open"]
        assert "jpeg2000" not in ends
    assert 0 < peak < READER_LIMIT_BYTES
    _as_undisturbed(job, ["s0", "s1"])
    if not MAY_MOUNT:
        pytest.skip("NO FULL DISK: mounting one needs root")
    assert ends.keys() == {"s0", "s1"}
    _nsenter(archive, "mount", "-o", "remount,size=64m", str(archive.cache))
    again = _end(start(*job.command, env=archive.env), status=1)
    assert (again["slides_now"], again["open"], again["failed"]) == (1, 0, 4)
    decisions = job.decisions()
    assert decisions["jpeg2000"]["state"] == "scored", decisions["jpeg2000"]["message"]
    assert decisions["changing"]["reason"] == "changed"


def _with_huge_frames(tiff: bytes) -> bytes:
    """Every JPEG tile says that it has 65,500 x 65,500 pixels: 12.9 GB, decoded."""
    assert tiff.count(b"\xff\xc0\x00\x11\x08\x01\x00\x01\x00") > 64
    return tiff.replace(b"\xff\xc0\x00\x11\x08\x01\x00\x01\x00", b"\xff\xc0\x00\x11\x08\xff\xdc\xff\xdc")


def _with_a_billion_tiles(tiff: bytes) -> bytes:
    """Level 0 says that it has 31,624 x 31,624 tiles of 256 px."""
    data, side = bytearray(tiff), 31_624
    (directory,) = struct.unpack_from("<I", data, 4)
    (n_entries,) = struct.unpack_from("<H", data, directory)
    for at in range(directory + 2, directory + 2 + 12 * n_entries, 12):
        (tag,) = struct.unpack_from("<H", data, at)
        if tag in (256, 257):  # width, height
            struct.pack_into("<I", data, at + 8, side * 256)
        elif tag in (324, 325):  # offsets and lengths of tiles
            struct.pack_into("<I", data, at + 4, side**2)
    return bytes(data)


def _nsenter(archive: Archive, *command: str) -> None:
    """Run a command where the cluster lives: it has its own mounts."""
    subprocess.run(["nsenter", "-t", str(archive.cluster), "-m", *command], check=True)
