"""An audit line for each request to what a token guards: who, what, when, with what outcome.

One line of JSON to the logger `uadray.serving.access.audit`. It has no token, no URI and no slide id: of what was asked
for it has the route and hashes, the same eight digits by which logs call a slide (`errors.shown`).
"""

import hashlib
import json
import logging
from collections.abc import MutableMapping
from datetime import UTC, datetime
from typing import Any

from uadray.serving.exchange.request_ids import request_id_of

log = logging.getLogger("uadray.serving.access.audit")

_CALLER, _ABOUT = "uadray.caller", "uadray.about"


def set_caller(scope: MutableMapping[str, Any], name: str | None) -> None:
    """Note that a request asked for what is guarded, and who sent it, once that is known."""
    scope[_CALLER] = name


def add_subject(scope: MutableMapping[str, Any], **subjects: str) -> None:
    """Note what a request is about that its path does not say, as `add_subject(request.scope, slide=slide_id)`."""
    scope.setdefault(_ABOUT, {}).update(subjects)


def write_line(scope: MutableMapping[str, Any], *, status: int, bytes_sent: int, seconds: float) -> None:
    """Write the line of a request, if it asked for what is guarded."""
    if _CALLER not in scope:
        return
    route = getattr(scope.get("route"), "path", "")
    subjects = {**scope.get("path_params", {}), **scope.get(_ABOUT, {})}
    line = {
        "when": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "who": scope[_CALLER],
        "method": scope["method"],
        "route": route,
        "what": {name: _hash(str(value)) for name, value in sorted(subjects.items())},
        "status": status,
        "bytes": bytes_sent,
        "ms": round(seconds * 1000, 1),
        "request_id": request_id_of(scope),
    }
    log.info(json.dumps(line))


def _hash(value: str) -> str:
    return hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:8]
