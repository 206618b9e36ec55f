"""The worklist for spreadsheets: every slide, and text that stays text."""

import csv
import io
import re
import zipfile
from html import unescape
from pathlib import Path

import pytest
from decision_rows import all_kinds, decision_table, scored, unscored

from uadray.reports import spreadsheets
from uadray.schemas import SLIDE_DECISIONS


def test_csv_has_every_slide_in_rank_order() -> None:
    decisions = all_kinds()
    rows = list(csv.DictReader(io.StringIO(spreadsheets.worklist_csv(decisions))))
    assert list(rows[0]) == ["rank", *SLIDE_DECISIONS.names]
    assert [row["slide_id"] for row in rows] == ["a1", "a2", "a3", "n0", "n1", "u1", "f0", "f1"]
    assert [row["rank"] for row in rows] == [str(place) for place in range(1, 9)]
    assert float(rows[0]["score"]) == 0.7
    assert rows[-1]["score"] == ""


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "  =1", "\r=1", "＝1"])  # noqa: RUF001
def test_csv_disarms_formulas(text: str) -> None:
    table = decision_table(unscored(text, "failed", "missing", text), scored("n", "normal", 0.5, -0.25))
    first, second = csv.DictReader(io.StringIO(spreadsheets.worklist_csv(table), newline=""))
    assert first["score"] == "-0.25"  # a number stays one
    assert (second["slide_id"], second["message"]) == (f"'{text}", f"'{text}")


def cells(path: Path, sheet: int = 1) -> list[list[str]]:
    """The cells of a sheet as text, and nothing in it but text and numbers."""
    with zipfile.ZipFile(path) as book:
        strings = [
            unescape(text) for text in re.findall(r"<t[^>]*>(.*?)</t>", _part(book, "xl/sharedStrings.xml"), re.S)
        ]
        xml = _part(book, f"xl/worksheets/sheet{sheet}.xml")
        assert not [name for name in book.namelist() if "externalLink" in name or name.endswith("sheet1.xml.rels")]
    assert "<f>" not in xml
    assert "<hyperlink" not in xml
    rows = []
    for row in re.findall(r"<row [^>]*>(.*?)</row>", xml, re.S):
        found = re.findall(r'<c r="[A-Z]+\d+"([^>]*)>(?:<is><t[^>]*>(.*?)</t></is>|<v>(.*?)</v>)</c>', row, re.S)
        rows.append([strings[int(v)] if 't="s"' in kind else unescape(text or v) for kind, text, v in found])
    return rows


def _part(book: zipfile.ZipFile, name: str) -> str:
    return book.read(name).decode() if name in book.namelist() else ""


def test_workbook_has_every_slide_and_goes_on_in_the_next_sheet(tmp_path: Path) -> None:
    spreadsheets.write_worklist_xlsx(all_kinds(), tmp_path / "w.xlsx", sheet_rows=5)
    first, second = (cells(tmp_path / "w.xlsx", sheet) for sheet in (1, 2))
    assert [row[:2] for row in first] == [
        ["Rank", "Slide"], ["1", "a1"], ["2", "a2"], ["3", "a3"], ["4", "n0"], ["5", "n1"],
    ]  # fmt: skip
    assert [row[:2] for row in second] == [["Rank", "Slide"], ["6", "u1"], ["7", "f0"], ["8", "f1"]]
    assert first[0] == second[0]
    assert "Judged against" not in first[0]  # no slide says
    assert first[1][2:6] == ["anomalous", "0.01", "0.7", "0.5"]
    assert second[-1][2:4] == ["failed", "unreadable"]


def test_workbook_says_what_the_calibration_is_worth(tmp_path: Path) -> None:
    more = {"calibration_group": "site=North", "calibration_holds": False, "q_value": 0.25}
    spreadsheets.write_worklist_xlsx(decision_table(scored("s", "anomalous", 0.01, 0.7, **more)), tmp_path / "w.xlsx")
    said = dict(zip(*cells(tmp_path / "w.xlsx"), strict=True))
    assert (said["Judged against"], said["Calibration holds"], said["q-value"]) == ("site=North", "NO", "0.25")


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "@SUM(A1)", "{=1}", "http://x.example/", "mailto:a@b", "internal:A!A1", "1"]
)
def test_workbook_keeps_text_as_text(tmp_path: Path, text: str) -> None:
    table = decision_table(unscored(text, "failed", "missing", f"{text} \x01 </is>"))
    spreadsheets.write_worklist_xlsx(table, tmp_path / "w.xlsx")
    row = cells(tmp_path / "w.xlsx")[1]
    assert row[1] == text
    assert row[4] == f"{text} _x0001_ </is>"


def test_workbook_cuts_what_is_longer_than_a_cell_and_leaves_out_what_is_no_number(tmp_path: Path) -> None:
    table = decision_table(
        unscored("s", "failed", "missing", "m" * 50_000), scored("t", "normal", float("nan"), float("inf"))
    )
    spreadsheets.write_worklist_xlsx(table, tmp_path / "w.xlsx")
    rows = cells(tmp_path / "w.xlsx")
    assert rows[2][4] == "m" * 32_000 + " ..."
    assert rows[1][:4] == ["1", "t", "normal", "0.5"]


def test_workbook_of_no_slides(tmp_path: Path) -> None:
    spreadsheets.write_worklist_xlsx(all_kinds().slice(0, 0), tmp_path / "w.xlsx")
    assert cells(tmp_path / "w.xlsx") == [["Rank", "Slide", "Decision", "p-value", "Score", "Threshold"]]
