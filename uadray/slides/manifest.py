"""Manifests: which slides there are. CSV or Parquet, local or in S3, from one row to a million.

Only `slide_id` and `uri` are required; `manifest_columns` says how headings are understood, and
`manifest_csv` which CSV. A URI may be relative to the manifest's folder. Ids are text: 007 and 7 are two slides.

Row numbers in errors are those a spreadsheet shows: the header is row 1.
"""

import io
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, fields
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc

from uadray.errors import AccessError, InputError
from uadray.schemas import SLIDES
from uadray.slides import manifest_columns, manifest_csv
from uadray.slides.slide import Mpp
from uadray.storage import dicom_series, objects

SLIDE_SUFFIXES = (".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".bif", ".svslide", ".vms", ".vmu", ".czi")
"""What `index` takes for a slide each. Not DICOM files: of those a series is a slide."""

_COMPARED = ("uri", "patient_id", "split", "label")
"""Beside ids, what is compared letter by letter: no line break is meant there."""

_ID_MAX_BYTES = 200
_SHOWN_CHARACTERS = 100
_UNUSABLE_ID = r"[/\\\p{Cc}\p{Zl}\p{Zp}\x{202A}-\x{202E}\x{2066}-\x{2069}]|^\."  # the last show "ajpg" for "agpj"
_CONTROLS = r"[\p{Cc}\p{Zl}\p{Zp}]"
_REQUESTS = 32


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

    @property
    def patient(self) -> tuple[str, str]:
        """Names the patient; a slide without a `patient_id` is a patient of its own, and of nobody else's name."""
        return ("slide", self.slide_id) if self.patient_id is None else ("patient", self.patient_id)


def has_label(found: str | None, label: str) -> bool:
    """Tell whether a slide or tile is labelled so, in upper or lower case.

    >>> has_label("Normal", "normal"), has_label(None, "normal")
    (True, False)
    """
    return found is not None and found.casefold() == label.casefold()


def read_manifest(uri: str) -> list[SlideRow]:
    """Read and check a manifest.

    Raises:
        InputError: it cannot be used, in one line: which column or row, what was expected.
    """
    data = objects.read_bytes(uri)
    if not data:
        raise InputError(f"{uri}: the manifest is empty (0 bytes)")
    table = _without_blank_rows(
        _trimmed(_read_parquet(data, uri) if data[:4] == b"PAR1" else manifest_csv.read_csv(data, uri))
    )
    if table.num_rows == 0:
        raise InputError(f"{uri}: the manifest has a header and no rows")
    _check_required(table, uri)
    _check_ids(table, uri)
    _check_text(table, uri)
    _check_mpp(table, uri)
    return _rows(table, uri)


def index(
    uri: str, *, suffixes: tuple[str, ...] = SLIDE_SUFFIXES, left_out: dict[str, list[str]] | None = None
) -> list[SlideRow]:
    """List the slides in a folder or bucket and below; of a DICOM series, its first file. No other headers are read.

    A slide's id is its path in the folder, without suffix and with `__` for `/`; those that would meet keep the suffix.

    Args:
        uri: the folder.
        suffixes: of slides.
        left_out: gets what is there and not in the list, by reason: files of other suffixes, hidden ones, links to
            folders, links that lead nowhere, names that are no UTF-8 or cannot be an id. Files of an MRXS slide's
            folder belong to it.

    Raises:
        InputError: there are none, or an id is not unique.
    """
    root = objects.join(objects.resolve(uri, "."), "").rstrip("/") + "/"
    others: dict[str, list[str]] = defaultdict(list)
    found = list(_listed(root, others))
    slides = [info for info in found if info.uri.lower().endswith(suffixes)]
    folders = {info.uri[: -len(".mrxs")] for info in slides if info.uri.lower().endswith(".mrxs")}
    rest = [info for info in found if not info.uri.lower().endswith(suffixes) and not _lies_in(info.uri, folders, root)]
    slides += _series(rest, root, others)
    paths = {info.uri: info.uri.removeprefix(root) for info in slides}
    short = {there: str(PurePosixPath(path).with_suffix("")).replace("/", "__") for there, path in paths.items()}
    met = Counter(short.values())
    ids = {there: short[there] if met[short[there]] == 1 else paths[there].replace("/", "__") for there in paths}
    for there, slide_id in list(ids.items()):
        if why := _unusable(slide_id):
            others[f"its id would {why}"].append(paths[there])
            del ids[there]
    if left_out is not None:
        left_out.update(others)
    if not ids:
        counts = "".join(f"; {len(names)} left out: {reason}" for reason, names in sorted(others.items())[:5])
        raise InputError(f"{uri}: no slides there ({', '.join(suffixes)}, DICOM){counts}")
    rows = [SlideRow(slide_id, there) for there, slide_id in ids.items()]
    _check_ids(_table(rows).append_column("row", pa.array(list(ids))), uri, at="")
    return sorted(rows, key=lambda row: row.uri)


def _listed(root: str, others: dict[str, list[str]]) -> Iterator[objects.ObjectInfo]:
    """What a folder holds, but for hidden files."""
    for info in objects.list_objects(root, left_out=lambda reason, path: others[reason].append(_shown(path, root))):
        path = info.uri.removeprefix(root)
        if any(part.startswith(".") for part in path.split("/")):
            others["hidden"].append(path)
        else:
            yield info


def _shown(path: str, root: str) -> str:
    """A path in the folder as text, whatever its bytes are."""
    return os.fsencode(path.removeprefix(root)).decode("utf-8", "backslashreplace")


def _lies_in(uri: str, folders: set[str], root: str) -> bool:
    """Whether one of the folders above this file is among `folders`."""
    above = uri
    while folders and len(above := above.rpartition("/")[0]) > len(root):
        if above in folders:
            return True
    return False


def _series(rest: list[objects.ObjectInfo], root: str, others: dict[str, list[str]]) -> list[objects.ObjectInfo]:
    """The first file of each DICOM series of a folder; what else is there goes to `others` by its suffix."""
    dicom = [info for info in rest if info.uri.lower().endswith(dicom_series.DICOM_SUFFIXES)]
    with ThreadPoolExecutor(_REQUESTS) as pool:
        found = dict(zip((info.uri for info in dicom), pool.map(_series_or_none, dicom), strict=True))
    first: dict[tuple[str, str], objects.ObjectInfo] = {}
    for info in sorted(rest, key=lambda info: info.uri):
        path = info.uri.removeprefix(root)
        if info.uri not in found:
            suffix = re.search(r"\.[A-Za-z]\w{0,9}$", path)
            others[f"suffix {suffix[0].lower()}" if suffix else "no suffix"].append(path)
        elif (series := found[info.uri]) is None:
            others["no DICOM series can be read in it"].append(path)
        else:
            first.setdefault((objects.parent(info.uri), series), info)
    return list(first.values())


def _series_or_none(info: objects.ObjectInfo) -> str | None:
    try:
        return dicom_series.series(info)
    except AccessError:
        return None


def write_manifest(rows: list[SlideRow], uri: str) -> None:
    """Write a manifest: Parquet where the name ends in `.parquet`, CSV otherwise."""
    import pyarrow.csv as arrow_csv
    import pyarrow.parquet as pq

    out = io.BytesIO()
    if uri.lower().endswith(".parquet"):
        pq.write_table(_table(rows), out)
    else:
        arrow_csv.write_csv(_table(rows), out, arrow_csv.WriteOptions(quoting_style="needed"))
    objects.write_bytes(uri, out.getvalue())


def _table(rows: list[SlideRow]) -> pa.Table:
    columns = list(zip(*map(astuple, rows), strict=True)) or [()] * len(SLIDES)
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, SLIDES, strict=True)], schema=SLIDES
    )


def _read_parquet(data: bytes, uri: str) -> pa.Table:
    """Read the known columns as text, `mpp` as a number, and each row's number."""
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        header = file.schema_arrow.names
        known = manifest_columns.known_columns([name.strip() for name in header], uri)
        table = file.read(columns=[header[place] for place in known.values()])
        found = {name: table[header[place]] for name, place in known.items()}
        table = pa.table({name: _as_read(column, name, uri) for name, column in found.items()})
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{uri}: not a readable Parquet file: {' '.join(str(error).split())[:300]}") from error
    return table.append_column("row", pa.array(range(2, table.num_rows + 2), pa.int64()))


def _as_read(column: pa.ChunkedArray, name: str, uri: str) -> pa.ChunkedArray:
    """A column as text; `mpp` as float64 unless it is text. Categories are what they stand for.

    What pandas makes of integers beside missing values is read as integers; other floating-point numbers are refused:
    an id of more than fifteen digits would be another one.
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if name == "mpp":
        return column if pa.types.is_string(column.type) else column.cast(_mpp_type(column.type))
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
        exact = pc.less(pc.abs(column), 10**15)
        if pc.all(exact).as_py() is False or pc.all(pc.equal(column, pc.floor(column))).as_py() is False:
            raise InputError(
                f"{uri}: column {name!r} holds floating-point numbers, which may not be what was meant; make it text"
            )
        column = column.cast(pa.int64())
    return column.cast(pa.string())


def _mpp_type(kind: pa.DataType) -> pa.DataType:
    is_text = pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    return pa.string() if is_text else pa.float64()


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
    for column in table.columns[1:-1]:  # the last is the row's number
        some = pc.or_(some, pc.is_valid(column))
    return table.filter(some)


def _first(table: pa.Table, mask: pa.ChunkedArray) -> dict[str, object] | None:
    found = table.filter(mask)
    return found.slice(0, 1).to_pylist()[0] if found.num_rows else None


def _check_required(table: pa.Table, uri: str) -> None:
    for column in manifest_columns.REQUIRED:
        if bad := _first(table, pc.is_null(table[column])):
            raise InputError(f"{uri}: row {bad['row']}: {column} is empty")


def _check_ids(table: pa.Table, uri: str, *, at: str = "row ") -> None:
    """Every id is unique and can be a file's name."""
    ids = table["slide_id"]
    if bad := _first(table, pc.match_substring_regex(ids, _UNUSABLE_ID)):
        raise InputError(
            f"{uri}: {at}{bad['row']}: slide_id {_short(bad['slide_id'])} cannot be a file name "
            "(no slashes, control or direction characters, or dot in front)"
        )
    if bad := _first(table, pc.greater(pc.binary_length(ids), _ID_MAX_BYTES)):
        raise InputError(
            f"{uri}: {at}{bad['row']}: slide_id is longer than {_ID_MAX_BYTES} bytes: {_short(bad['slide_id'])}"
        )
    if pc.count_distinct(ids).as_py() != len(ids):
        twice = Counter(ids.to_pylist()).most_common(1)[0][0]
        rows = table.filter(pc.equal(ids, twice))["row"].to_pylist()
        where = at.replace(" ", "s ") + ", ".join(map(str, rows[:5]))
        raise InputError(f"{uri}: slide_id {twice!r} is there {len(rows)} times: {where}")


def _unusable(slide_id: str) -> str | None:
    """Why an id cannot be one, see `_check_ids`."""
    if pc.match_substring_regex(pa.scalar(slide_id), _UNUSABLE_ID).as_py():
        return "not be a file name"
    return f"have more than {_ID_MAX_BYTES} bytes" if len(slide_id.encode()) > _ID_MAX_BYTES else None


def _check_text(table: pa.Table, uri: str) -> None:
    """What is compared letter by letter is one line."""
    for column in _COMPARED:
        if column in table.column_names and (bad := _first(table, pc.match_substring_regex(table[column], _CONTROLS))):
            raise InputError(
                f"{uri}: row {bad['row']}: {column} {_short(bad[column])} holds a line break or control character; "
                "is a quote opened there and not closed?"
            )


def _short(text: object) -> str:
    return repr(str(text)[:_SHOWN_CHARACTERS]) + ("..." if len(str(text)) > _SHOWN_CHARACTERS else "")


def _check_mpp(table: pa.Table, uri: str) -> None:
    if "mpp" not in table.column_names:
        return
    for row, value in zip(table["row"].to_pylist(), table["mpp"].to_pylist(), strict=True):
        try:
            good = value is None or (0 < float(value) < float("inf") and "_" not in str(value))
        except ValueError:
            good = False
        if not good:
            shown = _short(value) if isinstance(value, str) else repr(value)
            raise InputError(f"{uri}: row {row}: mpp {shown} is not a positive number (um per pixel); leave it empty")


def _rows(table: pa.Table, uri: str) -> list[SlideRow]:
    base = objects.parent(objects.resolve(uri, "."))
    empty: list[str | None] = [None] * table.num_rows
    columns = {
        field.name: table[field.name].to_pylist() if field.name in table.column_names else empty
        for field in fields(SlideRow)
    }
    columns["mpp"] = [None if value is None else float(value) for value in columns["mpp"]]
    resolved = []
    for row, found in zip(table["row"].to_pylist(), columns["uri"], strict=True):
        try:
            resolved.append(found if found.startswith("s3://") else objects.resolve(found, base))
        except InputError as error:
            raise InputError(f"{uri}: row {row}: {error}") from error
    columns["uri"] = resolved
    return [SlideRow(*values) for values in zip(*columns.values(), strict=True)]
