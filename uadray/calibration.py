"""`uadray calibrate`: normal slides -> `calibration.json` beside the bundle."""

import json

import numpy as np

from uadray import runs, storage
from uadray.aggregation import AggregationConfig, Calibration, check_alpha
from uadray.bundle import CALIBRATION, Bundle
from uadray.config import parse_config
from uadray.data.nodes import Nodes
from uadray.data.stream import StreamConfig
from uadray.errors import InputError
from uadray.manifest import SlideRow
from uadray.screening import Progress, judge, scored_slides


def calibrate(
    rows: list[SlideRow], *, bundle_uri: str, bundle: Bundle, alpha: float, aggregation: AggregationConfig,
    config: StreamConfig | None = None, progress: Progress | None = None, nodes: Nodes | None = None,
) -> tuple[Calibration, dict[str, str]]:  # fmt: skip
    """Score normal slides and keep their scores.

    Returns:
        The calibration, written into the bundle, and the slides that could not be scored with the reason.

    Raises:
        InputError: slides that are labelled otherwise or were trained on, or too few of them for `alpha`.
    """
    check_rows(rows, bundle)
    check_alpha(alpha, len(rows))
    scores: dict[str, float] = {}
    left_out: dict[str, str] = {}
    tiles: list[np.ndarray] = []

    def tick(note: str = "") -> None:
        if progress is not None:
            progress(len(scores) + len(left_out), len(rows), sum(map(len, tiles)), note)

    for result in scored_slides(
        rows, bundle_uri=bundle_uri, bundle=bundle, config=config or StreamConfig(), nodes=nodes, say=tick
    ):
        verdict = judge(result, aggregation, quality=bundle.tiles.quality)
        if verdict["state"] == "scored" and result.tiles is not None:
            scores[result.row.slide_id] = verdict["score"]
            tiles.append(result.tiles["score"].drop_null().to_numpy())
        else:
            left_out[result.row.slide_id] = f"{verdict['reason']}: {verdict['message']}"
        tick()
    check_alpha(alpha, len(scores))
    calibration = _calibration(scores, np.concatenate(tiles), bundle, alpha, aggregation)
    data = calibration.model_dump_json(indent=2).encode()
    storage.write_bytes(storage.join(bundle_uri, CALIBRATION), data)
    return calibration, left_out


def read_calibration(bundle_uri: str, bundle: Bundle) -> Calibration:
    """The calibration of a bundle.

    Raises:
        InputError: there is none, or it belongs to other weights.
    """
    where = storage.join(bundle_uri, CALIBRATION)
    if not storage.exists(where):
        raise InputError(
            f"bundle {bundle_uri} is not calibrated; run `uadray calibrate {bundle_uri} --slides NORMAL.csv`"
        )
    try:
        values = json.loads(storage.read_bytes(where))
    except ValueError as error:
        raise InputError(f"{where}: not JSON: {error}") from error
    calibration = parse_config(Calibration, values, source=where)
    if calibration.bundle_id != bundle.id:
        raise InputError(f"{where} belongs to bundle {calibration.bundle_id}, this is {bundle.id}; calibrate again")
    return calibration


def check_rows(rows: list[SlideRow], bundle: Bundle) -> None:
    """Calibration slides are normal, and the detector has not seen them.

    Raises:
        InputError: naming the slides.
    """
    other = [r.slide_id for r in rows if r.label and r.label.casefold() != "normal"]
    if other:
        raise InputError(f"calibration takes normal slides alone; labelled otherwise: {_some(other)}")
    seen = set(bundle.training_data.get("slides", ()))
    trained = [r.slide_id for r in rows if runs.fingerprint([r.slide_id]) in seen]
    if trained:
        raise InputError(
            "calibration slides must not have been trained on (their scores are too low, and the false-alarm rate "
            f"would not hold): {_some(trained)}"
        )


def _calibration(
    scores: dict[str, float], tiles: np.ndarray, bundle: Bundle, alpha: float, aggregation: AggregationConfig
) -> Calibration:
    ordered = tuple(sorted(scores.values()))
    slide_ids = tuple(sorted(runs.fingerprint([slide_id]) for slide_id in scores))
    name = runs.fingerprint([bundle.id, repr(ordered), repr(alpha), aggregation.model_dump_json()])[:12]
    median, p99 = (float(q) for q in np.quantile(tiles, [0.5, 0.99]))
    return Calibration(
        id=name, bundle_id=bundle.id, aggregation=aggregation, alpha=alpha, scores=ordered, slides=slide_ids,
        tile_median=median, tile_p99=p99, tile_high=median + 1.5 * (p99 - median),
    )  # fmt: skip


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
