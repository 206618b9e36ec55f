"""All pictures of a slide in one file: an SVG that holds them as the JPEGs they are, each under a name.

    evidence/<slide_id>.svg#thumbnail, #heatmap, #tile_0, #reconstruction_0, ...

A page shows one of them by its name, as it would show a file; the file alone shows all. One object a slide is one
request, where thirteen pictures were thirteen, and nothing is encoded anew.
"""

import base64
from collections.abc import Mapping

SIDE = 256
"""Units that a picture is wide and high at most: they scale to whatever is shown."""

_GAP = 8


def evidence_sheet(pictures: Mapping[str, bytes], *, sizes: Mapping[str, tuple[int, int]]) -> bytes:
    """The SVG of these JPEGs.

    Args:
        pictures: by name. `tile_0`, `tile_1`, ... stand in a row, the reconstruction of each below it; what has no
            number stands above.
        sizes: width and height of those that are not square, in any unit.
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
    return "\n".join([head, *placed, "</svg>"]).encode()


def _placed(name: str, jpeg: bytes, corner: tuple[int, int], size: tuple[int, int]) -> str:
    """A picture in its cell, and the view that shows it alone."""
    scale = SIDE / max(size)
    x, y, width, height = *corner, round(size[0] * scale, 3), round(size[1] * scale, 3)
    view = f'<view id="{name}" viewBox="{x} {y} {width} {height}"/>'
    place = f'x="{x}" y="{y}" width="{width}" height="{height}" preserveAspectRatio="none"'
    return f'{view}<image {place} href="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"/>'
