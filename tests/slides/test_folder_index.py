"""The slides of a folder: their ids, and what is left out."""

import os
import shutil
from pathlib import Path

import pytest

from uadray.errors import InputError
from uadray.slides.folder_index import index_folder
from uadray.slides.manifest import read_manifest, write_manifest


def test_index_of_a_folder(tmp_path: Path) -> None:
    for name in [
        "a.svs",
        "p 1/b.SVS",
        "p 1/deep/b.tif",
        "p__1.svs",
        "two.svs",
        "two.tif",
        "._a.svs",
        ".x/y.svs",
        "n.txt",
    ]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert {row.slide_id: row.uri.removeprefix(f"{tmp_path}/") for row in index_folder(str(tmp_path))} == {
        "a": "a.svs",
        "p 1__b": "p 1/b.SVS",
        "p 1__deep__b": "p 1/deep/b.tif",
        "p__1": "p__1.svs",
        "two.svs": "two.svs",
        "two.tif": "two.tif",
    }
    write_manifest(index_folder(str(tmp_path)), str(tmp_path / "m.csv"))
    assert read_manifest(str(tmp_path / "m.csv")) == index_folder(str(tmp_path))


def test_index_says_what_it_leaves_out(tmp_path: Path) -> None:
    """A name that is no UTF-8, links, and whatever is no slide by its suffix."""
    (tmp_path / "sub").mkdir()
    for name in (
        "a.svs",
        "sub/b.tif",
        "notes.txt",
        "more.TXT",
        "README",
        ".c.svs",
        "line\nbreak.svs",
        "é" * 120 + ".tif",
    ):
        (tmp_path / name).touch()
    Path(os.fsdecode(os.fsencode(tmp_path / "sub") + b"/d\xe9.svs")).touch()
    (tmp_path / "dead.svs").symlink_to("nowhere.svs")
    (tmp_path / "self.svs").symlink_to("self.svs")
    (tmp_path / "live.svs").symlink_to("sub/b.tif")
    (tmp_path / "linked").symlink_to("sub")
    os.mkfifo(tmp_path / "pipe.svs")
    left_out: dict[str, list[str]] = {}
    rows = index_folder(str(tmp_path), left_out=left_out)
    assert [row.slide_id for row in rows] == ["a", "live", "sub__b"]
    assert {reason: sorted(paths) for reason, paths in left_out.items()} == {
        "its name is no UTF-8": ["sub/d\\xe9.svs"],
        "a link that leads nowhere": ["dead.svs", "self.svs"],
        "a link to a folder": ["linked"],
        "not a file": ["pipe.svs"],
        "hidden": [".c.svs"],
        "suffix .txt": ["more.TXT", "notes.txt"],
        "no suffix": ["README"],
        "its id would not be a file name": ["line\nbreak.svs"],
        "its id would have more than 200 bytes": ["é" * 120 + ".tif"],
    }
    write_manifest(rows, str(tmp_path / "m.csv"))
    assert read_manifest(str(tmp_path / "m.csv")) == rows


def test_index_takes_a_dicom_series_for_a_slide(tmp_path: Path, data_dir: Path) -> None:
    """Wherever its files lie together; the files of an MRXS slide are its own."""
    wsi = data_dir / "wsi"
    for name in ("one", "two", "m"):
        (tmp_path / name).mkdir()
    for copy in ("one/x0.dcm", "two/y.DCM"):
        shutil.copy(wsi / "boxes_0.dcm", tmp_path / copy)
    shutil.copy(wsi / "boxes_1.dcm", tmp_path / "one" / "x1.dcm")
    shutil.copy(wsi / "jpeg.dicom", tmp_path / "one" / "z.dicom")
    (tmp_path / "one" / "broken.dcm").write_bytes(b"no DICOM")
    (tmp_path / "m.mrxs").touch()
    (tmp_path / "m" / "Data0000.dat").touch()
    left_out: dict[str, list[str]] = {}
    rows = index_folder(str(tmp_path), left_out=left_out)
    assert [row.slide_id for row in rows] == ["m", "one__x0", "one__z", "two__y"]
    assert left_out == {"no DICOM series can be read in it": ["one/broken.dcm"]}


def test_index_refuses_what_it_cannot_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no slides there"):
        index_folder(str(tmp_path))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.svs").touch()
    (tmp_path / "a__b.svs").touch()
    with pytest.raises(InputError, match=r"slide_id 'a__b\.svs' is there 2 times: /.*b\.svs"):
        index_folder(str(tmp_path))
