"""`run.json`: whose screening a folder holds. Another's is refused, in one line that says what to do."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from uadray import __version__
from uadray.errors import InputError, NotFoundError
from uadray.provenance import commit, fingerprint
from uadray.reports.viewer_links import checked_viewer
from uadray.screening.bundles import ScreeningBundle
from uadray.screening.kept_calibrations import with_kept
from uadray.screening.summary import now
from uadray.storage import objects

RUN = "run.json"

MAX_BYTES = 2**20
"""The most that is read of a record."""


def claim_folder(out: str, bundles: Sequence[ScreeningBundle], *, viewer: str | None = None) -> dict[str, Any]:
    """Claim an output folder for these bundles, or go on with it; returns what its `run.json` says.

    Args:
        out: the folder.
        bundles: as `bundles.arranged` returns them.
        viewer: address of an endpoint's page that shows its slides; that of the record unless given.

    Raises:
        InputError: it belongs to other bundles, is being decided anew, or its store does not honour conditional puts.
            `viewer` is no address of a page.
    """
    named = {"viewer": checked_viewer(viewer)} if viewer else {}
    record = _record(bundles) | named
    uri = objects.join(out, RUN)
    if not objects.exists(uri):
        objects.check_conditional_puts(out)  # all that follows rests on them
    if objects.put_if_absent(uri, json.dumps(record, indent=1).encode()):
        return record
    there: dict[str, Any] = json.loads(objects.read_bytes(uri))
    check_not_redeciding(out, there)
    if there["fingerprint"] != screening_fingerprint(with_kept(out, there, bundles)):
        what = f"{out} holds a screening with {_named(there)}; this is {_named(record)}"
        raise InputError(f"{what}: {_what_to_do(there, record)}")
    return there | named


def check_unchanged(out: str, record: dict[str, Any]) -> None:
    """Refuse a folder whose record has changed since it was claimed: it is being decided anew.

    Whoever screens asks when its heartbeat is there, and `uadray recalibrate` looks for heartbeats when it has changed
    the record: one of the two sees the other.

    Raises:
        InputError: it has changed.
    """
    there = json.loads(objects.read_bytes(objects.join(out, RUN)))
    check_not_redeciding(out, there)
    if there["fingerprint"] != record["fingerprint"]:
        raise InputError(f"{out} has been decided anew this very moment; run the same command again")


def check_not_redeciding(out: str, record: dict[str, Any]) -> None:
    """Refuse a folder that is being decided anew.

    Raises:
        InputError: it is.
    """
    if record.get("recalibrating"):
        raise InputError(f"{out} is being decided anew; let `uadray recalibrate` end, or run it again")


def screening_fingerprint(bundles: Sequence[ScreeningBundle]) -> str:
    """Names the screenings with these bundles and calibrations."""
    return fingerprint([text for each in bundles for text in (each.bundle.id, each.calibration.id)])


@dataclass(frozen=True)
class RecordedBundle:
    """What `run.json` says of a bundle.

    Attributes:
        folder: of its results below the screening's own; empty for the only bundle of a screening.
        name: as the bundle has it.
        id: of the bundle.
        detector: its kind.
        calibration_id: names the calibration of its decisions.
        uri: where it lay when the screening began; empty in older records.
    """

    folder: str
    name: str
    id: str
    detector: str
    calibration_id: str
    uri: str


@dataclass(frozen=True)
class RunRecord:
    """What `run.json` says: fingerprint, version of uadray, and bundles."""

    fingerprint: str
    version: str
    bundles: tuple[RecordedBundle, ...]


def read_run_record(out: str) -> RunRecord:
    """Whose screening a folder holds.

    Raises:
        InputError: there is none, or its record cannot be understood.
        UadrayError: the store cannot be read.
    """
    uri = objects.join(out, RUN)
    try:
        record = json.loads(objects.read_bytes(uri, max_bytes=MAX_BYTES))
        return RunRecord(str(record["fingerprint"]), str(record["uadray_version"]), tuple(_recorded(record)))
    except NotFoundError as error:
        raise NotFoundError(f"{out}: there is no screening (no {RUN})") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{uri}: no record of a screening") from error


def _recorded(record: dict[str, Any]) -> Iterator[RecordedBundle]:
    """The bundles of a record, of one as of several."""
    if "bundles" not in record:
        name, bundle_id, detector, calibration_id = (
            str(record[name]) for name in ("bundle", "bundle_id", "detector", "calibration_id")
        )
        yield RecordedBundle("", name, bundle_id, detector, calibration_id, str(record.get("bundle_uri") or ""))
        return
    for each in record["bundles"]:
        folder, name, bundle_id, detector, calibration_id = (
            str(each[name]) for name in ("folder", "name", "id", "detector", "calibration")
        )
        yield RecordedBundle(folder, name, bundle_id, detector, calibration_id, str(each.get("uri") or ""))


def is_new(out: str) -> bool:
    """Whether nobody has screened into this folder: then every slide is still to be done."""
    return not objects.exists(objects.join(out, RUN))


def _record(bundles: Sequence[ScreeningBundle]) -> dict[str, Any]:
    """What `run.json` says: of one bundle as fields, of several as a list."""
    facts = [
        {
            "bundle_id": each.bundle.id,
            "bundle": each.bundle.name,
            "detector": each.bundle.detector.kind,
            "calibration_id": each.calibration.id,
            "bundle_uri": objects.resolve(each.uri, "."),
        }
        for each in bundles
    ]
    several = [
        {
            "id": each.bundle.id,
            "name": each.bundle.name,
            "detector": each.bundle.detector.kind,
            "calibration": each.calibration.id,
            "folder": each.folder,
            "uri": objects.resolve(each.uri, "."),
        }
        for each in bundles
    ]
    return {
        "fingerprint": screening_fingerprint(bundles),
        **(facts[0] if len(bundles) == 1 else {"bundles": several}),
        "tiles": bundles[0].bundle.tiles.model_dump(),
        "uadray_version": __version__,
        "commit": commit(),
        "started": now(),
    }


def _named(record: dict[str, Any]) -> str:
    """The bundles of a record, as a message has them."""
    if "bundles" not in record:
        return f"bundle {record['bundle_id']}, calibration {record['calibration_id']}"
    named = (f"{each['name']} ({each['id']}, calibration {each['calibration']})" for each in record["bundles"])
    return f"{len(record['bundles'])} bundles, {', '.join(named)}"


def _what_to_do(there: dict[str, Any], here: dict[str, Any]) -> str:
    if [each.id for each in _recorded(there)] == [each.id for each in _recorded(here)]:
        return "`uadray recalibrate` decides it anew with this calibration without scoring again, or use another --out"
    if "bundles" in there:
        return "name these bundles together to go on, or use another --out"
    return "use another --out" + (", or that bundle by itself to go on" if "bundles" in here else "")
