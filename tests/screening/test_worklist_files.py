"""Files of the worklist: what a page reads is there before it, and goes when no page reads it."""

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from decision_rows import decision_table, scored
from seaweed import SeaweedServer

from uadray.reports.worklist_data import DETAILS
from uadray.screening.worklist_files import write_worklist
from uadray.storage import objects

CALL = re.compile(r'^worklistDetails\("(\w+)",(.*)\);\n$', re.S)


def _write(folder: Path, table: pa.Table, *, plain: int) -> str:
    write_worklist(
        str(folder), table, title="W", run={}, picture_kinds=("tile",), thumbnails="evidence", plain=plain
    )  # fmt: skip
    return (folder / "worklist.html").read_text()


def _data(page: str) -> Any:
    return json.loads(re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[0])


def _details(folder: Path, name: str) -> Any:
    match = CALL.match((folder / "worklist_data" / f"{name}.js").read_text("ascii"))
    assert match
    assert match[1] == name
    return json.loads(match[2])


def _table(n: int, **more: Any) -> pa.Table:
    return decision_table(*(scored(f"s{i}", "normal", 0.5 + i / 1e4, 0.1, **more) for i in range(n)))


def test_few_slides_are_one_page(tmp_path: Path) -> None:
    page = _write(tmp_path, _table(3), plain=3)
    assert {path.name for path in tmp_path.iterdir()} == {"worklist.html", "worklist.csv", "worklist.xlsx"}
    assert page.count("<details") == 3
    assert "file:;" not in page.split("script-src")[1]


def test_many_slides_have_all_their_details_beside_the_page(tmp_path: Path) -> None:
    n = DETAILS + 7
    page = _write(tmp_path, _table(n, uri="/</script>&é.tif"), plain=100)
    data = _data(page)
    assert data["index"]["n"] == n
    assert data["index"]["id"] == [f"s{i}" for i in range(n)]
    files = [_details(tmp_path, name) for name in data["details"]["names"]]
    assert [len(slides) for slides in files] == [DETAILS, 7]
    assert files[1][6]["uri"] == "/</script>&é.tif"
    assert [tile["lines"] for tile in files[0][0]["tiles"]] == [["x 0", "y 200"], ["x 100", "y 200"]]
    noscript = page.split("<noscript>")[1].split("</noscript>")[0]
    assert noscript.count("<details") == 100  # of a reader without JavaScript
    assert f"The first 100 of {n} slides" in noscript
    assert page.count("<details") == 100


@pytest.mark.s3
def test_a_bucket_has_the_same_files(s3: SeaweedServer, tmp_path: Path) -> None:
    table = _table(6)
    _write(tmp_path, table, plain=5)
    out = f"s3://{s3.bucket}/worklist-files"
    write_worklist(out, table, title="W", run={}, picture_kinds=("tile",), thumbnails="evidence", plain=5)
    there = {info.uri.removeprefix(out).lstrip("/") for info in objects.list_objects(out)}
    assert there == {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert objects.read_bytes(f"{out}/worklist.html") == (tmp_path / "worklist.html").read_bytes()
    write_worklist(out, _table(5), title="W", run={}, picture_kinds=("tile",), thumbnails="evidence", plain=5)
    assert {objects.name(info.uri) for info in objects.list_objects(f"{out}/worklist_data")} == {"names.json"}


def test_files_of_the_page_before_are_deleted_when_nothing_reads_them(tmp_path: Path) -> None:
    before = _data(_write(tmp_path, _table(600), plain=5))["details"]["names"]
    now = _data(_write(tmp_path, _table(601), plain=5))["details"]["names"]
    assert now[:2] == before[:2]  # what says the same has the same name
    there = {path.stem for path in (tmp_path / "worklist_data").glob("*.js")}
    assert there == set(now)
    _write(tmp_path, _table(4), plain=5)
    assert [path.name for path in (tmp_path / "worklist_data").iterdir()] == ["names.json"]
    (tmp_path / "worklist_data" / "names.json").write_text('["../worklist.csv", 7]')
    _write(tmp_path, _table(6), plain=5)
    assert (tmp_path / "worklist.csv").exists()
