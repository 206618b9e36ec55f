"""Tile sets: a folder or a zip of images (the parent folder is the label), or Parquet."""

import io
import json
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from uadray import storage
from uadray.errors import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")
MAX_IMAGE_BYTES = 64 * 2**20
"""A tile file larger than this is no tile; in a zip it may be a bomb."""

MAX_IMAGE_PX = 64 * 2**20
"""Nor is an image of more pixels: some kilobytes of PNG can claim gigabytes."""

Kind = Literal["folder", "zip", "parquet"]


@dataclass(frozen=True)
class TileRef:
    """Where one tile is.

    Attributes:
        tile_id: its path within the set, or the Parquet file's own `tile_id`.
        label: name of the parent folder, or the Parquet file's own `label`; None where there is none.
        member: what to ask the container for: a URI, a zip member, or a row number.
    """

    tile_id: str
    label: str | None
    member: str


def is_tile_set(uri: str) -> bool:
    """True where `uri` is no slide manifest: a folder or zip of images, or Parquet with an `image` column."""
    if uri.lower().endswith(".parquet"):
        return "image" in _parquet(uri).schema_arrow.names
    return not uri.lower().endswith((".csv", ".tsv"))


def list_tiles(uri: str, *, label: str | None = None) -> list[TileRef]:
    """All tiles of a set, sorted by id; of one label where it is given.

    Raises:
        InputError: nothing there, or no image in it.
    """
    match kind(uri):
        case "zip":
            with _zip(uri) as archive:
                refs = [_ref(n, n) for n in archive.namelist() if n.lower().endswith(IMAGE_SUFFIXES)]
        case "parquet":
            refs = _parquet_refs(uri)
        case "folder":
            found = storage.list_objects(uri, suffixes=IMAGE_SUFFIXES)
            prefix = len(storage.join(uri, "x")) - 1
            refs = [_ref(info.uri[prefix:], info.uri) for info in found]
    refs = sorted((r for r in refs if label is None or r.label == label), key=lambda r: r.tile_id)
    if not refs:
        wanted = f" with the label {label!r}" if label else ""
        raise InputError(f"tile set {uri}: no tiles{wanted} found; expected images ({', '.join(IMAGE_SUFFIXES)})")
    return refs


def kind(uri: str) -> Kind:
    """What sort of container `uri` is, by its suffix."""
    if uri.lower().endswith(".zip"):
        return "zip"
    return "parquet" if uri.lower().endswith(".parquet") else "folder"


def read_tiles(uri: str, refs: list[TileRef]) -> Iterator[tuple[TileRef, npt.NDArray[np.uint8] | None, str | None]]:
    """Decode tiles one by one: (ref, RGB [h, w, 3], None), or (ref, None, error) for one that cannot be."""
    for ref, data in _encoded(uri, refs):
        image = _decoded(data)
        yield ref, image, None if image is not None else f"{ref.tile_id}: not an image that can be decoded"


def _decoded(data: bytes) -> npt.NDArray[np.uint8] | None:
    """RGB [h, w, 3]; None for what is no image, is damaged, or claims in its header to be larger than any tile."""
    try:
        with Image.open(io.BytesIO(data)) as header:
            if header.width * header.height > MAX_IMAGE_PX:
                return None
            if "A" in header.getbands():
                return _on_white(header)
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except (cv2.error, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return None if image is None else np.asarray(image, dtype=np.uint8)


def _encoded(uri: str, refs: list[TileRef]) -> Iterator[tuple[TileRef, bytes]]:
    match kind(uri):
        case "zip":
            with _zip(uri) as archive:
                for ref in refs:
                    yield ref, _member(archive, ref.member)
        case "parquet":
            column = _parquet(uri).read(columns=["image"])["image"]
            for ref in refs:
                yield ref, column[int(ref.member)].as_py()
        case "folder":
            for ref in refs:
                try:
                    data = storage.read_bytes(ref.member, max_bytes=MAX_IMAGE_BYTES)
                except (storage.AccessError, storage.UnreachableError):
                    raise
                except InputError:  # too large, or gone since it was listed
                    data = b""
                yield ref, data


def _on_white(image: Image.Image) -> npt.NDArray[np.uint8]:
    """What is transparent is white, as outside a slide."""
    page = Image.new("RGBA", image.size, "white")
    page.alpha_composite(image.convert("RGBA"))
    return np.asarray(page.convert("RGB"), dtype=np.uint8)


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    """A zip's member; nothing where it is damaged, encrypted or larger than any tile."""
    try:
        return b"" if archive.getinfo(name).file_size > MAX_IMAGE_BYTES else archive.read(name)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError):
        return b""


def _ref(tile_id: str, member: str) -> TileRef:
    parts = tile_id.strip("/").split("/")
    return TileRef(tile_id, parts[-2] if len(parts) > 1 else None, member)


def _zip(uri: str) -> zipfile.ZipFile:
    if not storage.exists(uri):
        raise InputError(f"tile set {uri}: no such file")
    try:
        return zipfile.ZipFile(io.BytesIO(storage.read_bytes(uri)) if storage.is_s3(uri) else storage.local_path(uri))
    except zipfile.BadZipFile as error:
        raise InputError(f"tile set {uri}: not a zip file: {error}") from error


def _parquet(uri: str) -> pq.ParquetFile:
    if not storage.exists(uri):
        raise InputError(f"tile set {uri}: no such file")
    try:
        return pq.ParquetFile(io.BytesIO(storage.read_bytes(uri)))
    except pa.ArrowInvalid as error:
        raise InputError(f"tile set {uri}: not a Parquet file: {error}") from error


def _parquet_refs(uri: str) -> list[TileRef]:
    file = _parquet(uri)
    names = file.schema_arrow.names
    missing = {"tile_id", "image"} - set(names)
    if missing:
        raise InputError(f"tile set {uri}: no column {' and '.join(sorted(missing))}; found {json.dumps(names)}")
    table = file.read(columns=[n for n in ("tile_id", "label") if n in names])
    labels = table["label"].to_pylist() if "label" in names else [None] * len(table)
    pairs = zip(table["tile_id"].to_pylist(), labels, strict=True)
    return [TileRef(tile, label, str(row)) for row, (tile, label) in enumerate(pairs)]
