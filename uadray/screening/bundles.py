"""The bundles of one screening: which may be screened together, and in which folder the results of each lie."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from uadray.config import parse_config
from uadray.decisions.conformal import Calibration
from uadray.detectors.description import BundleDescription, described_bundle
from uadray.errors import InputError
from uadray.networks.bundle_description import CALIBRATION
from uadray.storage import objects
from uadray.tiles.spec import differences

RESERVED = frozenset(
    {
        *(
            "combined",
            "decisions",
            "drivers",
            "evidence",
            "exports",
            "leases",
            "masks",
            "recalibrated",
            "segments",
            "tiles",
        ),
        *("batches", "bundles", "ends", "jobs", "keys", "notes", "progress", "queue", "screenings"),
    }
)
"""Folders of a screening that are not a bundle's; the second line are those of an endpoint."""

MAX_CALIBRATION_BYTES = 256 * 2**20
"""The most that is read of `calibration.json`: a million slides' scores and marks take less."""


@dataclass(frozen=True)
class ScreeningBundle:
    """A calibrated bundle in a screening.

    Attributes:
        uri: where it lies.
        bundle: its description.
        calibration: what its decisions rest on.
        folder: of its results below the screening's own; empty for the only bundle of a screening.
        patient_salt: id of the calibration that the marks of patients are made with where it is not this one: the marks
            in a folder stay the same when it is decided anew.
    """

    uri: str
    bundle: BundleDescription
    calibration: Calibration
    folder: str = ""
    patient_salt: str = ""

    @property
    def name(self) -> str:
        """What messages call it: its folder, or its own name where it has none."""
        return self.folder or self.bundle.name


def calibrated_bundle(uri: str, *, mask_dir: str | None = None) -> ScreeningBundle:
    """A bundle with its calibration, as a screening needs it.

    A calibration names the bundle that it was made of, which was validated then: where the names agree, the detector's
    configuration is as it was. Where they do not, it is validated here, for one that was edited by hand to the same.

    Raises:
        InputError: no bundle, one that is not valid, or one without a calibration of its own.
    """
    bundle, calibration = described_bundle(uri), _calibration(uri)
    if calibration.bundle_id != bundle.id:
        from uadray.detectors.bundle import read_bundle  # imports torch

        bundle = read_bundle(uri)
    return ScreeningBundle(uri, bundle.with_masks(mask_dir), _of_bundle(calibration, uri, bundle))


def read_calibration(bundle_uri: str, bundle: BundleDescription) -> Calibration:
    """The calibration of a bundle.

    Raises:
        InputError: there is none, or it belongs to other weights.
    """
    return _of_bundle(_calibration(bundle_uri), bundle_uri, bundle)


def _of_bundle(calibration: Calibration, bundle_uri: str, bundle: BundleDescription) -> Calibration:
    """The calibration, if it is the bundle's own."""
    if calibration.bundle_id != bundle.id:
        raise InputError(
            f"{objects.join(bundle_uri, CALIBRATION)} belongs to bundle {calibration.bundle_id}, this is {bundle.id}; "
            "calibrate again"
        )
    return calibration


def _calibration(bundle_uri: str) -> Calibration:
    """What `calibration.json` says."""
    calibration_uri = objects.join(bundle_uri, CALIBRATION)
    if not objects.exists(calibration_uri):
        raise InputError(
            f"bundle {bundle_uri} is not calibrated; run `uadray calibrate {bundle_uri} --slides NORMAL.csv`"
        )
    return calibration_at(calibration_uri)


def calibration_at(uri: str) -> Calibration:
    """What a file of a calibration says, whatever bundle it belongs to.

    Raises:
        InputError: it is too large, no JSON, or no valid calibration.
    """
    try:
        values = json.loads(objects.read_bytes(uri, max_bytes=MAX_CALIBRATION_BYTES))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{uri}: not JSON: {error}") from error
    return parse_config(Calibration, values, source=uri)


def arranged(bundles: Sequence[ScreeningBundle]) -> tuple[ScreeningBundle, ...]:
    """The bundles with their folders, in the order of these, whatever order they were named in.

    Raises:
        InputError: none; the same bundle twice; or two that read different tiles.
    """
    if not bundles:
        raise InputError("a screening needs a bundle")
    if len(bundles) == 1:
        return (replace(bundles[0], folder=""),)
    for first, second in combinations(bundles, 2):
        _check_pair(first, second)
    folders = _folders([each.bundle for each in bundles])
    placed = [replace(each, folder=folder) for each, folder in zip(bundles, folders, strict=True)]
    return tuple(sorted(placed, key=lambda each: each.folder))


def _check_pair(first: ScreeningBundle, second: ScreeningBundle) -> None:
    """Refuse two that are one, or that do not read the same tiles."""
    if first.bundle.id == second.bundle.id:
        raise InputError(f"{first.uri} and {second.uri} are the same bundle ({first.bundle.id}); name it once")
    differing = differences(first.bundle.tiles.model_dump(), second.bundle.tiles.model_dump())
    if differing:
        raise InputError(
            f"bundles {first.uri} and {second.uri} read different tiles: {'; '.join(differing)}; tiles are read once "
            "for all bundles of a screening: screen these apart"
        )


def _folders(bundles: Sequence[BundleDescription]) -> list[str]:
    """A folder for each: its name as far as a path may have it; with its id where that would not tell it apart."""
    plain = [re.sub(r"[^A-Za-z0-9._-]+", "-", bundle.name).strip(".-") for bundle in bundles]
    times = Counter(name.casefold() for name in plain)
    return [
        name if name and times[name.casefold()] == 1 and name.casefold() not in RESERVED else f"{name}-{bundle.id}"
        for name, bundle in zip(plain, bundles, strict=True)
    ]
