"""What has been decided: one JSON a slide, written last and once.

    run.json                          whose screening this is, see `run_record`
    decisions/<slide_id>.json         the commit: a slide is done when this exists for this run and slide version; it
                                      holds the decision of every bundle
    tiles/, evidence/, masks/         what a decision rests on, see `slide_outputs`
    segments/*.parquet                many decisions in one object, see `decision_segments`
    drivers/, leases/                 who is at work, and on what; see `heartbeats` and `leases`
    progress.json                     how the last process to end has ended, see `progress_record`
    decisions.parquet, ...            for people, see `summary`

    open --claimed--> tile scores put --> pictures, masks written --> decision put --> decided
     ^                    |                                               |              |
     |                    '--------- the slide is another's by now -------'              |
     |                                     (left to it)                                  |
     |                                                                                   |
     '--withdrawn <-- its file was replaced, its mask was edited, or it failed and is ---'
                      tried again; the old decision stays until the new one is put

Every put is one where nothing is (a conditional put in S3), or in the place of what is there if the lease is still ours
(If-Match). So a decision stands beside the tile scores it was made from, whoever was paused between which two requests.
Pictures and masks are written plainly: those of a process that stood still meanwhile may stay; they show the same
tiles.
"""

import json
import logging
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Self

from uadray.decisions.verdict import Verdict
from uadray.errors import NotFoundError, UadrayError, WorkError, shown_text
from uadray.provenance import fingerprint
from uadray.screening import decision_segments, heartbeats, leases, replaced_slides
from uadray.screening.bundles import ScreeningBundle
from uadray.screening.decision_segments import Decided
from uadray.screening.edited_masks import kept_masks, masks_of_run
from uadray.screening.kept_calibrations import with_kept
from uadray.screening.leases import REQUESTS
from uadray.screening.open_slides import OpenSlides
from uadray.screening.progress_record import PROGRESS, ended
from uadray.screening.run_record import check_unchanged, claim_folder
from uadray.screening.slide_outputs import decision_record, decisions_of, parquet, slide_files, tiles_path
from uadray.screening.slide_result import SlideResult
from uadray.screening.summary import write_summaries
from uadray.screening.watched_groups import WatchedGroups
from uadray.slides.manifest import SlideRow
from uadray.storage import objects

MAX_ROUNDS_WITHOUT_PROGRESS = 5
"""So many rounds in a row in which no slide ends stop the job. One is usual: the slides of a process that has died are
held until it is declared dead."""

MAX_SEGMENTS = 16
"""More segments than these are made one when the files for people are renewed."""

LEASES_AT_ONCE = 1000
"""Leases beside decisions that are deleted together: one request."""

log = logging.getLogger(__name__)


class Ledger:
    """A screening's folder, and this process's work on it. A context manager: inside, slides are claimed.

    Attributes:
        owner: in whose name the present round's slides are claimed.
        withdrawn: slide -> etag of its decision that is to be made anew.
        open: slides of this run that are not known to be decided.
        has_listed: `open` is what it says: the slides that come are known, and what is decided.
        describe: says how far this process is, for its heartbeat and, in the end, `progress.json`; called by another
            thread.
        why: it ended, where nothing went wrong.
        given_back: slide -> why this process leaves it undecided; another run may try it.
        decided_elsewhere: slides of this run that were found decided when they were to be claimed.
    """

    owner: leases.ClaimOwner

    def __init__(
        self, out: str, *, provenance: dict[str, Any], bundles: Sequence[ScreeningBundle], lease_s: float
    ) -> None:
        self.out, self.provenance, self.bundles = out, provenance, tuple(bundles)
        self.withdrawn: dict[str, str] = {}
        self.open = OpenSlides()
        self.has_listed = False
        self.why = "done"
        self.given_back: dict[str, str] = {}
        self.decided_elsewhere: set[str] = set()
        self._committing = threading.Lock()
        self._groups = WatchedGroups(self.bundles)
        self._mask_etags: dict[str, str] = {}
        self._process = heartbeats.ScreeningProcess(out, lease_s=lease_s)
        self._pool = ThreadPoolExecutor(REQUESTS, thread_name_prefix="uadray-ledger")
        self._written: dict[str, bytes] = {}
        self._leases: list[str] = []
        self._release_at = LEASES_AT_ONCE
        self._decided: set[str] = set()
        self._segment_rows = decision_segments.SEGMENT_ROWS

    def __enter__(self) -> Self:
        self._process.__enter__()
        try:
            check_unchanged(self.out, self.provenance)
        except BaseException:
            self._process.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._process.__exit__(*error)
        self._tell_the_end(error[1] if len(error) > 1 else None)
        self._pool.shutdown()
        if self._decided:
            with suppress(UadrayError):  # whoever is the last to leave finds nobody, and deletes what is left
                self._process.delete_stale(self._decided)

    @property
    def describe(self) -> Callable[[], dict[str, Any]]:
        """See the class."""
        return self._process.describe

    @describe.setter
    def describe(self, describe: Callable[[], dict[str, Any]]) -> None:
        self._process.describe = describe

    def pending(self, rows: Sequence[SlideRow], *, retry_failed: bool = False) -> list[SlideRow]:
        """The slides without a decision for this run and their present version, in order.

        A decision about an older version of a slide is withdrawn, and with `retry_failed` one in which a bundle has
        failed: it stays where it is until the new one takes its place.
        """
        decided = decision_segments.read_decisions(self.out)
        decision_segments.tidy(self.out, decided, whole=False)
        self._groups.begin(decided.table)
        known = decision_segments.known_slides(decided.table)
        judged = [row for row in rows if row.slide_id in known and known[row.slide_id].is_judged]
        folder = self.bundles[0].bundle.tiles.mask_dir
        self._mask_etags = masks_of_run(folder) if folder else kept_masks(judged, known)
        again = replaced_slides.replaced(
            judged, lambda row, etag: self.slide_fingerprint(row, etag) == known[row.slide_id].fingerprint
        )
        if retry_failed:
            again += [row for row in rows if row.slide_id in known and known[row.slide_id].has_failed]
        self.withdrawn = {row.slide_id: known[row.slide_id].etag for row in again}
        if not folder:  # a slide that is screened anew is screened without its mask
            self._mask_etags = {key: etag for key, etag in self._mask_etags.items() if key not in self.withdrawn}
        return [row for row in rows if row.slide_id not in known or row.slide_id in self.withdrawn]

    def rounds(
        self, rows: Sequence[SlideRow], *, retry_failed: bool = False, waiting: Callable[[], None] = lambda: None
    ) -> Iterator[list[SlideRow]]:
        """Yield what there is to do until every slide is decided: first all that is pending, then what others leave.

        Each slide of a round is to be claimed (`leases.claim`, with `owner` and `withdrawn`), then committed where it
        is ours, or passed over. In between this waits for other processes as long as they live, and calls `waiting` at
        every look.
        """
        todo = self.pending(rows, retry_failed=retry_failed)
        self.open, self.has_listed = OpenSlides(row.slide_id for row in todo), True
        if not self.alone:  # not in the others' order: they would have claimed each slide just before
            random.Random(self._process.id).shuffle(todo)  # noqa: S311 - no secret
        without_progress = 0
        while todo:
            self.begin_round(has_listed=True)
            before = len(self.open) - len(self.given_back)
            yield todo
            without_progress = 0 if len(self.open) - len(self.given_back) < before else without_progress + 1
            if without_progress == MAX_ROUNDS_WITHOUT_PROGRESS:
                raise WorkError(f"{self.out}: {before} slides can neither be claimed nor committed; see the log")
            todo = self._left(
                [row for row in todo if row.slide_id in self.open and row.slide_id not in self.given_back], waiting
            )

    def begin_round(self, *, has_listed: bool = False) -> None:
        """Begin a round: from now on slides are claimed in its name.

        Args:
            has_listed: all of its slides were undecided when this process, already at work, listed decisions.
        """
        self.owner = self._process.begin_round(has_listed=has_listed)

    def commit(self, result: SlideResult, verdicts: Sequence[Verdict]) -> bool:
        """Write a slide's tile scores and evidence, then its decision. False where the slide is another process's.

        May be called by several threads, each with a slide of its own.

        Args:
            result: the slide.
            verdicts: one of each bundle.
        """
        slide_id = result.row.slide_id
        if self._process.lease_may_be_lost and not self._is_still_ours(slide_id):
            return False
        if not all(self._put_tiles(result, index) for index in range(len(self.bundles))):
            return False
        verdicts = [{"calibration_holds": self._holds(i, result.row)} | each for i, each in enumerate(verdicts)]
        files = slide_files(result, self.bundles)
        list(self._pool.map(self._write, files, files.values()))
        record = decision_record(
            result, self.bundles, verdicts, mask=self._mask_etags.get(slide_id), lease=self.owner.id,
            fingerprint=self.slide_fingerprint(result.row, result.header.get("etag")),
        )  # fmt: skip
        data = json.dumps(record, indent=1).encode()
        if not self._put(leases.decision_uri(self.out, slide_id), data, slide_id):
            return False
        self._groups.add(decisions_of(record))
        with self._committing:
            self.open.discard(slide_id)
            self._written[slide_id] = data
            self._leases.append(slide_id)
            if len(self._written) >= self._segment_rows:
                self._compact()
            if len(self._leases) >= self._release_at:
                self._release()
        return True

    def _holds(self, bundle: int, row: SlideRow) -> bool | None:
        return self._groups.holds(bundle, site=row.site, scanner=row.scanner)

    def give_back(self, slide_id: str, reason: str, message: str) -> None:
        """Leave a slide undecided, for what is no fault of its own: another process, or the next run, may have it."""
        self.given_back[slide_id] = f"{reason}: {message}"
        with suppress(UadrayError):  # else its lease ends with this process
            leases.release(self.owner, slide_id)

    def pass_over(self, slide_id: str, outcome: str) -> None:
        """Take note of a slide that is not ours: `decided` is done, `held` is looked at again later."""
        if outcome == "decided":
            self.open.discard(slide_id)
            self.decided_elsewhere.add(slide_id)

    @property
    def alone(self) -> bool:
        """Whether no other process was at work here at the last look."""
        return self._process.alone

    def is_first_for(self, slide_id: str) -> bool:
        """Whether this process is to try a slide before the others that are at work here."""
        return self._process.is_first_for(slide_id)

    def finish(self, rows: Sequence[SlideRow]) -> dict[str, Any]:
        """Write the files for people, of what is decided; returns the summary."""
        with self._committing:
            if self._written:
                self._compact()
        decided = decision_segments.read_decisions(self.out)
        decision_segments.tidy(self.out, decided, whole=True)
        slide_ids = set(decided.table["slide_id"].to_pylist())
        self._delete_stale(slide_ids)
        current = [row.slide_id for row in rows if row.slide_id in slide_ids and not self._is_outdated(row.slide_id)]
        return self._summarised(decided, current, n_slides=len(rows))

    def renew(self, *, between_rounds: bool, last: bool = False) -> dict[str, Any]:
        """Write the files for people, of all that is decided in this folder and what is open; returns the summary.

        Args:
            between_rounds: no slide is claimed in this process's name, so that it may look for what dead ones left.
            last: leave one segment of all.
        """
        if last or len(self._written) >= decision_segments.WORTH_A_SEGMENT:
            with self._committing:
                self._compact()
        decided = decision_segments.read_decisions(self.out)
        decision_segments.tidy(self.out, decided, whole=last or len(decided.segments) > MAX_SEGMENTS)
        self._groups.begin(decided.table)
        slide_ids = set(decided.table["slide_id"].to_pylist())
        if between_rounds:
            self._delete_stale(slide_ids)
        current = sorted(slide_id for slide_id in slide_ids if not self._is_outdated(slide_id))
        return self._summarised(decided, current, n_slides=len({*self.open, *current}))

    def _summarised(self, decided: Decided, slide_ids: Sequence[str], *, n_slides: int) -> dict[str, Any]:
        tables = [decision_segments.of_bundle(decided.table, bundle.folder, slide_ids) for bundle in self.bundles]
        return write_summaries(self.out, self.bundles, tables, n_slides=n_slides, provenance=self.provenance)

    def slide_fingerprint(self, row: SlideRow, etag: str | None) -> str:
        """Changes with the bundles, their calibrations, the slide's file, its mpp and its edited mask."""
        mask = [self._mask_etags[row.slide_id]] if row.slide_id in self._mask_etags else []
        return fingerprint([self.provenance["fingerprint"], str(row.mpp), str(etag), *mask])

    def is_about(self, record: dict[str, Any], row: SlideRow, etag: str | None) -> bool:
        """Whether the record of a decision is about this version of a slide; the mask that it was made with counts."""
        mask = [each["mask"] for each in decisions_of(record)[:1] if each["mask"]]
        return str(record["fingerprint"]) == fingerprint(
            [self.provenance["fingerprint"], str(row.mpp), str(etag), *mask]
        )

    def _is_outdated(self, slide_id: str) -> bool:
        """Whether the decision that is there is about an older version of the slide."""
        return slide_id in self.withdrawn and slide_id in self.open

    def _left(self, rows: list[SlideRow], waiting: Callable[[], None]) -> list[SlideRow]:
        """Wait until slides that others were at are left undecided, and return these; empty where all are decided."""
        while rows:
            undecided = self.look_again(rows)
            rows = [row for row in rows if row.slide_id in self.open]
            if undecided:
                return undecided
            waiting()
            if rows:
                self._process.pause()
        return []

    def look_again(self, rows: Sequence[SlideRow]) -> list[SlideRow]:
        """Those of these slides that are undecided and that nobody else is at; the decided are `open` no more."""
        slide_ids = {row.slide_id for row in rows}
        free = self._process.free(list(slide_ids))  # before the decisions: what is free by now is known by then
        undecided = self._undecided(slide_ids)
        self.open -= slide_ids - undecided
        return [row for row in rows if row.slide_id in undecided & free]

    def _tell_the_end(self, error: object) -> None:
        """Write `progress.json`, for those who watch; a process that says nothing of itself writes none."""
        why = self.why
        if isinstance(error, KeyboardInterrupt):
            why = "stopped"
        elif error is not None:
            why = f"failed: {error}"
        elif self.given_back and self.why == "done":
            why = f"failed: {len(self.given_back)} slides are left open, for what is no fault of theirs"
        try:
            progress = self.describe()
            if progress:
                objects.write_bytes(objects.join(self.out, PROGRESS), ended(progress, self._process.id, why))
        except Exception as trouble:  # the store may be away
            log.warning("how this driver ended cannot be written down: %s", shown_text(str(trouble)))

    def _is_still_ours(self, slide_id: str) -> bool:
        """Whether a slide is ours after others may have taken us for dead: its lease is, and nobody has decided it."""
        if not leases.holds(self.owner, slide_id):
            return False
        decision = leases.read_with_etag(leases.decision_uri(self.out, slide_id))
        return decision is None or decision[0] == self.withdrawn.get(slide_id)

    def _release(self) -> None:
        """Delete the leases of slides that are decided, unless another process lives that may not know of it."""
        self._release_at = len(self._leases) + LEASES_AT_ONCE
        if not self._process.lease_may_be_lost and self._process.look() == {self._process.id}:
            objects.delete_all(leases.lease_uri(self.out, slide_id) for slide_id in self._leases)
            self._leases, self._release_at = [], LEASES_AT_ONCE

    def _delete_stale(self, decided: set[str]) -> None:
        """Delete leases of slides that are decided, or remember these until we leave, where another process lives."""
        known = decided.difference(self.open)  # to the others our readers may still come
        self._decided = set() if self._process.delete_stale(known) else known

    def _undecided(self, slide_ids: set[str]) -> set[str]:
        """Those without a decision, or with the one that was withdrawn: by a listing, or singly where they are few."""
        if len(slide_ids) > REQUESTS:
            etags = {slide_id: info.etag for slide_id, info in decision_segments.list_decisions(self.out).items()}
        else:
            uris = {slide_id: leases.decision_uri(self.out, slide_id) for slide_id in slide_ids}
            records = zip(uris, self._pool.map(leases.read_with_etag, uris.values()), strict=True)
            etags = {slide_id: record[0] for slide_id, record in records if record is not None}
        return {i for i in slide_ids if i not in etags or etags[i] == self.withdrawn.get(i)}

    def _put(self, uri: str, data: bytes, slide_id: str) -> bool:
        """Put an object where none is, or in place of one that is there, if the slide is still ours then."""
        while not objects.put_if_absent(uri, data):
            try:
                etag = objects.stat(uri).etag  # asked before the lease: whoever takes the slide later changes it
            except NotFoundError:
                continue
            if not leases.holds(self.owner, slide_id):
                return False
            if objects.replace_if_match(uri, data, etag):
                break
        return True

    def _put_tiles(self, result: SlideResult, index: int) -> bool:
        """Put a bundle's tile scores; beside a failure there are none, those of an earlier version neither."""
        slide_id, tiles = result.row.slide_id, result.of_bundle(index).tiles
        uri = objects.join(self.out, *tiles_path(self.bundles[index], slide_id).split("/"))
        if tiles is not None:
            return self._put(uri, parquet(tiles), slide_id)
        if slide_id in self.withdrawn:
            objects.delete(uri)
        return True

    def _write(self, path: str, data: bytes) -> None:
        kind = "image/svg+xml" if path.endswith(".svg") else "application/geo+json"
        objects.write_bytes(objects.join(self.out, *path.split("/")), data, content_type=kind)

    def _compact(self) -> None:
        n_decided = decision_segments.compact(self.out, self._written)
        self._written = {}
        self._segment_rows = max(decision_segments.SEGMENT_ROWS, int(decision_segments.SEGMENT_SHARE * n_decided))


def open_ledger(
    out: str, bundles: Sequence[ScreeningBundle], *, lease_s: float = heartbeats.LEASE_S, viewer: str | None = None
) -> Ledger:  # fmt: skip
    """Claim an output folder for these bundles, or go on with it.

    Args:
        out: the folder.
        bundles: as `bundles.arranged` returns them.
        lease_s: see `heartbeats`.
        viewer: see `claim_folder`.

    Raises:
        InputError: it belongs to other bundles, is being decided anew, or its store does not honour conditional puts.
    """
    record = claim_folder(out, bundles, viewer=viewer)
    return Ledger(out, provenance=record, bundles=with_kept(out, record, bundles), lease_s=lease_s)
