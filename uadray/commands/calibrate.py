"""`uadray calibrate`: normal slides -> `calibration.json` beside the bundle."""

import json
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from uadray import provenance
from uadray.cluster.nodes import Nodes
from uadray.cluster.stream import StreamConfig
from uadray.commands.cluster import join_cluster
from uadray.commands.progress import progress, tile_progress
from uadray.config import parse_config
from uadray.decisions.aggregation import AggregationConfig, Calibration, check_alpha, one_a_patient
from uadray.detectors.bundle import CALIBRATION, Bundle, read_bundle
from uadray.errors import InputError, shown
from uadray.screening.job import Progress, judge, scored_slides
from uadray.slides import identity
from uadray.slides.manifest import SlideRow, has_label, read_manifest
from uadray.storage import objects
from uadray.tiles.mask_folder import check_folder

log = logging.getLogger(__name__)

MAX_BYTES = 256 * 2**20
"""The most that is read of `calibration.json`: a million slides' scores and marks take less."""


def run(
    bundle_uri: str, *, slides_uri: str, alpha: float, top_fraction: float, mask_dir: str | None, stream: StreamConfig
) -> dict[str, Any]:
    """Join the cluster and calibrate the bundle.

    Args:
        bundle_uri: gets the calibration.
        slides_uri: manifest of normal slides.
        alpha: share of normal slides that may be called anomalous.
        top_fraction: a slide's score is the mean of this share of its tiles.
        mask_dir: folder of edited masks.
        stream: how the cluster is shared.

    Returns:
        The calibration's id, counts, and `left_out`: the slides without a score, with the reason.
    """
    bundle, rows = read_bundle(bundle_uri), read_manifest(slides_uri)
    aggregation = parse_config(AggregationConfig, {"top_fraction": top_fraction}, source="--top-fraction")
    contents = check(rows, bundle, alpha=alpha)
    masks_used = len(check_folder(mask_dir, [row.slide_id for row in rows]).used)
    with progress("calibrate") as tick:
        nodes = join_cluster(bundle_uri=bundle_uri)
        calibration, left_out = calibrate(
            rows, bundle_uri=bundle_uri, bundle=bundle.with_masks(mask_dir), alpha=alpha, aggregation=aggregation,
            config=stream, nodes=nodes, contents=contents, progress=tile_progress(tick),
        )  # fmt: skip
    counts = {"slides": len(rows) - len(left_out), "patients": len(calibration.scores), "masks_used": masks_used}
    return {"calibration": calibration.id, **counts, "alpha": alpha, "left_out": left_out}


def calibrate(
    rows: list[SlideRow], *, bundle_uri: str, bundle: Bundle, alpha: float, aggregation: AggregationConfig,
    config: StreamConfig | None = None, progress: Progress | None = None, nodes: Nodes | None = None,
    contents: Mapping[str, str] | None = None,
) -> tuple[Calibration, dict[str, str]]:  # fmt: skip
    """Score normal slides and keep one score a patient. `contents`: what `check` returned, if it was called before.

    Returns:
        The calibration, written into the bundle, and the slides that could not be scored with the reason.

    Raises:
        InputError: see `check`; or too few patients' slides can be scored.
    """
    contents = check(rows, bundle, alpha=alpha) if contents is None else contents
    scores: dict[str, float] = {}
    etags: dict[str, str | None] = {}
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
            etags[result.row.slide_id] = result.header.get("etag")
            tiles.append(result.tiles["score"].drop_null().to_numpy())
        else:
            left_out[result.row.slide_id] = f"{verdict['reason']}: {verdict['message']}"
        tick()
    chosen = one_a_patient({row.slide_id: row.patient for row in rows if row.slide_id in scores})
    check_alpha(alpha, len(chosen))
    _warn_of_equal_scores(scores)
    salt = identity.new_salt()
    used = [row for row in rows if row.slide_id in scores]
    calibration = _calibration(
        [scores[slide_id] for slide_id in chosen], np.concatenate(tiles), bundle, alpha, aggregation
    ).model_copy(update={"salt": salt, "slides": tuple(identity.all_marks(used, salt, etags=etags, contents=contents))})
    data = calibration.model_dump_json(indent=2).encode()
    objects.write_bytes(objects.join(bundle_uri, CALIBRATION), data)
    return calibration, left_out


def read_calibration(bundle_uri: str, bundle: Bundle) -> Calibration:
    """The calibration of a bundle.

    Raises:
        InputError: there is none, or it belongs to other weights.
    """
    calibration_uri = objects.join(bundle_uri, CALIBRATION)
    if not objects.exists(calibration_uri):
        raise InputError(
            f"bundle {bundle_uri} is not calibrated; run `uadray calibrate {bundle_uri} --slides NORMAL.csv`"
        )
    try:
        values = json.loads(objects.read_bytes(calibration_uri, max_bytes=MAX_BYTES))
    except ValueError as error:
        raise InputError(f"{calibration_uri}: not JSON: {error}") from error
    calibration = parse_config(Calibration, values, source=calibration_uri)
    if calibration.bundle_id != bundle.id:
        raise InputError(
            f"{calibration_uri} belongs to bundle {calibration.bundle_id}, this is {bundle.id}; calibrate again"
        )
    return calibration


def check(rows: list[SlideRow], bundle: Bundle, *, alpha: float) -> dict[str, str]:
    """Refuse slides that are not normal, were trained on or are there twice, and too few patients for `alpha`.

    Returns:
        Slide id -> `identity.content`, of those that can be read.

    Raises:
        InputError: naming the slides.
    """
    not_normal = [row.slide_id for row in rows if row.label and not has_label(row.label, "normal")]
    if not_normal:
        raise InputError(f"calibration takes normal slides alone; labelled otherwise: {_first_five(not_normal)}")
    check_alpha(alpha, len({row.patient for row in rows}))
    contents = identity.contents(rows)
    _check_unseen(rows, bundle.trained_on, contents)
    places = {row.slide_id: contents.get(row.slide_id, row.uri) for row in rows}
    if same := identity.groups(places):
        raise InputError(
            f"calibration counts each slide once; {len(same)} of its files are there under several ids: "
            f"{'; '.join(' = '.join(ids[:5]) for ids in same[:3])}; keep one of each"
        )
    without_patient = sum(row.patient_id is None for row in rows)
    if without_patient:
        text = "%d of %d slides have no patient_id: each is taken for a patient of its own"
        log.warning(text, without_patient, len(rows))
    return contents


def _check_unseen(rows: list[SlideRow], trained_on: identity.Seen, contents: Mapping[str, str]) -> None:
    """Refuse slides that were trained on; warn of other slides of the same patients."""
    trained = [r.slide_id for r in rows if identity.is_seen(r, trained_on, content=contents.get(r.slide_id))]
    if trained:
        raise InputError(
            "calibration slides must not have been trained on, under whatever id (their scores are too low, and the "
            f"false-alarm rate would not hold): {_first_five(trained)}"
        )
    known = [row.slide_id for row in rows if identity.patient_mark(row, trained_on.salt) in trained_on.marks]
    if known:
        log.warning(
            "%d of %d slides are of patients whose other slides were trained on: their scores may be too low, and the "
            "false-alarm rate may not hold; `uadray split` keeps patients together", len(known), len(rows),
        )  # fmt: skip


def _warn_of_equal_scores(scores: Mapping[str, float]) -> None:
    """Warn of slides with the same score: one slide that was saved twice, or a detector that is broken."""
    for ids in identity.groups({slide_id: repr(score) for slide_id, score in scores.items()})[:5]:
        log.warning("%d slides have the same score; are they one? %s", len(ids), ", ".join(map(shown, ids[:5])))


def _calibration(
    scores: list[float], tiles: np.ndarray, bundle: Bundle, alpha: float, aggregation: AggregationConfig
) -> Calibration:
    ordered = tuple(sorted(scores))
    name = provenance.fingerprint([bundle.id, repr(ordered), repr(alpha), aggregation.model_dump_json()])[:12]
    median, p99 = (float(q) for q in np.quantile(tiles, [0.5, 0.99]))
    return Calibration(
        id=name, bundle_id=bundle.id, aggregation=aggregation, alpha=alpha, scores=ordered,
        tile_median=median, tile_p99=p99, tile_high=median + 1.5 * (p99 - median),
    )  # fmt: skip


def _first_five(names: list[str]) -> str:
    """The first five names, and how many more there are."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
