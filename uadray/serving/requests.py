"""The body of a request: how much of it is read, and what it asks for."""

from fastapi import Request
from pydantic import ValidationError
from starlette.requests import ClientDisconnect

from uadray.serving.refusals import RefusedError
from uadray.serving.schemas import TileRequest


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The body, of at most `max_bytes`; no more than that is held in memory at any time.

    Raises:
        RefusedError: 413, at the header where it tells the size, else as soon as too much has come.
    """
    too_large = RefusedError(413, f"body too large; at most {max_bytes} bytes, send several requests")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > max_bytes:
        raise too_large
    body = bytearray()
    try:
        async for chunk in request.stream():
            if len(body) + len(chunk) > max_bytes:
                raise too_large
            body += chunk
    except ClientDisconnect as error:
        raise RefusedError(400, "the connection ended before the body did") from error
    return bytes(body)


def parse_request(body: bytes, max_tiles: int) -> TileRequest:
    """Read the JSON of a body.

    Raises:
        RefusedError: 422 and the field, or 413 where there are too many tiles.
    """
    too_many = RefusedError(413, f"too many tiles; at most {max_tiles} in a request, send several")
    try:
        asked = TileRequest.model_validate_json(body)
    except ValidationError as error:
        # without the input: it is patients' images
        problems = error.errors(include_url=False, include_input=False, include_context=False)
        if any(p["type"] == "too_long" and p["loc"] == ("tiles",) for p in problems):
            raise too_many from None
        lines = [f"{'.'.join(map(str, p['loc']))[:100] or 'body'}: {p['msg']}" for p in problems[:3]]
        raise RefusedError(422, "; ".join(lines)) from None
    if len(asked.tiles) > max_tiles:
        raise too_many
    return asked
