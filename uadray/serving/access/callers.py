"""Who is answered: whoever has a token with the scope, or where the server has none, this machine alone."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, final

from fastapi import Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from uadray.errors import InputError
from uadray.serving.access.audit import set_caller
from uadray.serving.access.hosts import host_name, is_loopback
from uadray.serving.access.tokens import SCOPES, TOKEN, TOKENS, Scope, TokenSource, found, token_source
from uadray.serving.config import ServeConfig
from uadray.serving.exchange.refusals import RefusedError

FORWARDING = frozenset({"forwarded", "via", "x-real-ip"})
"""Headers that a proxy adds, beside all that begin with `x-forwarded-`."""

BEARER = HTTPBearer(auto_error=False, scheme_name="token", description="A token that has the scope of the operation.")


@dataclass(frozen=True)
class Caller:
    """Who sent a request.

    Attributes:
        name: of the token, or `local`.
        scopes: what it may do.
    """

    name: str
    scopes: frozenset[Scope]


LOCAL = Caller("local", SCOPES)


@final
class Access:
    """Checks the token of requests, and notes for the audit line who sent them."""

    def __init__(self, tokens: TokenSource | None) -> None:
        """Take the tokens; None answers this machine alone, and nothing that shows that a proxy passed it on."""
        self._tokens = tokens

    def requires(self, scope: Scope) -> Callable[..., Awaitable[Caller]]:
        """A dependency of a route: the caller, whose token has this scope; refused are 401 and 403."""

        async def caller(
            request: Request, _: Annotated[HTTPAuthorizationCredentials | None, Security(BEARER)] = None
        ) -> Caller:
            set_caller(request.scope, None)
            found_caller = self.caller(request)
            set_caller(request.scope, found_caller.name)
            if scope not in found_caller.scopes:
                needs = {"WWW-Authenticate": f'Bearer realm="uadray", error="insufficient_scope", scope="{scope}"'}
                raise RefusedError(403, f"this token lacks the scope {scope}", needs)
            return found_caller

        return caller

    def caller(self, request: Request) -> Caller:
        """Who sent a request.

        Raises:
            RefusedError: 401.
        """
        if self._tokens is None:
            _check_local(request)
            return LOCAL
        scheme, _, text = request.headers.get("authorization", "").partition(" ")
        token = found(text.strip(), self._tokens.current()) if scheme.lower() == "bearer" else None
        if token is None:
            raise _unauthorised("missing or wrong token; send the header Authorization: Bearer <token>")
        if token.is_expired(datetime.now(UTC)):
            raise _unauthorised(f"the token {token.name} has expired", error="invalid_token")
        return Caller(token.name, token.scopes)


def endpoint_tokens(config: ServeConfig) -> TokenSource | None:
    """The tokens of an endpoint; None where it needs none, because it answers this machine alone.

    Raises:
        InputError: there are none, and `insecure` is not set.
    """
    tokens = token_source(config.tokens)
    if tokens is None and not config.insecure:
        raise InputError(
            f"the endpoint has no token: name a file of tokens (tokens), set {TOKEN} or {TOKENS}, "
            "or set insecure: true to answer this machine alone"
        )
    return tokens


def _unauthorised(detail: str, *, error: str | None = None) -> RefusedError:
    return RefusedError(
        401, detail, {"WWW-Authenticate": 'Bearer realm="uadray"' + (f', error="{error}"' if error else "")}
    )


def _check_local(request: Request) -> None:
    """Refuse a request that does not come from this machine, whatever address the server listens on.

    A request that a reverse proxy on this machine passes on comes from this machine too. Most proxies can be
    recognised, by a header or by the host name in the request; one that leaves no sign cannot. A page of another site
    that is open in a browser here can send requests too; the browser says where they come from.

    Raises:
        RefusedError: 401.
    """
    start_it = f"start it with {TOKEN}"
    if request.client is None or not is_loopback(request.client.host):
        raise _unauthorised(f"this server has no token, so it answers its own machine only; {start_it}")
    via = [name for name in request.headers if name in FORWARDING or name.startswith("x-forwarded-")]
    if via:
        raise _unauthorised(
            f"this server has no token, so it answers nothing that a proxy passes on (header {via[0]}); {start_it}"
        )
    if not is_loopback(host_name(request.headers.get("host", ""))):
        raise _unauthorised(
            f"this server has no token, so it answers to localhost and 127.0.0.1 only (host); {start_it}"
        )
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site", "none")
    if (origin is not None and origin.partition("://")[2] != request.headers.get("host")) or site == "cross-site":
        raise _unauthorised(f"this server has no token, so it answers no page of another site (origin); {start_it}")
