"""What is wrong with the rows of a manifest, in one line that names the row.

Tables have a column `row`: the number of each row as a spreadsheet shows it.
"""

from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc

from uadray.errors import InputError
from uadray.slides.manifest_columns import REQUIRED

_ONE_LINE = ("uri", "patient_id", "split", "label")
"""Besides ids, these are compared letter by letter, and a line break in them is never meant."""

_ID_MAX_BYTES = 200
_SHOWN_CHARACTERS = 100
_UNUSABLE_ID = r"[/\\\p{Cc}\p{Zl}\p{Zp}\x{202A}-\x{202E}\x{2066}-\x{2069}]|^\."
"""What no id may hold, because it becomes the name of a file. The last two ranges change the direction of writing, so
that a name looks like another one."""

_CONTROLS = r"[\p{Cc}\p{Zl}\p{Zp}]"


def check(table: pa.Table, uri: str) -> None:
    """Refuse a manifest whose rows cannot be used.

    Raises:
        InputError: a required cell is empty, an id is not unique or cannot be a file's name, a cell that must be one
            line holds several, or an mpp is no positive number.
    """
    _check_required(table, uri)
    check_ids(table, uri)
    _check_text(table, uri)
    _check_mpp(table, uri)


def check_ids(table: pa.Table, uri: str, *, at: str = "row ") -> None:
    """Refuse ids that are not unique or cannot be a file's name; `at` stands before a row's number in the message.

    Raises:
        InputError: there is such an id.
    """
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
        places = at.replace(" ", "s ") + ", ".join(map(str, rows[:5]))
        raise InputError(f"{uri}: slide_id {twice!r} is there {len(rows)} times: {places}")


def why_unusable(slide_id: str) -> str | None:
    """Why a text cannot be a slide id, to follow on "it would"; None where it can."""
    if pc.match_substring_regex(pa.scalar(slide_id), _UNUSABLE_ID).as_py():
        return "not be a file name"
    return f"have more than {_ID_MAX_BYTES} bytes" if len(slide_id.encode()) > _ID_MAX_BYTES else None


def _check_required(table: pa.Table, uri: str) -> None:
    for column in REQUIRED:
        if bad := _first(table, pc.is_null(table[column])):
            raise InputError(f"{uri}: row {bad['row']}: {column} is empty")


def _check_text(table: pa.Table, uri: str) -> None:
    for column in _ONE_LINE:
        if column in table.column_names and (bad := _first(table, pc.match_substring_regex(table[column], _CONTROLS))):
            raise InputError(
                f"{uri}: row {bad['row']}: {column} {_short(bad[column])} holds a line break or control character; "
                "is a quote opened there and not closed?"
            )


def _check_mpp(table: pa.Table, uri: str) -> None:
    if "mpp" not in table.column_names:
        return
    for row, value in zip(table["row"].to_pylist(), table["mpp"].to_pylist(), strict=True):
        try:
            is_good = value is None or (0 < float(value) < float("inf") and "_" not in str(value))
        except ValueError:
            is_good = False
        if not is_good:
            shown = _short(value) if isinstance(value, str) else repr(value)
            raise InputError(f"{uri}: row {row}: mpp {shown} is not a positive number (um per pixel); leave it empty")


def _first(table: pa.Table, mask: pa.ChunkedArray) -> dict[str, object] | None:
    """The first row that a mask is true for; None where there is none."""
    rows = table.filter(mask)
    return rows.slice(0, 1).to_pylist()[0] if rows.num_rows else None


def _short(text: object) -> str:
    return repr(str(text)[:_SHOWN_CHARACTERS]) + ("..." if len(str(text)) > _SHOWN_CHARACTERS else "")
