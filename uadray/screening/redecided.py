"""The record of a slide's decision -> the same slide decided by other calibrations, from its tile scores.

What was read and scored stays as it is: tiles, pictures, evidence, measures, and when the slide was screened
(`decided_at`, which gives its place in the stream). State, score and decision are made anew.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from uadray.decisions.conformal import Calibration
from uadray.decisions.verdict import Verdict, decided, judge, used_before
from uadray.errors import NotFoundError
from uadray.provenance import fingerprint
from uadray.schemas import TILE_SCORES
from uadray.screening.bundles import ScreeningBundle
from uadray.screening.slide_outputs import decisions_of, tiles_path
from uadray.slides.manifest import SlideRow
from uadray.storage import objects

MAX_TILES_BYTES = 2**30
"""The most that is read of one slide's tile scores."""

GONE = "no_tile_scores"
"""Why a slide fails whose tile scores cannot be read any more; `uadray screen --retry-failed` makes them again."""

_OF_A_VERDICT = (
    "state", "reason", "message", "decision", "score", "p_value", "threshold", "alpha", "calibration_id", "n_tiles",
    "n_scored", "coverage", "flags", "note", "calibration_group", "calibration_group_slides", "false_alarm_low",
    "false_alarm_high", "p_smoothed", "calibration_holds", "q_value",
)  # fmt: skip
"""Fields of `SLIDE_DECISIONS` that are made anew."""

_READ = [name for name in TILE_SCORES.names if name not in ("tile_id", "mean_saturation", "mean_green")]
"""Columns of tile scores that a decision rests on."""


@dataclass(frozen=True)
class Change:
    """What changes in a folder.

    Attributes:
        out: the screening's folder.
        bundles: with the calibrations that decide from now on.
        fingerprint: of the screening from now on, see `run_record.screening_fingerprint`.
        older: fingerprints that the screening had before.
        same_scores: ids of calibrations under which slides had the scores that they will have: these are not made anew.
    """

    out: str
    bundles: tuple[ScreeningBundle, ...]
    fingerprint: str
    older: tuple[str, ...]
    same_scores: frozenset[str] = frozenset()


def is_redecided(change: Change, facts: Mapping[str, Any]) -> bool:
    """Whether a decision is of the screening as it will be; `facts` are its fields of `SLIDE_DECISIONS`."""
    return str(facts["fingerprint"]) in _fingerprints(change.fingerprint, facts).values()


def redecided(change: Change, record: Mapping[str, Any]) -> dict[str, Any]:
    """What `decisions/<slide_id>.json` will say of a slide.

    Its tile scores are read where its score is to be made anew. Where these are gone the slide has failed.
    """
    by_folder = {each["bundle"] or "": each for each in decisions_of(dict(record))}
    name = _new_fingerprint(change, next(iter(by_folder.values())))
    facts = {"fingerprint": name}
    decisions = [by_folder[each.folder] | _verdict(change, each, by_folder[each.folder]) | facts
                 for each in change.bundles]  # fmt: skip
    if "decisions" not in record:
        return dict(record) | {key: value for key, value in decisions[0].items() if key != "bundle"}
    return dict(record) | facts | {"decisions": decisions}


def _verdict(change: Change, bundle: ScreeningBundle, before: Mapping[str, Any]) -> Verdict:
    """The fields of one bundle's decision that are made anew."""
    calibration = bundle.calibration
    origin = {name: before.get(name) for name in ("site", "scanner", "stain")}
    slide_id, empty = str(before["slide_id"]), dict.fromkeys(_OF_A_VERDICT)
    row = SlideRow(slide_id, str(before["uri"]))
    note = {"note": used_before(row, before["etag"], bundle.bundle.trained_on, calibration.seen)}
    if before["state"] == "scored" and before["calibration_id"] in {calibration.id, *change.same_scores}:
        counts = {name: before[name] for name in ("state", "score", "n_tiles", "n_scored", "coverage", "flags")}
        return empty | counts | decided(before["score"], calibration, origin=origin, slide_id=slide_id) | note
    try:
        tiles = tiles_of(change.out, bundle, slide_id)
    except (NotFoundError, pa.ArrowException, KeyError, ValueError) as error:
        if before["state"] != "scored":  # then there may never have been any
            return {"calibration_holds": None, "q_value": None}
        message = f"its tile scores cannot be read: {str(error)[:200]}; screen it again with --retry-failed"
        return empty | {"state": "failed", "reason": GONE, "message": message} | note
    verdict = judge(tiles, None, calibration.aggregation, calibration, spec=bundle.bundle.tiles, origin=origin,
                    slide_id=slide_id)  # fmt: skip
    return empty | verdict | note


def tiles_of(out: str, bundle: ScreeningBundle, slide_id: str) -> pa.Table:
    """The tile scores of a slide in a screening, without pictures and cells.

    Raises:
        NotFoundError: they are not there.
        ArrowException: they cannot be understood.
    """
    uri = objects.join(out, *tiles_path(bundle, slide_id).split("/"))
    file = pq.ParquetFile(pa.BufferReader(objects.read_bytes(uri, max_bytes=MAX_TILES_BYTES)))
    there = [name for name in _READ if name in file.schema_arrow.names]
    return pa.table(dict(zip(there, file.read(there).columns, strict=True)))


def same_scores(bundles: Sequence[ScreeningBundle], before: Mapping[str, Calibration]) -> frozenset[str]:
    """Ids of calibrations with which slides have the same scores as with those of the bundles.

    Args:
        bundles: with new calibrations.
        before: bundle id -> an earlier calibration, where it is known.
    """
    known = ((each.calibration, before.get(each.bundle.id)) for each in bundles)
    return frozenset(
        old.id
        for new, old in known
        if old is not None and (old.aggregation, old.reference) == (new.aggregation, new.reference)
    )


def _new_fingerprint(change: Change, facts: Mapping[str, Any]) -> str:
    """The fingerprint of a slide's decision from now on.

    It is made with the mpp that the manifest gives, if it does; the old one tells. Where it does not, the decision is
    of something else, and keeps its name: the next screening does the slide again. A slide that could not be opened has
    failed whatever its mpp.
    """
    new, there = _fingerprints(change.fingerprint, facts), str(facts["fingerprint"])
    for old in change.older:
        for mpp, name in _fingerprints(old, facts).items():
            if name == there:
                return new[mpp]
    return new["None"] if facts["state"] == "failed" and facts["mpp_level0"] is None else there


def _fingerprints(screening: str, facts: Mapping[str, Any]) -> dict[str, str]:
    """Fingerprints that a slide may have in a screening, by the mpp of its manifest; see `Ledger.slide_fingerprint`."""
    mask = [str(facts["mask"])] if facts["mask"] else []
    given = ["None", *([str(facts["mpp_level0"])] if facts["mpp_level0"] is not None else [])]
    return {mpp: fingerprint([screening, mpp, str(facts["etag"]), *mask]) for mpp in given}
