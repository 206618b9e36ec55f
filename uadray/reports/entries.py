"""A slide on the worklist page: what is shown of it, where its pictures are, and where its tiles lie on them."""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from uadray.reports.ranking import group_of
from uadray.reports.slide_words import Words, slide_words, tile_lines

PICTURE_KINDS = {
    "tile": "Tile",
    "reconstruction": "Reconstruction",
    "residual": "Difference",
    "outline": "Where it differs most",
    "cells": "Where in the tile",
    "normal1": "Nearest normal tile",
    "normal2": "Second nearest",
}
"""Pictures that an evidence tile may have, top to bottom: name of the file and the words people read."""

NORMAL_KINDS = ("normal1", "normal2")
"""Those that show the normal tiles of the bundle's gallery that look most like a tile."""

DIFFERENCE_KINDS = ("residual", "outline")
"""Those that show where a tile differs from its reconstruction."""

_BOX_PX = (300, 340)


@dataclass(frozen=True, kw_only=True)
class TileEntry:
    """One of the most abnormal tiles of a slide.

    Attributes:
        rank: 1 for the most abnormal.
        score: of the tile.
        x_level0_px: of its left edge.
        y_level0_px: of its upper edge.
        middle: of the tile, in level-0 pixels.
        marker: x, y and side of the square around it on the thumbnail, in level-0 pixels; large enough to be seen.
        label: the middle of its number on the thumbnail, in level-0 pixels.
        text: where the number's line stands, and the height of its type, in level-0 pixels.
        pictures: address of each picture, in the order of the slide's `picture_words`; None for one it does not have.
        lines: what is said below them.
    """

    rank: int
    score: float | None
    x_level0_px: int
    y_level0_px: int
    middle: tuple[int, int]
    marker: tuple[int, int, int]
    label: tuple[int, int]
    text: tuple[int, int]
    pictures: Sequence[str | None]
    lines: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class SlideEntry:
    """A slide on the page.

    Attributes:
        rank: its place in the worklist.
        group: of `GROUPS`.
        facts: its row of `SLIDE_DECISIONS`.
        words: what is said of it below its pictures.
        n_good: tissue tiles that were not left out.
        width_px: of its pictures on the page.
        height_px: of its pictures on the page.
        thumbnail: address; None for a slide that could not be opened.
        heatmap: address; None where no tile was scored.
        picture_words: what each row of tile pictures shows, top to bottom.
        tiles: the most abnormal ones, the most abnormal first.
    """

    rank: int
    group: str
    facts: Mapping[str, Any]
    words: Words
    n_good: int | None
    width_px: int
    height_px: int
    thumbnail: str | None
    heatmap: str | None
    picture_words: Sequence[str]
    tiles: Sequence[TileEntry]


def slide_entry(
    row: Mapping[str, Any], *, place: int, tile_um: float, picture_kinds: Sequence[str], folder: Callable[[str], str],
    thumbnails: str = "evidence",
) -> SlideEntry:  # fmt: skip
    """What the page shows of a slide.

    Args:
        row: of `SLIDE_DECISIONS`.
        place: its rank.
        tile_um: side of a tile; 0 where it is not known: tiles are then marked with squares of a fixed size.
        picture_kinds: which pictures evidence tiles have, of `PICTURE_KINDS`.
        folder: slide id -> the name of its folder under `evidence/`, where its pictures are files of their own.
        thumbnails: where these slides' folders with `thumbnail.jpg` lie, if not under `evidence`.
    """
    is_open = row["width_level0_px"] is not None and row["height_level0_px"] is not None and row["state"] != "failed"
    size = (row["width_level0_px"], row["height_level0_px"]) if is_open else (1, 1)
    scale = min(_BOX_PX[0] / size[0], _BOX_PX[1] / size[1])
    address = _addresses(row, folder=folder, thumbnails=thumbnails)
    tile_level0_px = tile_um / row["mpp_level0"] if row["mpp_level0"] else 0.0
    flags = flags_of(row["flags"])
    group, n_good = group_of(row), None if row["n_tiles"] is None else row["n_tiles"] - sum(n for _, n in flags)
    evidence = json.loads(row["evidence"] or "[]")
    kinds = [kind for kind in picture_kinds if any(_has_picture(tile, kind) for tile in evidence)]
    return SlideEntry(
        rank=place,
        group=group,
        facts=row,
        words=slide_words(row, group=group, n_good=n_good, flags=flags),
        n_good=n_good,
        width_px=max(1, round(size[0] * scale)),
        height_px=max(1, round(size[1] * scale)),
        thumbnail=address("thumbnail") if is_open else None,
        heatmap=address("heatmap") if is_open and row["n_scored"] else None,
        picture_words=[PICTURE_KINDS[kind] for kind in kinds],
        tiles=list(_tile_entries(evidence, size=size, tile_level0_px=tile_level0_px, address=address, kinds=kinds)),
    )


def flags_of(text: str | None) -> list[tuple[str, int]]:
    """The field `flags` of a decision: how many tiles were left out by each reason of quality, the most first."""
    return sorted(json.loads(text or "{}").items(), key=lambda item: -item[1])


def _addresses(
    row: Mapping[str, Any], *, folder: Callable[[str], str], thumbnails: str
) -> Callable[[str], str]:  # fmt: skip
    """What tells the address of a slide's picture by its name: in the slide's sheet, or a file of its own."""
    if row.get("pictures") is not None:
        sheet = f"{quote(row['pictures'])}#"
        return lambda picture: sheet + picture
    name = quote(folder(row["slide_id"]))
    return lambda picture: f"{thumbnails if picture == 'thumbnail' else 'evidence'}/{name}/{picture}.jpg"


def _has_picture(tile: Mapping[str, Any], kind: str) -> bool:
    """Whether an evidence tile has a picture of a kind: its cells or its reconstruction, where the detector has any.

    Tiles of older screenings have a reconstruction, but no pictures of where they differ from it.
    """
    if kind == "cells":
        return bool(tile.get("has_cells", False))
    if kind in NORMAL_KINDS:
        return len(tile.get("normals", ())) > NORMAL_KINDS.index(kind)
    if kind in DIFFERENCE_KINDS:
        return bool(tile.get("has_difference", False))
    return kind == "tile" or bool(tile.get("has_reconstruction", True))


def _tile_entries(
    evidence: Sequence[Mapping[str, Any]], *, size: tuple[int, int], tile_level0_px: float,
    address: Callable[[str], str], kinds: Sequence[str],
) -> Iterable[TileEntry]:  # fmt: skip
    corners = [(int(tile["x_level0_px"]), int(tile["y_level0_px"])) for tile in evidence]
    marker_px = max(tile_level0_px, 0.016 * max(size))
    half = tile_level0_px / 2
    labels = label_places([(x + half, y + half) for x, y in corners], size=size, roomy=marker_px > 0.055 * max(size))
    for index, (tile, (x, y)) in enumerate(zip(evidence, corners, strict=True)):
        yield TileEntry(
            rank=index + 1,
            score=tile["score"],
            x_level0_px=x,
            y_level0_px=y,
            middle=(round(x + half), round(y + half)),
            marker=(round(x + half - marker_px / 2), round(y + half - marker_px / 2), round(marker_px)),
            label=(round(labels[index][0]), round(labels[index][1])),
            text=(round(labels[index][1] + 0.017 * max(size)), round(0.046 * max(size))),
            pictures=[address(f"{kind}_{index}") if _has_picture(tile, kind) else None for kind in kinds],
            lines=tile_lines(tile),
        )


def label_places(
    points: Sequence[tuple[float, float]], *, size: tuple[int, int], roomy: bool
) -> list[tuple[float, float]]:
    """The place of each point's number, chosen so that no number hides a point or another number.

    A number stands on its point where tiles have room for it (`roomy`), else at the nearest free place around it.
    Places are given out in the order of the points.

    Args:
        points: x, y in any pixels, such as the middles of tiles in level-0 pixels.
        size: the picture's width and height in the same pixels; a number takes 5 % of the longer side.
        roomy: whether a tile is larger than its number.
    """
    if roomy:
        return list(points)
    unit = 0.055 * max(size)
    taken = list(points)
    for x, y in points:
        taken.append(_free_place(x, y, unit, size=size, taken=taken))
    return taken[len(points) :]


def _free_place(
    x: float, y: float, unit: float, *, size: tuple[int, int], taken: Sequence[tuple[float, float]]
) -> tuple[float, float]:  # fmt: skip
    """The nearest place around a point where a number is inside the picture and hides nothing; else any inside."""
    nearest = None
    width, height = size
    for u, v in _around(x, y, unit):
        if unit / 2 <= u <= width - unit / 2 and unit / 2 <= v <= height - unit / 2:
            nearest = nearest or (u, v)
            if all(math.dist((u, v), other) >= 0.95 * unit for other in taken):
                return u, v
    return nearest or (x, y)


def _around(x: float, y: float, unit: float) -> Iterator[tuple[float, float]]:
    """Places around a point, the nearest first."""
    for r in range(1, 9):
        for sine, cosine in _DIRECTIONS:
            yield (x + unit * r * sine, y - unit * r * cosine)


_DIRECTIONS = [(math.sin(a), math.cos(a)) for a in range(12)]
