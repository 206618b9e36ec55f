"""Which screenings a folder has, and their slides sorted, filtered and counted."""

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_screening import STRANGE_ID

from uadray.errors import InputError, NotFoundError
from uadray.screening import decision_segments
from uadray.serving.registry import read_registered
from uadray.serving.views.screenings import Screenings
from uadray.serving.views.slide_query import SlideQuery, SlideTable

COLUMNS = decision_segments.read_decisions("/nowhere/at/all").table.schema


def slide_table(rows: list[dict[str, Any]]) -> SlideTable:
    """Decided slides of one bundle, with what the rows do not say left empty."""
    common: dict[str, Any] = dict.fromkeys(COLUMNS.names)
    common |= {"uri": "u", "state": "scored", "fingerprint": "f", "decision_etag": "e", "decision": "normal"}
    return SlideTable(pa.Table.from_pylist([common | row for row in rows], schema=COLUMNS))


def ids(table: SlideTable, query: SlideQuery, flags: dict[str, str] | None = None) -> list[str]:
    """Slides of all pages, in order."""
    found: list[str] = []
    while True:
        page = table.page(query, flags or {})
        found += [row["slide_id"] for row in page.rows]
        if page.next_cursor is None:
            return found
        query = replace(query, cursor=page.next_cursor)


ROWS = [
    {"slide_id": "b", "score": 2.0, "p_value": 0.5, "site": "North"},
    {"slide_id": "a", "score": 2.0, "p_value": 0.5, "site": "South"},
    {"slide_id": "c", "score": 3.0, "p_value": 0.1, "decision": "anomalous", "site": "North"},
    {"slide_id": "E2", "state": "failed", "reason": "no_mpp", "decision": None},
    {"slide_id": "d", "score": 1.0, "p_value": 0.9},
]


@pytest.mark.parametrize(
    ("sort", "descending", "expected"),
    [
        ("score", True, ["c", "a", "b", "d", "E2"]),
        ("score", False, ["d", "a", "b", "c", "E2"]),
        ("p_value", False, ["c", "a", "b", "d", "E2"]),
        ("slide_id", False, ["E2", "a", "b", "c", "d"]),
        ("slide_id", True, ["d", "c", "b", "a", "E2"]),
    ],
)
@pytest.mark.parametrize("limit", [1, 2, 5])
def test_slides_come_in_order_on_pages_of_any_size(
    sort: Any, descending: bool, expected: list[str], limit: int
) -> None:
    query = SlideQuery(sort=sort, descending=descending, limit=limit)
    assert ids(slide_table(ROWS), query) == expected


def test_a_page_goes_on_behind_a_slide_that_is_gone_and_tells_none_twice() -> None:
    query = SlideQuery(limit=2)
    cursor = slide_table(ROWS).page(query, {}).next_cursor
    new = [{"slide_id": "aa", "score": 2.0}, {"slide_id": "z", "score": 9.0}]
    more = [*(row for row in ROWS if row["slide_id"] != "a"), *new]
    assert ids(slide_table(more), replace(query, cursor=cursor)) == ["aa", "b", "d", "E2"]


@pytest.mark.parametrize("cursor", ["x", "W10", "!!", "eyJhIjoxfQ", "WyJzY29yZSIsIHRydWUsIDFlOTk5LCAiYSJd", "é" * 9])
def test_what_is_no_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(InputError, match="no cursor"):
        slide_table(ROWS).page(SlideQuery(cursor=cursor), {})


def test_a_cursor_of_another_order_is_refused() -> None:
    other = slide_table(ROWS).page(SlideQuery(limit=1), {}).next_cursor
    with pytest.raises(InputError, match="another order"):
        slide_table(ROWS).page(SlideQuery(sort="slide_id", cursor=other), {})


@given(st.text(max_size=40))
def test_any_text_as_a_cursor_is_a_page_or_one_error(text: str) -> None:
    with suppress(InputError):
        assert slide_table(ROWS).page(SlideQuery(cursor=text or None), {}).total == len(ROWS)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (SlideQuery(values={"decision": ["anomalous"]}), ["c"]),
        (SlideQuery(values={"decision": ["anomalous", "none"]}), ["c", "E2"]),
        (SlideQuery(values={"site": ["North"], "decision": ["normal"]}), ["b"]),
        (SlideQuery(values={"site": ["none"]}), ["d", "E2"]),
        (SlideQuery(values={"site": ["nowhere"]}), []),
        (SlideQuery(ranges={"score": (2.0, None)}), ["c", "a", "b"]),
        (SlideQuery(ranges={"score": (None, 2.0), "p_value": (0.6, None)}), ["d"]),
        (SlideQuery(text="e"), ["E2"]),
        (SlideQuery(flags=["benign"]), ["a"]),
        (SlideQuery(flags=["none"], values={"site": ["South"]}), []),
        (SlideQuery(bundle="other"), []),
    ],
)
def test_filters(query: SlideQuery, expected: list[str]) -> None:
    page = slide_table(ROWS).page(query, {"a": "benign", "b": ""})
    assert [row["slide_id"] for row in page.rows] == expected
    assert page.total == len(expected)


def test_counts_leave_the_filter_of_their_own_column_aside() -> None:
    page = slide_table(ROWS).page(SlideQuery(values={"site": ["North"]}, flags=["none"]), {"b": "benign"})
    assert page.facets["site"] == {"North": 1, "South": 1, "none": 2}
    assert page.facets["decision"] == {"anomalous": 1}
    assert page.facets["flag"] == {"benign": 1, "none": 1}


def test_a_folder_of_the_command_is_one_screening(screened: Path) -> None:
    known = Screenings(str(screened / "out"), list)
    (found,) = known.all()
    assert found.name == "main"
    assert [each.folder for each in found.bundles] == ["tiny0", "tiny1"]
    records = [json.loads(path.read_text())["decisions"] for path in (screened / "out" / "decisions").glob("*.json")]
    n_anomalous = sum(any(each["decision"] == "anomalous" for each in record) for record in records)
    counts = {"scored": 3, "not_assessable": 0, "failed": 1, "anomalous": n_anomalous}
    assert known.slides(found).counts == counts
    assert n_anomalous > 0
    row = known.slides(found).page(SlideQuery(bundle="tiny0", text=STRANGE_ID), {}).rows[0]
    assert (row["site"], row["scanner"], row["stain"]) == (None, "S360", "H&E")


def test_others_lie_in_a_folder_of_their_own(screened: Path, tmp_path: Path) -> None:
    other = tmp_path / "screenings" / "0123456789abcdef"
    shutil.copytree(screened / "out", other)
    (tmp_path / "screenings" / "nothing of ours").mkdir()
    (tmp_path / "screenings" / "fedcba9876543210").mkdir()
    known = Screenings(str(tmp_path), list)
    assert [each.name for each in known.all()] == ["0123456789abcdef"]
    for name in ("main", "nothing of ours", "..", "fedcba9876543210", "0123456789abcdef\n"):
        with pytest.raises(NotFoundError):
            known.get(name)
    _, records = known.decisions(known.get("0123456789abcdef"), "a")
    assert [record["bundle"] for record in records] == ["tiny0", "tiny1"]


@pytest.mark.parametrize("slide_id", ["../run", "a/../a", ".a", "nobody", "", "a\n", "x" * 300])
def test_no_id_leads_out_of_the_folder(screened: Path, slide_id: str) -> None:
    known = Screenings(str(screened / "out"), list)
    with pytest.raises(NotFoundError):
        known.decisions(known.get("main"), slide_id)


def test_a_calibration_is_the_bundles_or_what_decisions_say(screened: Path) -> None:
    registered = read_registered("tiny", str(screened / "bundles" / "tiny0"))
    known = Screenings(str(screened / "out"), lambda: [registered])
    main = known.get("main")
    figures = [known.figures(main, bundle) for bundle in main.bundles]
    assert (figures[0]["n"], figures[0]["tile_high"]) == (3, 1.0)
    assert (figures[1]["n"], figures[1]["tile_high"]) == (None, None)
    assert [each["threshold"] for each in figures] == [0.3, 0.3]
    assert [each["alpha"] for each in figures] == [0.25, 0.25]
    with pytest.raises(NotFoundError, match="tiny0, tiny1"):
        main.bundle("third")
    assert main.bundle(None).folder == main.bundle("tiny0").folder == main.bundle(main.bundles[0].id).folder == "tiny0"


def test_what_is_decided_meanwhile_is_seen_and_nothing_else_read_again(
    screened: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("uadray.serving.views.screenings.PATIENCE", 0)
    out = tmp_path / "out"
    shutil.copytree(screened / "out", out)
    (out / "decisions" / "a.json").rename(tmp_path / "a.json")
    known = Screenings(str(out), list, fresh_s=0)
    main, reads = known.get("main"), list[str]()
    before = known.slides(main)
    assert before.page(SlideQuery(bundle="tiny0"), {}).total == 3
    read_one: Callable[..., Any] = decision_segments._read_one
    monkeypatch.setattr(decision_segments, "_read_one", lambda info: [reads.append(info.uri), read_one(info)][1])
    known.slides(main)
    assert known.slides(main) is before
    (tmp_path / "a.json").rename(out / "decisions" / "a.json")
    assert known.slides(main).page(SlideQuery(bundle="tiny0"), {}).total == 4
    assert [Path(uri).name for uri in reads] == ["a.json"]


def test_folders_of_older_versions_open(screened: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(screened / "out", out)
    shutil.rmtree(out / "segments")
    for path in (out / "decisions").glob("*.json"):
        record = json.loads(path.read_text())
        for each in record["decisions"]:
            for name in ("site", "scanner", "stain", "pictures"):
                del each[name]
        path.write_text(json.dumps(record))
    (out / "run.json").write_text((out / "run.json").read_text().replace('"max_coarser"', '"of_another_version"'))
    known = Screenings(str(out), list)
    main = known.get("main")
    page = known.slides(main).page(SlideQuery(bundle="tiny1"), {})
    assert page.facets["site"] == {"none": 4}
    assert main.tiles is None
    assert (main.mpp, main.tile_px) == (1.0, 48)
