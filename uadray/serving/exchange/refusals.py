"""Requests that are refused as a whole, and every error as a problem (RFC 9457)."""

import http
import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from uadray.errors import AccessError, BusyError, FullError, UadrayError, UnreachableError, shown_text
from uadray.serving.exchange.request_ids import request_id_of
from uadray.serving.registry import BrokenBundleError, LastBundleError, UnknownBundleError

log = logging.getLogger("uadray.serving")

MEDIA_TYPE = "application/problem+json"

PASSING = (UnreachableError, AccessError, FullError, BusyError)
"""Faults of the system that say nothing about the request: it may be sent again."""


class RefusedError(HTTPException):
    """A request that gets no answer to what it asks.

    A kind of HTTPException: FastAPI lets these through while it reads a body, and turns all others into 400.

    Attributes:
        status_code: of HTTP.
        detail: one line, with the limit that was passed, if one was.
        headers: for the answer.
        title: of the problem; None takes HTTP's own phrase.
    """

    def __init__(
        self, status: int, detail: str, headers: dict[str, str] | None = None, title: str | None = None
    ) -> None:
        super().__init__(status, " ".join(detail.split()), headers)
        self.title = title


def answer_errors_as_problems(app: FastAPI) -> None:
    """Make every error of the application a problem; what nobody expected is the business of `envelope`."""
    for error in (HTTPException, RequestValidationError, UadrayError):
        app.add_exception_handler(error, _answer)


def problem_response(
    request: Request, status: int, detail: str, *, headers: dict[str, str] | None = None, title: str | None = None
) -> JSONResponse:
    """A problem as an answer; `instance` is the path, which the client knows already."""
    problem: dict[str, Any] = {
        "type": "about:blank",
        "title": title or http.HTTPStatus(status).phrase,
        "status": status,
        "detail": " ".join(detail.split()),
        "instance": request.url.path,
        "request_id": request_id_of(request.scope),
    }
    return JSONResponse(problem, status, headers=headers, media_type=MEDIA_TYPE)


def field_problems(errors: Any) -> str:
    """What pydantic says is wrong, at most three fields, without the values: these may be patients'."""
    lines = [f"{'.'.join(map(str, p['loc']))[:100] or 'body'}: {p['msg']}"[:300] for p in errors[:3]]
    return "; ".join(lines)


async def _answer(request: Request, error: Exception) -> JSONResponse:
    match error:
        case RefusedError():
            return problem_response(
                request, error.status_code, error.detail, headers=dict(error.headers or {}), title=error.title
            )
        case HTTPException():
            return problem_response(request, error.status_code, error.detail, headers=dict(error.headers or {}))
        case RequestValidationError():
            return problem_response(request, 422, field_problems(error.errors()))
        case UnknownBundleError():
            return problem_response(request, 404, str(error))
        case LastBundleError():
            return problem_response(request, 409, str(error))
        case BrokenBundleError():
            return problem_response(request, 503, str(error), headers={"Retry-After": "5"})
    log.error("request %s: %s: %s", request_id_of(request.scope), type(error).__name__, shown_text(str(error)))
    if isinstance(error, PASSING):
        return problem_response(
            request, 503, "the store of this endpoint cannot be used now", headers={"Retry-After": "5"}
        )
    return problem_response(request, 500, "the server failed; its log says why")
