"""What the routes about slides share: parameters, and errors about what was asked for as answers."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated, TypeVar

from fastapi import Path, Query
from pydantic import BeforeValidator, FiniteFloat

from uadray.errors import InputError, NotFoundError, SlideError
from uadray.serving.access.allowed_uris import ForbiddenUriError
from uadray.serving.exchange.refusals import RefusedError

T = TypeVar("T")

SLIDE_STATUS = {"changed": 409, "missing": 404, "outside": 404, "no_access": 503, "unreachable": 503}
"""Of an answer about a slide that cannot be shown, by the reason; 422 for the others, which are the file's own."""

PREFIX = "/v1/screenings"

ONE = "/{screening}/slides/{slide_id}"

Name = Annotated[str, Path(max_length=64, description="`main`, or the fingerprint of a screening.", examples=["main"])]
SlideId = Annotated[str, Path(max_length=200, description="As in the manifest.")]
BundleName = Annotated[
    str | None, Query(max_length=100, description="Folder, name or id of a bundle of the screening; else its first.")
]
Number = Annotated[FiniteFloat | None, BeforeValidator(lambda given: None if given == "" else given)]


async def in_thread(work: Callable[[], T]) -> T:
    """What work that blocks gives, in a thread; see `slide_problems`."""
    with slide_problems():
        return await asyncio.to_thread(work)


@contextmanager
def slide_problems() -> Iterator[None]:
    """Errors about what was asked for become answers: what is not there is 404."""
    try:
        yield
    except SlideError as error:
        status = SLIDE_STATUS.get(error.reason, 422)
        raise RefusedError(status, error.message, {"Retry-After": "5"} if status == 503 else None) from error
    except NotFoundError as error:
        raise RefusedError(404, str(error)) from error
    except ForbiddenUriError as error:
        raise RefusedError(403, f"this endpoint does not open the slide: {error}") from error
    except InputError as error:
        raise RefusedError(422, str(error)) from error


@asynccontextmanager
async def in_time(seconds: float) -> AsyncIterator[None]:
    """Work on a slide that is stopped after so many seconds (504); see `slide_problems`."""
    try:
        with slide_problems():
            async with asyncio.timeout(seconds):
                yield
    except TimeoutError as error:
        raise RefusedError(504, f"no picture within {seconds:g} s; try again, or look at a coarser level") from error
