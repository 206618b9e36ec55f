"""The calibrations of a bundle: the one that decides, and those that it has replaced.

    <bundle>/calibration.json          decides from now on
    <bundle>/calibrations/<id>.json    each that was written here, so that decisions that name it can be explained

An older one may be of other weights, if the bundle was written anew since: it names its bundle.
"""

import re

from uadray.decisions.conformal import Calibration
from uadray.errors import AccessError, InputError, UnreachableError
from uadray.networks.bundle_description import CALIBRATION
from uadray.screening.bundles import calibration_at
from uadray.storage import objects

FOLDER = "calibrations"

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")


def write_calibration(bundle_uri: str, calibration: Calibration) -> None:
    """Let a calibration decide from now on; the one before is kept.

    Both are written to the folder first: whatever stops this, nothing that has decided is lost.
    """
    current = objects.join(bundle_uri, CALIBRATION)
    if objects.exists(current):
        _keep(bundle_uri, _before(current))
    _keep(bundle_uri, calibration)
    objects.write_bytes(current, _json(calibration))


def is_kept(bundle_uri: str, calibration_id: str) -> bool:
    """Whether a calibration of this name lies in the bundle's folder of them."""
    place = _place(bundle_uri, calibration_id)
    return place is not None and objects.exists(place)


def kept_calibration(bundle_uri: str, calibration_id: str) -> Calibration:
    """The calibration of this name, be it the one that decides or an older one.

    Raises:
        InputError: the bundle has no such calibration, or its file is not valid.
    """
    current, older = objects.join(bundle_uri, CALIBRATION), _place(bundle_uri, calibration_id)
    if objects.exists(current):
        calibration = calibration_at(current)
        if calibration.id == calibration_id:
            return calibration
    if older is None or not objects.exists(older):
        raise InputError(f"bundle {bundle_uri} has no calibration {calibration_id}")
    calibration = calibration_at(older)
    if calibration.id != calibration_id:
        raise InputError(f"{older} calls itself {calibration.id}")
    return calibration


def _before(uri: str) -> Calibration | None:
    """What is replaced; None of a file that is no calibration."""
    try:
        return calibration_at(uri)
    except (UnreachableError, AccessError):
        raise
    except InputError:
        return None


def _keep(bundle_uri: str, calibration: Calibration | None) -> None:
    place = None if calibration is None else _place(bundle_uri, calibration.id)
    if calibration is not None and place is not None:
        objects.write_bytes(place, _json(calibration))


def _place(bundle_uri: str, calibration_id: str) -> str | None:
    """Where a calibration is kept; None of a name that is no file's."""
    return objects.join(bundle_uri, FOLDER, f"{calibration_id}.json") if _ID.match(calibration_id) else None


def _json(calibration: Calibration) -> bytes:
    return calibration.model_dump_json(indent=2).encode()
