"""What a slide ends as: `scored`, `not_assessable` or `failed`, and the decision about a scored one."""

import json
import math
from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from uadray.decisions import aggregation
from uadray.decisions.aggregation import AggregationConfig
from uadray.decisions.conformal import Calibration
from uadray.decisions.false_alarms import false_alarm_interval
from uadray.decisions.groups import Origin, reference_of
from uadray.decisions.p_values import p_value, smoothed_p_value, threshold_of, uniform_of
from uadray.slides.identity import Seen, is_seen
from uadray.slides.manifest import SlideRow
from uadray.tiles.quality import Flag, QualityConfig, assess
from uadray.tiles.spec import TileSpec

STATES = ("scored", "not_assessable", "failed")
"""A slide ends in exactly one of them."""

Verdict = dict[str, Any]
"""Fields of `SLIDE_DECISIONS`."""

NOT_ASSESSABLE_REASONS = frozenset({"no_stain"})
"""Failures of readers that are about the tissue and not about the file: such a slide is not assessable, not failed."""


def judge(
    tiles: pa.Table | None, failure: tuple[str, str] | None, config: AggregationConfig,
    calibration: Calibration | None = None, *, spec: TileSpec | None = None, origin: Origin | None = None,
    slide_id: str | None = None,
) -> Verdict:  # fmt: skip
    """State, score and decision of a slide, as fields of `SLIDE_DECISIONS`.

    Args:
        tiles: rows of `TILE_SCORES`; None for a slide that failed.
        failure: its reason and message.
        config: how tile scores become a slide's score.
        calibration: without one (while it is being made) there is neither score nor decision.
        spec: how the tiles were cut, and how much of them must be good tissue; see `squares_of` and `QualityConfig` for
            what holds without it.
        origin: where the slide is from, see `decided`.
        slide_id: of the slide, see `decided`.
    """
    if failure is not None or tiles is None:
        return _without_tiles(*(failure or ("lost", "no tiles came")))
    flags: Counter[Flag] = Counter(flag for flag in tiles["flag"].to_pylist() if flag is not None)
    n_tiles, n_scored = len(tiles), len(tiles) - tiles["score"].null_count
    n_good = n_tiles - flags.total()
    coverage = n_scored / n_good if n_good else None
    counts = {"n_tiles": n_tiles, "n_scored": n_scored, "flags": json.dumps(flags), "coverage": coverage}
    if n_tiles < config.min_tiles:
        message = f"{n_tiles} tiles with enough tissue, at least {config.min_tiles} are needed"
        return counts | _not_assessable("too_little_tissue", message)
    poor = _poor_quality(n_tiles, flags, config, (spec and spec.quality) or QualityConfig())
    if poor is not None:
        return counts | _not_assessable(*poor)
    if n_scored == 0:
        message = f"no tile can be read: {_first_error(tiles)}"
        return counts | {"state": "failed", "reason": "unreadable", "message": message}
    if n_scored < config.min_tiles or n_scored / n_good < config.min_coverage:
        needed = max(config.min_tiles, math.ceil(n_good * config.min_coverage))
        message = f"only {n_scored} of {n_good} tissue tiles could be read, {needed} are needed"
        return counts | _not_assessable("low_coverage", message)
    if calibration is None:
        return counts | {"state": "scored"}
    score = aggregation.slide_score(tiles, config, spec=spec, reference=calibration.reference)
    return counts | {"state": "scored", "score": score} | decided(score, calibration, origin=origin, slide_id=slide_id)


def decided(
    score: float, calibration: Calibration, *, origin: Origin | None = None, slide_id: str | None = None
) -> Verdict:  # fmt: skip
    """What a calibration says of a slide's score, as fields of `SLIDE_DECISIONS`.

    `message` says why all slides judge it where the calibration has groups.

    Args:
        score: of the slide.
        calibration: what it is compared with.
        origin: `site`, `scanner` and `stain` of the slide, as far as they are known.
        slide_id: of the slide; smoothed p-values need it.
    """
    reference = reference_of(calibration, origin or {})
    scores, alpha = reference.scores, calibration.alpha
    p, u, p_smoothed = p_value(score, scores), None, None
    if calibration.smoothed:
        if slide_id is None:
            raise ValueError("a calibration with smoothed p-values decides slides whose id is known")
        u = uniform_of(slide_id, calibration.id)
        p_smoothed = smoothed_p_value(score, scores, u)
    limit = threshold_of(scores, alpha, u)
    low, high = false_alarm_interval(alpha, len(scores), smoothed=calibration.smoothed)
    return {
        "decision": "anomalous" if (p if p_smoothed is None else p_smoothed) <= alpha else "normal",
        "p_value": p,
        "p_smoothed": p_smoothed,
        "threshold": limit if math.isfinite(limit) else None,
        "alpha": alpha,
        "calibration_id": calibration.id,
        "calibration_group": reference.name,
        "calibration_group_slides": len(scores),
        "false_alarm_low": low,
        "false_alarm_high": high,
        "message": reference.why and f"judged by the pool: {reference.why}",
    }


def used_before(row: SlideRow, etag: str | None, trained_on: Seen, calibrated_on: Seen) -> str | None:
    """`training` or `calibration` where the slide was used for that, as far as its id, place or etag tell; else None.

    It is the field `note` of the slide's decision.
    """
    for use, seen in (("training", trained_on), ("calibration", calibrated_on)):
        if is_seen(row, seen, etag=etag):
            return use
    return None


def _without_tiles(reason: str, message: str) -> Verdict:
    if reason in NOT_ASSESSABLE_REASONS:
        return _not_assessable(reason, message)
    return {"state": "failed", "reason": reason, "message": message}


def _not_assessable(reason: str, message: str) -> Verdict:
    return {"state": "not_assessable", "reason": reason, "message": message, "decision": "not_assessable"}


def _poor_quality(
    n_tiles: int, flags: Counter[Flag], config: AggregationConfig, quality: QualityConfig
) -> tuple[str, str] | None:
    """Reason and message where too much of the tissue is flagged."""
    needed = max(config.min_tiles, quality.min_good_tiles)
    return assess(n_tiles, flags, quality.model_copy(update={"min_good_tiles": needed}))


def _first_error(tiles: pa.Table) -> str:
    """The error of the first tile that is not flagged."""
    unflagged = tiles.filter(pc.is_null(tiles["flag"]))
    return str(unflagged["error"].drop_null()[0].as_py())
