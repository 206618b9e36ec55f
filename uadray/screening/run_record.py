"""`run.json`: whose screening a folder holds. Another's is refused, in one line that says what to do."""

import json
from collections.abc import Sequence
from typing import Any

from uadray import __version__
from uadray.errors import InputError
from uadray.provenance import commit, fingerprint
from uadray.screening.bundles import ScreeningBundle
from uadray.screening.summary import now
from uadray.storage import objects

RUN = "run.json"


def claim_folder(out: str, bundles: Sequence[ScreeningBundle]) -> dict[str, Any]:
    """Claim an output folder for these bundles, or go on with it; returns what its `run.json` says.

    Args:
        out: the folder.
        bundles: as `bundles.arranged` returns them.

    Raises:
        InputError: it belongs to other bundles, or its store does not honour conditional puts.
    """
    record = _record(bundles)
    uri = objects.join(out, RUN)
    if not objects.exists(uri):
        objects.check_conditional_puts(out)  # all that follows rests on them
    if objects.put_if_absent(uri, json.dumps(record, indent=1).encode()):
        return record
    there: dict[str, Any] = json.loads(objects.read_bytes(uri))
    if there["fingerprint"] != record["fingerprint"]:
        what = f"{out} holds a screening with {_named(there)}; this is {_named(record)}"
        raise InputError(f"{what}: {_what_to_do(there, record)}")
    return there


def screening_fingerprint(bundles: Sequence[ScreeningBundle]) -> str:
    """Names the screenings with these bundles and calibrations."""
    return fingerprint([text for each in bundles for text in (each.bundle.id, each.calibration.id)])


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
    if "bundles" in there:
        return "name these bundles together to go on, or use another --out"
    return "use another --out" + (", or that bundle by itself to go on" if "bundles" in here else "")
