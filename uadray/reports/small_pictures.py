"""Small pictures of slides for a list, and many of them in one file.

A small picture is a slide's thumbnail and, beside it, its heatmap, each in a square of `SIDE` pixels: one cell of a
sheet. A sheet is a JPEG with `COLUMNS` x `ROWS` cells, row by row from the upper left.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from uadray.reports.pictures import Image, decode_jpeg, encode_jpeg

SIDE = 48
CELL = (2 * SIDE, SIDE)
"""Width and height of a cell, in pixels."""

COLUMNS, ROWS = 5, 20
CELLS = COLUMNS * ROWS
"""Slides of a sheet: 100 small pictures are about as many bytes as one slide's evidence."""

QUALITY = 85


def small_picture(thumbnail: bytes, heatmap: bytes) -> bytes:
    """The JPEG of a cell, of the JPEGs of thumbnail and heatmap."""
    cell = np.concatenate([_fitted(thumbnail), _fitted(heatmap)], axis=1)
    return encode_jpeg(np.ascontiguousarray(cell), quality=QUALITY)


def sheet(cells: Sequence[bytes | None]) -> bytes:
    """The JPEG of up to `CELLS` small pictures in order; a slide without one has a white cell."""
    width, height = CELL
    lines = -(-len(cells) // COLUMNS)
    page = np.full((max(1, lines) * height, COLUMNS * width, 3), 255, np.uint8)
    for index, data in enumerate(cells):
        picture = _decoded(data)
        if picture is not None:
            y, x = index // COLUMNS * height, index % COLUMNS * width
            page[y : y + height, x : x + width] = picture
    return encode_jpeg(page, quality=QUALITY)


def _decoded(data: bytes | None) -> Image | None:
    """A cell; None for what is no picture of its size."""
    if not data:
        return None
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    return np.asarray(picture, np.uint8) if picture is not None and picture.shape == (*CELL[::-1], 3) else None


def _fitted(jpeg: bytes) -> Image:
    """A picture within a white square, of its own proportions."""
    picture = decode_jpeg(jpeg)
    scale = SIDE / max(picture.shape[:2])
    width, height = (max(1, round(side * scale)) for side in picture.shape[1::-1])
    square = np.full((SIDE, SIDE, 3), 255, np.uint8)
    y, x = (SIDE - height) // 2, (SIDE - width) // 2
    square[y : y + height, x : x + width] = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    return square
