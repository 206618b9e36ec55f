"""Routes about how a slide looks: its pyramid, the heat over it, what was kept of it, and its tiles one by one.

A picture is of one version of a slide and its decision. A request that names the version (`v`) gets that one, to keep
for good, or 409; one that names none is asked to come back and look whether it is still the same.
"""

import asyncio
import hashlib
from collections.abc import Callable, Coroutine, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from uadray.serving.exchange.bodies import unless_gone
from uadray.serving.exchange.openapi import GEOJSON, problems
from uadray.serving.exchange.refusals import RefusedError
from uadray.serving.services import Services
from uadray.serving.views.screened_slides import ScreenedSlides
from uadray.serving.views.screenings import UsedBundle
from uadray.serving.views.slide_answers import ONE, PREFIX, BundleName, Name, Number, SlideId, in_thread, in_time
from uadray.serving.views.slide_views import TileAt
from uadray.serving.views.tile_panel import normal_share, tile_facts, tile_pictures

FOR_GOOD, LOOK_AGAIN = "private, max-age=31536000, immutable", "private, no-cache"

Version = Annotated[
    str | None, Query(max_length=200, description="The version that is meant, as `version` of the slide tells it.")
]
Level = Annotated[int, Path(ge=0, le=40, description="By powers of two; the finest is the slide's level 0.")]
Place = Annotated[int, Path(ge=0, le=2**24, description="Column or row of a tile of 512 px.")]
Pixel = Annotated[int, Query(ge=0, le=2**31, description="Level-0 pixels.")]
Threshold = Annotated[Number, Query(description="Tiles that score less are not painted.")]


class _Jpeg(Response):
    media_type = "image/jpeg"


class _Png(Response):
    media_type = "image/png"


class _Svg(Response):
    media_type = "image/svg+xml"


class _GeoJson(Response):
    media_type = "application/geo+json"


def router(services: Services, slides: ScreenedSlides) -> APIRouter:
    """The routes."""
    may_read = Depends(services.access.requires("read"))
    routes = APIRouter(
        prefix=PREFIX, tags=["screenings"], dependencies=[may_read],
        responses=problems(401, 403, 404, 409, 422, 503, 504),
    )  # fmt: skip
    seconds = services.config.request_timeout_s

    async def kept(
        request: Request, screening: str, slide_id: str, bundle: str | None, v: str | None, what: str
    ) -> Response:
        """A picture that the screening has kept."""
        version, read = await in_thread(lambda: slides.picture(screening, slide_id, bundle, what))
        made = lambda: in_thread(read)  # noqa: E731 - a coroutine each time
        return await _answered(request, version, v, (slide_id, bundle, what), made, _Jpeg if what else _Svg, seconds)

    @routes.get(f"{ONE}/thumbnail", operation_id="slide_thumbnail", response_class=_Jpeg)
    async def thumbnail(request: Request, screening: Name, slide_id: SlideId, v: Version = None) -> Response:
        """The slide in small, as it was when it was screened."""
        return await kept(request, screening, slide_id, None, v, "thumbnail")

    @routes.get(f"{ONE}/heatmap", operation_id="slide_heatmap", response_class=_Jpeg)
    async def heatmap(
        request: Request, screening: Name, slide_id: SlideId, bundle: BundleName = None, v: Version = None
    ) -> Response:
        """The heatmap over the thumbnail."""
        return await kept(request, screening, slide_id, bundle, v, "heatmap")

    @routes.get(f"{ONE}/evidence", operation_id="slide_evidence", response_class=_Svg)
    async def evidence(
        request: Request, screening: Name, slide_id: SlideId, bundle: BundleName = None, v: Version = None
    ) -> Response:
        """All pictures that were kept of the slide, as SVG: each has a name, such as `#tile_0`."""
        return await kept(request, screening, slide_id, bundle, v, "")

    @routes.get(f"{ONE}/image/{{level}}/{{x}}_{{y}}", operation_id="slide_image", response_class=_Jpeg)
    async def image(
        request: Request, screening: Name, slide_id: SlideId, level: Level, x: Place, y: Place, v: Version = None
    ) -> Response:
        """A tile of the slide."""
        ref = await in_thread(lambda: slides.slide_ref(screening, slide_id))
        made = lambda: services.views.image(ref, level, x, y)  # noqa: E731
        return await _answered(request, ref.etag, v, (ref.key, level, x, y), made, _Jpeg, seconds)

    @routes.get(f"{ONE}/heat/{{level}}/{{x}}_{{y}}", operation_id="slide_heat", response_class=_Png)
    async def heat(
        request: Request, screening: Name, slide_id: SlideId, level: Level, x: Place, y: Place,
        bundle: BundleName = None, threshold: Threshold = None, v: Version = None,
    ) -> Response:  # fmt: skip
        """A tile of the heatmap, with the levels and tiles of the image; transparent where nothing was scored."""
        ref, scale = await in_thread(lambda: slides.heat_ref(screening, slide_id, bundle, threshold))
        made = lambda: services.views.heat(ref, scale, level, x, y)  # noqa: E731
        return await _answered(request, ref.version, v, (ref.uri, scale, level, x, y), made, _Png, seconds)

    @routes.get(f"{ONE}/layers", operation_id="slide_layers", response_class=_GeoJson, responses={200: GEOJSON})
    async def outlines(screening: Name, slide_id: SlideId) -> Response:
        """Tissue and flagged regions, GeoJSON in level-0 pixels."""
        return _GeoJson(await in_thread(lambda: slides.layers(screening, slide_id)))

    @routes.get(f"{ONE}/scores", operation_id="slide_scores")
    async def scores(screening: Name, slide_id: SlideId, bundle: BundleName = None) -> dict[str, list[Any]]:
        """The slide's tiles by column: x, y, width, height in level-0 pixels, score, flag, error."""
        ref, _ = await in_thread(lambda: slides.heat_ref(screening, slide_id, bundle))
        async with in_time(seconds):
            return await services.views.scores(ref)

    @routes.get(f"{ONE}/at", operation_id="slide_tile_at")
    async def at(screening: Name, slide_id: SlideId, x: Pixel, y: Pixel) -> list[dict[str, Any]]:
        """The tile at a point, for every bundle of the screening that has one there."""
        found_in, ref, tables = await in_thread(lambda: slides.tile_refs(screening, slide_id))
        async with in_time(seconds):
            found = await services.views.at(ref, [table for _, table in tables], found_in.tiles, x, y)
            told = [
                _tile_told(services, slides, bundle, tile)
                for (bundle, _), tile in zip(tables, found, strict=True)
                if tile is not None
            ]
            return list(await asyncio.gather(*told))

    return routes


async def _answered(
    request: Request, version: str, wanted: str | None, asked: Sequence[Any],
    make: Callable[[], Coroutine[Any, Any, bytes]],
    kind: type[Response], seconds: float,
) -> Response:  # fmt: skip
    """A picture of a version, or that it is the one that the client has."""
    if wanted is not None and wanted != version:
        raise RefusedError(409, "this is not the version that is here; ask for the slide, then for its pictures")
    etag = f'"{hashlib.sha256(repr([version, *asked]).encode()).hexdigest()[:24]}"'
    headers = {"ETag": etag, "Cache-Control": LOOK_AGAIN if wanted is None else FOR_GOOD, "Vary": "Authorization"}
    known = request.headers.get("if-none-match", "")
    if etag in [each.strip().removeprefix("W/") for each in known.split(",")]:
        return Response(status_code=304, headers=headers)
    async with in_time(seconds):
        return kind(await unless_gone(request, make()), headers=headers)


async def _tile_told(services: Services, slides: ScreenedSlides, bundle: UsedBundle, tile: TileAt) -> dict[str, Any]:
    """All about a tile; pictures need the bundle, which the endpoint may not have any more."""
    registered = await in_thread(lambda: slides.registered(bundle))
    calibration = registered.calibration if registered is not None else None
    is_its = calibration is not None and calibration.id == bundle.calibration_id
    facts = {"bundle": bundle.folder} | tile_facts(tile)
    quantiles = calibration.tile_quantiles if calibration is not None and is_its else ()
    pictures: dict[str, str | None] = dict.fromkeys(("query", "reconstruction", "residual", "outline"))
    why = tile.why
    if tile.pixels is not None and registered is None:
        why = "the endpoint has no bundle with this id any more"
    if tile.pixels is not None and registered is not None:
        pictures = await tile_pictures(tile.pixels, lambda pixels, wanted: services.score(registered, pixels, wanted))
    return facts | {"normal_share": normal_share(facts["score"], quantiles)} | pictures | {"why": why}
