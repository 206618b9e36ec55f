"""Tiles to an endpoint and their scores back, as many in a request as it takes."""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from uadray.client.notebook import shown
from uadray.errors import InputError, WorkError

TILES = 256
"""In a request, unless its endpoint is configured for fewer."""

BODY_BYTES = 24 * 2**20
"""And so many bytes: endpoints take 32 MiB unless they are configured otherwise."""

Images = Sequence[str | PathLike[str] | bytes]
"""Files of PNG or JPEG, or what stands in them."""


@dataclass(frozen=True)
class TileScore:
    """What came of one tile: a score or an error.

    Attributes:
        id: of the tile: its file's name, or its number.
        score: higher = more abnormal; None where there is an error.
        error: why there is no score.
        map: float32 [h, w], where maps were asked for.
        reconstruction: a PNG, where it was asked for and the detector makes one.
    """

    id: str
    score: float | None
    error: str | None = None
    map: npt.NDArray[np.float32] | None = field(default=None, repr=False, compare=False)
    reconstruction: bytes | None = field(default=None, repr=False, compare=False)

    def _repr_html_(self) -> str:
        pictures = {"reconstruction": self.reconstruction} if self.reconstruction else {}
        return shown(self.id, {"score": self.score, "error": self.error}, pictures)


@dataclass(frozen=True)
class Body:
    """A request.

    Attributes:
        content: of the body.
        kind: its content type.
        is_array: options then stand in the query.
    """

    content: Any
    is_array: bool


def bodies(tiles: Images | npt.NDArray[np.uint8], *, most: int = TILES) -> Iterator[Body]:
    """The requests that tiles take.

    Args:
        tiles: uint8 [N, h, w, 3], or files.
        most: tiles in a request.

    Raises:
        InputError: none, another kind of array, or a file that cannot be read.
    """
    if len(tiles) == 0:
        raise InputError("no tile to score")
    yield from _of_array(tiles, most) if isinstance(tiles, np.ndarray) else _of_files(tiles, most)


def _of_array(tiles: npt.NDArray[np.uint8], most: int) -> Iterator[Body]:
    if tiles.dtype != np.uint8 or tiles.ndim != 4 or tiles.shape[-1] != 3:
        raise InputError(f"tiles {tiles.dtype} {list(tiles.shape)}: expected uint8 [N, height, width, 3]")
    step = max(1, min(most, BODY_BYTES // max(1, tiles[0].nbytes)))
    for start in range(0, len(tiles), step):
        some = np.ascontiguousarray(tiles[start : start + step])
        file = io.BytesIO()
        np.savez(file, tiles=some, ids=np.array([str(start + i) for i in range(len(some))]))
        yield Body(file.getvalue(), is_array=True)


def _of_files(images: Images, most: int) -> Iterator[Body]:
    some: list[dict[str, str]] = []
    n_bytes = 0
    for number, image in enumerate(images):
        data, tile_id = _read(image, number)
        encoded = base64.b64encode(data).decode()
        if some and (len(some) == most or n_bytes + len(encoded) > BODY_BYTES):
            yield Body({"tiles": some}, is_array=False)
            some, n_bytes = [], 0
        some.append({"id": tile_id, "image": encoded})
        n_bytes += len(encoded)
    yield Body({"tiles": some}, is_array=False)


def _read(image: str | PathLike[str] | bytes, number: int) -> tuple[bytes, str]:
    if isinstance(image, bytes):
        return image, str(number)
    try:
        return Path(image).read_bytes(), Path(image).name
    except OSError as error:
        raise InputError(f"tile {image}: {error.strerror or error}") from error


def scores_of(answer: Mapping[str, Any]) -> list[TileScore]:
    """The scores in an answer.

    Raises:
        WorkError: it has none.
    """
    try:
        return [
            TileScore(
                each["id"], each["score"], each["error"], _map(each.get("map")), _bytes(each.get("reconstruction"))
            )
            for each in answer["scores"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise WorkError(f"the endpoint answers no scores ({error}): is it of another version?") from error


def _map(sent: Mapping[str, Any] | None) -> npt.NDArray[np.float32] | None:
    if sent is None:
        return None
    return np.frombuffer(base64.b64decode(sent["float32"]), "<f4").reshape(sent["shape"]).astype(np.float32)


def _bytes(sent: str | None) -> bytes | None:
    return None if sent is None else base64.b64decode(sent)
