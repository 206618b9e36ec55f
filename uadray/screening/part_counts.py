"""The header of a row -> the metrics of this run: what reader and scorer did for it, counted once, in the driver."""

from collections.abc import Mapping
from typing import Any

from uadray import metrics

_COUNTS = {
    "cache_hit": (metrics.CACHE_REQUESTS, "hit"),
    "cache_miss": (metrics.CACHE_REQUESTS, "miss"),
    "cache_hit_bytes": (metrics.CACHE_BYTES, "hit"),
    "cache_miss_bytes": (metrics.CACHE_BYTES, "miss"),
    "cache_evicted_bytes": (metrics.CACHE_BYTES, "evicted"),
    "batch_tiles": (metrics.BATCH_TILES, ""),
    "batch_room": (metrics.BATCH_ROOM, ""),
    "gpu_seconds": (metrics.GPU_SECONDS, ""),
}
"""The names that work is tallied by -> the metric, and its outcome."""


def count_part(header: Mapping[str, Any]) -> None:
    """Count a part's reading and scoring; of a slide that failed there are only the seconds of what was done."""
    if "tiles" in header:
        counts = {"tiles": header["tiles"], "bytes_": header["bytes"], "errors": header["errors"]}
        for stage in ("read", "score"):
            metrics.Meter(f"screen_{stage}").add(**counts, seconds=header[f"{stage}_s"])
    count_work(header, stage="screen_score")


def count_work(measured: Mapping[str, Any], *, stage: str) -> None:
    """Count what a `WorkRecord` has: seconds of parts of the work, the slide cache, batches and the GPU of `stage`."""
    for name, seconds in measured.get("stages", {}).items():
        metrics.count(metrics.STAGE_SECONDS, seconds, stage=name)
    for name, n in measured.get("counts", {}).items():
        metric, outcome = _COUNTS[name]
        metrics.count(metric, n, **({"outcome": outcome} if outcome else {"stage": stage}))
