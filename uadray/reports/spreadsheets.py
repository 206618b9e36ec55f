"""The ranked worklist for spreadsheets: CSV with all columns, and an XLSX workbook with those that people read.

What comes from outside is text: no cell of either becomes a formula or a link.
"""

import csv
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import xlsxwriter

from uadray.reports.ranking import GROUPS, groups_of, rank

SHEET_ROWS = 1_048_575
"""Rows of a sheet below its heading: Excel's limit."""

_BATCH = 1000
_MAX_TEXT = 32_000
"""Excel has 32,767 characters in a cell at most."""

_COLUMNS: dict[str, tuple[str, int]] = {
    "slide_id": ("Slide", 36), "decision": ("Decision", 15), "reason": ("Reason", 18), "message": ("Message", 40),
    "p_value": ("p-value", 10), "q_value": ("q-value", 10), "score": ("Score", 10), "threshold": ("Threshold", 10),
    "alpha": ("Alpha", 8), "calibration_group": ("Judged against", 24),
    "calibration_group_slides": ("Normal slides", 12), "false_alarm_low": ("False alarms from", 15),
    "false_alarm_high": ("False alarms to", 15),
    "calibration_holds": ("Calibration holds", 15), "note": ("Used for", 12), "site": ("Site", 14),
    "scanner": ("Scanner", 14), "stain": ("Stain", 10), "coverage": ("Coverage", 10), "n_tiles": ("Tissue tiles", 12),
    "n_scored": ("Scored tiles", 12), "flags": ("Left out", 24), "mpp_level0": ("um/px", 8),
    "width_level0_px": ("Width px", 10), "height_level0_px": ("Height px", 10), "decided_at": ("Decided at", 25),
    "uri": ("Address", 60),
}  # fmt: skip
"""Columns of the workbook: heading and width. One that no slide has a value in is left out, but for the first few."""

_ALWAYS = ("slide_id", "decision", "p_value", "score", "threshold")


def worklist_csv(decisions: pa.Table) -> str:
    """The ranked worklist as CSV: `rank` and the columns of `SLIDE_DECISIONS`, every slide.

    Text is quoted. Text that a spreadsheet would take for a formula (it starts with = + - @, a tab or a line end) gets
    an apostrophe in front; so does a slide id, which is why machines should read `decisions.parquet` instead.

    Raises:
        InputError: as `rank`.
    """
    ranked = rank(decisions)
    page = io.StringIO()
    writer = csv.writer(page, quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(["rank", *ranked.column_names])
    for place, row in enumerate(_rows(ranked), start=1):
        writer.writerow([place, *map(_spreadsheet_safe, row)])
    return page.getvalue()


def write_worklist_xlsx(decisions: pa.Table, path: Path, *, sheet_rows: int = SHEET_ROWS) -> None:
    """The ranked worklist as a workbook, every slide; more than a sheet holds go on in the next one.

    Rows are written one after the other, none is kept (XlsxWriter's `constant_memory`).

    Args:
        decisions: rows of `SLIDE_DECISIONS`, in any order.
        path: of the file.
        sheet_rows: slides of a sheet at most.

    Raises:
        InputError: as `rank`.
    """
    ranked = rank(decisions)
    names = [name for name in _COLUMNS if name in _ALWAYS or ranked[name].null_count < len(ranked)]
    chosen = ranked.select(names)
    if len(ranked):
        words = groups_of(ranked).to_pylist()
        column = pa.array([GROUPS[group].lower() for group in words])
        chosen = chosen.set_column(names.index("decision"), "decision", column)
    options = {
        "constant_memory": True, "strings_to_formulas": False, "strings_to_urls": False, "strings_to_numbers": False,
        "in_memory": False, "tmpdir": str(path.parent),
    }  # fmt: skip
    with xlsxwriter.Workbook(str(path), options) as book:
        bold = book.add_format({"bold": True, "bottom": 1})
        sheet = _sheet(book, names, bold, number=1)
        for place, row in enumerate(_rows(chosen)):
            line = place % sheet_rows
            if place and line == 0:
                sheet = _sheet(book, names, bold, number=place // sheet_rows + 1)
            sheet.write_number(line + 1, 0, place + 1)
            for at, value in enumerate(row, start=1):
                _write(sheet, line + 1, at, value)
        for each in book.worksheets():
            each.autofilter(0, 0, min(sheet_rows, max(1, len(ranked))), len(names))


def _sheet(book: Any, names: list[str], bold: Any, *, number: int) -> Any:
    sheet = book.add_worksheet("Worklist" if number == 1 else f"Worklist {number}")
    sheet.freeze_panes(1, 2)
    sheet.set_column(0, 0, 8)
    sheet.write_string(0, 0, "Rank", bold)
    for at, name in enumerate(names, start=1):
        heading, width = _COLUMNS[name]
        sheet.set_column(at, at, width)
        sheet.write_string(0, at, heading, bold)
    return sheet


def _write(sheet: Any, line: int, column: int, value: Any) -> None:
    """A cell: text as text, whatever it looks like; nothing for what is not known."""
    if isinstance(value, bool):
        sheet.write_string(line, column, "yes" if value else "NO")
    elif isinstance(value, str):
        sheet.write_string(line, column, value if len(value) <= _MAX_TEXT else f"{value[:_MAX_TEXT]} ...")
    elif value is not None and math.isfinite(value):
        sheet.write_number(line, column, value)


def _rows(table: pa.Table) -> Iterator[tuple[Any, ...]]:
    """The rows of a table, a batch of them in memory at a time."""
    for batch in table.to_batches(max_chunksize=_BATCH):
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _spreadsheet_safe(cell: Any) -> Any:
    if isinstance(cell, str) and (cell[:1] in "\t\r\n" or cell.lstrip()[:1] in tuple("=+-@＝＋－＠")):  # noqa: RUF001
        return f"'{cell}" if cell else cell
    return cell
