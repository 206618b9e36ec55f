"""What is exported: the slides of a screening's folder, or of a scores.parquet, with their tiles, one at a time.

A screening need not have ended: what is decided is exported. Slides that failed or are not assessable have no scores
and are left out. Of several bundles each is a source by itself.
"""

import io
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from uadray.detectors.description import described_bundle
from uadray.errors import InputError, NotFoundError, SlideError, UadrayError
from uadray.exports.exported_slide import Coordinates, ExportedSlide, ExportOptions, Scale, checked_tiles
from uadray.exports.scores_file import slides_of_scores
from uadray.screening.bundles import read_calibration
from uadray.screening.decision_segments import read_decisions
from uadray.screening.kept_calibrations import read_kept
from uadray.screening.run_record import MAX_BYTES, RUN, read_run_record
from uadray.storage import objects
from uadray.tiles.spec import TileSpec, as_kept

__all__ = ["Coordinates", "ExportOptions", "ExportedSlide", "Scale", "Source", "slides_of", "sources"]

MAX_TILES_BYTES = 2**30
"""The most that is read of one slide's tile scores: five million tiles take less."""


@dataclass(frozen=True)
class Source:
    """One bundle's slides in a screening's folder, or those of a scores.parquet.

    Attributes:
        uri: the folder that has `tiles/`, or the scores.parquet.
        folder: the bundle's below the screening's own; empty for the only bundle.
        decisions: rows of `SLIDE_DECISIONS` without `evidence`, by slide id, ascending; none of a scores.parquet.
    """

    uri: str
    folder: str = ""
    name: str = ""
    spec: TileSpec | None = None
    scale: Scale | None = None
    why_no_scale: str = ""
    decisions: pa.Table | None = field(default=None, repr=False)

    def rows(self, only: Collection[str] | None = None) -> Iterator[dict[str, Any]]:
        """The decisions of scored slides, without reading tiles. Not for a scores.parquet."""
        if self.decisions is None:
            raise InputError(f"{self.uri}: a scores.parquet has no decisions")
        for batch in self.decisions.to_batches(max_chunksize=1000):
            for row in batch.to_pylist():
                if row["state"] == "scored" and (only is None or row["slide_id"] in only):
                    yield row

    def slide(self, decision: Mapping[str, Any], tiles: pa.Table | None = None) -> ExportedSlide:
        """A slide with its tiles, which are read here unless they are given.

        Raises:
            SlideError: `missing`: there are none; `unreadable`: they are no rows of `TILE_SCORES`.
            UadrayError: the store cannot be read.
        """
        if tiles is None:
            tiles = _read_tiles(objects.join(self.uri, "tiles", f"{decision['slide_id']}.parquet"), decision)
        return ExportedSlide(decision, tiles, self.spec, self.name, self.scale, self.why_no_scale)

    def slides(self, only: Collection[str] | None = None) -> Iterator[ExportedSlide]:
        """Each scored slide in turn; its tiles are in memory while it is used."""
        if self.decisions is not None:
            yield from (self.slide(row) for row in self.rows(only))
            return
        for decision, tiles in slides_of_scores(self.uri):
            if only is None or decision["slide_id"] in only:
                yield self.slide(decision, tiles)


def slides_of(out: str, *, only: Collection[str] | None = None, bundle: str | None = None) -> Iterator[ExportedSlide]:
    """The scored slides of all bundles of a screening, or of a scores.parquet, one at a time.

    Args:
        out: as of `sources`.
        only: ids; all unless given.
        bundle: as of `sources`.
    """
    for source in sources(out, bundle=bundle):
        yield from source.slides(only)


def sources(out: str, *, bundle: str | None = None) -> tuple[Source, ...]:
    """What is exported from a place: one source a bundle, in the order of their folders.

    Args:
        out: a screening's folder; that of one of its bundles; or a scores.parquet of `uadray score`.
        bundle: where the only bundle lies now; it is looked for where it lay when the screening began unless given.

    Raises:
        InputError: nothing of the kind is there; or a bundle is given for a screening of several.
    """
    if out.endswith(".parquet"):
        scale, spec, name, why = _of_bundle(bundle, None)
        return (Source(out, name=name, spec=spec, scale=scale, why_no_scale=why),)
    return _of_screening(out, bundle)


def _of_screening(out: str, bundle: str | None) -> tuple[Source, ...]:

    top, chosen = out, None
    if not objects.exists(objects.join(out, RUN)) and objects.exists(objects.join(objects.parent(out), RUN)):
        top, chosen = objects.parent(out), objects.name(out)
    record, spec = read_run_record(top), _recorded_spec(objects.join(top, RUN))
    recorded = [each for each in record.bundles if chosen in (None, each.folder)]
    if not recorded:
        raise InputError(f"{out}: there is no screening, and {top} has no bundle {chosen!r}")
    if bundle is not None and len(recorded) > 1:
        raise InputError(f"{out} is the screening of several bundles; export each with its --bundle")
    table = read_decisions(top, leave_out=("evidence", "flags", "message")).table
    made = []
    for each in recorded:
        scale, of_bundle, _, why = _of_bundle(bundle or each.uri or None, each.calibration_id)
        scale = _kept_scale(top, each.calibration_id) or scale
        rows = table.filter(pa.array([(name or "") == each.folder for name in table["bundle"].to_pylist()], pa.bool_()))
        made.append(
            Source(
                objects.join(top, each.folder) if each.folder else top,
                each.folder,
                each.name,
                spec or of_bundle,
                scale,
                why,
                rows.drop_columns(["bundle"]).sort_by("slide_id"),
            )
        )
    return tuple(made)


def _recorded_spec(uri: str) -> TileSpec | None:
    """How tiles were cut, as `run.json` says; None in older records, and where it cannot be understood."""
    try:
        return TileSpec.model_validate(as_kept(json.loads(objects.read_bytes(uri, max_bytes=MAX_BYTES))["tiles"]))
    except (KeyError, TypeError, ValueError):
        return None


def _of_bundle(uri: str | None, calibration_id: str | None) -> tuple[Scale | None, TileSpec | None, str, str]:
    """Scale, tiles and name of a bundle, and why there is no scale."""
    if uri is None:
        return None, None, "", "it is not known where its bundle lies; give --bundle"
    try:
        described = described_bundle(uri)
        calibration = read_calibration(uri, described)
    except UadrayError as error:
        return None, None, "", str(error)
    if calibration_id not in (None, calibration.id):
        why = f"{uri} has been calibrated anew ({calibration.id}); these decisions are of {calibration_id}"
        return None, described.tiles, described.name, why
    return Scale.of(calibration), described.tiles, described.name, ""


def _kept_scale(top: str, calibration_id: str) -> Scale | None:
    """The scale of a calibration that lies in the screening's folder, of one that was decided anew; else None."""
    try:
        return Scale.of(read_kept(top, calibration_id))
    except InputError:  # there is none, as in most; or it is none, and the bundle's counts if it is the right one
        return None


def _read_tiles(uri: str, decision: Mapping[str, Any]) -> pa.Table:
    slide_id = str(decision["slide_id"])
    try:
        data = objects.read_bytes(uri, max_bytes=MAX_TILES_BYTES)
    except NotFoundError as error:
        raise SlideError(slide_id, "missing", f"its tile scores are not there ({uri}); screen it again") from error
    try:
        table = pq.read_table(io.BytesIO(data))
        return checked_tiles(table, slide_id)
    except (pa.ArrowException, ValueError, OSError) as error:
        raise SlideError(slide_id, "unreadable", f"{uri}: no tile scores: {error}") from error
