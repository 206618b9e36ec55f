"""Copies of slides: downloaded once, whole or not at all, with all files of the slide."""

import hashlib
import os
import signal
import struct
from functools import partial
from pathlib import Path

import numpy as np
import openslide
import pytest
from seaweed import SeaweedServer
from storage.cached_slides import MIB, before, contents, copy_of, entries, put, put_mrxs, start_copy, used_bytes

from uadray.errors import BusyError, ChangedError, FullError, InputError, NotFoundError
from uadray.storage import objects, slide_copy
from uadray.storage.local_copies import local_copy
from uadray.storage.slide_files import slide_files, slide_stat


def test_a_local_slide_is_used_where_it_lies(tmp_path: Path, cache_folder: Path) -> None:
    (tmp_path / "a.svs").write_bytes(b"x")
    etag = objects.stat(str(tmp_path / "a.svs")).etag
    for uri in [str(tmp_path / "a.svs"), (tmp_path / "a.svs").as_uri()]:
        with local_copy(uri, etag=etag) as path:
            assert path == tmp_path / "a.svs"
    assert not cache_folder.exists()
    with pytest.raises(NotFoundError), local_copy(str(tmp_path / "b.svs")):
        pass
    with pytest.raises(ChangedError), local_copy(str(tmp_path / "a.svs"), etag="other"):
        pass


@pytest.mark.s3
@pytest.mark.parametrize("size", [0, 1, 8 * MIB, 16 * MIB + 1])
def test_an_object_is_copied_once(
    s3: SeaweedServer, cache_folder: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("uadray.storage.s3._MULTIPART_BYTES", 9 * MIB)
    uri, data = put(s3, "slide one.svs", size)
    assert ("-" in objects.stat(uri).etag) == (size > 9 * MIB)  # uploaded in parts
    with local_copy(uri) as path:
        assert copy_of(path).parent == cache_folder
        assert path.name == "slide.svs"
        assert path.read_bytes() == data
        first = path.stat()
    with local_copy(uri, slide_id="one") as path:
        assert (path.stat().st_ino, path.stat().st_size) == (first.st_ino, size)
    assert entries(cache_folder) == [copy_of(path)]


@pytest.mark.s3
def test_a_changed_object_is_copied_anew(s3: SeaweedServer, cache_folder: Path) -> None:
    uri, _ = put(s3, "changing.svs")
    etag = objects.stat(uri).etag
    with local_copy(uri, etag=etag) as old:
        objects.write_bytes(uri, b"new")
        with local_copy(uri) as new:
            assert new != old
            assert new.read_bytes() == b"new"
        assert old.stat().st_size == MIB
    with pytest.raises(ChangedError, match="has changed"), local_copy(uri, etag=etag):
        pass


MRXS = {"Slidedat.ini": 500, "Index.dat": 2000, "Data0000.dat": MIB - 3500, "Data0001.dat": 0}


@pytest.mark.s3
def test_two_processes_download_once(s3: SeaweedServer, cache_folder: Path) -> None:
    (file_uri, data), (folder_uri, files) = put(s3, "twice.svs"), put_mrxs(s3, "twice", MRXS)
    processes = [start_copy(file_uri, folder_uri, delay_s=0.3) for _ in range(2)]
    said = [process.communicate(timeout=60)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sum(words.count("fetch") for words in said) == 1 + 4  # Data0001.dat is empty
    assert len(entries(cache_folder)) == 2
    with local_copy(file_uri) as path, local_copy(folder_uri) as main:
        assert all(set(words) - {"fetch"} == {str(path), str(main)} for words in said)
        assert path.read_bytes() == data
        assert contents(main) == files


@pytest.mark.s3
def test_what_a_killed_process_leaves_is_cleared(
    s3: SeaweedServer, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UADRAY_CACHE_BYTES", str(2 * MIB))
    (file_uri, data), (folder_uri, files) = put(s3, "killed.svs"), put_mrxs(s3, "killed", MRXS)
    with start_copy(file_uri, folder_uri, delay_s=60) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["fetch\n"] * 2
        left = entries(cache_folder)
        assert [(path.suffix, slide_copy.slide_bytes(path)) for path in left] == [(".part", MIB)] * 2
        with pytest.raises(BusyError, match="in use"), local_copy(put(s3, "other-1.svs")[0], wait_s=0):
            pass  # it lives, and holds what it has
        process.send_signal(signal.SIGKILL)
    with local_copy(put(s3, "other-1.svs")[0]), local_copy(put(s3, "other-2.svs")[0]):
        assert not any(path.exists() for path in left)  # they took room that was wanted
    with local_copy(file_uri) as path:
        assert path.read_bytes() == data
    with local_copy(folder_uri) as path:
        assert contents(path) == files


@pytest.mark.s3
def test_a_leftover_of_the_same_slide_is_emptied(s3: SeaweedServer, cache_folder: Path) -> None:
    uri, data = put(s3, "again.svs")
    with local_copy(uri) as path:
        copy = copy_of(path)
    copy.rename(copy.with_name(copy.name + ".part"))
    (copy.with_name(copy.name + ".part") / "files" / "other.svs").write_bytes(b"half" * 2 * MIB)
    with local_copy(uri) as path:
        assert contents(path) == {"slide.svs": data}
    assert entries(cache_folder) == [copy]


def series_in(server: SeaweedServer, data_dir: Path, prefix: str) -> str:
    """A folder with a DICOM series of two files, another series, a slide, and a folder below; returns its URI."""
    root = f"s3://{server.bucket}/cache/{prefix}"
    for name in ("boxes_0.dcm", "boxes_1.dcm", "jpeg.dicom", "small.svs"):
        objects.write_bytes(f"{root}/{name}", (data_dir / "wsi" / name).read_bytes())
    objects.write_bytes(f"{root}/older/boxes_2.dcm", (data_dir / "wsi" / "boxes_0.dcm").read_bytes())
    return root


def pixels(path: Path) -> list[bytes]:
    with openslide.OpenSlide(str(path)) as slide:
        return [slide.read_region((0, 0), n, size).tobytes() for n, size in enumerate(slide.level_dimensions)]


@pytest.mark.s3
def test_a_dicom_file_stands_for_its_series(s3: SeaweedServer, cache_folder: Path, data_dir: Path) -> None:
    root, wsi = series_in(s3, data_dir, "dicom"), data_dir / "wsi"
    for name, others in (("boxes_1.dcm", ["boxes_0.dcm"]), ("boxes_0.dcm", ["boxes_1.dcm"]), ("jpeg.dicom", [])):
        version = slide_stat(f"{root}/{name}")
        assert version.size == sum((wsi / file).stat().st_size for file in (name, *others))
        with local_copy(f"{root}/{name}", etag=version.etag) as path:
            staged = {hashlib.md5(data).digest() for data in contents(path).values()}  # noqa: S324
            assert staged == {hashlib.md5((wsi / file).read_bytes()).digest() for file in (name, *others)}  # noqa: S324
            assert pixels(path) == pixels(wsi / name)
    alone = cache_folder.parent / "alone.dcm"
    alone.write_bytes((wsi / "boxes_1.dcm").read_bytes())
    with pytest.raises(openslide.OpenSlideError, match="No pyramid levels"):
        pixels(alone)  # a thumbnail: without its series it is no slide


def test_a_local_series_has_the_version_of_all_its_files(tmp_path: Path, data_dir: Path) -> None:
    for name in ("boxes_0.dcm", "boxes_1.dcm"):
        (tmp_path / name).write_bytes((data_dir / "wsi" / name).read_bytes())
    uri = (tmp_path / "boxes_0.dcm").as_uri()
    first = slide_stat(uri).etag
    for etag in (first, objects.stat(uri).etag):
        with local_copy(uri, etag=etag) as path:
            assert path == tmp_path / "boxes_0.dcm"
    os.utime(tmp_path / "boxes_1.dcm", ns=(1, 1))
    assert slide_stat(uri).etag != first
    with pytest.raises(ChangedError, match="the slide has changed"), local_copy(uri, etag=first):
        pass


def ngr(rgb: np.ndarray) -> bytes:
    """An image in the format of VMU slides: 12 bits a channel, uncompressed."""
    height, width, _ = rgb.shape
    header = struct.pack("<2s2xiii", b"GN", width, height, width).ljust(24, b"\0") + struct.pack("<i", 28)
    return header + (rgb.astype("<u2") << 4).tobytes()


@pytest.mark.s3
def test_a_key_file_stands_for_what_it_names(s3: SeaweedServer, cache_folder: Path) -> None:
    """A small VMU that OpenSlide opens; VMS is the same with JPEGs."""
    root = f"s3://{s3.bucket}/cache/vmu"
    image = np.random.default_rng(0).integers(0, 256, (64, 128, 3))
    keys = "[Uncompressed Virtual Microscope Specimen]\nMapFile=map 1.ngr\nBitsPerPixel=36\nPixelOrder=RGB\n"
    keys += "ImageFile={}\nImageFile(1)=other focal plane.ngr\nOptimisationFile=not there.opt\n"
    objects.write_bytes(f"{root}/full.ngr", ngr(image))
    objects.write_bytes(f"{root}/map 1.ngr", ngr(image[::8, ::8]))
    objects.write_bytes(f"{root}/a.vmu", keys.format("full.ngr").encode())
    with local_copy(f"{root}/a.vmu") as path, openslide.OpenSlide(str(path)) as slide:
        assert set(contents(path)) == {"slide.vmu", "full.ngr", "map 1.ngr"}
        assert (np.asarray(slide.read_region((0, 0), 0, (128, 64)))[..., :3] == image).all()
    for named, message in (
        ("gone.ngr", "names the file 'gone.ngr', which is not beside it"),
        ("../vmu/full.ngr", "names the file '../vmu/full.ngr', expected one beside it"),
        ("/etc/passwd", "expected one beside it"),
        ("..", "cannot be the name of a file"),
    ):
        objects.write_bytes(f"{root}/b.vmu", keys.format(named).encode())
        with pytest.raises(InputError, match=message), local_copy(f"{root}/b.vmu"):
            pass
    objects.write_bytes(f"{root}/b.vmu", b"ImageFile=1\n")
    with pytest.raises(InputError, match="not a key file"), local_copy(f"{root}/b.vmu"):
        pass
    objects.write_bytes(f"{root}/b.vmu", b"x" * 100_000)
    with pytest.raises(InputError, match="100000 bytes, expected a key file of 65536"), local_copy(f"{root}/b.vmu"):
        pass


@pytest.mark.s3
def test_an_mrxs_comes_with_its_folder(s3: SeaweedServer, cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri, files = put_mrxs(s3, "with", MRXS | {"deep/Data 2.dat": 7})
    monkeypatch.setenv("UADRAY_CACHE_BYTES", str(2 * MIB))
    with local_copy(uri, etag=slide_stat(uri).etag) as path:
        assert contents(path) == files
    with local_copy(uri, etag=objects.stat(uri).etag) as again:
        assert again == path
    assert used_bytes(cache_folder) == slide_stat(uri).size == sum(map(len, files.values()))
    with local_copy(put(s3, "single.svs")[0]):  # both do not fit: the whole folder makes room
        assert len(entries(cache_folder)) == 1
    monkeypatch.setenv("UADRAY_CACHE_BYTES", str(MIB))
    with pytest.raises(FullError, match="UADRAY_CACHE_BYTES allows"), local_copy(uri):
        pass
    with pytest.raises(NotFoundError, match=r"bare\.mrxs: nothing is in .*/bare/"):
        slide_files(put(s3, "bare.mrxs", 1)[0])
    monkeypatch.setattr("uadray.storage.slide_files.MAX_FILES", 4)
    with pytest.raises(InputError, match=r"with\.mrxs: more than 4 objects in .*/with/, expected the files of one"):
        slide_files(uri)


@pytest.mark.s3
@pytest.mark.parametrize("fetch", [3, 4])
def test_a_member_replaced_or_added_while_the_slide_is_staged(
    s3: SeaweedServer, cache_folder: Path, fetch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`Data0000.dat` is the second file that is fetched: one that is replaced afterwards was not torn, but is mixed."""
    sizes = {"Data0000.dat": 100, "Index.dat": 200, "Slidedat.ini": 300}
    for name in ("Data0000.dat", "Data0001.dat", "Slidedat.ini"):
        uri, _ = put_mrxs(s3, f"replaced-{fetch}-{name}", sizes)
        with monkeypatch.context() as patch:
            new = f"{uri.removesuffix('.mrxs')}/{name}"
            before(patch, partial(objects.write_bytes, new, b"x"), fetch=fetch)
            with pytest.raises(ChangedError, match="changed since it was looked at"), local_copy(uri):
                pass
        assert entries(cache_folder) == []
