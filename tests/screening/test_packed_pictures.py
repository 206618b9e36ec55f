"""Small pictures come from the evidence, are packed once, and are packed anew where a slide is decided anew."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from decision_rows import decision_table, scored

from uadray.reports.evidence_sheet import evidence_sheet
from uadray.reports.pictures import decode_jpeg, encode_jpeg
from uadray.reports.small_pictures import CELL, CELLS, COLUMNS, sheet, small_picture
from uadray.screening import packed_pictures
from uadray.storage import objects


def _jpeg(grey: int, height: int = 48, width: int = 48) -> bytes:
    return encode_jpeg(np.full((height, width, 3), grey, np.uint8))


def _evidence(folder: Path, name: str, grey: int, *, has_preview: bool = True, filler: int = 0) -> None:
    shown = {"thumbnail": _jpeg(grey), "heatmap": _jpeg(255 - grey)}
    small = small_picture(shown["thumbnail"], shown["heatmap"]) if has_preview else None
    data = evidence_sheet(shown, sizes={}, preview=small) + b" " * filler
    (folder / "evidence").mkdir(exist_ok=True)
    (folder / "evidence" / f"{name}.svg").write_bytes(data)


def _row(name: str, at: str = "1", **more: Any) -> dict[str, Any]:
    return scored(name, "normal", 0.5, 0.1, pictures=f"evidence/{name}.svg", decided_at=at, **more)


def _cell(folder: Path, packs: packed_pictures.Packs, slide_id: str) -> np.ndarray[Any, Any]:
    """The middle of a slide's small picture: its thumbnail's grey, and that of its heatmap."""
    found = packed_pictures.cells_of(packs, [slide_id])[0]
    assert found is not None
    page = decode_jpeg((folder / list(packs)[found[0]]).read_bytes())
    (width, height), (y, x) = CELL, divmod(found[1], COLUMNS)
    cell = page[y * height : (y + 1) * height, x * width : (x + 1) * width]
    return np.array([cell[20:28, 20:28].mean(), cell[20:28, width // 2 + 20 : width // 2 + 28].mean()])


def test_small_pictures_keep_proportions_and_a_sheet_keeps_its_order() -> None:
    wide = decode_jpeg(small_picture(_jpeg(100, 24, 96), _jpeg(100, 96, 24)))
    assert wide.shape == (CELL[1], CELL[0], 3)
    assert wide[2, 24].min() > 240  # above the slide
    assert abs(int(wide[24, 24, 0]) - 100) < 4
    assert wide[24, 48 + 2].min() > 240  # beside it
    page = decode_jpeg(sheet([small_picture(_jpeg(10), _jpeg(10)), None, b"no picture"]))
    assert page.shape[1] == COLUMNS * CELL[0]
    assert page[24, 24].max() < 16
    assert page[:, CELL[0] + 8 :].min() > 240


@pytest.mark.parametrize(("has_preview", "filler"), [(True, 0), (True, 20_000), (False, 0), (False, 20_000)])
def test_evidence_of_any_version_has_one(tmp_path: Path, has_preview: bool, filler: int) -> None:
    _evidence(tmp_path, "s", 40, has_preview=has_preview, filler=filler)
    packs = packed_pictures.pack(str(tmp_path), decision_table(_row("s")))
    assert np.abs(_cell(tmp_path, packs, "s") - [40, 215]).max() < 6


def test_what_is_packed_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"s{i}" for i in range(CELLS + 3)]
    for i, name in enumerate(names):
        _evidence(tmp_path, name, 2 * i, filler=9000)
    table = decision_table(*map(_row, names))
    first = packed_pictures.pack(str(tmp_path), table)
    assert [len(cells) for cells in first.values()] == [CELLS, 3]
    read: list[str] = []
    whole = objects.read_ranges
    monkeypatch.setattr(
        objects, "read_ranges", lambda uri, *rest, **more: read.append(uri) or whole(uri, *rest, **more)
    )
    _evidence(tmp_path, "new", 250, filler=9000)
    _evidence(tmp_path, "s1", 130, filler=9000)
    rows = [_row(name, "2" if name == "s1" else "1") for name in names]
    second = packed_pictures.pack(str(tmp_path), decision_table(*rows, _row("new")))
    last = {f"s{i}" for i in range(CELLS, CELLS + 3)}
    assert {Path(uri).stem for uri in read} == last | {"new", "s1"}  # the last sheet was not full
    assert next(iter(second)) == next(iter(first))
    assert abs(_cell(tmp_path, second, "s1")[0] - 130) < 6
    assert abs(_cell(tmp_path, second, "s2")[0] - 4) < 6
    read.clear()
    assert packed_pictures.pack(str(tmp_path), decision_table(*rows, _row("new"))) == second
    assert read == []


def test_lost_evidence_and_lost_indexes_are_borne(tmp_path: Path) -> None:
    _evidence(tmp_path, "s", 40)
    (tmp_path / "evidence" / "t.svg").write_bytes(b"<svg/>")
    outside = _row("u") | {"pictures": "../../etc/passwd"}
    table = decision_table(_row("s"), _row("t"), _row("gone"), outside, scored("none", "normal", 0.5, 0.1))
    for damage in (None, b"{", b"[1]", b'{"worklist_data/../x": [["s", "1"]]}', b'{"a": 3}'):
        if damage is not None:
            (tmp_path / packed_pictures.INDEX).write_bytes(damage)
        packs = packed_pictures.pack(str(tmp_path), table)
        assert abs(_cell(tmp_path, packs, "s")[0] - 40) < 6
        assert _cell(tmp_path, packs, "gone").min() > 240
        assert packed_pictures.cells_of(packs, ["u", "none"]) == [None, None]


def test_evidence_may_be_another_bundles(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    _evidence(tmp_path / "a", "s", 70)
    packs = packed_pictures.pack(
        str(tmp_path / "combined"), decision_table(_row("s") | {"pictures": "../a/evidence/s.svg"})
    )
    assert abs(_cell(tmp_path / "combined", packs, "s")[0] - 70) < 6


def test_sheets_that_are_mostly_old_are_left(tmp_path: Path) -> None:
    names = [f"s{i}" for i in range(CELLS)]
    for name in names:
        _evidence(tmp_path, name, 9)
    first = packed_pictures.pack(str(tmp_path), decision_table(*map(_row, names)))
    again = [_row(name, "2" if i < CELLS // 2 + 1 else "1") for i, name in enumerate(names)]
    second = packed_pictures.pack(str(tmp_path), decision_table(*again))
    assert len(second) == 1
    assert {tuple(cell) for cell in next(iter(second.values()))} == {
        (row["slide_id"], row["decided_at"]) for row in again
    }
    assert len(first) == 1
