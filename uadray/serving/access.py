"""Who may ask: whoever has the token, or without a token this machine alone."""

import hashlib
import hmac

from fastapi import Request

from uadray.serving.hosts import host_name, is_loopback
from uadray.serving.refusals import RefusedError

FORWARDING = frozenset({"forwarded", "via", "x-real-ip"})
"""Headers by which a proxy tells of itself, beside all that begin with `x-forwarded-`."""


def digest(token: str) -> str:
    """What a server keeps of its token: enough to recognise it, not to reveal it."""
    return hashlib.sha256(token.encode()).hexdigest()


def authorise(request: Request, token_digest: str | None) -> None:
    """Let a request pass, or refuse it.

    Args:
        request: its headers and the address it came from are looked at.
        token_digest: `digest` of the token; None where the server has none.

    Raises:
        RefusedError: 401.
    """
    if token_digest is None:
        _check_local(request)
        return
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(digest(token.strip()), token_digest):
        raise RefusedError(
            401, "missing or wrong token; send the header Authorization: Bearer <token>", {"WWW-Authenticate": "Bearer"}
        )


def _check_local(request: Request) -> None:
    """Without a token this machine alone is answered, whatever address is listened on.

    A reverse proxy on this machine looks like it. Most tell of themselves, by a header or by the name that was asked
    for; one that passes requests on without a sign of it cannot be noticed.

    Raises:
        RefusedError: 401.
    """
    start_it = "start it with UADRAY_TOKEN"
    if request.client is None or not is_loopback(request.client.host):
        raise RefusedError(401, f"this server has no token, so it answers its own machine only; {start_it}")
    told = [name for name in request.headers if name in FORWARDING or name.startswith("x-forwarded-")]
    if told:
        raise RefusedError(
            401,
            f"this server has no token, so it answers nothing that a proxy passes on (header {told[0]}); {start_it}",
        )
    if not is_loopback(host_name(request.headers.get("host", ""))):
        raise RefusedError(
            401, f"this server has no token, so it answers to localhost and 127.0.0.1 only (host); {start_it}"
        )
