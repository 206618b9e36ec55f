"""The worklist as data that its page reads: all slides by columns, and what is shown of an open slide in files.

    index     what the rows show, what is filtered and sorted by: one list a column, in the order of the ranking
    details   of `DETAILS` slides, one after the other in the ranking: what an open slide shows

A file of details is a script that calls `worklistDetails`: a page that was opened from a folder may load scripts from
it, and nothing else.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from uadray.reports.entries import SlideEntry, TileEntry, flags_of
from uadray.reports.ranking import GROUPS, groups_of

DETAILS = 250
"""Slides of a file: about 150 KB."""

MESSAGE = 200
"""Characters of a message that a row shows; an open slide shows all."""

_NUMBERS = ("p_value", "score", "threshold", "coverage", "mpp_level0", "q_value")
_WHOLE = ("n_scored", "width_level0_px", "height_level0_px")
_WORDS = ("site", "scanner", "stain", "reason", "note")


def index_of(ranked: pa.Table) -> dict[str, Any]:
    """The columns of the index, JSON-ready.

    Args:
        ranked: rows of `SLIDE_DECISIONS` in the order of the ranking.

    Returns:
        `n`, and lists of `n`: `id`; `group`, places in `GROUPS`; numbers with six digits, None where they are not
        known; `n_good`; `message`, the first characters; `holds`, empty where nothing is known. Texts that many slides
        share are `{"words", "at"}`: the texts, and for each slide the place of its own, -1 for none.
    """
    holds = ranked["calibration_holds"]
    group = pc.index_in(groups_of(ranked), value_set=pa.array(list(GROUPS))).to_pylist()
    texts = pc.utf8_slice_codeunits(ranked["message"], 0, MESSAGE)
    return {
        "n": len(ranked),
        "id": ranked["slide_id"].to_pylist(),
        "group": group,
        "n_good": _good_tiles(ranked),
        "holds": holds.to_pylist() if holds.null_count < len(ranked) else [],
        "message": _shared(pc.if_else(pc.less(pa.array(group, pa.int8()), 2), None, texts)),
        **{name: _rounded(ranked[name]) for name in _NUMBERS},
        **{name: ranked[name].to_pylist() for name in _WHOLE},
        **{name: _shared(ranked[name]) for name in _WORDS},
    }  # fmt: skip


def details_file(slides: Sequence[SlideEntry]) -> tuple[str, str]:
    """The name of these slides' details, which changes with what they say, and the text of their file (ASCII)."""
    data = json.dumps([_details(slide) for slide in slides], separators=(",", ":"))
    name = hashlib.sha256(data.encode()).hexdigest()[:16]
    return name, f'worklistDetails("{name}",{data});\n'


def _details(slide: SlideEntry) -> dict[str, Any]:
    """What an open slide shows; nothing that the index has."""
    facts = slide.facts
    shown: dict[str, Any] = {
        "uri": facts["uri"],
        "message": None if slide.group in ("anomalous", "normal") else facts["message"],
        "words": [[text, 1] if bold else text for text, bold in slide.words],
        "side": [slide.width_px, slide.height_px],
        "thumbnail": slide.thumbnail,
        "heatmap": slide.heatmap,
    }
    if slide.tiles:
        first = next((address for tile in slide.tiles for address in tile.pictures if address), "")
        base = first[: max(first.rfind("#"), first.rfind("/")) + 1]
        shown["kinds"], shown["base"] = slide.picture_words, base
        shown["tiles"] = [_tile(tile, base) for tile in slide.tiles]
    return shown


def _tile(tile: TileEntry, base: str) -> dict[str, Any]:
    """An evidence tile; of the addresses of its pictures what follows `base`."""
    return {
        "score": _round(tile.score),
        "middle": tile.middle,
        "marker": tile.marker,
        "label": tile.label,
        "text": tile.text,
        "pictures": [address and address[len(base) :] for address in tile.pictures],
        "lines": tile.lines,
    }


def _good_tiles(ranked: pa.Table) -> list[int | None]:
    pairs = zip(ranked["n_tiles"].to_pylist(), ranked["flags"].to_pylist(), strict=True)
    return [None if n is None else n - sum(count for _, count in flags_of(flags)) for n, flags in pairs]


def _shared(column: Any) -> dict[str, Any]:
    encoded = pa.chunked_array(column).combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    encoded = encoded.dictionary_encode()
    words = encoded.dictionary.to_pylist()
    return {"words": words, "at": pc.fill_null(encoded.indices, -1).to_pylist()}


def _rounded(column: pa.ChunkedArray) -> list[float | None]:
    return [_round(value) for value in column.to_pylist()]


def _round(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")
