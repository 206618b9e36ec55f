"""The page of a generator that was judged: figures and what they say, samples, nearest real tiles, interpolations."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from uadray.reports.page import asset, csp_hash, number, template
from uadray.reports.pictures import encode_jpeg, sample_grid
from uadray.tiles.images import Pixels

COLUMNS = 8

TILE_SHOWN_PX = 64
"""Side of a tile on the page at the least, on a whole number of the page's pixels."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Samples, the real tile nearest to each, and the real tile nearest to that: three times [n, h, w, 3].

    Attributes:
        by: what nearness is of: features, or pixels.
        samples: generated.
        tiles: nearest to them.
        neighbours: nearest to these.
        ratios: [n], distance to the tile over that from tile to neighbour.
    """

    by: str
    samples: Pixels
    tiles: Pixels
    neighbours: Pixels
    ratios: Sequence[float]


@dataclass(frozen=True, eq=False)
class Shown:
    """Pictures [n, h, w, 3] of the page.

    Attributes:
        samples: of the generator, as they came.
        real: as many real tiles.
        ways: on the way from sample to sample, one row each.
        pairs: see `Pairs`.
    """

    samples: Pixels
    real: Pixels
    ways: Sequence[Pixels]
    pairs: Sequence[Pairs]


def generation_page(answer: Mapping[str, Any], shown: Shown) -> str:
    """The HTML page, which needs nothing from elsewhere.

    Args:
        answer: what `uadray evaluate` writes as `generation.json`.
        shown: the pictures.
    """
    style, side = asset("detectors.css"), shown.samples.shape[1]
    return template("generation.html").render(
        answer=answer,
        number=number,
        figure=figure,
        samples=picture(sample_grid(shown.samples, None, columns=COLUMNS, gap_px=2), side=side),
        real=picture(sample_grid(shown.real, None, columns=COLUMNS, gap_px=2), side=side),
        ways=picture(sample_grid(np.concatenate(shown.ways), None, columns=len(shown.ways[0]), gap_px=0), side=side),
        pairs=[
            (pairs, [picture(each, side=pairs.tiles.shape[1]) for each in _triples(pairs)]) for pairs in shown.pairs
        ],
        style=Markup(style),  # noqa: S704 - our own
        style_hash=csp_hash(style),
    )


def figure(value: float | None, spread: float | None = None) -> str:
    """Three significant digits, and the spread of draws with as many decimals.

    >>> figure(12.345, 0.4567), figure(0.8125, 0.01), figure(345.6), figure(None)
    ('12.3 ± 0.5', '0.812 ± 0.010', '346', '–')
    """
    if value is None:
        return "\N{EN DASH}"
    decimals = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    shown = f"{value:.{decimals}f}" if abs(value) >= 0.01 or value == 0 else f"{value:.1e}"
    return shown if spread is None else f"{shown} ± {spread:.{decimals}f}"


def picture(image: Pixels, *, side: int) -> dict[str, Any]:
    """A picture's address, which is itself, for the page needs no other file, and the width to show it at.

    Args:
        image: tiles beside each other.
        side: of one of them; smaller ones than `TILE_SHOWN_PX` are enlarged.
    """
    data = base64.b64encode(encode_jpeg(image)).decode()
    return {"src": f"data:image/jpeg;base64,{data}", "width": image.shape[1] * max(1, TILE_SHOWN_PX // side)}


def _triples(pairs: Pairs) -> list[Pixels]:
    """Each sample over its tile over that tile's neighbour."""
    three = zip(pairs.samples, pairs.tiles, pairs.neighbours, strict=True)
    return [sample_grid(np.stack(triple), None, columns=1, gap_px=2) for triple in three]
