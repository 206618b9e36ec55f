"""The description of the API: what FastAPI cannot know of bodies that routes read themselves, and of problems."""

import http
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from uadray.serving.exchange.refusals import MEDIA_TYPE
from uadray.serving.schemas import Problem, TileRequest

DESCRIPTION = """\
Scores tiles while the client waits, screens whole slides as jobs, and shows the results.

**Tokens.** `Authorization: Bearer <token>`. A token has scopes: `score` (tiles), `submit` (slides, notes), `read`
(everything that is told), `admin` (all of these, and bundles). Each operation says which it needs.

**Problems.** Whatever is refused is answered by `application/problem+json` (RFC 9457) in one line that names the limit,
with a `request_id` that the logs know; send `X-Request-ID` to choose it. 429 and 503 come with `Retry-After`: the same
request may be sent again then.
"""

_WORDS = {
    400: "The connection ended before the body did.",
    401: "No token, a wrong one, or one that has expired.",
    403: "The token lacks the scope.",
    404: "There is no such thing.",
    409: "Somebody else was faster, or it is the last one.",
    412: "It has changed since it was read.",
    413: "More than a limit allows; the detail says which.",
    415: "A media type that is not read.",
    422: "A field is unknown, missing or has a wrong value.",
    429: "No room now; send it again after `Retry-After` seconds.",
    503: "A part of the endpoint cannot be reached now; send it again after `Retry-After` seconds.",
    504: "No answer in time; the work was stopped.",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route says in `responses` of the problems that it answers with."""
    return {status: _problem(_WORDS.get(status, http.HTTPStatus(status).phrase)) for status in statuses}


def _problem(description: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": description, "content": {MEDIA_TYPE: {"schema": schema}}}


ANY_PROBLEM: dict[int | str, dict[str, Any]] = {"default": _problem("The request was refused, or the server failed.")}
"""What every route may answer."""


def json_body(model: type[BaseModel], **examples: Any) -> dict[str, Any]:
    """What a route that reads a model by `requests.read_json` gives as `openapi_extra`.

    Args:
        model: of the body.
        examples: name -> value.
    """
    return {"requestBody": {"required": True, "content": {"application/json": _content(model, examples)}}}


def _content(model: type[BaseModel], examples: dict[str, Any]) -> dict[str, Any]:
    told = {"examples": {name: {"value": value} for name, value in examples.items()}} if examples else {}
    return {"schema": _inlined(model.model_json_schema()), **told}


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """A JSON schema without references: FastAPI does not know the models of bodies that it does not read."""
    definitions = schema.pop("$defs", {})

    def replaced(value: Any) -> Any:
        if isinstance(value, dict):
            if "$ref" in value:
                return replaced(definitions[value["$ref"].rsplit("/", 1)[-1]])
            return {name: replaced(inner) for name, inner in value.items()}
        return [replaced(inner) for inner in value] if isinstance(value, list) else value

    return dict(replaced(schema))


_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4//8/AAX+Av4N70a4AAAAAElFTkSuQmCC"
"""A PNG of one white pixel: valid, and smaller than any tile."""

_BYTES = {"schema": {"type": "string", "format": "binary"}}


def _option(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "description": description, "schema": schema}


TILES_BODY: dict[str, Any] = {
    "parameters": [
        _option("bundle", "Name of the bundle; not with JSON.", {"type": "string", "maxLength": 64}),
        _option("maps", "Also send residual maps; not with JSON.", {"type": "boolean"}),
        _option("reconstructions", "Also send reconstructions; not with JSON.", {"type": "boolean"}),
        _option("id", "Of the tile; with one image alone.", {"type": "string", "maxLength": 1024}),
    ],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": _content(
                TileRequest, {"one tile": {"tiles": [{"id": "x0-y512", "image": _PIXEL}], "maps": False}}
            ),
            "image/png": _BYTES,
            "image/jpeg": _BYTES,
            "application/x-npz": {
                **_BYTES,
                "example": "numpy.savez_compressed(file, tiles=uint8 array [N, h, w, 3], ids=array of N texts)",
            },
        },
    },
}


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI description, with the schema of problems."""
    description = FastAPI.openapi(app)
    schemas = description.setdefault("components", {}).setdefault("schemas", {})
    schemas.setdefault("Problem", Problem.model_json_schema())
    return description
