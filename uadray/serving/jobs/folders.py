"""Where an endpoint's results lie: its folder is a screening of one set of bundles, and holds those of other sets.

<out>/                            the set that screened here first, called `main`
<out>/screenings/<fingerprint>/   every other set: of bundles that were added, swapped or put side by side
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from uadray.errors import InputError, NotFoundError
from uadray.screening.bundles import ScreeningBundle, arranged
from uadray.screening.kept_calibrations import with_kept
from uadray.screening.run_record import RUN, claim_folder, screening_fingerprint
from uadray.storage import objects

MAIN, FOLDER = "main", "screenings"


def screening_folder(out: str, screening: str) -> str:
    """The folder of a screening."""
    return out if screening == MAIN else objects.join(out, FOLDER, screening)


def claim_screening(out: str, bundles: Sequence[ScreeningBundle]) -> str:
    """The name of the screening with these bundles; its folder is claimed where that is new.

    Raises:
        InputError: these bundles cannot be screened together, or the store does not honour conditional puts.
    """
    bundles = arranged(bundles)
    fingerprint = screening_fingerprint(bundles)
    there = _record_in(out)
    if there is None:
        with suppress(InputError):  # another set may have claimed it this very moment
            claim_folder(out, bundles)
        there = _record_in(out)
    if there is not None and there["fingerprint"] == screening_fingerprint(with_kept(out, there, bundles)):
        return MAIN
    claim_folder(screening_folder(out, fingerprint), bundles)
    return fingerprint


def _record_in(out: str) -> dict[str, Any] | None:
    """The record of the screening in a folder; None where there is none yet."""
    try:
        return dict(json.loads(objects.read_bytes(objects.join(out, RUN))))
    except NotFoundError:
        return None
