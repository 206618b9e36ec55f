"""Which slides share a read task: many small ones of one file, and no others."""

from pathlib import Path

import pytest
from seaweed import SeaweedServer

from uadray.screening import slide_groups as groups
from uadray.slides.manifest import SlideRow
from uadray.storage import objects


def _slides(folder: str, sizes: list[int], suffix: str = ".tif") -> list[SlideRow]:
    rows = [SlideRow(f"s{i:03d}", f"{folder}/s{i:03d}{suffix}") for i in range(len(sizes))]
    for row, size in zip(rows, sizes, strict=True):
        objects.write_bytes(row.uri, b"x" * size)
    return rows


def _lengths(rows: list[SlideRow], n_cores: int = 2) -> list[int]:
    grouped = groups.slide_groups(rows, n_cores=n_cores)
    assert [row for group in grouped for row in group] == rows
    return [len(group) for group in grouped]


def test_few_slides_and_many_workers_have_a_task_a_slide(tmp_path: Path) -> None:
    rows = _slides(str(tmp_path), [1] * groups.MIN_SLIDES)
    assert set(_lengths(rows[:-1])) == {1}
    assert set(_lengths(rows, n_cores=20)) == {1}
    assert max(_lengths(rows)) == groups.MIN_SLIDES // (2 * groups.TASKS_PER_CORE)


def test_large_unknown_and_many_file_slides_are_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "MIN_SLIDES", 8)
    monkeypatch.setattr(groups, "TASKS_PER_CORE", 1)
    monkeypatch.setattr(groups, "GROUP_BYTES", 100)
    rows = _slides(str(tmp_path), [40, 40, 40, 200, 10, 10, 10, 10])
    assert _lengths(rows) == [2, 1, 1, 4]
    Path(rows[5].uri).unlink()
    assert _lengths(rows) == [2, 1, 1, 1, 1, 2]
    assert set(_lengths(_slides(str(tmp_path), [1] * 8, ".mrxs"))) == {1}


@pytest.mark.s3
def test_in_s3_a_listing_tells_the_sizes(s3: SeaweedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "MIN_SLIDES", 4)
    monkeypatch.setattr(groups, "TASKS_PER_CORE", 1)
    monkeypatch.setattr(groups, "GROUP_BYTES", 100)
    rows = _slides(f"s3://{s3.bucket}/{tmp_path.name}", [60, 60, 30, 300, 50, 50])
    assert _lengths(rows) == [1, 2, 1, 2]
