"""What people are told of a tile: its score among others, what the detector saw, and what it made of that."""

import base64
import math
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

from uadray.reports.colours import colour
from uadray.reports.differences import outlined
from uadray.reports.pictures import encode_jpeg, encode_png
from uadray.serving.scores import Floats, Scores, Wanted
from uadray.serving.views.slide_views import TileAt
from uadray.tiles.images import Pixels

ScoreOne = Callable[[Pixels, Wanted], Awaitable[Scores]]
"""Scores tiles [N, tile, tile, 3] with the bundle in question."""

WANTED = Wanted(maps=True, pictures=True)


def tile_facts(found: TileAt) -> dict[str, Any]:
    """Where a tile lies and what was written about it when it was screened."""
    row = found.row
    box = {name: row[f"{name}_level0_px"] for name in ("x", "y", "width", "height")}
    score = row["score"] if row["score"] is not None and math.isfinite(row["score"]) else None
    return {
        "tile_id": row["tile_id"], **box, "score": score, "error": row.get("error"), "flag": row.get("flag"),
        "above": found.above,
    }  # fmt: skip


def normal_share(score: float | None, quantiles: tuple[float, ...]) -> float | None:
    """Share of the calibration's tiles that score less, to about a hundredth; None where it is not known.

    >>> normal_share(1.5, (0.0, 1.0, 2.0)), normal_share(9.0, (0.0, 1.0, 2.0)), normal_share(9.0, ())
    (0.75, 1.0, None)
    """
    if score is None or len(quantiles) < 2:
        return None
    return float(np.interp(score, quantiles, np.linspace(0, 1, len(quantiles))))


async def tile_pictures(pixels: Pixels, score: ScoreOne) -> dict[str, str | None]:
    """What the detector looked at, its reconstruction, the residual, and where it is highest, as data URIs."""
    scores = await score(pixels[None], WANTED)
    shown, residual = scores.pictures, scores.residual
    seen = pixels if shown is None else shown.seen[0]
    x_hat = None if shown is None or shown.reconstruction is None else shown.reconstruction[0]
    return {
        "query": picture_uri(seen),
        "reconstruction": None if x_hat is None else picture_uri(x_hat),
        "residual": None if residual is None else residual_uri(residual[0]),
        "outline": None if residual is None or x_hat is None else outline_uri(seen, residual[0]),
    }


def picture_uri(pixels: Pixels) -> str:
    """A picture as a data URI."""
    return f"data:image/jpeg;base64,{base64.b64encode(encode_jpeg(np.ascontiguousarray(pixels))).decode()}"


def outline_uri(seen: Pixels, residual: Floats) -> str | None:
    """What the detector looked at, with a line around where the residual is highest; None of one that is not finite."""
    if not np.isfinite(residual).all() or 0 in residual.shape:
        return None
    return picture_uri(outlined(seen, residual))


def residual_uri(residual: Floats) -> str | None:
    """A residual map on the heatmap's scale, from nothing to its own greatest value; None of one that is not finite."""
    if not np.isfinite(residual).all() or 0 in residual.shape:
        return None
    high = max(float(residual.max()), 1e-9)
    image = colour(residual, low=min(0.0, float(residual.min())), high=high)
    return f"data:image/png;base64,{base64.b64encode(encode_png(image)).decode()}"
