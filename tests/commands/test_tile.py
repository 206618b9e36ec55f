"""`uadray tile` on a cluster: what is gone on with, what fails by name, and what ends the job."""

import json
from pathlib import Path

import pytest
from seaweed import SeaweedServer
from tile_sets import FILE_GRID, two_slides, write_slide

from uadray.commands.tile import tile_set
from uadray.errors import InputError, WorkError
from uadray.slides.manifest import SlideRow
from uadray.storage import objects
from uadray.tilesets.containers import list_tiles
from uadray.tilesets.records import TILESET

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture
def rows(tmp_path: Path) -> list[SlideRow]:
    return two_slides(tmp_path)


def test_a_second_run_does_what_is_missing_and_no_more(rows: list[SlideRow], tmp_path: Path) -> None:
    out = str(tmp_path / "set")
    rows.append(SlideRow("c", str(tmp_path / "c.tif")))
    (tmp_path / "c.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:5000])
    first = tile_set(rows, FILE_GRID, out)
    assert (first["slides"], first["finished"], first["failed"]) == (3, 2, 1)
    assert (first["tiles"], first["kept"], first["unreadable"]) == (28, 25, 0)
    assert first["failures"]["c"].startswith("unreadable: ")
    before = {path.name: path.stat().st_mtime_ns for path in Path(out).glob("part-*")}
    ticks: list[tuple[int, int, int]] = []
    rows[2] = write_slide(tmp_path / "c.tif", 3)
    second = tile_set(rows, FILE_GRID, out, progress=lambda *tick: ticks.append(tick))
    assert (second["finished"], second["failed"], second["slides_now"], second["tiles_now"]) == (3, 0, 1, 16)
    assert ticks == [(3, 3, 16)]
    after = {path.name: path.stat().st_mtime_ns for path in Path(out).glob("part-*")}
    assert {name: after[name] for name in before} == before
    assert len(after) == 3
    write_slide(tmp_path / "a.tif", 9)  # a new version
    assert tile_set(rows, FILE_GRID, out)["slides_now"] == 1
    assert tile_set(rows, FILE_GRID, out)["slides_now"] == 0
    assert len(list_tiles(out)) == 16 + 12 + 16


def test_what_a_killed_run_leaves_is_no_tile_set_until_it_is_finished(rows: list[SlideRow], tmp_path: Path) -> None:
    out = str(tmp_path / "set")
    tile_set(rows, FILE_GRID, out)
    (tmp_path / "set" / "slides" / "b.json").unlink()  # b's shards are there, its commit is not
    record = json.loads((tmp_path / "set" / TILESET).read_text()) | {"finished": False, "slides": []}
    (tmp_path / "set" / TILESET).write_text(json.dumps(record))
    with pytest.raises(InputError, match="is not finished; run the same `uadray tile` command again"):
        list_tiles(out)
    assert tile_set(rows, FILE_GRID, out)["slides_now"] == 1
    assert len(list_tiles(out)) == 28


@pytest.mark.s3
def test_what_the_system_fails_at_ends_the_run_and_is_no_slides_fault(
    s3: SeaweedServer, rows: list[SlideRow], tmp_path: Path
) -> None:
    """The session's cluster knows no way to this server. What was cut stays cut, and nothing is finished."""
    out = str(tmp_path / "set")
    objects.write_bytes(f"s3://{s3.bucket}/locked/a.tif", Path(rows[0].uri).read_bytes())
    locked = [SlideRow(f"locked{i}", f"s3://{s3.bucket}/locked/a.tif") for i in range(6)]
    with pytest.raises(WorkError, match=r"^6 faults in a row that are no slide's, the last: (unreachable|no_access)"):
        tile_set([*rows, *locked], FILE_GRID, out)
    assert not json.loads((tmp_path / "set" / TILESET).read_text())["finished"]
    summary = tile_set(rows, FILE_GRID, out)
    assert (summary["slides_now"], summary["finished"], summary["failed"]) == (0, 2, 0)
