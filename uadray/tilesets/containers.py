"""Tile sets of every kind, listed and read alike.

folder    image files; a file's parent folder is its label
zip       the same, packed
parquet   one Parquet file with the columns `tile_id` and `image`, and perhaps `label` and `slide_id`
shards    a folder that `uadray tile` wrote
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from uadray.errors import InputError
from uadray.tiles import images
from uadray.tiles.grid import slide_of
from uadray.tiles.images import ImageError, Pixels
from uadray.tiles.spec import TileSpec
from uadray.tilesets import image_files, records, shards
from uadray.tilesets.image_files import IMAGE_SUFFIXES
from uadray.tilesets.in_order import in_order

ROWS_AT_ONCE = 512
"""Tiles of Parquet that are read together: their row groups are read once, and the bytes of all are held."""

Kind = Literal["folder", "zip", "parquet", "shards"]


@dataclass(frozen=True)
class TileRef:
    """One tile of a set, and where its bytes are.

    Attributes:
        tile_id: its path within the set, or the Parquet file's `tile_id`.
        label: name of the parent folder, or the Parquet file's `label`; None where there is none.
        member: what the container is asked for: a URI, a name in a zip, or `<row group>:<row>:<URI of the Parquet
            file>`.
        slide_id: that it is cut from, where a Parquet file tells, by a column or by its tile ids; else None.
    """

    tile_id: str
    label: str | None
    member: str
    slide_id: str | None = None


def is_tile_set(uri: str) -> bool:
    """False for a slide manifest; True for a folder, a zip, and Parquet with an `image` column."""
    if uri.lower().endswith(".parquet"):
        return "image" in shards.parquet(uri).schema_arrow.names
    return not uri.lower().endswith((".csv", ".tsv"))


def kind(uri: str) -> Kind:
    """The kind of a container: by its suffix, and by whether a folder holds `tileset.json`."""
    if uri.lower().endswith(".zip"):
        return "zip"
    if uri.lower().endswith(".parquet"):
        return "parquet"
    return "shards" if records.is_folder(uri) else "folder"


def check(uri: str) -> None:
    """Refuse what is no tile set, without listing a folder of shards, which may have millions of tiles.

    Raises:
        InputError: see `list_tiles`.
    """
    if kind(uri) == "shards":
        if not records.read_tile_set(uri).n_tiles:
            raise InputError(f"tile set {uri}: it has no tiles")
    else:
        list_tiles(uri)


def check_stain(uri: str, spec: TileSpec) -> None:
    """Refuse to normalise the colours of single tiles.

    Raises:
        InputError: `spec` normalises stain, which is fitted to a slide's thumbnail.
    """
    if spec.stain is not None:
        raise InputError(f"tile set {uri}: tiles.stain needs whole slides, a tile does not show its slide's stain")


def list_tiles(uri: str, *, label: str | None = None) -> list[TileRef]:
    """All tiles of a set, or those of one label: sorted by id, or in the order of the files in a folder of shards.

    Raises:
        InputError: there is no such set, or it has no such tile.
    """
    match container := kind(uri):
        case "folder":
            refs = [_file_ref(path, image_uri) for path, image_uri in image_files.folder_images(uri)]
        case "zip":
            refs = [_file_ref(name, name) for name in image_files.zip_images(uri)]
        case "parquet":
            refs = _parquet_refs(uri)
        case "shards":
            ranges = [rows for _, rows in shards.folder_ranges(uri, records.read_tile_set(uri))]
            refs = [ref for of_range in in_order(_range_refs, ranges, uri=uri) for ref in of_range]
    refs = [ref for ref in refs if label is None or ref.label == label]
    if container != "shards":
        refs.sort(key=lambda ref: ref.tile_id)
    if not refs:
        wanted = f" with the label {label!r}" if label else ""
        raise InputError(f"tile set {uri}: no tiles{wanted} found; expected images ({', '.join(IMAGE_SUFFIXES)})")
    return refs


def read_tiles(uri: str, refs: list[TileRef]) -> Iterator[tuple[TileRef, Pixels | None, str | None]]:
    """Decode tiles in the order of `refs`: (ref, RGB [h, w, 3], None), or (ref, None, error) for one that cannot be."""
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
    """The bytes of each tile; empty where they cannot be read."""
    members = [ref.member for ref in refs]
    match kind(uri):
        case "folder":
            yield from zip(refs, image_files.read_folder(uri, members), strict=True)
        case "zip":
            yield from zip(refs, image_files.read_zip(uri, members), strict=True)
        case "parquet" | "shards":
            for start in range(0, len(refs), ROWS_AT_ONCE):
                yield from _row_images(refs[start : start + ROWS_AT_ONCE])


def _file_ref(tile_id: str, member: str) -> TileRef:
    parts = tile_id.strip("/").split("/")
    return TileRef(tile_id, parts[-2] if len(parts) > 1 else None, member)


def _parquet_refs(uri: str) -> list[TileRef]:
    names = shards.parquet(uri).schema_arrow.names
    missing = {"tile_id", "image"} - set(names)
    if missing:
        raise InputError(f"tile set {uri}: no column {' and '.join(sorted(missing))}; found {json.dumps(names)}")
    return [ref for rows in shards.file_ranges(uri) for ref in _range_refs(rows)]


def _range_refs(rows: shards.RowRange) -> list[TileRef]:
    """The tiles of a range of rows."""
    refs = []
    for row, values in enumerate(shards.read_range(rows, ("tile_id", "label", "slide_id")), start=rows.start):
        slide_id = values["slide_id"] or slide_of(str(values["tile_id"]))
        refs.append(TileRef(values["tile_id"], values["label"], _row_member(rows, row), slide_id))
    return refs


def _row_member(rows: shards.RowRange, row: int) -> str:
    return f"{rows.group}:{row}:{rows.uri}"


def _row_images(refs: list[TileRef]) -> Iterator[tuple[TileRef, bytes]]:
    """The bytes of rows of Parquet files. Each row group is read once, up to the last row that is wanted of it."""
    wanted: dict[tuple[str, int], set[int]] = {}
    for ref in refs:
        group, row, uri = ref.member.split(":", 2)
        wanted.setdefault((uri, int(group)), set()).add(int(row))
    by_member: dict[str, bytes] = {}
    for (uri, group_number), numbers in wanted.items():
        rows = shards.RowRange(uri, group_number, min(numbers), max(numbers) + 1, 0)
        for number, values in enumerate(shards.read_range(rows, ("image",)), start=rows.start):
            if number in numbers:
                by_member[_row_member(rows, number)] = values["image"] or b""
    for ref in refs:
        yield ref, by_member[ref.member]
