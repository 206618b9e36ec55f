"""A screening's folder with made-up scores, of any number of slides and tiles, to export; no slide was read."""

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import scipy.ndimage

from uadray.decisions.aggregation import AggregationConfig
from uadray.decisions.conformal import Calibration
from uadray.schemas import SLIDE_DECISIONS
from uadray.screening.decision_segments import write_segment
from uadray.screening.kept_calibrations import keep
from uadray.screening.slide_outputs import parquet
from uadray.tiles.spec import TileSpec

TILE_PX = 224
SPEC = TileSpec(mpp=0.5, tile_px=TILE_PX, quality=None)

RUN = {
    "fingerprint": "0123456789abcdef", "bundle_id": "b1", "bundle": "made-up", "detector": "dpa",
    "calibration_id": "c1", "uadray_version": "0.0.1", "tiles": SPEC.model_dump(),
}  # fmt: skip


CALIBRATION = Calibration(
    id="c1", bundle_id="b1", aggregation=AggregationConfig(), alpha=0.05, scores=tuple(np.arange(99) / 50),
    tile_median=0.0, tile_p99=1.6, tile_high=3.0, tile_quantiles=tuple(np.linspace(-3, 3, 1001)),
)  # fmt: skip
"""Of the made-up scores about 5 % are above `tile_p99`."""


def scores_in_patches(side: int, seed: int) -> npt.NDArray[np.float64]:
    """Scores [side, side] that are high in patches, as those of lesions are: mean 0, standard deviation 1."""
    rng = np.random.default_rng(seed)
    smooth = scipy.ndimage.gaussian_filter(rng.normal(size=(side, side)), 3)
    mixed = smooth / smooth.std() + 0.3 * rng.normal(size=smooth.shape)
    return np.asarray((mixed - mixed.mean()) / mixed.std())


def tiles_of(slide_id: str, scores: npt.NDArray[np.float64]) -> pa.Table:
    """Rows of `TILE_SCORES` of a slide that is full of tissue, scores [h, w]; a tile whose score is NaN is blurred."""
    rows, columns = (places.ravel() for places in np.indices(scores.shape))
    n, values = scores.size, scores.ravel()
    bad = np.isnan(values)
    return pa.table(
        {
            "tile_id": pa.array([f"{slide_id}/{place}" for place in range(n)]),
            "slide_id": pa.repeat(slide_id, n),
            "x_level0_px": columns * TILE_PX,
            "y_level0_px": rows * TILE_PX,
            "width_level0_px": np.full(n, TILE_PX),
            "height_level0_px": np.full(n, TILE_PX),
            "tissue_fraction": np.ones(n, np.float32),
            "band": pa.repeat("tissue", n),
            "score": pa.array(values, mask=bad),
            "mean_saturation": np.full(n, 0.3, np.float32),
            "mean_green": np.full(n, 0.5, np.float32),
            "flag": pa.array(["blur" if is_bad else None for is_bad in bad], pa.string()),
            "error": pa.nulls(n, pa.string()),
        }
    )


def decision_of(slide_id: str, **more: Any) -> dict[str, Any]:
    """The row of `SLIDE_DECISIONS` of an anomalous slide."""
    row = {
        "slide_id": slide_id, "uri": f"/slides/{slide_id}.svs", "state": "scored", "decision": "anomalous",
        "score": 2.5,
        "p_value": 0.01, "threshold": 2.0, "alpha": 0.05, "calibration_id": "c1", "mpp_level0": 0.5,
        "width_level0_px": 100_000, "height_level0_px": 100_000, "fingerprint": "f",
    }  # fmt: skip
    return dict.fromkeys(SLIDE_DECISIONS.names) | row | more


def write_screening(folder: Path, decisions: Sequence[dict[str, Any]], tables: Sequence[pa.Table]) -> None:
    """Write a screening's folder, with its calibration. Slides take turns at the tables, which are stored once."""
    for name in ("tiles", "decisions", "segments"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(RUN))
    keep(str(folder), CALIBRATION)
    stored = []
    for number, table in enumerate(tables):
        stored.append(folder / f"table-{number}.bin")
        stored[-1].write_bytes(parquet(table))

    def write(number: int) -> dict[str, Any]:
        record = decisions[number] | {"lease": "x.1"}
        if record["state"] == "scored":
            os.link(stored[number % len(stored)], folder / "tiles" / f"{record['slide_id']}.parquet")
        path = folder / "decisions" / f"{record['slide_id']}.json"
        path.write_text(json.dumps(record))
        status = path.stat()
        return decisions[number] | {"decision_etag": f"{status.st_size:x}-{status.st_mtime_ns:x}", "bundle": None}

    with ThreadPoolExecutor(4) as pool:
        rows = list(pool.map(write, range(len(decisions))))
    schema = pa.schema([*SLIDE_DECISIONS, ("decision_etag", pa.string()), ("bundle", pa.string())])
    write_segment(str(folder), pa.Table.from_pylist(rows, schema=schema))
    for path in stored:
        path.unlink()
