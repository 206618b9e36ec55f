"""`/v1/bundles`: which detectors there are, their cards, and adding, swapping and removing them while requests run."""

import asyncio
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Depends, Path, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field

from uadray.decisions.conformal import threshold
from uadray.errors import AccessError, InputError, UnreachableError
from uadray.networks.bundle_description import CALIBRATION, DESCRIPTION, WEIGHTS
from uadray.serving.access.allowed_uris import MAX_URI_LENGTH, ForbiddenUriError, check_uri
from uadray.serving.access.audit import add_subject
from uadray.serving.config import ServeConfig
from uadray.serving.exchange.bodies import read_json
from uadray.serving.exchange.openapi import json_body, problems
from uadray.serving.exchange.refusals import RefusedError
from uadray.serving.registry import NAME, RegisteredBundle, read_registered
from uadray.serving.schemas import Message
from uadray.serving.scores import Wanted
from uadray.serving.services import Services
from uadray.storage import objects

WHITE = 255

Name = Annotated[str, Path(pattern=f"^{NAME}$", description="What requests call the bundle.", examples=["main"])]


class CalibrationSummary(Message):
    """What a bundle's decisions rest on.

    Attributes:
        id: of the calibration.
        alpha: the stated false-alarm rate.
        n: normal patients.
        threshold: a slide that scores more is anomalous.
    """

    id: str
    alpha: float
    n: int
    threshold: float | None


class BundleSummary(Message):
    """A bundle that can be asked for.

    Attributes:
        name: what requests call it.
        id: of the bundle.
        is_default: it scores where a request names none.
        title: what the bundle calls itself.
        detector: its kind.
        tile_px: least side of a tile.
        mpp: micrometres per pixel that tiles must have.
        scores_tiles: it scores tiles that come alone; not where stain is normalised by slide.
        calibration: null from a bundle that scores tiles and decides nothing.
    """

    name: str
    id: str
    is_default: bool
    title: str
    detector: str
    tile_px: int
    mpp: float
    scores_tiles: bool
    calibration: CalibrationSummary | None


class CardSection(Message):
    """A part of a card, as `uadray card` prints it.

    Attributes:
        title: of the part.
        lines: sentences, one a paragraph.
        points: the same, one a bullet.
        rows: names and values.
    """

    title: str
    lines: list[str]
    points: list[str]
    rows: list[tuple[str, str]]


class BundleCard(BundleSummary):
    """A bundle with its card.

    Attributes:
        research_use: what must be shown beside it.
        card: its parts; text of the bundle's own, to be shown as text and nothing else.
    """

    research_use: str
    card: list[CardSection]


class BundleList(Message):
    """Answer to `GET /v1/bundles`.

    Attributes:
        bundles: the default first.
    """

    bundles: list[BundleSummary]


class BundlePlace(Message):
    """Body of `PUT /v1/bundles/{name}`.

    Attributes:
        uri: folder or s3:// URI of the bundle, below what `bundle_sources` allows.
    """

    uri: str = Field(min_length=1, max_length=MAX_URI_LENGTH)


def router(services: Services) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/v1/bundles", tags=["bundles"])
    registry, requires = services.registry, services.access.requires

    @routes.get(
        "", operation_id="list_bundles", dependencies=[Depends(requires("read"))], responses=problems(401, 403, 503)
    )
    async def listed() -> BundleList:
        """Lists the bundles that can be asked for, the default first."""
        bundles = await asyncio.to_thread(registry.all)
        return BundleList(bundles=[_summary(b, is_default=i == 0) for i, b in enumerate(bundles.values())])

    @routes.get(
        "/{name}",
        operation_id="show_bundle",
        dependencies=[Depends(requires("read"))],
        responses=problems(401, 403, 404, 422, 503),
    )
    async def shown(name: Name) -> BundleCard:
        """Shows a bundle and its card: what it is for, what it assumes, how well it does, where its limits are."""
        bundle = await asyncio.to_thread(registry.get, name)
        default = await asyncio.to_thread(registry.get)
        return await asyncio.to_thread(_card, bundle, is_default=bundle.name == default.name)

    @routes.put(
        "/{name}",
        operation_id="put_bundle",
        dependencies=[Depends(requires("admin"))],
        response_model=BundleSummary,
        responses=problems(401, 403, 413, 415, 422, 429, 503, 504),
        openapi_extra=json_body(BundlePlace, a_bundle={"uri": "s3://models/detector-2"}),
    )
    async def put(name: Name, request: Request) -> JSONResponse:
        """Gives a bundle a name, or swaps the bundle that has it.

        The bundle is read, checked, and loaded by the stages before the name is switched. Requests in flight finish
        with the bundle that had the name.
        """
        asked = await read_json(request, BundlePlace)
        add_subject(request.scope, uri=asked.uri)
        bundle = await asyncio.to_thread(_read, name, asked.uri, services.config)
        await _warm(bundle, services)
        await asyncio.to_thread(registry.switch, bundle)
        default = await asyncio.to_thread(registry.get)
        return JSONResponse(_summary(bundle, is_default=default.name == name).model_dump())

    @routes.delete(
        "/{name}",
        operation_id="delete_bundle",
        status_code=204,
        dependencies=[Depends(requires("admin"))],
        responses=problems(401, 403, 404, 409, 422, 503),
    )
    async def delete(name: Name) -> Response:
        """Takes a name away; the bundle's files stay. The last bundle cannot be removed."""
        await asyncio.to_thread(registry.delete, name)
        return Response(status_code=204)

    return routes


def _read(name: str, uri: str, config: ServeConfig) -> RegisteredBundle:
    """The bundle at a URI that may be read.

    Raises:
        RefusedError: 403 for a URI that may not be read, 422 for what is no bundle. Neither says what is there.
    """
    try:
        allowed = (*config.bundle_sources, *config.bundles.values())
        if uri in config.bundles.values():
            return read_registered(name, uri)
        place = check_uri(uri, allowed)
        if not objects.is_s3(place):
            for part in (DESCRIPTION, WEIGHTS, CALIBRATION):
                check_uri(objects.join(place, part), allowed)
        return read_registered(name, place)
    except ForbiddenUriError as error:
        raise RefusedError(403, f"uri: {error}") from None
    except (UnreachableError, AccessError):
        raise
    except InputError as error:
        raise RefusedError(422, f"uri: {error}") from None


async def _warm(bundle: RegisteredBundle, services: Services) -> None:
    """Have the stages load a bundle and score a white tile: one that cannot be loaded never gets a name.

    Raises:
        RefusedError: 422, it cannot; 504, not in time.
    """
    tile_px = bundle.description.tiles.tile_px
    tile = np.full((1, tile_px, tile_px, 3), WHITE, np.uint8)
    limit_s = services.config.request_timeout_s
    try:
        async with asyncio.timeout(limit_s):
            scores = await services.score(bundle, tile, Wanted())
    except TimeoutError as error:
        raise RefusedError(504, f"the stages have not loaded the bundle within {limit_s:g} s") from error
    except InputError as error:
        raise RefusedError(422, f"uri: the bundle cannot be loaded: {error}") from error
    if len(scores.score) != 1 or not np.isfinite(scores.score).all():
        raise RefusedError(422, "uri: the bundle gives a white tile a score that is no number")


def _summary(bundle: RegisteredBundle, *, is_default: bool) -> BundleSummary:
    description = bundle.description
    return BundleSummary(
        name=bundle.name,
        id=bundle.id,
        is_default=is_default,
        title=description.name,
        detector=description.detector.kind,
        tile_px=description.tiles.tile_px,
        mpp=description.tiles.mpp,
        scores_tiles=description.tiles.stain is None,
        calibration=_calibration(bundle),
    )


def _calibration(bundle: RegisteredBundle) -> CalibrationSummary | None:
    given = bundle.calibration
    if given is None:
        return None
    limit = float(threshold(given))
    return CalibrationSummary(
        id=given.id, alpha=given.alpha, n=len(given.scores), threshold=limit if np.isfinite(limit) else None
    )


def _card(bundle: RegisteredBundle, *, is_default: bool) -> BundleCard:
    from uadray.detectors.bundle import Bundle  # imports torch, as what follows
    from uadray.ready.entries import entry_of
    from uadray.reports.card import RESEARCH_USE
    from uadray.reports.card_sections import sections_of

    description = bundle.description
    whole = description if isinstance(description, Bundle) else Bundle.model_validate(description.model_dump())
    parts = sections_of(whole, bundle.calibration, entry_of(whole))
    sections = [
        CardSection(title=part.title, lines=list(part.lines), points=list(part.points), rows=list(part.rows))
        for part in parts
    ]
    return BundleCard(**_summary(bundle, is_default=is_default).model_dump(), research_use=RESEARCH_USE, card=sections)
