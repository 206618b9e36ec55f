"""The calibrations of a screening that was decided anew: they lie in its folder, and not in the bundle.

    run.json                              `calibrations`: of each bundle, by its id, the calibration that decides `now`,
                                          the `first` of this folder, and those `before`
    recalibrated/<id>/calibration.json    one of them
    recalibrated/<id>/decisions.parquet   what it had decided when another took its place

Whoever goes on with the screening names the bundle as before. Its own calibration is then one from `before`, and the
one from the folder takes its place. A calibration that this folder has never had is another screening's.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from uadray.config import parse_config
from uadray.decisions.conformal import Calibration
from uadray.errors import InputError, NotFoundError
from uadray.networks.bundle_description import CALIBRATION
from uadray.screening.bundles import MAX_CALIBRATION_BYTES, ScreeningBundle
from uadray.storage import objects

FOLDER = "recalibrated"

MAX_BEFORE = 1000
"""So many earlier calibrations are remembered."""


def kept_uri(out: str, calibration_id: str, name: str = CALIBRATION) -> str:
    """Where something that belongs to a calibration lies in a screening's folder.

    Raises:
        InputError: no calibration has such an id.
    """
    if not is_name(calibration_id):
        raise InputError(f"{calibration_id[:40]!r}: no id of a calibration")
    return objects.join(out, FOLDER, calibration_id, name)


def keep(out: str, calibration: Calibration) -> Calibration:
    """Keep a calibration in a screening's folder; returns the one of this id that is there, which decides the same."""
    uri = kept_uri(out, calibration.id)
    if objects.put_if_absent(uri, calibration.model_dump_json(indent=1).encode()):
        return calibration
    return read_kept(out, calibration.id)


def is_kept(out: str, calibration_id: str) -> bool:
    """Whether a screening's folder has this calibration."""
    return is_name(calibration_id) and objects.exists(kept_uri(out, calibration_id))


def is_name(calibration_id: str) -> bool:
    """Whether a calibration may have such an id in a folder: letters, digits, `-` and `_`."""
    return bool(calibration_id) and all(letter.isalnum() or letter in "-_" for letter in calibration_id)


def read_kept(out: str, calibration_id: str) -> Calibration:
    """A calibration from a screening's folder.

    Raises:
        InputError: it cannot be understood.
        NotFoundError: it is not there.
    """
    uri = kept_uri(out, calibration_id)
    try:
        values = json.loads(objects.read_bytes(uri, max_bytes=MAX_CALIBRATION_BYTES))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{uri}: not JSON: {error}") from error
    calibration = parse_config(Calibration, values, source=uri)
    if calibration.id != calibration_id:
        raise InputError(f"{uri} is calibration {calibration.id}, not {calibration_id}")
    return calibration


def with_kept(out: str, record: Mapping[str, Any], bundles: Sequence[ScreeningBundle]) -> tuple[ScreeningBundle, ...]:
    """The bundles with the calibrations that decide in this folder.

    Args:
        out: the screening's folder.
        record: its `run.json`.
        bundles: with calibrations of their own.

    Raises:
        InputError: the folder says that it has a calibration, and has it not.
    """
    return tuple(_with_kept(out, record, each) for each in bundles)


def _with_kept(out: str, record: Mapping[str, Any], each: ScreeningBundle) -> ScreeningBundle:
    names = names_of(record, each.bundle.id)
    if names is None or each.calibration.id not in {names["now"], names["first"], *names["before"]}:
        return each
    each = replace(each, patient_salt=names["first"])
    if each.calibration.id == names["now"]:
        return each
    try:
        calibration = read_kept(out, names["now"])
    except NotFoundError as error:
        raise InputError(
            f"{out} was recalibrated, and its calibration {names['now']} is gone; run `uadray recalibrate` again"
        ) from error
    if calibration.bundle_id != each.bundle.id:
        raise InputError(f"{kept_uri(out, calibration.id)} belongs to bundle {calibration.bundle_id}")
    return replace(each, calibration=calibration)


def names_of(record: Mapping[str, Any], bundle_id: str) -> dict[str, Any] | None:
    """What `run.json` says of a bundle's calibrations; None where it was never decided anew."""
    of_bundles = record.get("calibrations")
    names = of_bundles.get(bundle_id) if isinstance(of_bundles, dict) else None
    if not isinstance(names, dict):
        return None
    before = names.get("before")
    kept = [str(name) for name in before[:MAX_BEFORE]] if isinstance(before, list) else []
    return {"now": str(names.get("now")), "first": str(names.get("first")), "before": kept}


def renamed(record: Mapping[str, Any], bundle_id: str, *, now: str, there: str, own: str) -> dict[str, Any]:
    """What `run.json` says of a bundle's calibrations after another has taken over.

    Args:
        record: as it was.
        bundle_id: of the bundle.
        now: the calibration that decides from now on.
        there: the one that decided until now.
        own: the one that lies in the bundle: whoever goes on with it is to get the new one.
    """
    names = names_of(record, bundle_id) or {"first": there, "before": []}
    before = dict.fromkeys([there, own, *names["before"]])
    before.pop(now, None)
    return {"now": now, "first": names["first"], "before": list(before)[:MAX_BEFORE]}
