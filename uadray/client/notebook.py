"""What a notebook shows of an answer: a small table and pictures, as HTML. All of it comes from elsewhere: escaped."""

import base64
import html
from collections.abc import Mapping
from typing import Any

_KINDS = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n\x1a\n": "image/png"}


def shown(title: str, fields: Mapping[str, Any], pictures: Mapping[str, bytes] | None = None) -> str:
    """A title over a table of two columns, without the fields that are None, and pictures below it."""
    rows = "".join(
        f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
        f"<td style='text-align:left'>{html.escape(text(value))}</td></tr>"
        for name, value in fields.items()
        if value is not None
    )
    images = "".join(_image(name, data) for name, data in (pictures or {}).items())
    return f"<div><strong>{html.escape(title)}</strong><table>{rows}</table>{images}</div>"


def text(value: Any) -> str:
    """A value for people.

    >>> text(0.0123456), text(("a", "b")), text(7)
    ('0.01235', 'a, b', '7')
    """
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(map(text, value)) if isinstance(value, tuple | list) else str(value)


def _image(name: str, data: bytes) -> str:
    """A JPEG or PNG in the page itself; nothing of other bytes."""
    kind = next((kind for magic, kind in _KINDS.items() if data.startswith(magic)), None)
    if kind is None:
        return ""
    source = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    return f"<img alt='{html.escape(name)}' src='{source}' style='max-width:320px;max-height:320px;margin:4px'>"
