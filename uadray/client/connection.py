"""Requests to an endpoint; those that may be repeated are, until patience ends."""

import itertools
import logging
import random
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx

from uadray.client.problems import is_passing, lost, may_pass, refusal, retry_after_s
from uadray.errors import InputError

PATIENCE_S = 120.0
"""For so long a request is repeated that got no answer, or that nobody had time for."""

IDEMPOTENCY_KEY = "Idempotency-Key"

_TIMEOUT = httpx.Timeout(120, connect=10)
"""Seconds for an answer: longer than an endpoint takes before it gives up by itself."""

STREAM_TIMEOUT_S = 45.0
"""Seconds without a word after which a stream of events counts as lost."""

_FIRST_S, _LONGEST_S = 0.25, 15.0
"""Seconds before the first repetition, and the most between two."""

_LOOPBACK = ("localhost", "127.0.0.1", "::1")

log = logging.getLogger(__name__)


class Connection:
    """An endpoint by its URL. It follows no redirect: its token goes to one address only.

    Attributes:
        url: of the endpoint, without a slash at the end.
        patience_s: see `PATIENCE_S`.
    """

    def __init__(
        self, url: str, *, token: Callable[[], str | None], cacert: str | None = None, patience_s: float = PATIENCE_S
    ) -> None:
        self.url, self.patience_s = _checked(url), patience_s
        self._token = token
        if token() and self.url.startswith("http:") and httpx.URL(self.url).host not in _LOOPBACK:
            log.warning("%s is not encrypted: whoever listens on the way has the token", self.url)
        self._http = httpx.Client(verify=_trust(cacert), timeout=_TIMEOUT)

    def close(self) -> None:
        """Close what is open."""
        self._http.close()

    def send(
        self, method: str, path: str, *, params: Mapping[str, Any] | None = None, json: Any = None,
        content: bytes | None = None, headers: Mapping[str, str] | None = None, may_repeat: bool | None = None,
    ) -> httpx.Response:  # fmt: skip
        """The answer to a request, if it is a success.

        GET, PUT and DELETE are repeated, and POST with an idempotency key: on 429, 502 and 503, and where the
        connection is lost; `Retry-After` is honoured. Other refusals are final.

        Args:
            method: of the request.
            path: below the URL.
            params: of the query; those that are None are left out.
            json: body.
            content: or a body as it is.
            headers: beside the token.
            may_repeat: says so where it is otherwise.

        Raises:
            UadrayError: see `problems`.
        """
        given = dict(headers or {})
        if may_repeat is None:
            may_repeat = method in ("GET", "PUT", "DELETE") or IDEMPOTENCY_KEY in given
        ends = time.monotonic() + self.patience_s
        for turn in itertools.count():
            try:
                response = self._http.request(
                    method, self.url + path, params=_present(params), json=json, content=content,
                    headers=given | self._authorization(),
                )  # fmt: skip
                if response.is_success:
                    return response
                error, wait_s = refusal(response), retry_after_s(response)
                may_repeat = may_repeat and may_pass(response)
            except httpx.RequestError as cut:
                error, wait_s = lost(cut, self.url), 0.0
                may_repeat = may_repeat and is_passing(cut)
            wait_s = max(wait_s, pause_s(turn))
            if not may_repeat or time.monotonic() + wait_s > ends:
                raise error
            if turn == 2:  # a second or two have passed
                log.warning("%s; trying again for %.0f s", error, ends - time.monotonic())
            time.sleep(wait_s)
        raise AssertionError("unreachable")

    @contextmanager
    def lines(self, path: str, *, timeout_s: float | None = None) -> Iterator[Iterator[str]]:
        """The lines of an answer while it comes. It is not repeated: whoever reads it knows how to go on.

        Args:
            path: below the URL.
            timeout_s: without a word; `STREAM_TIMEOUT_S`, or less.

        Raises:
            UadrayError: it is refused, or cut off.
        """
        headers = self._authorization() | {"Accept": "text/event-stream"}
        timeout = httpx.Timeout(min(STREAM_TIMEOUT_S, timeout_s or STREAM_TIMEOUT_S), connect=10)
        try:
            with self._http.stream("GET", self.url + path, headers=headers, timeout=timeout) as response:
                if not response.is_success:
                    response.read()
                    raise refusal(response)
                yield response.iter_lines()
        except httpx.RequestError as cut:
            raise lost(cut, self.url) from cut

    def _authorization(self) -> dict[str, str]:
        token = self._token()
        return {"Authorization": f"Bearer {token}"} if token else {}


def pause_s(turn: int) -> float:
    """Seconds before a repetition: twice as many each time, and not for all clients the same.

    >>> 0.25 <= pause_s(0) <= 0.5 and pause_s(50) <= 15
    True
    """
    return min(_FIRST_S * 2.0 ** min(turn, 10) * (1 + random.random()), _LONGEST_S)  # noqa: S311 - no secret


def values_of(response: httpx.Response) -> dict[str, Any]:
    """The JSON object of an answer.

    Raises:
        InputError: it is something else.
    """
    try:
        values = response.json()
    except ValueError:
        values = None
    if not isinstance(values, dict):
        kind = response.headers.get("content-type", "nothing")
        raise InputError(
            f"{response.request.url}: answers {kind[:80]}, not a JSON object: is it an endpoint of uadray?"
        )
    return values


def _present(params: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (params or {}).items() if value is not None}


def _checked(url: str) -> str:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise InputError(f"endpoint {url!r}: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise InputError(f"endpoint {url!r}: expected a URL like https://host:8000")
    if parsed.userinfo or parsed.query or parsed.fragment:
        raise InputError("endpoint: a URL without user, query and fragment; the token is given by itself")
    return url.rstrip("/")


def _trust(cacert: str | None) -> ssl.SSLContext | bool:
    """Whose certificates are trusted: those of the system's authorities, or of the ones in a file."""
    if cacert is None:
        return True
    try:
        return ssl.create_default_context(cafile=cacert)
    except OSError as error:  # ssl.SSLError is one
        raise InputError(f"cacert {cacert}: {error.strerror or error}") from error
