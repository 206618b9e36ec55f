"""What is decided and how it looks: lists of slides, pictures of them, tiles one by one, and reviewers' notes.

A picture is of one version of a slide and its decision. A request that names the version (`v`) gets that one, to keep
for good, or 409; one that names none is asked to come back and look whether it is still the same.
"""

import asyncio
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from pydantic import BeforeValidator, FiniteFloat, StringConstraints, ValidationError
from starlette.responses import JSONResponse

from uadray.errors import InputError, NotFoundError, SlideError
from uadray.serving.access import Caller
from uadray.serving.deep_zoom import TILE_PX, max_level, min_level
from uadray.serving.heat_tiles import HeatScale
from uadray.serving.notes import MAX_TEXT, ConflictError, Flag, Note, Notes, new_note
from uadray.serving.open_slides import SlideRef
from uadray.serving.refusals import RefusedError, field_problems
from uadray.serving.requests import read_body
from uadray.serving.schemas import Message
from uadray.serving.screenings import Registered, Screening, Screenings, UsedBundle
from uadray.serving.services import Services
from uadray.serving.slide_pictures import layers, picture, sheet
from uadray.serving.slide_query import FACETS, MAX_PAGE, SlideQuery, Sort
from uadray.serving.tile_panel import normal_share, quantiles_of, tile_facts, tile_pictures
from uadray.serving.views import TileAt, TilesRef

T = TypeVar("T")

MAX_NOTE_BYTES = 32 * 2**10

FOR_GOOD, LOOK_AGAIN = "private, max-age=31536000, immutable", "private, no-cache"

SLIDE_STATUS = {"changed": 409, "missing": 404, "outside": 404, "no_access": 503, "unreachable": 503}
"""Of an answer about a slide that cannot be shown, by the reason; 422 for the others, which are the file's own."""

Name = Annotated[str, Path(max_length=64, description="`main`, or the fingerprint of a screening.", examples=["main"])]
SlideId = Annotated[str, Path(max_length=200, description="As in the manifest.")]
BundleQuery = Annotated[
    str | None, Query(max_length=100, description="Folder, name or id of a bundle of the screening; else its first.")
]
Version = Annotated[
    str | None, Query(max_length=200, description="The version that is meant, as `version` of the slide tells it.")
]
Level = Annotated[int, Path(ge=0, le=40)]
Number = Annotated[int, Path(ge=0, le=2**24)]
Pixel = Annotated[int, Query(ge=0, le=2**31)]
Words = Annotated[list[Annotated[str, StringConstraints(max_length=200)]], Query(max_length=50)]
MaybeNumber = Annotated[FiniteFloat | None, BeforeValidator(lambda given: None if given == "" else given), Query()]


class NoteBody(Message):
    """Body of `PUT .../note`.

    Attributes:
        flag: empty for none.
        text: plain.
    """

    flag: Flag = ""
    text: Annotated[str, StringConstraints(max_length=MAX_TEXT)] = ""


def router(services: Services) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/v1/screenings", tags=["screenings"])
    of = _Endpoint(services)
    may_read, may_submit = Depends(services.access.requires("read")), services.access.requires("submit")
    guarded = {"dependencies": [may_read], "responses": _problems(401, 403, 404, 409, 422, 503)}
    one = "/{screening}/slides/{slide_id}"

    @routes.get("", operation_id="screenings", **guarded)
    async def list_screenings() -> dict[str, Any]:
        """Screenings of this endpoint with their bundles, calibrations and counts."""
        return {"screenings": await _in_thread(of.all)}

    @routes.get("/{screening}/slides", operation_id="screened_slides", **guarded)
    async def list_slides(
        screening: Name, bundle: BundleQuery = None, sort: Sort = "score", order: Literal["asc", "desc"] | None = None,
        decision: Words = [], state: Words = [], reason: Words = [], site: Words = [], scanner: Words = [],
        stain: Words = [], flag: Words = [], q: Annotated[str, Query(max_length=200)] = "",
        min_score: MaybeNumber = None, max_score: MaybeNumber = None, min_p: MaybeNumber = None,
        max_p: MaybeNumber = None, limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 50,
        cursor: Annotated[str | None, Query(max_length=1000)] = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Decided slides, sorted, filtered and counted; `none` stands for a value that a slide does not have."""
        wanted = dict(zip(FACETS, (decision, state, reason, site, scanner, stain), strict=True))
        query = SlideQuery(
            sort=sort, descending=order == "desc" if order else sort == "score", limit=limit, cursor=cursor or None,
            values={name: given for name, values in wanted.items() if (given := [v for v in values if v])},
            flags=[value for value in flag if value], text=q,
            ranges={"score": (min_score, max_score), "p_value": (min_p, max_p)},
        )  # fmt: skip
        return await _in_thread(lambda: of.page(screening, bundle, query))

    @routes.get(one, operation_id="screened_slide", **guarded)
    async def slide(screening: Name, slide_id: SlideId) -> dict[str, Any]:
        """A slide: the decision of every bundle, the note, and how large its picture is."""
        return await _in_thread(lambda: of.slide(screening, slide_id))

    @routes.get(f"{one}/thumbnail", operation_id="slide_thumbnail", response_class=_Jpeg, **guarded)
    async def thumbnail(request: Request, screening: Name, slide_id: SlideId, v: Version = None) -> Response:
        """The slide in small, as it was when it was screened."""
        return await _kept_picture(of, request, screening, slide_id, None, v, "thumbnail")

    @routes.get(f"{one}/heatmap", operation_id="slide_heatmap", response_class=_Jpeg, **guarded)
    async def heatmap(
        request: Request, screening: Name, slide_id: SlideId, bundle: BundleQuery = None, v: Version = None
    ) -> Response:
        """The heatmap over the thumbnail."""
        return await _kept_picture(of, request, screening, slide_id, bundle, v, "heatmap")

    @routes.get(f"{one}/evidence", operation_id="slide_evidence", response_class=_Svg, **guarded)
    async def evidence(
        request: Request, screening: Name, slide_id: SlideId, bundle: BundleQuery = None, v: Version = None
    ) -> Response:
        """All pictures that were kept of the slide, as SVG: each has a name, such as `#tile_0`."""
        return await _kept_picture(of, request, screening, slide_id, bundle, v, "")

    @routes.get(f"{one}/image/{{level}}/{{x}}_{{y}}", operation_id="slide_image", response_class=_Jpeg, **guarded)
    async def image(
        request: Request, screening: Name, slide_id: SlideId, level: Level, x: Number, y: Number, v: Version = None
    ) -> Response:
        """A tile of 512 px of the slide, by levels of powers of two: the finest is the slide's own."""
        ref = await _in_thread(lambda: of.slide_ref(screening, slide_id))
        return await _answered(
            request, ref.etag, v, [ref.key, "image", level, x, y], lambda: services.views.image(ref, level, x, y), _Jpeg
        )

    @routes.get(f"{one}/heat/{{level}}/{{x}}_{{y}}", operation_id="slide_heat", response_class=_Png, **guarded)
    async def heat(
        request: Request, screening: Name, slide_id: SlideId, level: Level, x: Number, y: Number,
        bundle: BundleQuery = None, threshold: MaybeNumber = None, v: Version = None,
    ) -> Response:  # fmt: skip
        """A tile of the heatmap, transparent where no tile was scored, or less than `threshold`."""
        ref, scale = await _in_thread(lambda: of.heat_ref(screening, slide_id, bundle, threshold))
        asked = [ref.uri, ref.version, scale, level, x, y]
        return await _answered(
            request, ref.version, v, asked, lambda: services.views.heat(ref, scale, level, x, y), _Png
        )

    @routes.get(f"{one}/layers", operation_id="slide_layers", response_class=_GeoJson, **guarded)
    async def outlines(screening: Name, slide_id: SlideId) -> Response:
        """Tissue and flagged regions, GeoJSON in level-0 pixels."""
        return _GeoJson(await _in_thread(lambda: of.layers(screening, slide_id)))

    @routes.get(f"{one}/scores", operation_id="slide_scores", **guarded)
    async def scores(screening: Name, slide_id: SlideId, bundle: BundleQuery = None) -> dict[str, list[Any]]:
        """The slide's tiles by column: x, y, width, height in level-0 pixels, score, flag, error."""
        ref, _ = await _in_thread(lambda: of.heat_ref(screening, slide_id, bundle, None))
        with _slide_problems():
            told: dict[str, list[Any]] = await services.views.scores(ref)
        return told

    @routes.get(f"{one}/at", operation_id="slide_tile_at", **guarded)
    async def at(screening: Name, slide_id: SlideId, x: Pixel, y: Pixel) -> list[dict[str, Any]]:
        """The tile at a level-0 pixel, for every bundle of the screening."""
        return await _tiles_at(of, screening, slide_id, x, y)

    @routes.put(
        f"{one}/note", operation_id="put_note", responses=_problems(401, 403, 404, 412, 413, 422, 428, 503),
        openapi_extra={
            "requestBody": {
                "required": True, "content": {"application/json": {"schema": NoteBody.model_json_schema()}},
            }
        },
    )  # fmt: skip
    async def put_note(
        request: Request, screening: Name, slide_id: SlideId, caller: Annotated[Caller, Depends(may_submit)],
        if_match: Annotated[str | None, Header(max_length=200)] = None,
        if_none_match: Annotated[str | None, Header(max_length=200)] = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Stores a reviewer's flag and note, in the place of the one with the etag of `If-Match`."""
        body = await read_body(request, MAX_NOTE_BYTES)
        try:
            given = NoteBody.model_validate_json(body)
        except ValidationError as error:
            raise RefusedError(422, field_problems(error.errors(include_input=False, include_url=False))) from None
        if (if_match is None) == (if_none_match != "*"):
            raise RefusedError(428, "send If-Match with the etag of the note that is there, or If-None-Match: *")
        etag = if_match.strip().removeprefix("W/").strip('"') if if_match is not None else None
        note = new_note(given.flag, given.text, who=caller.name)
        return await _in_thread(lambda: of.put_note(screening, slide_id, note, etag))

    return routes


class _Jpeg(Response):
    media_type = "image/jpeg"


class _Png(Response):
    media_type = "image/png"


class _Svg(Response):
    media_type = "image/svg+xml"


class _GeoJson(JSONResponse):
    media_type = "application/geo+json"


class _Endpoint:
    """What the routes look up; blocks."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self._screenings = Screenings(services.config.out, lambda: list(services.registry.all().values()))
        self._notes = Notes(services.config.out)

    def all(self) -> list[dict[str, Any]]:
        """The screenings as they are told."""
        return [self._told(each) for each in self._screenings.all()]

    def _told(self, screening: Screening) -> dict[str, Any]:
        slides = self._screenings.slides(screening)
        tile_um = screening.mpp * screening.tile_px if screening.mpp and screening.tile_px else None
        bundles = [
            {
                "folder": each.folder, "name": each.name, "id": each.id, "detector": each.detector,
                "mpp": screening.mpp, "tile_px": screening.tile_px, "tile_um": tile_um,
                "registered": self._screenings.registered(each) is not None,
                "calibration": self._screenings.calibration(screening, each),
                "decisions": slides.bundle_counts(each.folder),
            }
            for each in screening.bundles
        ]  # fmt: skip
        return {
            "screening": screening.name, "bundles": bundles, "started": screening.started, "counts": slides.counts,
        }  # fmt: skip

    def page(self, name: str, bundle: str | None, query: SlideQuery) -> dict[str, Any]:
        """A page of slides."""
        screening = self._screenings.get(name)
        notes = self._notes.of(screening)
        query = _of_bundle(query, screening.bundle(bundle))
        page = self._screenings.slides(screening).page(query, {key: note.flag for key, note in notes.items()})
        slides = [
            {key: value for key, value in row.items() if key != "decision_etag"}
            | {
                "bundle": row["bundle"] or "", "version": row["decision_etag"], "used_for": row["note"],
                "note": _told_note(notes.get(row["slide_id"])),
            }
            for row in page.rows
        ]  # fmt: skip
        return {"slides": slides, "total": page.total, "facets": page.facets, "next_cursor": page.next_cursor}

    def slide(self, name: str, slide_id: str) -> dict[str, Any]:
        """All about a slide."""
        screening, version, records = self.decided(name, slide_id)
        note, etag = self._notes.get(screening, slide_id)
        size = _size(records[0])
        image = None if size is None or not records[0]["etag"] else {
            "width": size[0], "height": size[1], "mpp": records[0]["mpp_level0"], "tile_px": TILE_PX,
            "min_level": min_level(size), "max_level": max_level(size), "version": records[0]["etag"],
        }  # fmt: skip
        has_masks = bool(size) and bool(layers(screening, slide_id)["features"])
        return {
            "slide_id": slide_id, "version": version, "decisions": records, "note": _told_note(note),
            "note_etag": etag, "image": image, "masks": has_masks,
        }  # fmt: skip

    def decided(self, name: str, slide_id: str) -> tuple[Screening, str, list[dict[str, Any]]]:
        """The screening, the etag of the slide's decision, and the records."""
        screening = self._screenings.get(name)
        return screening, *self._screenings.decisions(screening, slide_id)

    def slide_ref(self, name: str, slide_id: str) -> SlideRef:
        """The slide, to open it.

        Raises:
            NotFoundError: it could not be opened when it was screened.
        """
        _, _, records = self.decided(name, slide_id)
        return _slide_ref(records[0])

    def tiles_ref(self, screening: Screening, version: str, record: dict[str, Any], bundle: UsedBundle) -> TilesRef:
        """The tile scores of a slide by a bundle.

        Raises:
            NotFoundError: the bundle has scored none.
        """
        size = _size(record)
        if size is None or record["state"] == "failed":
            raise NotFoundError("no tile of this slide was scored")
        uri = screening.path(bundle, "tiles", f"{record['slide_id']}.parquet")
        return TilesRef(uri, version, size, f"{record['uri']}#{record['etag']}")

    def heat_ref(
        self, name: str, slide_id: str, bundle: str | None, threshold: float | None
    ) -> tuple[TilesRef, HeatScale]:
        """The tile scores of a slide, and how they become colours."""
        screening, version, records = self.decided(name, slide_id)
        used = screening.bundle(bundle)
        figures = self._screenings.calibration(screening, used)
        low, high = figures["tile_median"], figures["tile_high"]
        cells = (figures["cell_median"], figures["cell_high"])
        registered = self._screenings.registered(used)
        described = registered.description if registered is not None else None
        scale = HeatScale(
            low=float("nan") if low is None else low, high=float("nan") if high is None else high,
            cells=None if None in cells or described is None else cells,
            seen_share=described.detector.input_px / described.tiles.tile_px if described is not None else 1.0,
            threshold=threshold,
        )  # fmt: skip
        return self.tiles_ref(screening, version, _record(records, used), used), scale

    def layers(self, name: str, slide_id: str) -> dict[str, Any]:
        """Outlines of a slide."""
        return layers(self.decided(name, slide_id)[0], slide_id)

    def kept_picture(self, name: str, slide_id: str, bundle: str | None, what: str) -> Callable[[], bytes]:
        """What reads a picture that the screening has kept; without a name, all of them."""
        screening, _, records = self.decided(name, slide_id)
        used = screening.bundle(bundle)
        record = _record(records, used)
        if what:
            return lambda: picture(screening, used, record, what)
        return lambda: sheet(screening, used, record)

    def at_refs(self, name: str, slide_id: str) -> tuple[Screening, SlideRef, list[UsedBundle], list[TilesRef]]:
        """What is needed to look a tile up."""
        screening, version, records = self.decided(name, slide_id)
        scored = [each for each in screening.bundles if _record(records, each)["state"] != "failed"]
        tables = [self.tiles_ref(screening, version, _record(records, each), each) for each in scored]
        return screening, _slide_ref(records[0]), scored, tables

    def registered(self, bundle: UsedBundle) -> Registered | None:
        """See `Screenings.registered`."""
        return self._screenings.registered(bundle)

    def put_note(self, name: str, slide_id: str, note: Note, etag: str | None) -> dict[str, Any]:
        """Store a note."""
        screening, _, _ = self.decided(name, slide_id)
        try:
            return {"note": asdict(note), "etag": self._notes.put(screening, slide_id, note, etag=etag)}
        except ConflictError:
            raise RefusedError(412, "another note is there; read it, then send yours with its etag") from None


async def _kept_picture(
    of: _Endpoint, request: Request, screening: str, slide_id: str, bundle: str | None, v: str | None, what: str
) -> Response:
    _, version, _ = await _in_thread(lambda: of.decided(screening, slide_id))
    read = await _in_thread(lambda: of.kept_picture(screening, slide_id, bundle, what))

    async def made() -> bytes:
        return await _in_thread(read)

    return await _answered(request, version, v, [version, bundle, what], made, _Jpeg if what else _Svg)


async def _answered(
    request: Request, version: str, wanted: str | None, asked: Sequence[Any], make: Callable[[], Any],
    kind: type[Response],
) -> Response:  # fmt: skip
    """A picture of a version, or that it is the one that the client has."""
    if wanted is not None and wanted != version:
        raise RefusedError(409, "this slide was decided about anew; ask for the slide, then for its pictures")
    etag = f'"{hashlib.sha256(repr([version, *asked]).encode()).hexdigest()[:24]}"'
    headers = {"ETag": etag, "Cache-Control": LOOK_AGAIN if wanted is None else FOR_GOOD, "Vary": "Authorization"}
    if etag in [each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")]:
        return Response(status_code=304, headers=headers)
    with _slide_problems():
        data = await make()
    return kind(data, headers=headers) if data else Response(status_code=204, headers=headers)


async def _tiles_at(of: _Endpoint, name: str, slide_id: str, x: int, y: int) -> list[dict[str, Any]]:
    screening, ref, bundles, tables = await _in_thread(lambda: of.at_refs(name, slide_id))
    with _slide_problems():
        found = await of.services.views.at(ref, tables, screening.tiles, x, y)
        pairs = [(bundle, tile) for bundle, tile in zip(bundles, found, strict=True) if tile is not None]
        return list(await asyncio.gather(*(_tile_told(of, bundle, tile) for bundle, tile in pairs)))


async def _tile_told(of: _Endpoint, bundle: UsedBundle, tile: TileAt) -> dict[str, Any]:
    """All about a tile; pictures need the bundle, which the endpoint may not have any more."""
    registered = await _in_thread(lambda: of.registered(bundle))
    calibration = registered.calibration if registered is not None else None
    is_its = calibration is not None and calibration.id == bundle.calibration_id
    facts = {"bundle": bundle.folder} | tile_facts(tile)
    facts["normal_share"] = normal_share(facts["score"], quantiles_of(calibration) if is_its else ())
    pictures: dict[str, str | None] = dict.fromkeys(("query", "reconstruction", "residual"))
    why = tile.why
    if tile.pixels is not None and registered is None:
        why = "the endpoint has no bundle with this id any more"
    elif tile.pixels is not None:
        pictures = await tile_pictures(
            tile.pixels, lambda pixels, wanted: of.services.score(registered, pixels, wanted)
        )  # type: ignore[arg-type]
    return facts | pictures | {"why": why}


async def _in_thread(work: Callable[[], T]) -> T:
    """Work that blocks, in a thread; what is not there is 404."""
    with _slide_problems():
        return await asyncio.to_thread(work)


@contextmanager
def _slide_problems() -> Iterator[None]:
    """Errors about what was asked for, as answers."""
    try:
        yield
    except SlideError as error:
        status = SLIDE_STATUS.get(error.reason, 422)
        raise RefusedError(status, error.message, {"Retry-After": "5"} if status == 503 else None) from error
    except NotFoundError as error:
        raise RefusedError(404, str(error)) from error
    except InputError as error:
        raise RefusedError(422, str(error)) from error


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"description": "Problem", "content": {"application/problem+json": {}}} for status in statuses}


def _of_bundle(query: SlideQuery, bundle: UsedBundle) -> SlideQuery:
    return SlideQuery(**(vars(query) | {"bundle": bundle.folder}))


def _record(records: Sequence[dict[str, Any]], bundle: UsedBundle) -> dict[str, Any]:
    """The record of a bundle.

    Raises:
        NotFoundError: it has none.
    """
    for record in records:
        if record["bundle"] == bundle.folder:
            return record
    raise NotFoundError("this bundle has not decided about the slide")


def _size(record: dict[str, Any]) -> tuple[int, int] | None:
    width, height = record["width_level0_px"], record["height_level0_px"]
    return (width, height) if width and height else None


def _slide_ref(record: dict[str, Any]) -> SlideRef:
    if _size(record) is None or not record["etag"] or not record["mpp_level0"]:
        raise NotFoundError("this slide could not be opened when it was screened")
    return SlideRef(record["slide_id"], record["uri"], record["etag"], record["mpp_level0"], bool(record.get("mask")))


def _told_note(note: Note | None) -> dict[str, Any] | None:
    return None if note is None else asdict(note)
