"""The body of a request: read as far as `limits` allows, and what it asks for, in a strict model."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from uadray.serving.exchange.refusals import RefusedError, field_problems

ModelT = TypeVar("ModelT", bound=BaseModel)
Result = TypeVar("Result")

GONE = 499
"""What a log says of a request whose client did not wait for the answer."""


async def read_body(request: Request) -> bytes:
    """The body; `limits.BodyLimits` refuses one that is too large while it is read.

    Raises:
        RefusedError: 413 or 429 by the limits, or 400 where the connection ends before the body does.
    """
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
    except ClientDisconnect as error:
        raise RefusedError(400, "the connection ended before the body did") from error
    return bytes(body)


async def read_json(request: Request, model: type[ModelT]) -> ModelT:
    """The JSON of a body. Routes read it so, after the token was looked at, and not as a parameter of FastAPI's.

    Raises:
        RefusedError: as of `read_body`; 415 for another media type, 422 for what the model refuses.
    """
    if media_type(request) not in ("", "application/json"):
        raise RefusedError(415, "expected Content-Type: application/json")
    return parsed(model, await read_body(request))


def media_type(request: Request) -> str:
    """The media type of the body, in lower case; empty where the request does not say."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def parsed(model: type[ModelT], body: bytes) -> ModelT:
    """JSON as a model.

    Raises:
        RefusedError: 422 and the fields, without their values: these may be patients'.
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise RefusedError(422, told(error)) from None


def told(error: ValidationError) -> str:
    """What is wrong with which fields, without the values."""
    return field_problems(error.errors(include_url=False, include_input=False, include_context=False))


async def unless_gone(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of work for a client, which is cancelled when the client goes. The body must have been read.

    Raises:
        RefusedError: 499, which nobody reads.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise RefusedError(GONE, "the client has gone", title="Client Closed Request")
    finally:
        for one in (task, gone):
            one.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await task


async def _gone(request: Request) -> None:
    """Return when the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
