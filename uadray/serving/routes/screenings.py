"""Routes about what is decided: screenings, their slides sorted and filtered, and reviewers' notes."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Query, Request
from pydantic import Field, StringConstraints

from uadray.serving.access.callers import Caller
from uadray.serving.exchange.bodies import read_json
from uadray.serving.exchange.openapi import json_body, problems
from uadray.serving.exchange.refusals import RefusedError
from uadray.serving.routes import pictures as routes_pictures
from uadray.serving.schemas import Message
from uadray.serving.services import Services
from uadray.serving.views.notes import MAX_TEXT, Flag, new_note
from uadray.serving.views.screened_slides import ScreenedSlides
from uadray.serving.views.slide_answers import ONE, PREFIX, Name, Number, SlideId, in_thread
from uadray.serving.views.slide_query import FACETS, MAX_PAGE, SlideQuery, Sort

Word = Annotated[str, StringConstraints(max_length=200)]
Words = Annotated[list[Word], Field(max_length=50)]


class SlideFilters(Message):
    """Which slides are asked for, in which order; `none` stands for a value that a slide does not have.

    Attributes:
        bundle: folder, name or id of a bundle of the screening; its first where none is named.
        sort: slides without a number come last.
        order: `desc` for scores, `asc` for the rest, unless given.
        decision: one of these; so with the next five.
        state: `scored`, `not_assessable` or `failed`.
        reason: why a slide has no score.
        site: of the manifest.
        scanner: of the manifest.
        stain: of the manifest.
        flag: of the reviewer's note.
        q: part of the slide's id.
        min_score: of slides.
        max_score: of slides.
        min_p: p-value.
        max_p: p-value.
        limit: slides on a page.
        cursor: `next_cursor` of the page before.
    """

    bundle: Word | None = None
    sort: Sort = "score"
    order: Literal["asc", "desc"] | None = None
    decision: Words = Field(default_factory=list)
    state: Words = Field(default_factory=list)
    reason: Words = Field(default_factory=list)
    site: Words = Field(default_factory=list)
    scanner: Words = Field(default_factory=list)
    stain: Words = Field(default_factory=list)
    flag: Words = Field(default_factory=list)
    q: Word = ""
    min_score: Number = None
    max_score: Number = None
    min_p: Number = None
    max_p: Number = None
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = 50
    cursor: Annotated[str, StringConstraints(max_length=1000)] | None = None

    def query(self) -> SlideQuery:
        """The same, as columns understand it."""
        wanted = {name: [value for value in getattr(self, name) if value] for name in FACETS}
        return SlideQuery(
            sort=self.sort,
            descending=self.order == "desc" if self.order else self.sort == "score",
            values={name: values for name, values in wanted.items() if values},
            flags=[value for value in self.flag if value],
            text=self.q,
            ranges={"score": (self.min_score, self.max_score), "p_value": (self.min_p, self.max_p)},
            limit=self.limit,
            cursor=self.cursor or None,
        )


class NoteBody(Message):
    """Body of `PUT .../note`.

    Attributes:
        flag: empty for none.
        text: plain.
    """

    flag: Flag = ""
    text: Annotated[str, StringConstraints(max_length=MAX_TEXT)] = ""


def router(services: Services) -> APIRouter:
    """The routes, those of pictures too."""
    slides = ScreenedSlides(services.config.out, services.registry, may_read_from=services.config.slides)
    routes = APIRouter(prefix=PREFIX, tags=["screenings"], responses=problems(401, 403, 404, 422, 503))
    may_read, may_submit = (Depends(services.access.requires(scope)) for scope in ("read", "submit"))

    @routes.get("", operation_id="screenings", dependencies=[may_read])
    async def screenings() -> dict[str, Any]:
        """Screenings of this endpoint with their bundles, calibrations and counts."""
        return {"screenings": await in_thread(slides.screenings)}

    @routes.get("/{screening}/slides", operation_id="screened_slides", dependencies=[may_read])
    async def page(screening: Name, asked: Annotated[SlideFilters, Query()]) -> dict[str, Any]:
        """Decided slides, sorted, filtered and counted."""
        return await in_thread(lambda: slides.page(screening, asked.bundle, asked.query()))

    @routes.get(ONE, operation_id="screened_slide", dependencies=[may_read])
    async def slide(screening: Name, slide_id: SlideId) -> dict[str, Any]:
        """A slide: the decision of every bundle, the note, and how large its picture is."""
        return await in_thread(lambda: slides.slide(screening, slide_id))

    @routes.put(
        f"{ONE}/note", operation_id="put_note", dependencies=[may_submit], responses=problems(412, 413, 415, 428),
        openapi_extra=json_body(NoteBody, flagged={"flag": "follow_up", "text": "Please look at the upper left."}),
    )  # fmt: skip
    async def put_note(
        request: Request, screening: Name, slide_id: SlideId, caller: Annotated[Caller, may_submit],
        if_match: Annotated[str | None, Header(max_length=200)] = None,
        if_none_match: Annotated[str | None, Header(max_length=200)] = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Stores a reviewer's flag and note, in the place of the one with the etag of `If-Match`."""
        given = await read_json(request, NoteBody)
        if (if_match is None) == (if_none_match != "*"):
            raise RefusedError(428, "send If-Match with the etag of the note that is there, or If-None-Match: *")
        etag = if_match.strip().removeprefix("W/").strip('"') if if_match is not None else None
        note = new_note(given.flag, given.text, who=caller.name)
        return await in_thread(lambda: slides.put_note(screening, slide_id, note, etag))

    both = APIRouter()
    both.include_router(routes)
    both.include_router(routes_pictures.router(services, slides))
    return both
