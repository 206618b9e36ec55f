"""Who is answered: whoever has the token, or where the server has none, this machine alone."""

import hashlib
import hmac

from fastapi import Request

from uadray.serving.hosts import host_name, is_loopback
from uadray.serving.refusals import RefusedError

FORWARDING = frozenset({"forwarded", "via", "x-real-ip"})
"""Headers that a proxy adds, beside all that begin with `x-forwarded-`."""


def digest(token: str) -> str:
    """The hash that a server keeps of its token: enough to recognise the token, not to reveal it."""
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
    """Refuse a request that does not come from this machine, whatever address the server listens on.

    A request that a reverse proxy on this machine passes on comes from this machine too. Most proxies can be
    recognised, by a header or by the host name in the request; one that leaves no sign cannot.

    Raises:
        RefusedError: 401.
    """
    start_it = "start it with UADRAY_TOKEN"
    if request.client is None or not is_loopback(request.client.host):
        raise RefusedError(401, f"this server has no token, so it answers its own machine only; {start_it}")
    via = [name for name in request.headers if name in FORWARDING or name.startswith("x-forwarded-")]
    if via:
        raise RefusedError(
            401,
            f"this server has no token, so it answers nothing that a proxy passes on (header {via[0]}); {start_it}",
        )
    if not is_loopback(host_name(request.headers.get("host", ""))):
        raise RefusedError(
            401, f"this server has no token, so it answers to localhost and 127.0.0.1 only (host); {start_it}"
        )
