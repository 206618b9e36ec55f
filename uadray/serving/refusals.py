"""Requests that are refused as a whole, and every error as one line of JSON."""

import logging

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

log = logging.getLogger("uadray.serving")


class RefusedError(Exception):
    """A request that gets no scores at all.

    Attributes:
        status: of HTTP.
        message: one line.
        headers: for the answer.
    """

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers


def answer_errors_in_json(app: FastAPI) -> None:
    """Make every error of the application one line of JSON, see `Problem`."""
    for error in (RefusedError, HTTPException, Exception):
        app.add_exception_handler(error, _problem)


async def _problem(request: Request, error: Exception) -> JSONResponse:
    match error:
        case RefusedError():
            status, message, headers = error.status, error.message, error.headers
        case HTTPException():
            status, message, headers = error.status_code, str(error.detail), dict(error.headers or {})
        case _:
            log.error("%s %s: %s", request.method, request.url.path, type(error).__name__)
            status, message, headers = 500, "the server failed; its log says why", None
    return JSONResponse({"error": " ".join(message.split())}, status_code=status, headers=headers)
