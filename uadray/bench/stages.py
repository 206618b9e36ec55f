"""`bench stages`: what each stage of scoring takes by itself, and the chain of them from encoded tiles in memory.

No Ray and no storage: one process, on a CPU or on a GPU (`--device cuda`), which needs no more than torch and what
decodes. The tiles are those of a bench slide, each a JPEG of 256 px, and the detector is an untrained one of
`configs/train/dpa.yaml`, which on a GPU looks at the whole tile and on a CPU at the centre 64 px. Of each stage:

- read: byte ranges of the tiles from a local file, which the system has in memory.
- decode: simplejpeg.
- host: the trivial scores, and the bytes of the detector's input staged for the device.
- send: those bytes to the device, and to floats there.
- map, reconstruct, score: of the detector, on the device; `score_bf16` is the last in bfloat16.

The first three run on all cores, a thread each. `chain` decodes on all cores while the detector scores the chunk
before. `limit` is what the stages allow: on a GPU the slower of host (decode, host) and device (send to score), which
work side by side; on a CPU, where they share the cores, all of them in turn, and where seconds are those of all
threads over the cores, which other work on the machine hardly changes. `bound` names the slowest stage. With
torchvision, `nvjpeg` is its decoder on the GPU over a batch of the same tiles, and the mean difference in grey levels.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
from torch import Tensor

from uadray.bench.screen_limit import encoded_tiles, tissue_tiles
from uadray.bench.slides import DPA, MPP_CASES, gpu_tiles, write_slide
from uadray.config import parse_config
from uadray.detectors.building import build_detector, build_networks
from uadray.detectors.detector import Detector
from uadray.detectors.pixels import Pixels, staged, to_float
from uadray.detectors.precision import LoweredScore, is_fast
from uadray.errors import InputError
from uadray.slides.tiff.byte_source import open_source
from uadray.tiles.chunks import chunk_tiles
from uadray.tiles.trivial_scores import trivial_scores
from uadray.training.config import TrainConfig, detector_of

GOALS = {"chain_over_limit": 0.7}
"""Least share of the limit that the chain reaches."""

INPUT_PX = {"cpu": 64, "cuda": 256}
CPU_TILES = 32
"""In a chunk on a CPU, which takes half a second for them."""

HOST, DEVICE = ("decode", "host"), ("send", "map", "reconstruct", "score")


def run(*, device: str = "cpu", repeats: int = 2, seconds: float = 1.0, chunks: int = 2) -> dict[str, Any]:
    """Measure; prints nothing. A minute or two.

    Args:
        device: "cpu" or "cuda".
        repeats: phantoms a side of the slide.
        seconds: of each measurement.
        chunks: that go through the chain.

    Raises:
        InputError: there is no such device here.
    """
    if device not in INPUT_PX or (device == "cuda" and not torch.cuda.is_available()):
        raise InputError(f"bench stages has no device {device!r} here; there are: {', '.join(_devices())}")
    cores = os.cpu_count() or 1
    torch.set_num_threads(cores)
    spec = gpu_tiles(MPP_CASES["exact"][1])
    with tempfile.TemporaryDirectory(prefix="uadray-bench-") as folder:
        path = write_slide(Path(folder) / "slide.tif", repeats=repeats, mpp=MPP_CASES["exact"][0])
        detector = _detector(device)
        n = chunk_tiles(spec) if device == "cuda" else CPU_TILES
        jpegs = encoded_tiles(path, tissue_tiles(path, spec), spec)[:n]
        read = _per_s(lambda: _read(path, jpegs), len(jpegs), seconds, device)
    with ThreadPoolExecutor(cores) as pool:
        rates = {"read": read} | _rates(detector, jpegs, pool, seconds)
        chain = {
            "chain": _per_s(lambda: _chain(detector, [jpegs] * chunks, pool), chunks * len(jpegs), seconds, device)
        }
        if is_fast(detector.device):
            full, detector.score = detector.score, LoweredScore(detector.score)
            rates["score_bf16"] = _of_device(detector, jpegs, seconds)["score"]
            chain["chain_bf16"] = _per_s(
                lambda: _chain(detector, [jpegs] * chunks, pool), chunks * len(jpegs), seconds, device
            )
            detector.score = full
    nvjpeg = _nvjpeg(jpegs, detector, seconds)
    return _report(rates, chain, device) | {
        "nvjpeg": nvjpeg,
        "cores": cores, "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "input_px": detector.input_px, "batch_tiles": detector.batch_tiles, "tiles": len(jpegs),
        "jpeg_bytes": round(statistics.mean(map(len, jpegs))),
    }  # fmt: skip


def _report(rates: dict[str, float], chain: dict[str, float], device: str) -> dict[str, Any]:
    host, gpu = (1 / sum(1 / rates[name] for name in names) for names in (HOST, DEVICE))
    limit = min(host, gpu) if device == "cuda" else 1 / (1 / host + 1 / gpu)
    over = chain["chain"] / limit
    return {
        "device": device,
        "tiles_per_s": {name: round(rate, 1) for name, rate in (rates | chain).items()},
        "limit_tiles_per_s": round(limit, 1),
        "bound": min((*HOST, *DEVICE), key=rates.__getitem__),
        "chain_over_limit": round(over, 3),
        "goals": GOALS,
        "goals_met": over >= GOALS["chain_over_limit"],
    }


def _devices() -> list[str]:
    return ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def _detector(device: str) -> Detector:
    config = parse_config(TrainConfig, {"name": "bench", **DPA}, source="uadray.bench.stages")
    kind = detector_of(config).model_copy(update={"input_px": INPUT_PX[device]})
    return build_detector(kind, build_networks(kind), device=device)


def _rates(detector: Detector, jpegs: Sequence[bytes], pool: ThreadPoolExecutor, seconds: float) -> dict[str, float]:
    device, n = detector.device.type, len(jpegs)
    pixels = _decoded(jpegs, pool)
    shares = np.array_split(pixels, os.cpu_count() or 1)
    pinned = device == "cuda"

    def host() -> None:
        list(pool.map(lambda part: (trivial_scores(part), staged(part, detector.input_px, is_pinned=pinned)), shares))

    return {
        "decode": _per_s(lambda: _decoded(jpegs, pool), n, seconds, device),
        "host": _per_s(host, n, seconds, device),
        **_of_device(detector, jpegs, seconds),
    }


@torch.inference_mode()
def _of_device(detector: Detector, jpegs: Sequence[bytes], seconds: float) -> dict[str, float]:
    device, n = detector.device.type, detector.batch_tiles
    pixels = np.stack([simplejpeg.decode_jpeg(jpeg, colorspace="RGB") for jpeg in jpegs[:n]])
    bytes_ = staged(pixels, detector.input_px, is_pinned=device == "cuda")
    x = to_float(bytes_.to(device))
    z = detector.mapping(x)
    x_hat = detector.reconstruct(z)
    stages: dict[str, Callable[[], Any]] = {
        "send": lambda: to_float(bytes_.to(device, non_blocking=True)),
        "map": lambda: detector.mapping(x),
        "reconstruct": lambda: detector.reconstruct(z),
        "score": lambda: detector.score(x, x_hat, z),
    }
    return {name: _per_s(stage, len(pixels), seconds, device) for name, stage in stages.items()}


def _chain(detector: Detector, chunks: Sequence[Sequence[bytes]], pool: ThreadPoolExecutor) -> None:
    """Score chunks; while one is scored, the next is decoded."""
    with ThreadPoolExecutor(1) as ahead:
        coming = ahead.submit(_decoded, chunks[0], pool)
        for i in range(len(chunks)):
            pixels = coming.result()
            if i + 1 < len(chunks):
                coming = ahead.submit(_decoded, chunks[i + 1], pool)
            trivial_scores(pixels)
            detector(pixels)


def _decoded(jpegs: Sequence[bytes], pool: ThreadPoolExecutor) -> Pixels:
    """[N, h, w, 3] Tiles, decoded on the threads of the pool, each to its place."""
    height, width, _, _ = simplejpeg.decode_jpeg_header(jpegs[0])
    pixels = np.empty((len(jpegs), height, width, 3), np.uint8)

    def decode(part: slice) -> None:
        for jpeg, out in zip(jpegs[part], pixels[part], strict=True):
            simplejpeg.decode_jpeg(jpeg, colorspace="RGB", buffer=out)

    threads = os.cpu_count() or 1
    list(pool.map(decode, [slice(i * len(jpegs) // threads, (i + 1) * len(jpegs) // threads) for i in range(threads)]))
    return pixels


def _read(path: Path, jpegs: Sequence[bytes]) -> None:
    """Read as many bytes in as many ranges."""
    source, at, ranges = open_source(str(path)), 0, []
    for jpeg in jpegs:
        ranges.append((at, at + len(jpeg)))
        at += len(jpeg)
    source.read(ranges)
    source.close()


def _nvjpeg(jpegs: Sequence[bytes], detector: Detector, seconds: float) -> dict[str, float] | None:
    """Torchvision's decoder on the GPU beside ours on the CPU; None where there is no GPU or no torchvision."""
    if detector.device.type != "cuda":
        return None
    try:
        from torchvision.io import decode_jpeg
    except ImportError:
        return None
    batch: list[Tensor] = [torch.frombuffer(bytearray(jpeg), dtype=torch.uint8) for jpeg in jpegs]
    ours = simplejpeg.decode_jpeg(jpegs[0], colorspace="RGB").astype(np.float32)
    theirs = decode_jpeg(batch[:1], device="cuda")[0].permute(1, 2, 0).cpu().numpy()
    return {
        "tiles_per_s": round(_per_s(lambda: decode_jpeg(batch, device="cuda"), len(batch), seconds, "cuda"), 1),
        "mean_difference": round(float(np.abs(theirs - ours).mean()), 3),
    }


def _per_s(work: Callable[[], Any], n: int, seconds: float, device: str) -> float:
    """N over the least seconds of a call, after one to warm up; a GPU is waited for after each."""
    work()
    times: list[float] = []
    while sum(times) < seconds or len(times) < 3:
        began = _clock_s(device)
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(max(_clock_s(device) - began, 1e-9))
    return n / min(times)


def _clock_s(device: str) -> float:
    return time.perf_counter() if device == "cuda" else time.process_time() / (os.cpu_count() or 1)
