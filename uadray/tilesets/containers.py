"""Tile sets: a folder or a zip of images (the parent folder is the label), or Parquet (see `shards`)."""

import json
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeVar

from uadray.errors import AccessError, InputError, UnreachableError
from uadray.storage import local_copies, objects
from uadray.tiles import images
from uadray.tiles.grid import slide_of
from uadray.tiles.images import ImageError, Pixels
from uadray.tiles.spec import TileSpec
from uadray.tilesets import records, shards

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")
MAX_IMAGE_BYTES = 64 * 2**20
"""A tile file larger than this is no tile; in a zip it may be a bomb."""

WINDOW = 512
"""Tiles of Parquet that are looked for together: their row groups are read once, and their bytes held."""

IN_FLIGHT = 32
"""Images of a folder in S3 that are asked for at once: each takes a round trip, whatever its size."""

Kind = Literal["folder", "zip", "parquet", "shards"]

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class TileRef:
    """Where one tile is.

    Attributes:
        tile_id: its path within the set, or the Parquet file's own `tile_id`.
        label: name of the parent folder, or the Parquet file's own `label`; None where there is none.
        member: what to ask the container for: a URI, a zip member, or `<row group>:<row>:<URI of the Parquet file>`.
        slide_id: that it is cut from, where a Parquet file tells, by a column or by its tile ids; else None.
    """

    tile_id: str
    label: str | None
    member: str
    slide_id: str | None = None


def is_tile_set(uri: str) -> bool:
    """True where `uri` is no slide manifest: a folder or zip of images, or Parquet with an `image` column."""
    if uri.lower().endswith(".parquet"):
        return "image" in shards.parquet(uri).schema_arrow.names
    return not uri.lower().endswith((".csv", ".tsv"))


def check_stain(uri: str, spec: TileSpec) -> None:
    """Refuse to normalise the colours of lone tiles.

    Raises:
        InputError: `spec` normalises stain, which is fitted to a slide's thumbnail.
    """
    if spec.stain is not None:
        raise InputError(f"tile set {uri}: tiles.stain needs whole slides, a tile does not show its slide's stain")


def list_tiles(uri: str, *, label: str | None = None) -> list[TileRef]:
    """All tiles of a set, sorted by id; of one label where it is given. A folder of shards: in the order they lie in.

    Raises:
        InputError: nothing there, or no image in it.
    """
    match container := kind(uri):
        case "zip":
            with _zip(uri) as archive:
                refs = [_ref(n, n) for n in archive.namelist() if n.lower().endswith(IMAGE_SUFFIXES)]
        case "parquet":
            refs = _parquet_refs(uri)
        case "shards":
            whole = records.read_tile_set(uri)
            runs = [run for _, run in shards.folder_ranges(uri, whole)]
            with ThreadPoolExecutor(IN_FLIGHT if objects.is_s3(uri) else 1) as threads:
                refs = [ref for some in _ahead(threads, _run_refs, runs) for ref in some]
        case "folder":
            found = objects.list_objects(uri, suffixes=IMAGE_SUFFIXES)
            prefix = len(objects.join(uri, "x")) - 1
            refs = [_ref(info.uri[prefix:], info.uri) for info in found]
    refs = [r for r in refs if label is None or r.label == label]
    if container != "shards":
        refs.sort(key=lambda r: r.tile_id)
    if not refs:
        wanted = f" with the label {label!r}" if label else ""
        raise InputError(f"tile set {uri}: no tiles{wanted} found; expected images ({', '.join(IMAGE_SUFFIXES)})")
    return refs


def kind(uri: str) -> Kind:
    """What sort of container `uri` is: by its suffix, and by whether a folder holds `tileset.json`."""
    if uri.lower().endswith(".zip"):
        return "zip"
    if uri.lower().endswith(".parquet"):
        return "parquet"
    return "shards" if records.is_folder(uri) else "folder"


def check(uri: str) -> None:
    """Refuse what is no tile set, without listing one that may have millions of tiles.

    Raises:
        InputError: see `list_tiles`.
    """
    if kind(uri) == "shards":
        if not records.read_tile_set(uri).n_tiles:
            raise InputError(f"tile set {uri}: it has no tiles")
    else:
        list_tiles(uri)


def read_tiles(uri: str, refs: list[TileRef]) -> Iterator[tuple[TileRef, Pixels | None, str | None]]:
    """Decode tiles one by one: (ref, RGB [h, w, 3], None), or (ref, None, error) for one that cannot be."""
    for ref, data in _encoded(uri, refs):
        try:
            yield ref, images.decode(data), None
        except ImageError as error:
            yield ref, None, f"{ref.tile_id}: {error}"


def decoded(data: bytes) -> Pixels | None:
    """RGB [h, w, 3], see `uadray.tiles.images`; None for what cannot be decoded."""
    try:
        return images.decode(data)
    except ImageError:
        return None


def _encoded(uri: str, refs: list[TileRef]) -> Iterator[tuple[TileRef, bytes]]:
    match kind(uri):
        case "zip":
            with _zip(uri) as archive:
                for ref in refs:
                    yield ref, _member(archive, ref.member)
        case "parquet" | "shards":
            for start in range(0, len(refs), WINDOW):
                yield from _rows(refs[start : start + WINDOW])
        case "folder":
            with ThreadPoolExecutor(IN_FLIGHT if objects.is_s3(uri) else 1) as threads:
                yield from zip(refs, _ahead(threads, _image_bytes, [ref.member for ref in refs]), strict=True)


def _image_bytes(uri: str) -> bytes:
    try:
        return objects.read_bytes(uri, max_bytes=MAX_IMAGE_BYTES)
    except (AccessError, UnreachableError):
        raise
    except InputError:  # too large, or gone since it was listed
        return b""


def _ahead(threads: ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Results in the order of `items`, `IN_FLIGHT` of them asked for ahead: what is held is bounded."""
    waiting = deque[Future[R]]()
    try:
        for item in items:
            waiting.append(threads.submit(function, item))
            if len(waiting) >= IN_FLIGHT:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    """A zip's member; nothing where it is damaged, encrypted or larger than any tile."""
    try:
        return b"" if archive.getinfo(name).file_size > MAX_IMAGE_BYTES else archive.read(name)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError):
        return b""


def _ref(tile_id: str, member: str) -> TileRef:
    parts = tile_id.strip("/").split("/")
    return TileRef(tile_id, parts[-2] if len(parts) > 1 else None, member)


@contextmanager
def _zip(uri: str) -> Iterator[zipfile.ZipFile]:
    """Open a zip; of one in S3 the node's copy, fetched once."""
    if not objects.exists(uri):
        raise InputError(f"tile set {uri}: no such file")
    with local_copies.local_copy(uri) as path:
        try:
            archive = zipfile.ZipFile(path)
        except zipfile.BadZipFile as error:
            raise InputError(f"tile set {uri}: not a zip file: {error}") from error
        with archive:
            yield archive


def _parquet_refs(uri: str) -> list[TileRef]:
    names = shards.parquet(uri).schema_arrow.names
    missing = {"tile_id", "image"} - set(names)
    if missing:
        raise InputError(f"tile set {uri}: no column {' and '.join(sorted(missing))}; found {json.dumps(names)}")
    return [ref for run in shards.file_ranges(uri) for ref in _run_refs(run)]


def _run_refs(run: shards.RowRange) -> Iterator[TileRef]:
    for row, values in enumerate(shards.read_range(run, ("tile_id", "label", "slide_id")), start=run.start):
        slide_id = values["slide_id"] or slide_of(str(values["tile_id"]))
        yield TileRef(values["tile_id"], values["label"], f"{run.group}:{row}:{run.uri}", slide_id)


def _rows(refs: list[TileRef]) -> Iterator[tuple[TileRef, bytes]]:
    """Rows of Parquet files: each row group is read once, up to the last row that is wanted of it."""
    wanted: dict[tuple[str, int], set[int]] = {}
    for ref in refs:
        group, row, uri = ref.member.split(":", 2)
        wanted.setdefault((uri, int(group)), set()).add(int(row))
    found: dict[str, bytes] = {}
    for (uri, number), rows in wanted.items():
        run = shards.RowRange(uri, number, min(rows), max(rows) + 1, 0)
        for at, values in enumerate(shards.read_range(run, ("image",)), start=run.start):
            if at in rows:
                found[f"{number}:{at}:{uri}"] = values["image"] or b""
    for ref in refs:
        yield ref, found[ref.member]
