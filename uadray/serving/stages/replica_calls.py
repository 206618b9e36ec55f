"""Calls to replicas: tried again where one died, refused where none has room, taken back where nobody waits for them.

Whatever else is raised in a replica is raised here as it was there, without what Ray adds to it.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
    TaskCancelledError,
    WorkerCrashedError,
)
from ray.serve.exceptions import BackPressureError, RayServeException

from uadray.serving.exchange.refusals import RefusedError

LOST = (
    RayActorError, ObjectLostError, OutOfMemoryError, NodeDiedError, WorkerCrashedError, TaskCancelledError,
    RayServeException,
)  # fmt: skip
"""Errors of a replica or node that died, and of one that ends. Serve raises the last for one in an earlier stage."""

SOON = {"Retry-After": "1"}

Send = Callable[[], Sequence[Any]]
"""Sends one or several calls; the answer of the last one is awaited, and those before are its arguments."""


async def answered(send: Send, *, by: str) -> Any:
    """The answer to calls that change nothing; they are sent once more where a replica died.

    Args:
        send: sends them.
        by: what answers, for the words of a refusal.

    Raises:
        RefusedError: 429, there is no room; 503, replicas have died twice.
    """
    try:
        try:
            return await _once(send)
        except BackPressureError:
            raise
        except LOST:
            return await _once(send)
    except BackPressureError as error:
        limit = f"{error.args[1]} requests" if len(error.args) > 1 else "as many requests as may"
        raise RefusedError(429, f"{limit} wait for {by} already; try again in a moment", SOON) from error
    except LOST as error:
        raise RefusedError(503, f"{by} cannot answer now; try again in a moment", SOON) from error


async def _once(send: Send) -> Any:
    responses: Sequence[Any] = ()
    try:
        responses = send()
        return await responses[-1]
    except asyncio.CancelledError:  # the request timed out, or its sender went away
        for response in responses:
            response.cancel()
        raise
    except RayTaskError as error:
        raise _cause(error) from None


def _cause(error: BaseException) -> BaseException:
    while isinstance(error, RayTaskError) and isinstance(error.cause, BaseException):
        error = error.cause
    return error
