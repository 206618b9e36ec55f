"""All that is known of one slide when its last part has been scored."""

from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from uadray.slides.manifest import SlideRow

EVIDENCE_TILES = 5
"""Of each slide, the tiles with the highest scores, shown to people as pictures."""

EVIDENCE = pa.schema(
    [("tile_id", pa.string()), ("score", pa.float64()), ("tile", pa.binary()), ("reconstruction", pa.binary())]
)
"""An evidence tile: as JPEGs what the detector looked at, and its reconstruction."""


@dataclass
class SlideResult:
    """All that was found on one slide.

    Attributes:
        row: the slide's line of the manifest.
        header: the slide's metadata (see `uadray.cluster.stream`); empty where it failed before it could be read.
        preview: JPEG of the whole slide.
        masks: GeoJSON of its tissue and flagged regions.
        tiles: rows of `TILE_SCORES`; None for a failed slide.
        evidence: the most abnormal tiles, best first, schema `EVIDENCE`.
        failure: (reason, message) of a failed slide.
        is_open: the failure is the system's and no verdict: a later run tries the slide again.
    """

    row: SlideRow
    header: dict[str, Any] = field(default_factory=dict)
    preview: bytes = b""
    masks: bytes = b""
    tiles: pa.Table | None = None
    evidence: pa.Table | None = None
    failure: tuple[str, str] | None = None
    is_open: bool = False
