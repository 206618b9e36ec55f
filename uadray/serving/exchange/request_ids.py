"""The id of a request: the client's own where it sends a sane one, else a new one. It joins answers and logs."""

import re
import secrets
from collections.abc import MutableMapping
from typing import Any

HEADER = "X-Request-ID"

_KEY = "uadray.request_id"
_SANE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")


def chosen_id(asked: str) -> str:
    """What a client asks to call its request, where logs and headers can carry it; else sixteen random hex digits.

    >>> chosen_id("job-17.2"), len(chosen_id("")), len(chosen_id("a" * 65)), len(chosen_id("a b"))
    ('job-17.2', 16, 16, 16)
    """
    return asked if _SANE.fullmatch(asked) else secrets.token_hex(8)


def set_request_id(scope: MutableMapping[str, Any], request_id: str) -> None:
    """Note the id in the scope of a request."""
    scope[_KEY] = request_id


def request_id_of(scope: MutableMapping[str, Any]) -> str:
    """The id of a request; empty outside of `envelope`."""
    return str(scope.get(_KEY, ""))
