"""The HTTP side of the endpoint: what every request meets, and the routes. Knows nothing of Ray."""

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Depends, FastAPI

from uadray import __version__
from uadray.serving.exchange.envelope import Envelope
from uadray.serving.exchange.limits import BodyLimits
from uadray.serving.exchange.openapi import ANY_PROBLEM, DESCRIPTION, describe, problems
from uadray.serving.exchange.refusals import answer_errors_as_problems
from uadray.serving.routes import batches as routes_batches
from uadray.serving.routes import bundles as routes_bundles
from uadray.serving.routes import health as routes_health
from uadray.serving.routes import page as routes_page
from uadray.serving.routes import screenings as routes_screenings
from uadray.serving.routes import slides as routes_slides
from uadray.serving.routes import tiles as routes_tiles
from uadray.serving.services import Services

ROUTERS: tuple[Callable[[Services], APIRouter], ...] = (
    routes_health.router,
    routes_tiles.router,
    routes_bundles.router,
    routes_slides.router,
    routes_batches.router,
    routes_screenings.router,
    routes_page.router,
)
"""Each module of routes, in the order of the description."""


def build_http(services: Services) -> FastAPI:
    """The FastAPI application."""
    config = services.config
    app = FastAPI(
        title="uadray", version=__version__, description=DESCRIPTION, docs_url=None, redoc_url=None, openapi_url=None
    )
    answer_errors_as_problems(app)
    for router in ROUTERS:
        app.include_router(router(services), responses=ANY_PROBLEM)

    @app.get(
        "/openapi.json",
        operation_id="openapi",
        tags=["health"],
        dependencies=[Depends(services.access.requires("read"))],
        responses=problems(401, 403) | ANY_PROBLEM,
    )
    async def openapi() -> dict[str, Any]:
        """Describes the API, in the format of OpenAPI 3.1."""
        return describe(app)

    app.add_middleware(
        BodyLimits,
        max_body_bytes=config.max_body_bytes,
        max_bytes_in_flight=config.max_bytes_in_flight,
        check=services.access.caller,
    )
    app.add_middleware(Envelope)  # the outermost
    return app
