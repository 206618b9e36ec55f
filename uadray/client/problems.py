"""What an endpoint refuses, as an error of one line."""

import json
import socket
import ssl
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from uadray.errors import AccessError, InputError, NotFoundError, UadrayError, UnreachableError, WorkError

REPEATED = frozenset({429, 502, 503})
"""Answers after which the same request may go well: too much at a time, or nobody there to answer it."""

_MAX_CHARS = 500
"""Of what an endpoint says of its refusal, so much is shown."""


def refusal(response: httpx.Response) -> UadrayError:
    """The error of an answer that is no success: its status, what the endpoint says, and the request's id.

    401 and 403 are `AccessError`, 404 `NotFoundError`, other 4xx `InputError`; the rest, and 429, `WorkError`.
    """
    problem = _problem(response)
    said = problem.get("detail") or problem.get("title") or response.reason_phrase or "no reason given"
    if response.is_redirect:
        said = f"it moved to {response.headers.get('location', 'somewhere')}; give that URL"
    request_id = problem.get("request_id")
    named = f" (request {_line(request_id)})" if request_id else ""
    text = f"{response.request.url.copy_with(query=None)}: {response.status_code}: {_line(said)}{named}"
    kinds = {401: AccessError, 403: AccessError, 404: NotFoundError, 429: WorkError}
    return kinds.get(response.status_code, InputError if response.status_code < 500 else WorkError)(text)


def may_pass(response: httpx.Response) -> bool:
    """Whether the same request may go well later.

    An endpoint says what it does not have as problem+json: a 404 in plain text is of a proxy whose endpoint is not
    there yet.
    """
    kind = response.headers.get("content-type", "")
    return response.status_code in REPEATED or (response.status_code == 404 and kind.startswith("text/plain"))


def lost(error: httpx.RequestError, url: str) -> UadrayError:
    """The error of a request without an answer."""
    if not is_passing(error):
        chain = [str(each) for each in _chain(error) if isinstance(each, ssl.SSLCertVerificationError)]
        what = f"its certificate is not trusted ({_line(chain[0])}); name its authority (cacert)" if chain else None
        return InputError(f"{url}: {what or _line(str(error))}")
    return UnreachableError(f"{url}: no answer: {_line(str(error)) or type(error).__name__}")


def is_passing(error: httpx.RequestError) -> bool:
    """Whether what cut a request off may pass; a wrong certificate, host name or header stays wrong."""
    if isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError):
        return False
    return not any(
        isinstance(each, ssl.SSLCertVerificationError)
        or (isinstance(each, socket.gaierror) and each.errno == socket.EAI_NONAME)
        for each in _chain(error)
    )


def retry_after_s(response: httpx.Response) -> float:
    """Seconds for which the endpoint asks to be left alone; 0 where it does not.

    >>> retry_after_s(httpx.Response(503, headers={"Retry-After": "7"}))
    7.0
    >>> retry_after_s(httpx.Response(503, headers={"Retry-After": "soon"}))
    0.0
    """
    text = response.headers.get("retry-after", "")
    if text.isascii() and text.isdecimal():
        return float(text[:9])
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - datetime.now(UTC)).total_seconds())


def _problem(response: httpx.Response) -> dict[str, Any]:
    """The fields of a problem+json answer; none of another."""
    try:
        values = json.loads(response.content)
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}


def _chain(error: BaseException | None) -> list[BaseException]:
    """An error and those it was raised from or while."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain


def _line(text: Any) -> str:
    """A text as one short line that moves no cursor."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())[:_MAX_CHARS]
