"""`bench serve --only latency`: tiles through the stages of an endpoint over one call of the detector in a process.

Each round measures, one after the other, with the same tiles: the detector in a plain process (`direct`), the stages by
Serve's handle as the ingress calls them (`handle`), and the endpoint over HTTP with the tiles as an npz (`npz`) and as
PNG in JSON (`png`), where images are decoded too. Every side has one thread and batches of 64. `over_direct` is the
median over the rounds of the seconds over those of the direct call, so that other work on the machine falls on both;
`best_over_direct` is the least over the least.

`chained` are three deployments, `fused` is one. Scores must be those of the direct call.
"""

import asyncio
import base64
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from uadray.bench.endpoint import STAGES, Endpoint, running_endpoint
from uadray.bench.http_load import Load, facts, send_apart
from uadray.bench.serve_material import Material, npz_request, tiles
from uadray.errors import WorkError
from uadray.tiles.images import Pixels

GOALS = {"overhead": 0.15}
"""The most that the chain may take at `MANY` tiles beyond the direct call, by handle and as npz over HTTP."""

FEW, MANY = 32, 256
ROUNDS = {FEW: 40, MANY: 15}

SAME = 1e-5

Timed = tuple[npt.NDArray[np.float64], float]
"""Scores, and seconds."""


def run(place: Material, *, rounds: dict[int, int] = ROUNDS) -> dict[str, Any]:
    """Measure; two minutes or three."""
    figures: dict[str, Any] = {}
    for name in ("chained", "fused"):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            figures[name] = pool.submit(_of_endpoint, place.elsewhere(), name, rounds).result()
    figures["fused_over_chained"] = {
        str(n): {
            way: round(figures["fused"][str(n)][way]["p50_s"] / figures["chained"][str(n)][way]["p50_s"], 3)
            for way in ("handle", "npz", "png")
        }
        for n in rounds
    }
    chain = figures["chained"][str(max(rounds))]
    overheads = {way: round(chain[way]["over_direct"] - 1, 3) for way in ("handle", "npz")}
    return figures | {"overhead": overheads, "met": all(each <= GOALS["overhead"] for each in overheads.values())}


def _of_endpoint(place: Material, name: str, rounds: dict[int, int]) -> dict[str, Any]:
    """The figures of an endpoint, `chained` or `fused`."""
    is_fused = name == "fused"
    arguments = place.arguments(f"latency-{name}", one_replica=is_fused, slide={"replicas": 1, "cpus": 0})
    with running_endpoint(arguments, cpus=4) as endpoint, _plain_process() as pool:
        ways = _ways(place, endpoint, pool, one_replica=is_fused)
        figures: dict[str, Any] = {str(n): _measured(ways, n, count, place) for n, count in rounds.items()}
        load = Load(seconds=8, clients=4)
        sent, _ = send_apart(endpoint.port, npz_request(tiles(FEW, place.bundle.tiles.tile_px)), load)
        good = sum(each.status == 200 for each in sent)
        figures["four_clients"] = facts(sent) | {"tiles_per_s": round(good * FEW / load.seconds, 1)}
    return figures


def _plain_process() -> ProcessPoolExecutor:
    """A process without Ray; it begins after the endpoint, so that it has the same settings of the C library."""
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=_settle)


def _settle() -> None:
    """One thread in this process, as in a stage's replica."""
    import torch

    torch.set_num_threads(1)


_DETECTORS: dict[str, Any] = {}


def _direct(bundle_uri: str, pixels: Pixels) -> Timed:
    from uadray.detectors.bundle import load_detector

    if bundle_uri not in _DETECTORS:
        _DETECTORS[bundle_uri] = load_detector(bundle_uri)
        _DETECTORS[bundle_uri](pixels)
    began = time.perf_counter()
    score = _DETECTORS[bundle_uri](pixels).score
    return score, time.perf_counter() - began


def _ways(
    place: Material, endpoint: Endpoint, pool: ProcessPoolExecutor, *, one_replica: bool
) -> dict[str, Callable[[Pixels], Timed]]:
    by_handle = _by_handle(place, one_replica=one_replica)

    def over_http(path: str, body: bytes, kind: str) -> Timed:
        began = time.perf_counter()
        answer = endpoint.ask(path, body, headers={"Content-Type": kind})
        seconds = time.perf_counter() - began
        if answer.status != 200:
            raise WorkError(f"the bench's own tiles: {answer.status} {answer.body[:300]!r}")
        return np.array([each["score"] for each in answer.json["scores"]]), seconds

    def as_npz(pixels: Pixels) -> Timed:
        request = npz_request(pixels)
        return over_http(request.path, request.body, "application/x-npz")

    def as_png(pixels: Pixels) -> Timed:
        return over_http("/v1/tiles/score", _png_body(pixels), "application/json")

    return {
        "direct": lambda pixels: pool.submit(_direct, place.bundle_uri, pixels).result(),
        "handle": by_handle, "npz": as_npz, "png": as_png,
    }  # fmt: skip


def _by_handle(place: Material, *, one_replica: bool) -> Callable[[Pixels], Timed]:
    """Calls the stages as the ingress does."""
    from ray import serve

    from uadray.serving.config import ServeConfig
    from uadray.serving.registry import Registry
    from uadray.serving.scores import Wanted
    from uadray.serving.stages.through_stages import ThroughStages

    out = place.arguments(f"latency-{'fused' if one_replica else 'chained'}")["out"]
    bundle = Registry(out, default="a").get()
    config = ServeConfig(out=out, bundles={"a": place.bundle_uri}, one_replica=one_replica)
    names = STAGES[3:] if one_replica else STAGES[:3]
    loop = asyncio.new_event_loop()
    through = ThroughStages(config, [serve.get_deployment_handle(name, "uadray") for name in names])

    def call(pixels: Pixels) -> Timed:
        began = time.perf_counter()
        scores = loop.run_until_complete(through.score(bundle, pixels, Wanted()))
        return scores.score, time.perf_counter() - began

    return call


def _measured(
    ways: dict[str, Callable[[Pixels], Timed]], n: int, rounds: int, place: Material
) -> dict[str, dict[str, Any]]:
    pixels = tiles(n, place.bundle.tiles.tile_px)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    expected = ways["direct"](pixels)[0]
    for way in ways.values():  # the first calls open connections and load what is loaded late
        way(pixels)
    for _ in range(rounds):
        for name, way in ways.items():
            score, took_s = way(pixels)
            if (difference := float(np.abs(score - expected).max())) > SAME:
                raise WorkError(f"{name}, {n} tiles: scores differ by {difference:g} from the detector's")
            seconds[name].append(took_s)
    return {name: _figures(each, seconds["direct"], n) for name, each in seconds.items()}


def _figures(seconds: list[float], direct: list[float], n: int) -> dict[str, Any]:
    p50 = statistics.median(seconds)
    ratios = [ours / theirs for ours, theirs in zip(seconds, direct, strict=True)]
    return {
        "p50_s": round(p50, 4),
        "p99_s": round(sorted(seconds)[min(len(seconds) - 1, int(0.99 * len(seconds)))], 4),
        "tiles_per_s": round(n / p50, 1),
        "over_direct": round(statistics.median(ratios), 3),
        "best_over_direct": round(min(seconds) / min(direct), 3),
    }


def _png_body(pixels: Pixels) -> bytes:
    images = [cv2.imencode(".png", np.ascontiguousarray(tile[..., ::-1]))[1].tobytes() for tile in pixels]
    sent = [{"id": str(i), "image": base64.b64encode(image).decode()} for i, image in enumerate(images)]
    return json.dumps({"tiles": sent}).encode()
