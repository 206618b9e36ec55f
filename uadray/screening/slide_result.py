"""All that is known of one slide when its last part has been scored."""

from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from uadray.slides.manifest import SlideRow

EVIDENCE = pa.schema(
    [
        ("tile_id", pa.string()),
        ("score", pa.float64()),
        ("tile", pa.binary()),
        ("reconstruction", pa.binary()),
        ("normals", pa.list_(pa.struct([("jpeg", pa.binary()), ("score", pa.float64())]))),
    ]
)
"""Evidence tiles, as JPEG what the detector looked at and its reconstruction; null of a detector without pictures.
`normals` are the normal tiles of the bundle's gallery that look most like it, nearest first, each with the detector's
score of it; null where the bundle has no gallery."""


@dataclass(frozen=True)
class BundleScores:
    """What one bundle's detector says of a slide.

    Attributes:
        tiles: rows of `TILE_SCORES`; None where it failed.
        evidence: the most abnormal tiles, best first, schema `EVIDENCE`.
        failure: reason and message, where it failed.
    """

    tiles: pa.Table | None = None
    evidence: pa.Table | None = None
    failure: tuple[str, str] | None = None


@dataclass
class SlideResult:
    """All that is known of one slide.

    Attributes:
        row: the slide's line of the manifest.
        header: the slide's metadata (see `parts`); empty where it failed before it could be read.
        preview: JPEG of the whole slide.
        masks: GeoJSON of its tissue and flagged regions.
        scores: one of each bundle, in their order; none of a failed slide.
        failure: reason and message of a slide that failed whatever the bundle.
        focus: sharpness of its good tiles, see `focus.strip_focus`.
        read_s: seconds that one reader was at work on it; None where that is not known.
        score_s: the same of one scorer, for all bundles.
        is_open: the failure is the system's and no verdict: a later run tries the slide again.
    """

    row: SlideRow
    header: dict[str, Any] = field(default_factory=dict)
    preview: bytes = b""
    masks: bytes = b""
    scores: tuple[BundleScores, ...] = ()
    failure: tuple[str, str] | None = None
    is_open: bool = False
    focus: tuple[float, ...] = ()
    read_s: float | None = None
    score_s: float | None = None

    def of_bundle(self, index: int = 0) -> BundleScores:
        """What one bundle says of the slide; the slide's own failure where it has one."""
        if self.failure is not None or not self.scores:
            return BundleScores(failure=self.failure)
        return self.scores[index]
