"""The HTTP side of the endpoint: what every request meets, and the routes. Knows nothing of Ray."""

from collections.abc import Callable

from fastapi import APIRouter, FastAPI

from uadray import __version__
from uadray.serving import routes_health
from uadray.serving.envelope import Envelope
from uadray.serving.refusals import answer_errors_as_problems
from uadray.serving.services import Services

ROUTERS: tuple[Callable[[Services], APIRouter], ...] = (routes_health.router,)
"""Each module of routes, in the order of the description."""


def build_http(services: Services) -> FastAPI:
    """The FastAPI application."""
    app = FastAPI(title="uadray", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    answer_errors_as_problems(app)
    for router in ROUTERS:
        app.include_router(router(services))
    app.add_middleware(Envelope)
    return app
