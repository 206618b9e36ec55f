"""`bench view`: the page's pictures of a slide in S3, 20 ms away, over HTTP, as a browser asks for them.

Slides and their screening lie on a real SeaweedFS behind `DelayProxy`; the endpoint is the application without Ray, on
a port of this machine. In each round a slide that nobody has opened yet is looked at: its record and the tile that
shows it whole, then 50 tiles of the finest level, side by side, by six connections at a time, with the heat over them
beside. The rest of the figures are of the folder: a page of 10,000 slides, sorted and filtered.
"""

import asyncio
import http.client
import json
import logging
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import uvicorn

from uadray.bench.proxy import DelayProxy
from uadray.bench.s3 import NOISE_GREYS, ROUND_TRIP_S
from uadray.bench.seaweed import environment, served
from uadray.bench.slides import DOWNSAMPLES, PHANTOM_PX
from uadray.errors import WorkError
from uadray.phantoms.layout import PhantomSpec
from uadray.phantoms.pyramid import write_pyramid
from uadray.phantoms.tissue import paint
from uadray.schemas import SLIDE_DECISIONS, TILE_SCORES
from uadray.screening import decision_segments
from uadray.screening.slide_outputs import parquet
from uadray.serving.access.callers import Access
from uadray.serving.config import ServeConfig
from uadray.serving.exchange.refusals import RefusedError
from uadray.serving.http import build_http
from uadray.serving.jobs.queue import Jobs
from uadray.serving.registry import RegisteredBundle, Registry
from uadray.serving.scores import Scores, Wanted
from uadray.serving.services import Services
from uadray.serving.views.slide_views import SlideViews
from uadray.slides.identity import slide_etag
from uadray.slides.manifest import SlideRow
from uadray.storage import objects
from uadray.tiles.images import Pixels

GOALS = {"first_tile_s": 0.3, "pan_50_tiles_s": 2.0, "page_of_10000_s": 0.1}
"""The most of each, in the median over rounds."""

MPP = 0.25
PAN = (10, 5)
CONNECTIONS = 6
"""As many as a browser opens to a server."""

N_SLIDES = 10_000
TILE_PX = 256


def run(*, rounds: int = 7, repeats: int = 4, phantom_px: int = PHANTOM_PX, n_slides: int = N_SLIDES) -> dict[str, Any]:
    """Measure; prints nothing.

    Args:
        rounds: slides that are looked at, beside a first one that warms up.
        repeats: phantoms a side of the slide: 4 of 2048 px are 8192 px and 20 MB.
        phantom_px: side of a phantom.
        n_slides: in the folder whose pages are asked for.

    Raises:
        InputError: SeaweedFS is not installed.
    """
    with (
        tempfile.TemporaryDirectory(prefix="uadray-bench-") as folder,
        served(Path(folder) / "seaweed") as server,
        DelayProxy(server.port, round_trip_s=ROUND_TRIP_S) as proxy,
    ):
        path = _write_slide(Path(folder) / "slide.tif", repeats=repeats, side=phantom_px)
        out = f"s3://{server.bucket}/out"
        ids = _screening(out, path, server.bucket, n=rounds + 1, side=repeats * phantom_px)
        with environment({"AWS_ENDPOINT_URL": proxy.endpoint}), _endpoint(out) as port:
            looks = [_look(port, slide_id) for slide_id in ids][1:]
        many = f"{folder}/many"
        _many_slides(many, n_slides)
        with _endpoint(many) as port:
            pages = _pages(port)
        size = path.stat().st_size
    figures = {name: round(statistics.median(look[name] for look in looks), 4) for name in looks[0]}
    worst = {
        f"{name}_worst": round(max(look[name] for look in looks), 4) for name in ("first_tile_s", "pan_50_tiles_s")
    }
    figures |= worst | pages
    met = all(figures[name] <= goal for name, goal in GOALS.items())
    return {
        "round_trip_s": ROUND_TRIP_S, "slide_bytes": size, "rounds": rounds, "n_slides": n_slides, **figures,
        "goals": GOALS, "goals_met": met,
    }  # fmt: skip


def _look(port: int, slide_id: str) -> dict[str, float]:
    """Seconds of each step of looking at a slide."""
    one = f"/v1/screenings/main/slides/{slide_id}"
    began = time.perf_counter()
    slide = json.loads(_got([port, [one]])[0])
    told_s = time.perf_counter() - began
    image = slide["image"]
    whole = image["max_level"] - max(0, max(image["width"], image["height"]) // 512 - 1).bit_length()
    _got([port, [f"{one}/image/{whole}/0_0?v={image['version']}"]])
    first_s = time.perf_counter() - began
    columns, rows = (min(n, image[side] // image["tile_px"]) for n, side in zip(PAN, ("width", "height"), strict=True))
    level, places = image["max_level"], [f"{x}_{y}" for y in range(rows) for x in range(columns)]
    pan_s = _all_at_once(port, [f"{one}/image/{level}/{place}?v={image['version']}" for place in places])
    heat_s = _all_at_once(port, [f"{one}/heat/{level}/{place}?v={slide['version']}" for place in places])
    return {"record_s": told_s, "first_tile_s": first_s, "pan_50_tiles_s": pan_s, "heat_50_tiles_s": heat_s}


def _all_at_once(port: int, paths: Sequence[str]) -> float:
    """Seconds until all of these are there, by `CONNECTIONS` at a time."""
    shares = [[port, paths[i::CONNECTIONS]] for i in range(CONNECTIONS)]
    began = time.perf_counter()
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        list(pool.map(_got, shares))
    return time.perf_counter() - began


def _got(share: list[Any]) -> list[bytes]:
    """What one connection answers to these paths, one after the other."""
    port, paths = share
    bodies = []
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        for path in paths:
            connection.request("GET", path)
            answer = connection.getresponse()
            bodies.append(answer.read())
            if answer.status != 200:
                raise WorkError(f"{path}: {answer.status} {bodies[-1][:300]!r}")
    return bodies


def _pages(port: int) -> dict[str, float]:
    """Seconds of a page of many slides: the first of all, and others, in the worst order and filter."""
    base = "/v1/screenings/main/slides?limit=100"
    queries = ["", "&sort=p_value", "&sort=slide_id&order=desc", "&decision=anomalous&site=2", "&q=99", "&flag=none"]
    took = []
    for query in ["", *queries]:
        began = time.perf_counter()
        _got([port, [base + query]])
        took.append(time.perf_counter() - began)
    return {"first_page_s": round(took[0], 4), f"page_of_{N_SLIDES}_s": round(max(took[1:]), 4)}


@contextmanager
def _endpoint(out: str) -> Iterator[int]:
    """The port of the application, without bundles."""
    views, audit = SlideViews(), logging.getLogger("uadray.serving.access.audit")
    level = audit.level
    audit.setLevel(logging.WARNING)  # a line a request is no news here
    services = Services(
        config=ServeConfig(out=out, bundles={"none": "none"}, slides=(out.rpartition("/")[0],), insecure=True),
        access=Access(None), registry=Registry(out), jobs=Jobs(out), score=_no_score, views=views, ready=_ready,
    )  # fmt: skip
    server = uvicorn.Server(uvicorn.Config(build_http(services), port=0, log_config=None, ws="none"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
        views.close()
        audit.setLevel(level)


async def _no_score(bundle: RegisteredBundle, pixels: Pixels, wanted: Wanted) -> Scores:
    raise RefusedError(503, "this endpoint of a bench scores nothing")


async def _ready() -> bool:
    return True


def _screening(out: str, path: Path, bucket: str, *, n: int, side: int) -> list[str]:
    """Upload `n` copies of a slide and what a screening says of them; returns their ids."""
    _claim(out)
    ids, data = [f"slide_{i}" for i in range(n)], path.read_bytes()
    for slide_id in ids:
        uri = f"s3://{bucket}/{slide_id}.tif"
        objects.write_bytes(uri, data)
        etag = slide_etag(SlideRow(slide_id, uri))
        record = _decision(slide_id, 0, side=side) | {"uri": uri, "etag": etag}
        objects.write_bytes(objects.join(out, "decisions", f"{slide_id}.json"), json.dumps(record).encode())
        objects.write_bytes(objects.join(out, "tiles", f"{slide_id}.parquet"), parquet(_scores(slide_id)))
    return ids


def _many_slides(out: str, n: int) -> None:
    """A folder with so many decided slides, as a screening leaves it: JSONs, and one segment of them."""
    _claim(out)
    decisions = Path(out) / "decisions"
    decisions.mkdir(parents=True)
    for i in range(n):
        (decisions / f"slide_{i}.json").write_text(json.dumps(_decision(f"slide_{i}", i)))
    decided = decision_segments.read_decisions(out)
    decision_segments.tidy(out, decided, whole=True)


def _claim(out: str) -> None:
    names = {"bundle_id": "0" * 12, "bundle": "bench", "detector": "dpa", "calibration_id": "0" * 12}
    record = {"fingerprint": "0" * 16, **names, "tiles": {"mpp": 1.0, "tile_px": TILE_PX}, "started": "now"}
    objects.write_bytes(objects.join(out, "run.json"), json.dumps(record).encode())


def _decision(slide_id: str, i: int, *, side: int = 8192) -> dict[str, Any]:
    """A record; numbers differ from slide to slide."""
    return dict.fromkeys(SLIDE_DECISIONS.names) | {
        "slide_id": slide_id, "uri": f"/slides/{slide_id}.tif", "state": "scored", "fingerprint": "0" * 16,
        "decision": "normal" if i % 9 else "anomalous", "score": (i * 7919 % 10_007) / 1e4,
        "p_value": (i * 104_729 % 1009 + 1) / 1010, "threshold": 0.9, "alpha": 0.05, "mpp_level0": MPP, "etag": "0-0",
        "width_level0_px": side, "height_level0_px": side, "evidence": "[]", "flags": "{}", "site": str(i % 5),
    }  # fmt: skip


def _scores(slide_id: str) -> pa.Table:
    """A score for each tile of 256 px at 1 um/px: 64 of 1024 level-0 pixels."""
    side = round(TILE_PX / MPP)
    y, x = np.indices((8, 8)).reshape(2, -1) * side
    n = len(x)
    columns = {name: pa.nulls(n, TILE_SCORES.field(name).type) for name in TILE_SCORES.names} | {
        "tile_id": [f"{slide_id}/{i}" for i in range(n)], "slide_id": [slide_id] * n, "x_level0_px": x,
        "y_level0_px": y, "width_level0_px": np.full(n, side), "height_level0_px": np.full(n, side),
        "tissue_fraction": np.ones(n, np.float32), "band": ["tissue"] * n, "score": np.linspace(0, 1, n),
    }  # fmt: skip
    return pa.table(columns, schema=TILE_SCORES)


def _write_slide(path: Path, *, repeats: int, side: int) -> Path:
    """A slide whose tiles have the bytes of a scanner's: noise makes them 15 KB."""
    image, _ = paint(PhantomSpec(side, side, MPP, lesion=False, stain=0, seed=0))
    noise = np.random.default_rng(0).normal(0, NOISE_GREYS, image.shape)
    noisy = np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)
    return write_pyramid(path, np.tile(noisy, (repeats, repeats, 1)), mpp=MPP, downsamples=DOWNSAMPLES)
