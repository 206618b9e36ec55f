"""The screenings that a worker has open: the ledger of each, and what sends the parts of slides through the stages."""

import json
import logging
import time
from collections import OrderedDict
from dataclasses import dataclass

from uadray.errors import InputError, NotFoundError, UadrayError, shown_text
from uadray.screening.bundles import ScreeningBundle, arranged, calibrated_bundle
from uadray.screening.decision_segments import list_decisions
from uadray.screening.ledger import Ledger, open_ledger
from uadray.screening.scorer import PartScorer
from uadray.screening.summary import SUMMARY
from uadray.serving.jobs.folders import screening_folder
from uadray.serving.jobs.records import JobBundle, JobRecord
from uadray.serving.jobs.scoring import ScoreNow, stage_loader
from uadray.storage import objects

log = logging.getLogger(__name__)

OPEN = 4
"""Screenings that a worker keeps open: each has a heartbeat."""

RENEW_S = 10.0
"""The files for people of a screening are looked at so often, while there is nothing else to do."""


@dataclass
class OpenScreening:
    """A screening that is open.

    Attributes:
        folder: where it lies.
        book: its ledger, entered.
        scorer: scores the parts of slides through the stages.
        is_stale: the files for people may not show all that is decided.
    """

    folder: str
    book: Ledger
    scorer: PartScorer
    is_stale: bool = True


class OpenScreenings:
    """The screenings of an endpoint's folder, opened as jobs need them."""

    def __init__(self, out: str, score: ScoreNow) -> None:
        self._out, self._score = out, score
        self._open: OrderedDict[str, OpenScreening] = OrderedDict()
        self._renewed_at = 0.0

    def open(self, record: JobRecord) -> OpenScreening:
        """The screening of a job.

        Raises:
            InputError: a bundle cannot be opened, or is another than the one that the job was sent for.
        """
        key = json.dumps([record.screening, *(bundle.model_dump() for bundle in record.bundles)])
        if key not in self._open:
            self._open[key] = self._opened(record)
        self._open.move_to_end(key)
        while len(self._open) > OPEN:
            _close(self._open.popitem(last=False)[1])
        return self._open[key]

    def renew(self) -> None:
        """Write the files for people of the screenings that are open, where they do not show all that is decided."""
        if time.monotonic() - self._renewed_at < RENEW_S and not any(each.is_stale for each in self._open.values()):
            return
        self._renewed_at = time.monotonic()
        for screening in self._open.values():
            try:
                if screening.is_stale or _n_shown(screening.folder) != len(list_decisions(screening.folder)):
                    screening.is_stale = False
                    screening.book.renew(between_rounds=True)
            except UadrayError as error:
                log.warning("the worklist cannot be renewed: %s", shown_text(str(error)))

    def close(self) -> None:
        """End the heartbeats: whatever is still claimed is free from now on."""
        while self._open:
            _close(self._open.popitem()[1])

    def _opened(self, record: JobRecord) -> OpenScreening:
        bundles = arranged([_bundle_of(each) for each in record.bundles])
        scorer = PartScorer(
            {each.uri: each.bundle for each in bundles}, "cpu", threads=1, load=stage_loader(bundles, self._score)
        )
        folder = screening_folder(self._out, record.screening)
        book = open_ledger(folder, bundles)
        book.__enter__()
        return OpenScreening(folder, book, scorer)


def _bundle_of(wanted: JobBundle) -> ScreeningBundle:
    """The bundle that a job means.

    Raises:
        InputError: it cannot be opened, or is another by now.
    """
    bundle = calibrated_bundle(wanted.uri)
    if (bundle.bundle.id, bundle.calibration.id) != (wanted.id, wanted.calibration_id):
        raise InputError(
            f"the bundle {wanted.name} is another than when the job was sent ({wanted.id}, calibration "
            f"{wanted.calibration_id}): put that one back, or cancel the job and send it again"
        )
    return bundle


def _n_shown(folder: str) -> int:
    """How many slides the summary for people counts as decided."""
    try:
        summary = json.loads(objects.read_bytes(objects.join(folder, SUMMARY)))
    except NotFoundError:
        return -1
    return int(summary["slides"]) - int(summary["open"])


def _close(screening: OpenScreening) -> None:
    try:
        screening.book.__exit__(None, None, None)
    except UadrayError as error:
        log.warning("a screening cannot be closed: %s", shown_text(str(error)))
