"""What has arrived: complete slides, each version once, under ids that never change."""

import os
import shutil
from pathlib import Path

import boto3
import pytest
from seaweed import SeaweedServer

from uadray.errors import UnreachableError
from uadray.screening.arrivals import Arrival, Arrivals, slide_id_of
from uadray.slides.folder_index import index_folder
from uadray.slides.identity import slide_etag
from uadray.storage import objects
from uadray.storage.dicom_series import series


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def _ids(arrivals: Arrivals) -> list[str]:
    return sorted(arrival.row.slide_id for arrival in arrivals.look())


def test_a_file_that_grows_is_told_when_it_has_stood_still(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "sub" / "a.svs"
    arrivals = Arrivals(str(tmp_path), settle_s=10, clock=clock)
    path.parent.mkdir()
    for size in (1, 2, 3):
        path.write_bytes(b"x" * size)
        assert _ids(arrivals) == []
        assert arrivals.growing == 1
        clock.now += 9
    assert _ids(arrivals) == []  # 9 s
    clock.now += 1
    (arrival,) = arrivals.look()
    assert (arrival.row.slide_id, arrival.row.uri, arrival.is_change) == ("sub__a.svs", str(path), False)
    assert arrival.etag == slide_etag(arrival.row)
    assert arrivals.growing == 0
    clock.now += 100
    assert _ids(arrivals) == []
    os.utime(path, ns=(1, 1))  # the same size at another time is another version
    assert _ids(arrivals) == []
    clock.now += 10
    assert [arrival.is_change for arrival in arrivals.look()] == [True]
    path.unlink()
    assert _ids(arrivals) == []
    assert arrivals.growing == 0


def test_a_file_that_is_replaced_while_it_settles_settles_anew(tmp_path: Path) -> None:
    clock = Clock()
    arrivals = Arrivals(str(tmp_path), settle_s=10, clock=clock)
    for name in ("a.svs", "b.svs"):
        (tmp_path / name).write_bytes(b"1")
    assert _ids(arrivals) == []
    clock.now += 9
    (tmp_path / "b.svs").write_bytes(b"22")
    assert _ids(arrivals) == []
    clock.now += 1
    assert _ids(arrivals) == ["a.svs"]
    clock.now += 9
    assert _ids(arrivals) == ["b.svs"]


@pytest.mark.s3
def test_an_object_is_told_at_once_and_an_upload_in_parts_when_it_is_there(s3: SeaweedServer, tmp_path: Path) -> None:
    root = f"s3://{s3.bucket}/{tmp_path.name}"
    arrivals = Arrivals(root, settle_s=1e9)
    assert _ids(arrivals) == []
    objects.write_bytes(f"{root}/a.svs", b"1")
    objects.write_bytes(f"{root}/a.txt", b"1")
    assert _ids(arrivals) == ["a.svs"]
    client, place = boto3.client("s3"), {"Bucket": s3.bucket, "Key": f"{tmp_path.name}/day/b.tif"}
    upload = client.create_multipart_upload(**place)["UploadId"]
    part = client.upload_part(**place, UploadId=upload, PartNumber=1, Body=b"x" * 5 * 2**20)
    assert _ids(arrivals) == []
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    client.complete_multipart_upload(**place, UploadId=upload, MultipartUpload=parts)
    (arrival,) = arrivals.look()
    assert (arrival.row.slide_id, arrival.etag) == ("day__b.tif", slide_etag(arrival.row))
    objects.write_bytes(f"{root}/a.svs", b"2")
    assert [(arrival.row.slide_id, arrival.is_change) for arrival in arrivals.look()] == [("a.svs", True)]
    assert _ids(arrivals) == []


@pytest.mark.s3
def test_slides_of_many_files_settle_in_a_bucket_too(s3: SeaweedServer, tmp_path: Path, data_dir: Path) -> None:
    root, clock = f"s3://{s3.bucket}/{tmp_path.name}", Clock()
    arrivals = Arrivals(root, settle_s=10, clock=clock)
    dicom = [(data_dir / "wsi" / f"boxes_{i}.dcm").read_bytes() for i in range(2)]
    objects.write_bytes(f"{root}/m.mrxs", b"1")
    objects.write_bytes(f"{root}/d/x.dcm", dicom[1])
    objects.write_bytes(f"{root}/d/note.dcm", b"no DICOM")
    assert _ids(arrivals) == []
    assert arrivals.left_out == {"MRXS without its folder": 1}
    clock.now += 9
    objects.write_bytes(f"{root}/m/deep/Data0000.dat", b"1")
    objects.write_bytes(f"{root}/d/a.dcm", dicom[0])
    assert _ids(arrivals) == []
    clock.now += 10
    told = {arrival.row.slide_id: arrival for arrival in arrivals.look()}
    assert sorted(told) == [f"d__{series(objects.stat(f'{root}/d/a.dcm'))}", "m.mrxs"]
    assert {objects.name(arrival.row.uri) for arrival in told.values()} == {"m.mrxs", "a.dcm"}
    assert {arrival.etag for arrival in told.values()} == {None}
    assert arrivals.left_out == {"no DICOM series can be read in it": 1}
    objects.write_bytes(f"{root}/m/Data0001.dat", b"1")
    shutil.copy(data_dir / "wsi" / "jpeg.dicom", tmp_path / "z.dicom")
    objects.write_bytes(f"{root}/d/z.dicom", (tmp_path / "z.dicom").read_bytes())
    assert _ids(arrivals) == []
    clock.now += 10
    again = {arrival.row.slide_id: arrival.is_change for arrival in arrivals.look()}
    assert again.pop("m.mrxs") is True
    assert list(again.values()) == [False]  # the other series alone; the first has not changed
    assert _ids(arrivals) == []


def test_what_is_told_is_what_index_finds(tmp_path: Path, data_dir: Path) -> None:
    for name in ("a.svs", "two.svs", "two.tif", "p 1/b.SVS", ".c.svs", ".x/y.svs", "m.mrxs", "m/Data0000.dat", "n.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    shutil.copy(data_dir / "wsi" / "boxes_0.dcm", tmp_path / "p 1" / "x.dcm")
    (tmp_path / "dead.svs").symlink_to("nowhere.svs")
    arrivals = Arrivals(str(tmp_path), settle_s=0)
    told = list(arrivals.look())
    assert sorted(arrival.row.uri for arrival in told) == [row.uri for row in index_folder(str(tmp_path))]
    assert dict(arrivals.left_out) == {"hidden": 2, "a link that leads nowhere": 1}


def test_ids_depend_on_nothing_else(tmp_path: Path) -> None:
    """Also where paths could be mistaken for one another; a slide that has an id already keeps it."""
    paths = ["a/b.svs", "a__b.svs", "a/b.tif", "a_/b.svs", "a/_b.svs"]
    assert len({slide_id_of(path) for path in paths}) == len(paths)
    assert [slide_id_of(path) for path in paths[:1]] == ["a__b.svs"]
    for path in [*paths, "line\nbreak.svs", "x" * 201 + ".svs"]:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    arrivals = Arrivals(str(tmp_path), settle_s=0, ids={str(tmp_path / "a/b.tif"): "old"})
    assert _ids(arrivals) == sorted(["old", *(slide_id_of(path) for path in paths if path != "a/b.tif")])
    assert sum(arrivals.left_out.values()) == 2


def test_a_folder_that_is_gone_is_no_empty_folder(tmp_path: Path) -> None:
    """A share that is not mounted any more; when it is back nothing is told again."""
    folder = tmp_path / "slides"
    folder.mkdir()
    (folder / "a.svs").touch()
    arrivals = Arrivals(str(folder), settle_s=0)
    assert _ids(arrivals) == ["a.svs"]
    folder.rename(tmp_path / "away")
    with pytest.raises(UnreachableError, match="the folder is not there"):
        list(arrivals.look())
    (tmp_path / "away").rename(folder)
    assert list[Arrival](arrivals.look()) == []
