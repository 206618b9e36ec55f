"""What a detector's tiles are: size and resolution, least amount of tissue, and what is done to their pixels.

A bundle keeps these settings, so that slides are cut in the same way for training, calibration and screening.
"""

import math
from typing import Any

from pydantic import Field, model_validator

from uadray.config import Config
from uadray.tiles.quality import QualityConfig
from uadray.tiles.stain import StainConfig


class TileSpec(Config):
    """Where tiles are cut, which are kept, and what is done to their pixels.

    Attributes:
        mpp: micrometres per pixel of a tile.
        tile_px: side of a tile in pixels at `mpp`.
        stride_px: distance between tiles at `mpp`; `tile_px` unless given, so that each point lies in one tile.
        min_tissue: tiles with a smaller fraction of tissue (0 to 1) are left out.
        max_coarser: tiles are read from a level that is coarser than `mpp` by this fraction at the most, rather than
            from the next finer one, of which four to sixteen times as many pixels would be decoded. See DECISIONS.md
            for what it costs in detection.
        quality: when a tile is flagged as pen, fold, air or blur, and left out; None flags nothing.
        stain: how the colours of slides are normalised; None leaves them as they are.
        mask_dir: URI of a folder of edited masks, `<slide_id>.geojson`, used in place of the tissue that the thumbnail
            shows. It belongs to one run: no bundle keeps it.
    """

    mpp: float = Field(gt=0.01, lt=100)
    tile_px: int = Field(ge=8, le=4096)
    stride_px: int | None = Field(default=None, ge=1)
    min_tissue: float = Field(default=0.5, ge=0, le=1)
    max_coarser: float = Field(default=0.03, ge=0, le=0.1)
    quality: QualityConfig | None = Field(default_factory=QualityConfig)
    stain: StainConfig | None = None
    mask_dir: str | None = Field(default=None, exclude=True)

    @property
    def stride(self) -> int:
        """`stride_px`, or `tile_px` where it is not given."""
        return self.stride_px or self.tile_px

    @model_validator(mode="after")
    def _no_gaps(self) -> "TileSpec":
        if self.stride > self.tile_px:
            raise ValueError(f"stride_px {self.stride_px} leaves gaps between tiles of tile_px {self.tile_px}")
        return self

    def check_mpp(self, mpp: float | None) -> None:
        """Refuse tiles that a detector was not made for; None takes any.

        Args:
            mpp: that the detector's lengths are told from.

        Raises:
            ValueError: it is not that of the tiles.
        """
        if mpp is not None and not math.isclose(mpp, self.mpp, rel_tol=1e-3):
            raise ValueError(f"detector.mpp {mpp} is not tiles.mpp {self.mpp}; they are one and the same")

    def json_for_ids(self) -> str:
        """Its values, from which ids of bundles and tile sets are made.

        Without `max_coarser` where that is 0: ids from before there was one stay the same.
        """
        return self.model_dump_json(exclude=None if self.max_coarser else {"max_coarser"})


def as_kept(tiles: Any) -> Any:
    """What a file of a run says of its tiles; where it does not name `max_coarser`, there was none, and it is 0."""
    return {"max_coarser": 0.0} | tiles if isinstance(tiles, dict) else tiles


def differences(first: dict[str, Any], second: dict[str, Any], within: str = "") -> list[str]:
    """The fields of `first` in which two specs (of `TileSpec.model_dump`) differ, with their values, for messages."""
    differing = []
    for name in first:
        if name == "mask_dir" or first[name] == second[name]:
            continue
        if isinstance(first[name], dict) and isinstance(second[name], dict):
            differing += differences(first[name], second[name], f"{within}{name}.")
        else:
            differing.append(f"{within}{name} {_short(first[name])} and {_short(second[name])}")
    return differing


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
