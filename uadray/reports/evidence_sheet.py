"""All pictures of a slide in one file: an SVG that holds them as the JPEGs they are, each under a name.

    evidence/<slide_id>.svg#thumbnail, #heatmap, #tile_0, #reconstruction_0, ...

A page shows one of them by its name, as it would show a file; the file alone shows all. One object a slide is one
request, where thirteen pictures were thirteen, and nothing is encoded anew. At its head may stand the slide's picture
for a list, which is not shown: its first kilobytes are enough to make many of them into one.
"""

import base64
import binascii
import re
from collections.abc import Mapping

SIDE = 256
"""Units that a picture is wide and high at most: they scale to whatever is shown."""

_GAP = 8


def evidence_sheet(
    pictures: Mapping[str, bytes], *, sizes: Mapping[str, tuple[int, int]], preview: bytes | None = None
) -> bytes:  # fmt: skip
    """The SVG of these JPEGs.

    Args:
        pictures: by name. `tile_0`, `tile_1`, ... stand in a row, the reconstruction of each below it; what has no
            number stands above.
        sizes: width and height of those that are not square, in any unit.
        preview: a JPEG for lists, see `preview_in`.
    """
    rows: dict[str, list[str]] = {}
    for name in pictures:
        kind, _, number = name.rpartition("_")
        rows.setdefault(kind if number.isdecimal() else "", []).append(name)
    placed = [
        _placed(name, pictures[name], (column * (SIDE + _GAP), row * (SIDE + _GAP)), sizes.get(name, (1, 1)))
        for row, names in enumerate(rows.values())
        for column, name in enumerate(names)
    ]
    width, height = (max(map(len, rows.values())) * (SIDE + _GAP), len(rows) * (SIDE + _GAP)) if rows else (1, 1)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">'
    small = [] if preview is None else [f'<metadata id="preview">{base64.b64encode(preview).decode()}</metadata>']
    return "\n".join([head, *small, *placed, "</svg>"]).encode()


def preview_in(sheet: bytes) -> bytes | None:
    """The picture for lists, of a sheet or its first bytes; None where it has none."""
    return _decoded(re.search(rb'<metadata id="preview">([A-Za-z0-9+/=]*)</metadata>', sheet))


def picture_in(sheet: bytes, name: str) -> bytes | None:
    """The JPEG of this name in a sheet; None where it has none."""
    return _decoded(re.search(rb'<view id="%b" [^>]*><image [^>]*base64,([A-Za-z0-9+/=]*)"' % name.encode(), sheet))


def _decoded(found: re.Match[bytes] | None) -> bytes | None:
    try:
        return base64.b64decode(found[1], validate=True) if found else None
    except binascii.Error:
        return None


def _placed(name: str, jpeg: bytes, corner: tuple[int, int], size: tuple[int, int]) -> str:
    """A picture in its cell, and the view that shows it alone."""
    scale = SIDE / max(size)
    x, y, width, height = *corner, round(size[0] * scale, 3), round(size[1] * scale, 3)
    view = f'<view id="{name}" viewBox="{x} {y} {width} {height}"/>'
    place = f'x="{x}" y="{y}" width="{width}" height="{height}" preserveAspectRatio="none"'
    return f'{view}<image {place} href="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"/>'
