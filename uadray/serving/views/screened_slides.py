"""Slides of screenings as the HTTP side tells them: lists, records, and what pictures of them are made of. Blocks."""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any, final

from uadray.errors import NotFoundError
from uadray.serving.access.allowed_uris import ForbiddenUriError, check_uri
from uadray.serving.exchange.refusals import RefusedError
from uadray.serving.registry import RegisteredBundle, Registry
from uadray.serving.views.deep_zoom import TILE_PX, max_level, min_level
from uadray.serving.views.heat_tiles import HeatScale
from uadray.serving.views.notes import ConflictError, Note, Notes
from uadray.serving.views.open_slides import SlideRef
from uadray.serving.views.screenings import Screening, Screenings, UsedBundle
from uadray.serving.views.slide_pictures import has_layers, layers, picture, sheet
from uadray.serving.views.slide_query import SlideQuery
from uadray.serving.views.slide_views import TilesRef

Record = dict[str, Any]


@final
class ScreenedSlides:
    """The slides of an endpoint's screenings.

    Args:
        out: the endpoint's folder.
        registry: of the endpoint's bundles.
        may_read_from: folders and s3:// prefixes that slides are opened in; None opens any.
    """

    def __init__(self, out: str, registry: Registry, *, may_read_from: Sequence[str] | None = None) -> None:
        self._may_read_from = may_read_from
        self._screenings = Screenings(out, lambda: list(registry.all().values()))
        self._notes = Notes(out)

    def screenings(self) -> list[dict[str, Any]]:
        """All screenings, with their bundles and counts."""
        return [self._told(each) for each in self._screenings.all()]

    def page(self, name: str, bundle: str | None, query: SlideQuery) -> dict[str, Any]:
        """A page of slides, each with its reviewer's note; `used_for` is what the record itself notes."""
        screening = self._screenings.get(name)
        notes = self._notes.of(screening)
        query = replace(query, bundle=screening.bundle(bundle).folder)
        page = self._screenings.slides(screening).page(query, {key: note.flag for key, note in notes.items()})
        slides = []
        for row in page.rows:
            version, used_for, note = row.pop("decision_etag"), row["note"], notes.get(row["slide_id"])
            more = {"bundle": row["bundle"] or "", "version": version, "used_for": used_for, "note": _told_note(note)}
            slides.append(row | more)
        return {"slides": slides, "total": page.total, "facets": page.facets, "next_cursor": page.next_cursor}

    def slide(self, name: str, slide_id: str) -> dict[str, Any]:
        """All about a slide."""
        screening, version, records = self.decided(name, slide_id)
        with ThreadPoolExecutor(2) as pool:  # in S3 each takes a round trip or two
            noted = pool.submit(self._notes.get, screening, slide_id)
            has_masks = pool.submit(has_layers, screening, slide_id)
        note, note_etag = noted.result()
        size = _size(records[0])
        image = None
        if size is not None and self._may_open(records[0]["uri"]):
            image = {
                "width": size[0],
                "height": size[1],
                "mpp": records[0]["mpp_level0"],
                "tile_px": TILE_PX,
                "min_level": min_level(size),
                "max_level": max_level(size),
                "version": records[0]["etag"],
            }
        return {
            "slide_id": slide_id,
            "version": version,
            "decisions": records,
            "note": _told_note(note),
            "note_etag": note_etag,
            "image": image,
            "masks": has_masks.result(),
        }

    def decided(self, name: str, slide_id: str) -> tuple[Screening, str, list[Record]]:
        """The screening, the etag of the slide's decision, and the record of every bundle."""
        screening = self._screenings.get(name)
        return screening, *self._screenings.decisions(screening, slide_id)

    def slide_ref(self, name: str, slide_id: str) -> SlideRef:
        """The slide, to open it.

        Raises:
            NotFoundError: it could not be opened when it was screened.
            ForbiddenUriError: this endpoint does not read from there.
        """
        return self._slide_ref(self.decided(name, slide_id)[2][0])

    def heat_ref(
        self, name: str, slide_id: str, bundle: str | None, threshold: float | None = None
    ) -> tuple[TilesRef, HeatScale]:
        """The tile scores of a slide, and how they become colours: NaN for the ends of a scale that is not known."""
        screening, version, records = self.decided(name, slide_id)
        used = screening.bundle(bundle)
        calibration, registered = self._screenings.calibration(used), self._screenings.registered(used)
        described = registered.description if registered is not None else None
        scale = HeatScale(
            low=math.nan if calibration is None else calibration.tile_median,
            high=math.nan if calibration is None else calibration.tile_high,
            cells=None if calibration is None else calibration.cell_scale,
            seen_share=described.detector.input_px / described.tiles.tile_px if described is not None else 1.0,
            threshold=threshold,
        )
        return _tiles_ref(screening, version, _record(records, used), used), scale

    def tile_refs(self, name: str, slide_id: str) -> tuple[Screening, SlideRef, list[tuple[UsedBundle, TilesRef]]]:
        """The slide, and its tile scores by every bundle that has scored it."""
        screening, version, records = self.decided(name, slide_id)
        pairs = [(each, _record(records, each)) for each in screening.bundles]
        scored = [(each, record) for each, record in pairs if record["state"] != "failed"]
        refs = [(each, _tiles_ref(screening, version, record, each)) for each, record in scored]
        return screening, self._slide_ref(records[0]), refs

    def layers(self, name: str, slide_id: str) -> bytes:
        """Outlines of a slide, as GeoJSON."""
        return layers(self.decided(name, slide_id)[0], slide_id)

    def picture(self, name: str, slide_id: str, bundle: str | None, what: str) -> tuple[str, Callable[[], bytes]]:
        """The version of a picture that the screening has kept, and what reads it; without a name, all of them."""
        screening, version, records = self.decided(name, slide_id)
        used = screening.bundle(bundle)
        record = _record(records, used)
        if what:
            return version, lambda: picture(screening, used, record, what)
        return version, lambda: sheet(screening, used, record)

    def registered(self, bundle: UsedBundle) -> RegisteredBundle | None:
        """The endpoint's bundle with the id of this one, if it still has it."""
        found = self._screenings.registered(bundle)
        return found if isinstance(found, RegisteredBundle) else None

    def put_note(self, name: str, slide_id: str, note: Note, etag: str | None) -> dict[str, Any]:
        """Store a note in the place of the one with this etag, None for none.

        Raises:
            RefusedError: another is there (412).
        """
        screening = self.decided(name, slide_id)[0]
        try:
            return {"note": asdict(note), "etag": self._notes.put(screening, slide_id, note, etag=etag)}
        except ConflictError:
            raise RefusedError(412, "another note is there; read it, then send yours with its etag") from None

    def _told(self, screening: Screening) -> dict[str, Any]:
        """A screening as people are told of it."""
        slides = self._screenings.slides(screening)
        tile_um = screening.mpp * screening.tile_px if screening.mpp and screening.tile_px else None
        bundles = [
            {
                "folder": each.folder,
                "name": each.name,
                "id": each.id,
                "detector": each.detector,
                "mpp": screening.mpp,
                "tile_px": screening.tile_px,
                "tile_um": tile_um,
                "registered": self._screenings.registered(each) is not None,
                "calibration": self._screenings.figures(screening, each),
                "decisions": slides.bundle_counts(each.folder),
            }
            for each in screening.bundles
        ]
        return {"screening": screening.name, "bundles": bundles, "started": screening.started, "counts": slides.counts}

    def _slide_ref(self, record: Record) -> SlideRef:
        if _size(record) is None:
            raise NotFoundError("this slide could not be opened when it was screened")
        uri = record["uri"] if self._may_read_from is None else check_uri(record["uri"], self._may_read_from)
        return SlideRef(record["slide_id"], uri, record["etag"], record["mpp_level0"], bool(record.get("mask")))

    def _may_open(self, uri: str) -> bool:
        try:
            return self._may_read_from is None or bool(check_uri(uri, self._may_read_from))
        except ForbiddenUriError:
            return False


def _tiles_ref(screening: Screening, version: str, record: Record, bundle: UsedBundle) -> TilesRef:
    """The tile scores of a slide by a bundle.

    Raises:
        NotFoundError: it has scored none.
    """
    size = _size(record)
    if size is None or record["state"] == "failed":
        raise NotFoundError("no tile of this slide was scored")
    uri = screening.path(bundle, "tiles", f"{record['slide_id']}.parquet")
    return TilesRef(uri, version, size, f"{record['uri']}#{record['etag']}")


def _record(records: Sequence[Record], bundle: UsedBundle) -> Record:
    """The record of a bundle.

    Raises:
        NotFoundError: it has none.
    """
    for record in records:
        if record["bundle"] == bundle.folder:
            return record
    raise NotFoundError("this bundle has not decided about the slide")


def _size(record: Record) -> tuple[int, int] | None:
    """Width and height of a slide that could be opened, in level-0 pixels."""
    width, height = record["width_level0_px"], record["height_level0_px"]
    is_known = width and height and record["etag"] and record["mpp_level0"]
    return (int(width), int(height)) if is_known else None


def _told_note(note: Note | None) -> dict[str, Any] | None:
    return None if note is None else asdict(note)
