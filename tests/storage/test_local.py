"""Objects on a disk: whole or not at all, under locks that other machines see."""

import shutil
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from uadray.errors import NotFoundError, UadrayError
from uadray.storage import objects


def test_local_writes_leave_nothing_half_done(tmp_path: Path) -> None:
    uri = str(tmp_path / "deep" / "a")
    objects.write_bytes(uri, b"1")
    assert not objects.put_if_absent(uri, b"2")
    (tmp_path / "deep" / ".0123.uadray-tmp").write_bytes(b"left by a crash")
    assert [info.uri for info in objects.list_objects(str(tmp_path))] == [uri]
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == [".0123.uadray-tmp", "a"]


HOLD = """
import sys
from pathlib import Path
from uadray.storage import local
with local._locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_what_is_locked_is_a_file(tmp_path: Path) -> None:
    """Of a lock on a folder other machines do not hear; of one on a file that is open for writing they do, on NFS."""
    objects.write_bytes(f"{tmp_path}/a", b"1")
    etag = objects.stat(f"{tmp_path}/a").etag
    with (
        subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdin=-1, stdout=-1) as process,
        ThreadPoolExecutor(1) as pool,
    ):
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        held = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        (inode,) = [int(line[5].split(":")[2]) for line in held if line[4] == str(process.pid)]
        (path,) = [path for path in (tmp_path, *tmp_path.iterdir()) if path.stat().st_ino == inode]
        assert stat.S_ISREG(path.stat().st_mode)
        waits = pool.submit(objects.replace_if_match, f"{tmp_path}/a", b"2", etag)
        time.sleep(0.2)
        assert not waits.done()
        process.communicate(b"")
        assert waits.result(timeout=20)
    assert [info.uri for info in objects.list_objects(str(tmp_path))] == [f"{tmp_path}/a"]


COUNT = """
import sys
from uadray.errors import ChangedError, NotFoundError
from uadray.storage import objects
uri, done = sys.argv[1], 0
while done < 100:
    info = objects.stat(uri)
    try:
        (data,) = objects.read_ranges(uri, [(0, info.size)], etag=info.etag)
    except (ChangedError, NotFoundError):
        continue
    done += objects.replace_if_match(uri, b"%08d" % (int(data) + 1), info.etag)
"""


def test_two_mounts_of_one_folder_lose_nothing(tmp_path: Path) -> None:
    """A file system that passes on locks of files alone, mounted twice: as two machines see an NFS export."""
    if shutil.which("bindfs") is None or not Path("/dev/fuse").exists():
        pytest.skip("NO BINDFS: apt-get install bindfs, and /dev/fuse")
    mounts = [tmp_path / "one", tmp_path / "two"]
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "n").write_bytes(b"00000000")
    fresh = "attr_timeout=0,entry_timeout=0,negative_timeout=0"
    try:
        for mount in mounts:
            mount.mkdir()
            command = ["bindfs", "--multithreaded", "--enable-lock-forwarding", "-o", fresh, tmp_path / "real", mount]
            subprocess.run(command, check=True)
        counters = [subprocess.Popen([sys.executable, "-c", COUNT, str(mount / "n")]) for mount in mounts]
        assert [counter.wait(timeout=60) for counter in counters] == [0, 0]
    finally:
        for mount in mounts:
            subprocess.run(["fusermount", "-u", mount], check=False, capture_output=True)
    assert (tmp_path / "real" / "n").read_bytes() == b"00000200"


def test_local_trouble_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for uri in [f"{tmp_path}/none", str(tmp_path), f"{tmp_path}/file/below"]:
        with pytest.raises(NotFoundError):
            objects.stat(uri)
    with pytest.raises(UadrayError, match="file/below"):
        objects.write_bytes(f"{tmp_path}/file/below", b"x")
