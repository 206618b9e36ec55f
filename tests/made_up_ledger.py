"""A screening's folder as a ledger leaves it, of slides that were never read: any number, of any time and site."""

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from uadray.decisions.aggregation import AggregationConfig
from uadray.decisions.conformal import Calibration, NormalSlide
from uadray.decisions.slide_measures import MEASURES
from uadray.schemas import SLIDE_DECISIONS
from uadray.screening.leases import heartbeat_uri
from uadray.storage import objects

FACTS = {
    "bundle_id": "b1", "bundle": "made-up", "detector": "dpa", "calibration_id": "c1", "uadray_version": "0.0.1",
    "fingerprint": "0123456789abcdef",
}  # fmt: skip


def calibration(
    n: int = 99, *, site: str = "North", scanner: str = "S1", seed: int = 7, bundle_id: str = "b1"
) -> Calibration:  # fmt: skip
    """Of `n` normal slides; alpha is 5 %."""
    rng = np.random.default_rng(seed)
    normals = tuple(NormalSlide(site=site, scanner=scanner, **measures(rng)) for _ in range(n))
    return Calibration(
        id="c1", bundle_id=bundle_id, aggregation=AggregationConfig(), alpha=0.05, scores=tuple(np.arange(n) / n),
        tile_median=0.1, tile_p99=0.2, tile_high=0.3, normals=normals, made="2026-11-01T00:00:00.000Z",
    )  # fmt: skip


def measures(rng: np.random.Generator, **moved: float) -> dict[str, float]:
    """One slide's; those that have moved by so many standard deviations."""
    return {name: float(rng.normal(0.5 + 0.1 * moved.get(name, 0.0), 0.1)) for name in MEASURES}


def scored(slide_id: str, *, p: float = 0.5, ago_s: float = 1000.0, now: datetime | None = None, **more: Any) -> Any:
    """A row of a scored slide, decided so many seconds ago."""
    at = (now or datetime.now(UTC)) - timedelta(seconds=ago_s)
    decision = "anomalous" if p <= 0.05 else "normal"
    row = {"state": "scored", "decision": decision, "p_value": p, "score": 1 - p, "alpha": 0.05}
    row |= {"decided_at": at.isoformat().replace("+00:00", "Z"), "read_seconds": 2.0, "score_seconds": 1.0}
    return (
        {"slide_id": slide_id, "uri": f"/{slide_id}", "fingerprint": "f", "site": "North", "scanner": "S1"} | row | more
    )


def unscored(slide_id: str, state: str, reason: str) -> dict[str, Any]:
    """A row of a slide that failed or is not assessable."""
    decision = None if state == "failed" else state
    return {
        "slide_id": slide_id,
        "uri": "/x",
        "fingerprint": "f",
        "state": state,
        "reason": reason,
        "decision": decision,
    }


def write_run(out: str, **more: Any) -> None:
    """`run.json` of a screening with one bundle, unless `bundles` are given."""
    objects.write_bytes(f"{out}/run.json", json.dumps(FACTS | more).encode())


def write_decisions(out: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """One JSON a slide, of one bundle."""

    def write(row: Mapping[str, Any]) -> None:
        record = dict.fromkeys(SLIDE_DECISIONS.names) | dict(row) | {"lease": "x.1"}
        objects.write_bytes(f"{out}/decisions/{row['slide_id']}.json", json.dumps(record).encode())

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(write, rows))


def write_progress(out: str, driver: str, *, ago_s: float = 5.0, ended: str | None = None, **more: Any) -> None:
    """A heartbeat with progress; or `progress.json`, where it has ended."""
    at = datetime.now(UTC) - timedelta(seconds=ago_s)
    started = at - timedelta(hours=1)
    progress = {"at": at.isoformat(), "started": started.isoformat(), "slides": 10, "open": 4, "cores": 8} | more
    if ended is not None:
        progress |= {"driver": driver, "ended": at.isoformat(), "why": ended}
        objects.write_bytes(f"{out}/progress.json", json.dumps(progress).encode())
        return
    beat = {"driver": driver, "machine": "another", "lease_s": 60.0, "progress": progress}
    objects.write_bytes(heartbeat_uri(out, driver), json.dumps(beat).encode())
