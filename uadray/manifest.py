"""Manifests: which slides there are. CSV or Parquet, local or in S3, from one row to a million.

Only `slide_id` and `uri` are required; columns that `schemas.SLIDES` does not know are ignored. A URI may be relative
to the manifest's folder. The CSV of spreadsheets (byte order mark, semicolons, decimal commas) is read as it is.

Row numbers in errors are those a spreadsheet shows: the header is row 1.
"""

import csv
import difflib
import io
from collections import Counter
from dataclasses import astuple, dataclass, fields
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc

from uadray import storage
from uadray.errors import InputError
from uadray.schemas import SLIDES
from uadray.units import Mpp

SLIDE_SUFFIXES = (".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".bif", ".svslide", ".vms", ".vmu", ".czi")
"""What `index` takes for a slide. Not `.dcm`: a DICOM slide is several files, and would become several slides."""

_REQUIRED = ("slide_id", "uri")
_ID_MAX_BYTES = 200
_UNUSABLE_ID = r"[/\\\p{Cc}\p{Zl}\p{Zp}\x{202A}-\x{202E}\x{2066}-\x{2069}]|^\."  # the last show "ajpg" for "agpj"


@dataclass(frozen=True, slots=True)
class SlideRow:
    """One slide. `uri` is absolute; `mpp` (um/px at level 0), where given, overrides the slide's own."""

    slide_id: str
    uri: str
    mpp: Mpp | None = None
    patient_id: str | None = None
    site: str | None = None
    scanner: str | None = None
    stain: str | None = None
    split: str | None = None
    label: str | None = None


def read_manifest(uri: str) -> list[SlideRow]:
    """Read and check a manifest.

    Raises:
        InputError: it cannot be used, in one line: which column or row, what was expected.
    """
    data = storage.read_bytes(uri)
    if not data:
        raise InputError(f"{uri}: the manifest is empty (0 bytes)")
    table = _read_parquet(data, uri) if data[:4] == b"PAR1" else _read_csv(data, uri)
    table = _without_blank_rows(table.append_column("row", pa.array(range(2, table.num_rows + 2), pa.int64())))
    if table.num_rows == 0:
        raise InputError(f"{uri}: the manifest has a header and no rows")
    _check_required(table, uri)
    _check_ids(table, uri)
    _check_mpp(table, uri)
    return _rows(table, uri)


def index(uri: str, *, suffixes: tuple[str, ...] = SLIDE_SUFFIXES) -> list[SlideRow]:
    """List the slides in a folder or bucket and below. Headers are not read; hidden files are left out.

    A slide's id is its path in the folder, without suffix and with `__` for `/`; those that would meet keep the suffix.

    Raises:
        InputError: there are none, or an id is not unique or not usable as a file name.
    """
    root = storage.join(storage.resolve(uri, "."), "")
    root = root.rstrip("/") + "/"
    uris = [info.uri for info in storage.list_objects(root, suffixes=suffixes)]
    paths = {found: found.removeprefix(root) for found in uris}
    paths = {found: path for found, path in paths.items() if not any(part.startswith(".") for part in path.split("/"))}
    if not paths:
        raise InputError(f"{uri}: no slides there ({', '.join(suffixes)})")
    short = {found: str(PurePosixPath(path).with_suffix("")).replace("/", "__") for found, path in paths.items()}
    met = Counter(short.values())
    rows = [SlideRow(short[u] if met[short[u]] == 1 else paths[u].replace("/", "__"), u) for u in paths]
    _check_ids(_table(rows).append_column("row", pa.array(list(paths))), uri, at="")
    return rows


def write_manifest(rows: list[SlideRow], uri: str) -> None:
    """Write a manifest: Parquet where the name ends in `.parquet`, CSV otherwise."""
    import pyarrow.csv as arrow_csv
    import pyarrow.parquet as pq

    out = io.BytesIO()
    if uri.lower().endswith(".parquet"):
        pq.write_table(_table(rows), out)
    else:
        arrow_csv.write_csv(_table(rows), out, arrow_csv.WriteOptions(quoting_style="needed"))
    storage.write_bytes(uri, out.getvalue())


def _table(rows: list[SlideRow]) -> pa.Table:
    columns = list(zip(*map(astuple, rows), strict=True)) or [()] * len(SLIDES)
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, SLIDES, strict=True)], schema=SLIDES
    )


def _read_csv(data: bytes, uri: str) -> pa.Table:
    """Read the known columns as text, trimmed."""
    import pyarrow.csv as arrow_csv

    data = data.removeprefix(b"\xef\xbb\xbf")
    try:
        data.decode()
    except UnicodeDecodeError as error:
        row = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{uri}: line {row} is not UTF-8; save the manifest as CSV UTF-8") from error
    first_line = data.split(b"\n", 1)[0].decode()
    delimiter = max(",;\t", key=first_line.count)
    header = [column.strip() for column in next(csv.reader([first_line], delimiter=delimiter), [])]
    known = _known_columns(header, uri)
    try:
        table = arrow_csv.read_csv(
            pa.BufferReader(data),
            read_options=arrow_csv.ReadOptions(column_names=header, skip_rows=1),
            parse_options=arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=arrow_csv.ConvertOptions(
                column_types={column: pa.string() for column in header},
                include_columns=known,
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid as error:
        if "Empty CSV" in str(error) or data.count(b"\n") == 0:
            raise InputError(f"{uri}: the manifest has a header and no rows") from error
        raise InputError(f"{uri}: not a readable CSV: {' '.join(str(error).split())[:300]}") from error
    table = _trimmed(table)
    if delimiter == ";" and "mpp" in known:
        position = known.index("mpp")
        table = table.set_column(position, "mpp", pc.replace_substring(table["mpp"], ",", "."))
    return table


def _read_parquet(data: bytes, uri: str) -> pa.Table:
    """Read the known columns; integers and categories become text."""
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        known = _known_columns(file.schema_arrow.names, uri)
        table = file.read(columns=known)
        types = {column: pa.string() for column in known}
        if "mpp" in known and not _is_text(table["mpp"].type):
            types["mpp"] = pa.float64()
        return _trimmed(pa.table({column: table[column].cast(types[column]) for column in known}))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise InputError(f"{uri}: not a readable Parquet file: {' '.join(str(error).split())[:300]}") from error


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind))


def _known_columns(header: list[str], uri: str) -> list[str]:
    for column in _REQUIRED:
        if column not in header:
            near = {name.lower(): name for name in header}
            found = difflib.get_close_matches(column, near, n=1, cutoff=0.5) or [n for n in near if n in column and n]
            hint = f"; rename {near[found[0]]!r}?" if found else ""
            raise InputError(f"{uri}: column {column!r} is missing; found {', '.join(map(repr, header))}{hint}")
    for column, times in Counter(header).items():
        if times > 1 and column in SLIDES.names:
            raise InputError(f"{uri}: column {column!r} is there {times} times")
    return [column for column in SLIDES.names if column in header]


def _trimmed(table: pa.Table) -> pa.Table:
    """Strip white space, and make empty cells null."""
    for position, field in enumerate(table.schema):
        if pa.types.is_string(field.type):
            column = pc.utf8_trim_whitespace(table[position])
            empty = pc.equal(column, "")
            table = table.set_column(position, field.name, pc.if_else(empty, pa.scalar(None, pa.string()), column))
        elif pa.types.is_float64(field.type):
            column = table[position]
            missing = pc.is_nan(column)
            table = table.set_column(position, field.name, pc.if_else(missing, pa.scalar(None, pa.float64()), column))
    return table


def _without_blank_rows(table: pa.Table) -> pa.Table:
    """Drop rows without a single value, which spreadsheets leave at the end."""
    some = pc.is_valid(table[0])
    for column in table.columns[1:-1]:
        some = pc.or_(some, pc.is_valid(column))
    return table.filter(some)


def _first(table: pa.Table, mask: pa.ChunkedArray) -> dict[str, object] | None:
    found = table.filter(mask)
    return found.slice(0, 1).to_pylist()[0] if found.num_rows else None


def _check_required(table: pa.Table, uri: str) -> None:
    for column in _REQUIRED:
        if bad := _first(table, pc.is_null(table[column])):
            raise InputError(f"{uri}: row {bad['row']}: {column} is empty")


def _check_ids(table: pa.Table, uri: str, *, at: str = "row ") -> None:
    """Every id is unique and can be a file's name."""
    ids = table["slide_id"]
    if bad := _first(table, pc.match_substring_regex(ids, _UNUSABLE_ID)):
        raise InputError(
            f"{uri}: {at}{bad['row']}: slide_id {bad['slide_id']!r} cannot be a file name "
            "(no slashes, control or direction characters, or dot in front)"
        )
    if bad := _first(table, pc.greater(pc.binary_length(ids), _ID_MAX_BYTES)):
        raise InputError(f"{uri}: {at}{bad['row']}: slide_id is longer than {_ID_MAX_BYTES} bytes: {bad['slide_id']!r}")
    if pc.count_distinct(ids).as_py() != len(ids):
        twice = Counter(ids.to_pylist()).most_common(1)[0][0]
        rows = table.filter(pc.equal(ids, twice))["row"].to_pylist()
        where = at.replace(" ", "s ") + ", ".join(map(str, rows[:5]))
        raise InputError(f"{uri}: slide_id {twice!r} is there {len(rows)} times: {where}")


def _check_mpp(table: pa.Table, uri: str) -> None:
    if "mpp" not in table.column_names:
        return
    for row, value in zip(table["row"].to_pylist(), table["mpp"].to_pylist(), strict=True):
        try:
            good = value is None or 0 < float(value) < float("inf")
        except ValueError:
            good = False
        if not good:
            raise InputError(f"{uri}: row {row}: mpp {value!r} is not a positive number (um per pixel); leave it empty")


def _rows(table: pa.Table, uri: str) -> list[SlideRow]:
    base = storage.parent(storage.resolve(uri, "."))
    empty: list[str | None] = [None] * table.num_rows
    columns = {
        field.name: table[field.name].to_pylist() if field.name in table.column_names else empty
        for field in fields(SlideRow)
    }
    columns["mpp"] = [None if value is None else float(value) for value in columns["mpp"]]
    resolved = []
    for row, found in zip(table["row"].to_pylist(), columns["uri"], strict=True):
        try:
            resolved.append(found if found.startswith("s3://") else storage.resolve(found, base))
        except InputError as error:
            raise InputError(f"{uri}: row {row}: {error}") from error
    columns["uri"] = resolved
    return [SlideRow(*values) for values in zip(*columns.values(), strict=True)]
