"""What a folder of tiles says of itself: `tileset.json`, and `slides/<slide_id>.json` for each slide that is committed.

    tileset.json                            `TileSet`: how tiles were cut, and the slides that belong to the set
    slides/<slide_id>.json                  `SlideTiles`: the commit of one slide, see `uadray.tilesets.commits`
    part-<slide_id>-<version>-<n>.parquet   shards of one slide each, see `uadray.tilesets.shards`

Readers open only the shards that `tileset.json` names. Other files in the folder are left alone.
"""

from typing import Any

from pydantic import Field, ValidationError, field_validator

from uadray.config import Config
from uadray.errors import InputError
from uadray.storage import objects
from uadray.tiles.spec import TileSpec, as_kept

TILESET = "tileset.json"

GROUP_TILES = 64
"""Tiles of a Parquet row group, which is read as a whole: a megabyte of JPEG at 256 px."""


class CutOptions(Config):
    """What else decides which tiles a set has, besides `TileSpec`.

    Attributes:
        tiles_per_slide: random tiles of each slide; None for all.
        seed: of that choice.
        quality: of JPEG (4:4:4), where the bytes of the slide's file cannot be kept.
    """

    tiles_per_slide: int | None = None
    seed: int = 0
    quality: int = 90


class SlideTiles(Config):
    """The tiles of one slide.

    Attributes:
        slide_id: of the manifest.
        fingerprint: of spec, options, the version of the slide's file and its edited mask.
        etag: the version of the slide's file.
        label: of the manifest.
        shards: names of its files, in order.
        rows: tiles in each.
        kept: tiles whose bytes are those of the slide's file.
        unreadable: tiles that could not be read and were left out.
        flagged: tiles that were left out because their pixels show bad quality (`TileSpec.quality`).
        bytes: of all its shards.
    """

    slide_id: str
    fingerprint: str
    etag: str
    label: str | None
    shards: list[str]
    rows: list[int]
    kept: int
    unreadable: int
    flagged: int
    bytes: int

    @property
    def n_tiles(self) -> int:
        """Tiles in all its shards."""
        return sum(self.rows)


class TileSet(Config):
    """The content of `tileset.json`.

    Attributes:
        kind: tells the file from other JSON.
        version: of the layout.
        spec: how tiles were cut.
        options: see there.
        fingerprint: of spec and options while the set is written, of all slides when it is finished.
        finished: False until every slide has been tried.
        group_tiles: tiles of a row group.
        slides: those that are in the set.
        failed: reason and message of the others, by slide id.
    """

    kind: str = Field(default="uadray-tileset", pattern="^uadray-tileset$")
    version: int = 1
    spec: TileSpec
    options: CutOptions
    fingerprint: str
    finished: bool
    group_tiles: int = GROUP_TILES
    slides: list[SlideTiles] = Field(default_factory=list)
    failed: dict[str, str] = Field(default_factory=dict)

    @field_validator("spec", mode="before")
    @classmethod
    def _spec(cls, value: Any) -> Any:
        return as_kept(value)

    @property
    def n_tiles(self) -> int:
        """Tiles of all slides."""
        return sum(slide.n_tiles for slide in self.slides)


def is_folder(uri: str) -> bool:
    """Whether `uri` is a folder that `uadray tile` has written."""
    return objects.exists(objects.join(uri, TILESET))


def read_tile_set(uri: str) -> TileSet:
    """The finished tile set in a folder.

    Raises:
        InputError: it is not finished, or not of this version.
    """
    tile_set = parse_tile_set(uri)
    if not tile_set.finished:
        raise InputError(f"tile set {uri} is not finished; run the same `uadray tile` command again")
    return tile_set


def parse_tile_set(uri: str) -> TileSet:
    """The tile set in a folder, finished or not.

    Raises:
        InputError: it is not of this version.
    """
    record_uri = objects.join(uri, TILESET)
    try:
        tile_set = TileSet.model_validate_json(objects.read_bytes(record_uri))
    except ValidationError as error:
        message = error.errors()[0]["msg"]
        raise InputError(f"{record_uri}: not a tile set of this version of uadray: {message}") from error
    if tile_set.version != 1:
        raise InputError(
            f"{record_uri}: version {tile_set.version} is not known here; make it again with `uadray tile`"
        )
    return tile_set
