"""What the endpoint is asked and what it answers."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from uadray.serving.config import MAX_TILES, BundleName

TileId = Annotated[str, StringConstraints(max_length=1024)]


class Message(BaseModel):
    """Part of a request or an answer; a field that does not exist is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Tile(Message):
    """One tile to score.

    Attributes:
        id: comes back in the answer.
        image: PNG or JPEG, base64; larger than the bundle's tiles, it is cropped to its centre.
    """

    id: TileId
    image: str


class TileOptions(Message):
    """What is wanted of tiles: the query of a body of images, and part of a body of JSON.

    Attributes:
        bundle: name of the bundle that scores; the first one where it is not given.
        maps: also send each tile's residual map.
        reconstructions: also send each tile's reconstruction.
    """

    bundle: BundleName | None = None
    maps: bool = False
    reconstructions: bool = False


class ImageOptions(TileOptions):
    """The query of a body that is one image.

    Attributes:
        id: comes back in the answer.
    """

    id: TileId = "0"


class TileRequest(TileOptions):
    """Body of `POST /v1/tiles/score`.

    Attributes:
        tiles: to score.
    """

    tiles: list[Tile] = Field(min_length=1, max_length=MAX_TILES)


class ResidualMap(Message):
    """Where a tile is unusual: how it differs from its reconstruction, or what a detector without one says by position.

    Attributes:
        shape: height and width.
        float32: little-endian values, row by row, base64.
    """

    shape: tuple[int, int]
    float32: str


class TileScore(Message):
    """What came of one tile: a score or an error, never both.

    Attributes:
        id: of the request.
        score: higher = more abnormal.
        error: why there is no score.
        map: only where maps were asked for; detectors without a reconstruction give one as well.
        reconstruction: PNG, base64; only where it was asked for, and null from a detector that makes none.
    """

    id: str
    score: float | None
    error: str | None
    map: ResidualMap | None = None
    reconstruction: str | None = None


class TileResponse(Message):
    """Answer to `POST /v1/tiles/score`.

    Attributes:
        bundle_id: of the bundle that scored.
        scores: in the order of the request.
    """

    bundle_id: str
    scores: list[TileScore]


class Problem(BaseModel):
    """Answer to a request that is refused as a whole (RFC 9457); its media type is `application/problem+json`.

    Attributes:
        type: always `about:blank`: the status says what kind of problem it is.
        title: of the status.
        status: of HTTP.
        detail: one line: what is wrong, and what the limit is, if one was passed.
        instance: path of the request.
        request_id: by which logs know the request.
    """

    type: str = "about:blank"
    title: str = Field(examples=["Content Too Large"])
    status: int = Field(examples=[413])
    detail: str = Field(examples=["body too large; at most 33554432 bytes, send several requests"])
    instance: str = Field(examples=["/v1/tiles/score"])
    request_id: str = Field(examples=["5f1a0c9be2d34a17"])
