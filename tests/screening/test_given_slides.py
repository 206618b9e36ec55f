"""A manifest or a folder: which slides that gives, under which ids."""

import logging
from pathlib import Path

import pytest
import screening_drivers as sd
from seaweed import SeaweedServer

from uadray.bench.slides import write_calibration, write_tiny_bundle
from uadray.errors import InputError, NotFoundError
from uadray.screening import leases
from uadray.screening.arrivals import Arrivals
from uadray.screening.bundles import arranged, calibrated_bundle
from uadray.screening.given_slides import given_slides, is_folder
from uadray.screening.ledger import open_ledger
from uadray.slides.folder_index import index_folder
from uadray.slides.manifest import SlideRow, write_manifest
from uadray.storage import objects


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("two.svs", "two.tif", "2026/c.svs", "notes.txt", ".d.svs"):
        path = tmp_path / "slides" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path / "slides"


def test_a_folder_gives_what_index_and_follow_find(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    rows = given_slides(str(folder))
    assert [row.slide_id for row in rows] == ["2026__c.svs", "two.svs", "two.tif"]
    assert [row.uri for row in rows] == [row.uri for row in index_folder(str(folder))]
    assert {row.slide_id for row in rows} == {a.row.slide_id for a in Arrivals(str(folder), settle_s=0).look()}
    assert "3 slides in the folder; left out: 1 hidden" in caplog.text


def test_a_manifest_gives_its_rows(folder: Path, tmp_path: Path) -> None:
    rows = [SlideRow("a", str(folder / "two.svs"), split="x"), SlideRow("b", str(folder / "two.tif"), split="y")]
    write_manifest(rows, str(tmp_path / "m.csv"))
    assert given_slides(str(tmp_path / "m.csv")) == rows
    assert given_slides(str(tmp_path / "m.csv"), split="y") == rows[1:]


def test_a_folder_has_no_splits_and_an_empty_one_no_slides(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--split takes a manifest"):
        given_slides(str(folder), split="calib")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".a.svs").touch()
    with pytest.raises(InputError, match=r"empty: no slides there \(\.svs, .*; left out: 1 hidden"):
        given_slides(str(tmp_path / "empty"))
    with pytest.raises(NotFoundError):
        given_slides(str(tmp_path / "nowhere"))


def test_decided_slides_keep_their_ids(tmp_path: Path) -> None:
    """Of a screening that was begun with a manifest, and goes on with the folder."""
    bundle = write_tiny_bundle(str(tmp_path / "bundle"))
    write_calibration(str(tmp_path / "bundle"), bundle)
    rows, out = sd.slides(tmp_path / "slides", 2), str(tmp_path / "out")
    with open_ledger(out, arranged([calibrated_bundle(str(tmp_path / "bundle"))])) as book:
        for row in next(book.rounds(rows[:1])):
            assert leases.claim(book.owner, row.slide_id) == "ours"
            result = sd.scored(row, etag=objects.stat(row.uri).etag)
            assert book.commit(result, sd.verdicts(result))
        book.finish(rows[:1])
    ids = [row.slide_id for row in given_slides(str(tmp_path / "slides"), out=out)]
    assert ids == [rows[0].slide_id, objects.name(rows[1].uri)]
    assert ids[0] != objects.name(rows[0].uri)
    assert given_slides(str(tmp_path / "slides"), out=str(tmp_path / "new"))[0].slide_id != ids[0]


@pytest.mark.s3
def test_what_is_a_folder_in_s3(s3: SeaweedServer, tmp_path: Path) -> None:
    root = f"s3://{s3.bucket}/{tmp_path.name}"
    objects.write_bytes(f"{root}/day/a.svs", b"1")
    objects.write_bytes(f"{root}/list", b"slide_id,uri\na,day/a.svs\n")
    assert [is_folder(uri) for uri in (root, f"{root}/", f"{root}/day", f"s3://{s3.bucket}")] == [True] * 4
    assert [is_folder(f"{root}/{name}") for name in ("list", "m.csv", "day/a.svs")] == [False] * 3
    assert [row.slide_id for row in given_slides(f"{root}/day")] == ["a.svs"]
    assert given_slides(f"{root}/list") == [SlideRow("a", f"{root}/day/a.svs")]
