"""Manifests: which slides there are. CSV or Parquet, local or in S3, from one row to a million.

Only `slide_id` and `uri` are required; `manifest_columns` says how headings are understood, and `manifest_csv` which
CSV. A URI may be relative to the manifest's folder. Ids are text: 007 and 7 are two slides.

Row numbers in errors are those that a spreadsheet shows: the header is row 1.
"""

import io
from dataclasses import astuple, dataclass, fields

import pyarrow as pa
import pyarrow.compute as pc

from uadray.errors import InputError
from uadray.schemas import SLIDES
from uadray.slides import manifest_checks
from uadray.slides.manifest_csv import read_csv
from uadray.slides.manifest_parquet import read_parquet
from uadray.slides.slide import Mpp
from uadray.storage import objects


@dataclass(frozen=True, slots=True)
class SlideRow:
    """One slide. `uri` is absolute; `mpp` (um/px at level 0), where given, overrides what the file says."""

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
        """A key for the patient; each slide without a `patient_id` counts as a patient of its own."""
        return ("slide", self.slide_id) if self.patient_id is None else ("patient", self.patient_id)

    @property
    def origin(self) -> dict[str, str | None]:
        """Where it is from: site, scanner and stain, as far as the manifest says."""
        return {"site": self.site, "scanner": self.scanner, "stain": self.stain}


def has_label(given: str | None, label: str) -> bool:
    """Whether the label of a slide or tile is this one, in upper or lower case.

    >>> has_label("Normal", "normal"), has_label(None, "normal")
    (True, False)
    """
    return given is not None and given.casefold() == label.casefold()


def read_manifest(uri: str, *, split: str | None = None) -> list[SlideRow]:
    """The slides of a manifest, all of its rows checked.

    Args:
        uri: of the manifest.
        split: only the slides of this split, in upper or lower case; None takes all.

    Raises:
        InputError: it cannot be used, in one line: which column or row, what was expected; or it has no such split.
    """
    data = objects.read_bytes(uri)
    if not data:
        raise InputError(f"{uri}: the manifest is empty (0 bytes)")
    table = read_parquet(data, uri) if data[:4] == b"PAR1" else read_csv(data, uri)
    table = _without_blank_rows(_trimmed(table))
    if table.num_rows == 0:
        raise InputError(f"{uri}: the manifest has a header and no rows")
    manifest_checks.check(table, uri)
    rows = _rows(table, uri)
    return rows if split is None else _of_split(rows, split, uri)


def _of_split(rows: list[SlideRow], split: str, uri: str) -> list[SlideRow]:
    chosen = [row for row in rows if has_label(row.split, split)]
    if not chosen:
        splits = sorted({row.split for row in rows if row.split})
        there = f"there are {', '.join(splits[:8])}" if splits else "it has none: `uadray split` makes some"
        raise InputError(f"{uri}: no slide is in the split {split!r}; {there}")
    return chosen


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


def _trimmed(table: pa.Table) -> pa.Table:
    """The table without white space around texts; empty cells and NaN are null."""
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
    """The table without rows that have no value at all, which spreadsheets leave at the end."""
    has_value = pc.is_valid(table[0])
    for column in table.columns[1:-1]:  # the last column is the row's number
        has_value = pc.or_(has_value, pc.is_valid(column))
    return table.filter(has_value)


def _rows(table: pa.Table, uri: str) -> list[SlideRow]:
    """The slides of a checked table, with URIs resolved against the manifest's folder."""
    base = objects.parent(objects.resolve(uri, "."))
    empty: list[str | None] = [None] * table.num_rows
    columns = {
        field.name: table[field.name].to_pylist() if field.name in table.column_names else empty
        for field in fields(SlideRow)
    }
    columns["mpp"] = [None if value is None else float(value) for value in columns["mpp"]]
    resolved = []
    for row, given in zip(table["row"].to_pylist(), columns["uri"], strict=True):
        try:
            resolved.append(given if given.startswith("s3://") else objects.resolve(given, base))
        except InputError as error:
            raise InputError(f"{uri}: row {row}: {error}") from error
    columns["uri"] = resolved
    return [SlideRow(*values) for values in zip(*columns.values(), strict=True)]
