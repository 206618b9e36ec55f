"""A slide to export: its decision, its tiles, and what their scores mean; and what a user asks for."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from uadray.decisions.conformal import Calibration
from uadray.errors import InputError, SlideError
from uadray.schemas import CELLS, TILE_SCORES
from uadray.tiles.spec import TileSpec

Coordinates = Literal["level0", "qupath"]


@dataclass(frozen=True)
class ExportOptions:
    """What a user asks for.

    Attributes:
        threshold: tile score above which a tile is shown as abnormal; None takes `Scale.tile_threshold`.
        quantile: a threshold by the share of normal tiles below it (0 to 1), in the place of `threshold`.
        all_tiles: write every tile, and not only what is above the threshold.
        coordinates: `level0` are those of the slide's file. `qupath` are those that QuPath shows: it cuts a slide to
            its bounds, where OpenSlide knows any, and counts from their upper left corner. None, before a format is
            chosen: what suits it (`catalog.Format.coordinates`).
    """

    threshold: float | None = None
    quantile: float | None = None
    all_tiles: bool = False
    coordinates: Coordinates | None = None


@dataclass(frozen=True)
class Scale:
    """What the scores of normal tiles are, from the calibration.

    Attributes:
        low: the pale end of a heatmap, the median of normal tiles.
        high: its dark end.
        tile_threshold: 99 % of normal tiles score less.
        quantiles: of the scores of normal tiles, evenly spaced from 0 to 100 %, ascending; none in older calibrations.
        alpha: the stated false-alarm rate of slides.
    """

    low: float
    high: float
    tile_threshold: float
    quantiles: tuple[float, ...] = ()
    alpha: float | None = None

    @classmethod
    def of(cls, calibration: Calibration) -> "Scale":
        """The scale of a calibration."""
        return cls(
            calibration.tile_median, calibration.tile_high, calibration.tile_p99, calibration.tile_quantiles,
            calibration.alpha,
        )  # fmt: skip


@dataclass(frozen=True)
class ExportedSlide:
    """One slide with its tiles.

    Attributes:
        decision: its row of `SLIDE_DECISIONS`, without `evidence`; of a scores.parquet only `slide_id`, `state` and
            `fingerprint` are not null.
        tiles: its rows of `TILE_SCORES`, and `cells` where there are any.
        spec: how its tiles were cut; None where nothing tells.
        name: of the bundle; empty where nothing tells.
        scale: of the calibration; None where it cannot be read.
        why_no_scale: why not, for a message.
    """

    decision: Mapping[str, Any]
    tiles: pa.Table
    spec: TileSpec | None = None
    name: str = ""
    scale: Scale | None = None
    why_no_scale: str = ""

    @property
    def slide_id(self) -> str:
        """The slide's id."""
        return str(self.decision["slide_id"])

    @property
    def uri(self) -> str | None:
        """Where the slide's file lay when it was screened."""
        return self.decision.get("uri")

    @property
    def mpp_level0(self) -> float | None:
        """Micrometres per pixel of level 0; None where nothing tells."""
        mpp = self.decision.get("mpp_level0")
        if mpp is None and self.spec is not None and len(self.tiles):
            mpp = self.spec.tile_px * self.spec.mpp / float(np.median(self.tiles["width_level0_px"].to_numpy()))
        return mpp

    @property
    def size_level0_px(self) -> tuple[int, int] | None:
        """Width and height of level 0; None where nothing tells."""
        width, height = self.decision.get("width_level0_px"), self.decision.get("height_level0_px")
        return None if width is None or height is None else (int(width), int(height))

    @property
    def bounds_level0_px(self) -> tuple[int, int, int, int] | None:
        """The scanned region, x, y, width and height, of a slide whose level 0 is larger; else None."""
        sides = [self.decision.get(f"bounds_{side}_level0_px") for side in ("x", "y", "width", "height")]
        x, y, width, height = sides
        return None if x is None or y is None or width is None or height is None else (x, y, width, height)

    def scored_boxes(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """The tiles that have a score, row by row: [n, 4] x, y, width, height in level-0 pixels, and their scores."""
        scores = self.tiles["score"].to_numpy()
        boxes = boxes_of(self.tiles)
        order = np.lexsort((boxes[:, 0], boxes[:, 1]))
        order = order[np.isfinite(scores[order])]
        return boxes[order], scores[order]

    def normal_share(self, scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64] | None:
        """The share of normal tiles that score less, 0 to 1; None where the calibration does not tell."""
        if self.scale is None or not self.scale.quantiles:
            return None
        return np.interp(scores, self.scale.quantiles, np.linspace(0, 1, len(self.scale.quantiles)))

    def origin(self, options: ExportOptions) -> tuple[int, int]:
        """The level-0 place that is (0, 0) in the coordinates that are asked for."""
        bounds = self.bounds_level0_px
        return bounds[:2] if options.coordinates == "qupath" and bounds is not None else (0, 0)

    def threshold(self, options: ExportOptions) -> float:
        """The tile score above which a tile is shown as abnormal.

        Raises:
            InputError: none is given, and the calibration that would say it cannot be read.
        """
        if options.threshold is not None:
            return options.threshold
        if self.scale is None:
            raise InputError(f"no calibration says which tiles are abnormal ({self.why_no_scale}); give --threshold")
        if options.quantile is None:
            return self.scale.tile_threshold
        if not self.scale.quantiles:
            raise InputError("the calibration is of an older version and keeps no quantiles; give --threshold SCORE")
        places = np.linspace(0, 1, len(self.scale.quantiles))
        return float(np.interp(options.quantile, places, self.scale.quantiles))


def checked_tiles(table: pa.Table, slide_id: str) -> pa.Table:
    """The columns of `TILE_SCORES`, and `cells` if any, with their types.

    Raises:
        SlideError: `unreadable`: a column is missing or of another type, or a place is impossible.
    """
    missing = [name for name in TILE_SCORES.names if name not in table.column_names]
    if missing:
        raise SlideError(slide_id, "unreadable", f"its tile scores have no column {', '.join(missing)}")
    has_cells = CELLS.name in table.column_names and table.schema.field(CELLS.name).type == CELLS.type
    schema = pa.schema([*TILE_SCORES, *([CELLS] if has_cells else [])])
    try:
        tiles = table.select(schema.names).cast(schema)
    except (pa.ArrowException, ValueError) as error:
        raise SlideError(slide_id, "unreadable", f"its tile scores are not as expected: {error}") from error
    for name, least in (("x", 0), ("y", 0), ("width", 1), ("height", 1)):
        values = tiles[f"{name}_level0_px"].to_numpy()
        if len(values) and not least <= values.min() <= values.max() <= 2**31:
            raise SlideError(slide_id, "unreadable", f"its tiles have a {name} of {values.min()} to {values.max()} px")
    return tiles


def boxes_of(tiles: pa.Table) -> npt.NDArray[np.int64]:
    """[n, 4] x, y, width and height of tiles, in level-0 pixels."""
    sides = ("x_level0_px", "y_level0_px", "width_level0_px", "height_level0_px")
    return np.stack([tiles[side].to_numpy() for side in sides], axis=1)


def finite(score: float | None) -> float | None:
    """A score, or None for what is no number: JSON and CSV have no NaN."""
    return score if score is not None and math.isfinite(score) else None
