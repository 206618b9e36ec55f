"""What the endpoint is asked and what it answers."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from uadray.serving.config import MAX_TILES


class Message(BaseModel):
    """Part of a request or an answer; a field that does not exist is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Tile(Message):
    """One tile to score.

    Attributes:
        id: comes back in the answer.
        image: PNG or JPEG, base64; larger than the bundle's tiles, it is cropped to its centre.
    """

    id: Annotated[str, StringConstraints(max_length=1024)]
    image: str


class TileRequest(Message):
    """Body of `POST /v1/tiles/score`.

    Attributes:
        tiles: to score.
        maps: also send each tile's residual map.
    """

    tiles: list[Tile] = Field(min_length=1, max_length=MAX_TILES)
    maps: bool = False


class ResidualMap(Message):
    """Where a tile is unusual: how it differs from its reconstruction, or what a detector without one says by position.

    Attributes:
        shape: height and width.
        float32: little-endian values, row by row, base64.
    """

    shape: tuple[int, int]
    float32: str


class TileScore(Message):
    """What came of one tile: a score or an error, never both. No picture of a reconstruction is part of the answer.

    Attributes:
        id: of the request.
        score: higher = more abnormal.
        error: why there is no score.
        map: only where maps were asked for; detectors without a reconstruction give one as well.
    """

    id: str
    score: float | None
    error: str | None
    map: ResidualMap | None = None


class TileResponse(Message):
    """Answer to `POST /v1/tiles/score`.

    Attributes:
        bundle_id: of the bundle that scored.
        scores: in the order of the request.
    """

    bundle_id: str
    scores: list[TileScore]


class Problem(Message):
    """Answer to a request that is refused as a whole.

    Attributes:
        error: one line.
    """

    error: str


class Health(Message):
    """Answer to `GET /healthz`.

    Attributes:
        status: `ok`, or `starting` until every stage has loaded the bundle.
        bundle_id: of the bundle.
        name: of the bundle.
        tile_px: least side of a tile.
        mpp: micrometres per pixel that tiles must have.
    """

    status: str
    bundle_id: str
    name: str
    tile_px: int
    mpp: float
