"""Whether the endpoint lives and whether it can answer; no token is asked for, and nothing is said of slides."""

import asyncio

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import Field

from uadray.errors import UadrayError
from uadray.serving.schemas import Message
from uadray.serving.services import Services


class Health(Message):
    """Answer to `GET /healthz`.

    Attributes:
        status: always `ok`.
    """

    status: str = "ok"


class ReadyBundle(Message):
    """A bundle that can be asked for.

    Attributes:
        name: what requests call it.
        id: of the bundle.
        tile_px: least side of a tile.
        mpp: micrometres per pixel that tiles must have.
    """

    name: str
    id: str
    tile_px: int
    mpp: float


class Readiness(Message):
    """Answer to `GET /readyz`.

    Attributes:
        status: `ready`, or `starting` until every stage has loaded the bundles.
        bundles: the default first.
    """

    status: str = Field(examples=["ready"])
    bundles: list[ReadyBundle]


def router(services: Services) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["health"])

    @routes.get("/healthz", operation_id="health")
    async def healthz() -> Health:
        """Says that the endpoint lives: 200 as soon as it can say anything."""
        return Health()

    @routes.get(
        "/readyz", operation_id="readiness", response_model=Readiness,
        responses={503: {"model": Readiness, "description": "Bundles are still being loaded."}},
    )  # fmt: skip
    async def readyz() -> JSONResponse:
        """Says whether every stage has loaded the bundles."""
        try:
            bundles = await asyncio.to_thread(services.registry.all)
            is_ready = bool(bundles) and await services.ready()
        except UadrayError:
            bundles, is_ready = {}, False
        told = Readiness(
            status="ready" if is_ready else "starting",
            bundles=[
                ReadyBundle(name=b.name, id=b.id, tile_px=b.description.tiles.tile_px, mpp=b.description.tiles.mpp)
                for b in bundles.values()
            ],
        )
        return JSONResponse(told.model_dump(), 200 if is_ready else 503)

    return routes
