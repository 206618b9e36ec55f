"""The CSV of a manifest, as spreadsheets and programs write it -> its known columns as text. No row is lost.

Understood are a byte order mark, `sep=;` as first line, commas, semicolons or tabs, decimal commas beside the last two,
line ends of any system, blank rows, and quotes, within which a quote is doubled. Python's own reader is used, because
it tells rows from lines and refuses a quote that is not closed; all else that is not understood is refused by its row.
"""

import csv
import io
import itertools
import logging
import re
from collections.abc import Iterator, Sequence
from operator import itemgetter
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from uadray.errors import InputError
from uadray.slides.manifest_columns import is_known, known_columns

log = logging.getLogger(__name__)

_SEPARATORS = ",;\t|"
_HEADER_CHARACTERS = 2**16


def read_csv(data: bytes, uri: str) -> pa.Table:
    """Read the known columns as text, and each row's number as a spreadsheet shows it.

    Raises:
        InputError: it is no CSV, or a quote seems not to be closed; the message names the row.
    """
    text = _decoded(data, uri)
    named = re.match(r'"?sep=(\\t|.)"?[,;\t]*(?:\r\n|\r|\n|$)', text, re.IGNORECASE)
    separator = named[1].replace("\\t", "\t") if named else _separator(text)
    if separator not in _SEPARATORS:
        raise InputError(f"{uri}: sep={separator} is not supported; separate cells by a comma, semicolon or tab")
    rows = _csv_rows(text[named.end() if named else 0 :], separator, uri)
    header = [column.strip() for column in next(rows, (1, [], 1))[1]]
    known = known_columns(header, uri)
    unnamed = [place for place, column in enumerate(header) if not column]
    broken = [(1, column) for column in header if "\n" in column or "\r" in column]
    numbers, cells, nameless = [], [], set[int]()
    pick = itemgetter(*known.values())  # at least two, so that it gives a tuple
    for number, row, n_lines in rows:
        if len(row) != len(header):
            if not any(cell.strip() for cell in row):
                continue
            raise InputError(
                f"{uri}: not a readable CSV: row {number} has {len(row)} cells, the header has {len(header)}"
            )
        if n_lines > 1:
            broken += [(number, cell) for cell in row if "\n" in cell or "\r" in cell]
        if unnamed:
            nameless.update(place + 1 for place in unnamed if row[place].strip())
        numbers.append(number)
        cells.append(pick(row))
    columns = dict(zip(known, zip(*cells, strict=True), strict=True)) if cells else dict.fromkeys(known, ())
    _check_broken(broken, columns["uri"], separator, uri)
    if nameless:
        log.warning("%s: columns without a heading are not read: %s", uri, ", ".join(map(str, sorted(nameless)[:20])))
    table = {name: pa.array(column, pa.string()) for name, column in columns.items()}
    if separator != "," and "mpp" in table:
        table["mpp"] = pc.replace_substring(table["mpp"], ",", ".")
    return pa.table(table | {"row": pa.array(numbers, pa.int64())})


def _decoded(data: bytes, uri: str) -> str:
    line = 1
    try:
        text = data.removeprefix(b"\xef\xbb\xbf").decode()
        if "\0" not in text:
            return text
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line += before.count(b"\n") + before.count(b"\r") - before.count(b"\r\n")
    kind = " but UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in data[:4] else ""
    raise InputError(f"{uri}: line {line} is not UTF-8{kind}; save the manifest as CSV UTF-8")


def _separator(text: str) -> str:
    """The separator that makes most cells of the first line known headings, and of these the most frequent one."""

    def columns(separator: str) -> tuple[int, int]:
        try:
            header: list[str] = next(_reader(text[:_HEADER_CHARACTERS], separator), [])
        except csv.Error:
            return (-1, 0)
        return (sum(map(is_known, header)), len(header))

    return max(",;\t", key=columns)


def _reader(text: str, separator: str) -> Any:
    lines = io.StringIO(text, newline="")  # all line ends are read, and kept as they are within quotes
    return csv.reader(lines, delimiter=separator, strict=True, skipinitialspace=True)


def _csv_rows(text: str, separator: str, uri: str) -> Iterator[tuple[int, list[str], int]]:
    """Of each row its number, its cells and how many lines it has; the header first."""
    reader = _reader(text, separator)
    for number in itertools.count(1):
        before = reader.line_num
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            is_open = "unexpected end" in str(error) or "field limit" in str(error)
            what = "a quote is opened there and not closed" if is_open else error
            raise InputError(f"{uri}: not a readable CSV: row {number}: {what}") from error
        yield number, row, reader.line_num - before


def _check_broken(broken: list[tuple[int, str]], uris: Sequence[str], separator: str, uri: str) -> None:
    """Refuse cells of several lines that seem to hold rows of slides, and warn of other cells of several lines.

    A quote that is not closed may meet another quote further on: then the text is still a CSV, but rows are lost in a
    cell.
    """
    if not broken:
        return
    endings = tuple({PurePosixPath(text.strip()).suffix.lower() for text in uris} - {""})
    for row, cell in broken:
        texts = re.split(rf"[\r\n{re.escape(separator)}]", cell)
        if any(text.strip(' \t"').lower().endswith(endings) for text in texts):
            raise InputError(
                f"{uri}: row {row}: a cell of {len(cell.splitlines())} lines seems to hold other rows; "
                "is a quote opened there and not closed?"
            )
    log.warning("%s: %d cells hold line breaks, the first in row %d", uri, len(broken), broken[0][0])
