"""Storage: the same contract in a folder and on a real S3 server, and what is said when something is wrong."""

import hashlib
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fault_proxy import FaultProxy, Request
from seaweed import SeaweedServer, free_port

from uadray.errors import (
    AccessError,
    ChangedError,
    InputError,
    NoBucketError,
    NotFoundError,
    UadrayError,
    UnreachableError,
)
from uadray.storage import objects
from uadray.storage import s3_client as s3_module
from uadray.storage.s3 import join_ranges

KEYS = ["a.svs", "folder b/ü ö.svs", "100%.svs", "x%20y.svs", "a#b?.svs", "~t*[1]&+.svs"]


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh folder, once on the disk and once in the bucket."""
    if request.param == "local":
        return str(tmp_path / "root")
    server: SeaweedServer = request.getfixturevalue("s3")
    return f"s3://{server.bucket}/{tmp_path.name}"


@pytest.mark.parametrize("key", KEYS)
def test_what_is_written_is_read_and_listed(root: str, key: str) -> None:
    uri = objects.join(root, key)
    assert not objects.exists(uri)
    objects.write_bytes(uri, b"0123456789")
    info = objects.stat(uri)
    assert (info.uri, info.size) == (uri, 10)
    assert objects.read_bytes(uri) == b"0123456789"
    assert objects.read_ranges(uri, [(8, 10), (0, 3), (4, 4), (1, 2)], etag=info.etag) == [b"89", b"012", b"", b"1"]
    assert [found.uri for found in objects.list_objects(root)] == [uri]
    objects.delete(uri)
    objects.delete(uri)
    assert not objects.exists(uri)


def test_etag_changes_with_content(root: str) -> None:
    uri = objects.join(root, "a")
    objects.write_bytes(uri, b"old")
    before = objects.stat(uri)
    assert objects.stat(uri) == before
    objects.write_bytes(uri, b"newer")
    assert objects.stat(uri).etag != before.etag
    with pytest.raises(ChangedError, match="has changed"):
        objects.read_ranges(uri, [(0, 2)], etag=before.etag)
    assert objects.read_ranges(uri, [(0, 2)], etag=None) == [b"ne"]


def test_ranges_outside_the_object_are_refused(root: str) -> None:
    uri = objects.join(root, "a")
    objects.write_bytes(uri, b"0123456789")
    for wrong in [(5, 11), (20, 30)]:
        with pytest.raises(InputError, match="has 10 bytes"):
            objects.read_ranges(uri, [wrong], etag=None)
    for impossible in [(-1, 3), (4, 2)]:
        with pytest.raises(InputError, match="not a byte range"):
            objects.read_ranges(uri, [impossible], etag=None)


def test_many_ranges_come_back_in_order(root: str) -> None:
    uri = objects.join(root, "a")
    data = os.urandom(3_000_000)
    objects.write_bytes(uri, data)
    ranges = [((i * 7_919_993) % 2_900_000, (i * 7_919_993) % 2_900_000 + 997) for i in range(500)]
    assert objects.read_ranges(uri, ranges, etag=objects.stat(uri).etag) == [data[a:b] for a, b in ranges]


def test_reading_refuses_more_than_asked_for(root: str) -> None:
    uri = objects.join(root, "a")
    objects.write_bytes(uri, b"0123")
    assert objects.read_bytes(uri, max_bytes=4) == b"0123"
    with pytest.raises(InputError, match="4 bytes, expected 3 at most"):
        objects.read_bytes(uri, max_bytes=3)


def test_listing_is_of_a_folder_not_of_a_prefix(root: str) -> None:
    for key in ["a/1.SVS", "a/b/2.svs", "a/3.txt", "ab/4.svs"]:
        objects.write_bytes(objects.join(root, key), b"x")
    found = [info.uri.removeprefix(root) for info in objects.list_objects(objects.join(root, "a"), suffixes=(".svs",))]
    assert found == ["/a/1.SVS", "/a/b/2.svs"]
    assert list(objects.list_objects(objects.join(root, "nowhere"))) == []


def test_of_sixteen_creators_one_wins(root: str) -> None:
    uri = objects.join(root, "decision.json")
    barrier = threading.Barrier(16)

    def create(number: int) -> bool:
        barrier.wait()
        return objects.put_if_absent(uri, f"creator {number}".encode())

    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(create, range(16)))
    assert won.count(True) == 1
    assert objects.read_bytes(uri) == f"creator {won.index(True)}".encode()


def test_of_sixteen_replacers_one_wins_each_round(root: str) -> None:
    uri = objects.join(root, "lease.json")
    assert not objects.replace_if_match(uri, b"0", "no such etag")
    objects.write_bytes(uri, b"start")
    for turn in range(5):  # new content each turn: an S3 etag is its hash
        etag = objects.stat(uri).etag
        with ThreadPoolExecutor(16) as pool:
            won = list(pool.map(lambda n: objects.replace_if_match(uri, f"{turn} {n}".encode(), etag), range(16)))  # noqa: B023
        assert won.count(True) == 1
        assert objects.read_bytes(uri) == f"{turn} {won.index(True)}".encode()


def test_conditions_that_a_place_honours(root: str) -> None:
    objects.check_conditional_puts(objects.join(root, "out"))
    assert list(objects.list_objects(root)) == []


def _without(header: str) -> Callable[[Request], str | None]:
    """What a gateway does that knows nothing of one kind of condition."""
    return lambda request: "unconditional" if header in request.conditions else None


@pytest.mark.s3
@pytest.mark.parametrize("header", ["if-none-match", "if-match"])
def test_a_store_that_ignores_conditions_is_refused(
    s3: SeaweedServer, monkeypatch: pytest.MonkeyPatch, header: str
) -> None:
    out = f"s3://{s3.bucket}/ignores"
    with FaultProxy(s3.endpoint, _without(header)) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        with pytest.raises(InputError, match=rf"(?i){out}: this store does not honour {header}: .* use Amazon S3") as e:
            objects.check_conditional_puts(out)
        assert "\n" not in str(e.value)
        assert list(objects.list_objects(out)) == []
        assert proxy.faults["unconditional"] >= 1


@pytest.mark.s3
def test_looking_whether_conditions_are_honoured_is_cheap(s3: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultProxy(s3.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        objects.check_conditional_puts(f"s3://{s3.bucket}/cheap")
        assert [request.method for request in proxy.requests] == ["PUT", "PUT", "PUT", "HEAD", "PUT", "DELETE"]


@pytest.mark.s3
def test_a_server_without_conditional_puts(s3: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some say so, by a 501; it is not asked again for two minutes."""
    with FaultProxy(s3.endpoint, lambda request: "501 NotImplemented" if request.conditions else None) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        assert not objects.exists(f"s3://{s3.bucket}/none")
        began = time.monotonic()
        with pytest.raises(InputError, match="cannot do what was asked for: NotImplemented"):
            objects.check_conditional_puts(f"s3://{s3.bucket}/none")
        assert time.monotonic() - began < 20


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


def test_uris() -> None:
    assert objects.resolve("a.svs", "/data") == "/data/a.svs"
    assert objects.resolve("../b.svs", "/data/m") == "/data/b.svs"
    assert objects.resolve("file:///data/a%20b.svs", "s3://bucket/m") == "/data/a b.svs"
    assert objects.resolve("a.svs", "s3://bucket") == "s3://bucket/a.svs"
    assert objects.resolve("s3://other/a.svs", "/data") == "s3://other/a.svs"
    assert objects.resolve("a.svs", ".") == str(Path.cwd() / "a.svs")


@pytest.mark.parametrize(
    ("uri", "base", "message"),
    [
        ("http://host/a.svs", "/data", "http:// is not supported"),
        ("ftp://host/a.svs", "s3://bucket/m", "ftp:// is not supported"),
        ("/etc/passwd", "s3://bucket/m", "absolute path in a manifest"),
        ("../../a.svs", "s3://bucket/m", "leads out of the bucket"),
        ("file://host/a.svs", "/data", "expected a local path"),
        ("", "/data", "expected a path"),
        ("a\0b", "/data", "expected a path"),
    ],
)
def test_uris_that_are_refused(uri: str, base: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        objects.resolve(uri, base)


def test_joined_ranges_cover_what_was_asked() -> None:
    ranges = [(0, 9_000_000), (0, 10), (70_000, 80_000), (9_000_100, 9_000_200), (20_000_000, 20_000_001)]
    spans = join_ranges(ranges)
    assert spans == sorted(spans)
    for start, stop in ranges:
        last = max(span for span in spans if span[0] <= start)
        assert last[0] <= start
        assert stop <= last[1]


@pytest.mark.s3
def test_odd_keys_are_read_too(s3: SeaweedServer) -> None:
    """The Rust client refuses empty parts and control characters in a key; boto3 reads those."""
    for key in ["odd//a.svs", "tab\there.svs"]:
        uri = f"s3://{s3.bucket}/{key}"
        objects.write_bytes(uri, b"0123")
        etag = objects.stat(uri).etag
        assert objects.read_ranges(uri, [(1, 3)], etag=etag) == [b"12"]
        with pytest.raises(ChangedError):
            objects.read_ranges(uri, [(1, 3)], etag="0" * 32)
        objects.delete(uri)


@pytest.mark.s3
def test_large_objects_go_up_in_parts(s3: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uadray.storage.s3._MULTIPART_BYTES", 8 * 2**20)
    uri, data = f"s3://{s3.bucket}/large", os.urandom(18 * 2**20)
    objects.write_bytes(uri, data, content_type="application/octet-stream")
    info = objects.stat(uri)
    assert info.etag.endswith("-3")
    assert objects.read_ranges(uri, [(8 * 2**20 - 5, 8 * 2**20 + 5)], etag=info.etag) == [data[8 * 2**20 - 5 :][:10]]
    assert objects.read_bytes(uri) == data


def _asks(uri: str) -> list[object]:
    """Every way to ask: all of them have to fail alike."""
    return [
        lambda: objects.stat(uri),
        lambda: objects.exists(uri),
        lambda: objects.read_bytes(uri),
        lambda: objects.read_ranges(uri, [(0, 1)], etag=None),
        lambda: list(objects.list_objects(objects.parent(uri))),
        lambda: objects.write_bytes(uri, b"x"),
        lambda: objects.put_if_absent(uri, b"x"),
        lambda: objects.delete(uri),
    ]


def _assert_all_fail(uri: str, error: type[Exception], message: str, *, but: tuple[int, ...] = ()) -> None:
    for number, ask in enumerate(_asks(uri)):
        if number not in but:
            with pytest.raises(error, match=message) as caught:
                ask()  # type: ignore[operator]
            assert "\n" not in str(caught.value)
            assert "s3cret" not in str(caught.value)


@pytest.mark.s3
def test_missing_bucket(s3: SeaweedServer) -> None:
    _assert_all_fail("s3://nowhere/a.svs", NotFoundError, "no bucket nowhere at http://127", but=(7,))


@pytest.mark.s3
def test_a_key_may_say_no_bucket(s3: SeaweedServer) -> None:
    assert not objects.exists(f"s3://{s3.bucket}/there is no bucket here.svs")
    with pytest.raises(NoBucketError):
        objects.exists("s3://nowhere/a.svs")


@pytest.mark.s3
@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("400 ExpiredToken", "the session token has expired: renew it"),
        ("400 InvalidToken", "does not belong to these keys"),
        ("403 RequestTimeTooSkewed", "this machine's clock is wrong"),
        ("400 AuthorizationHeaderMalformed", "set AWS_DEFAULT_REGION to the bucket's region"),
    ],
)
def test_who_asks_when_and_where(s3: SeaweedServer, monkeypatch: pytest.MonkeyPatch, answer: str, message: str) -> None:
    """A server's refusals that are not about the object are never taken for a fault of it."""
    with FaultProxy(s3.endpoint, lambda request: answer) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        _assert_all_fail(f"s3://{s3.bucket}/a.svs", AccessError, f"{answer.split()[1]}.*{message}.*check AWS_")


@pytest.mark.s3
def test_missing_object(s3: SeaweedServer) -> None:
    uri = f"s3://{s3.bucket}/nothing.svs"
    for ask in (objects.stat, objects.read_bytes, lambda u: objects.read_ranges(u, [(0, 1)], etag=None)):
        with pytest.raises(NotFoundError, match="no such object"):
            ask(uri)


@pytest.mark.s3
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("AWS_SECRET_ACCESS_KEY", "wrong", "SignatureDoesNotMatch.*check AWS_ACCESS_KEY_ID"),
        ("AWS_ACCESS_KEY_ID", "wrong", "InvalidAccessKeyId"),
    ],
)
def test_wrong_keys(s3: SeaweedServer, monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str) -> None:
    monkeypatch.setenv(name, value)
    _assert_all_fail(f"s3://{s3.bucket}/a.svs", AccessError, message)


@pytest.mark.s3
def test_a_profile_is_used_and_named(s3: SeaweedServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    keys = (s3.env["AWS_ACCESS_KEY_ID"], s3.env["AWS_SECRET_ACCESS_KEY"])
    config = "[profile {}]\naws_access_key_id = {}\naws_secret_access_key = {}\nregion = eu-west-1\nendpoint_url = {}\n"
    (tmp_path / "config").write_text(
        config.format("archive", *keys, s3.endpoint) + config.format("wrong", keys[0], "x", s3.endpoint)
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    uri = f"s3://{s3.bucket}/profile.svs"
    monkeypatch.setenv("AWS_PROFILE", "archive")
    objects.write_bytes(uri, b"0123")
    assert objects.read_ranges(uri, [(1, 2)], etag=objects.stat(uri).etag) == [b"1"]
    filesystem, path = objects.pyarrow_filesystem(uri)
    assert filesystem.get_file_info(path).size == 4
    monkeypatch.setenv("AWS_PROFILE", "wrong")
    _assert_all_fail(uri, AccessError, "check profile wrong")
    monkeypatch.setenv("AWS_PROFILE", "missing")
    _assert_all_fail(uri, AccessError, "missing.* could not be found")


STAT = """
from uadray.errors import AccessError
from uadray.storage import objects
try:
    objects.stat("s3://slides/a.svs")
except AccessError as error:
    print(error)
"""


def test_a_login_that_has_expired(tmp_path: Path) -> None:
    """As `aws sso login` leaves it behind the next day. In a process of its own: botocore looks for HOME on import."""
    profile = "[profile archive]\nsso_session = hospital\nsso_account_id = 123456789012\nsso_role_name = reader\n"
    session = "[sso-session hospital]\nsso_region = eu-west-1\nsso_start_url = https://hospital.awsapps.com/start\n"
    cached = {"accessToken": "x", "expiresAt": "2020-01-01T00:00:00Z", "region": "eu-west-1"}
    cache = tmp_path / ".aws" / "sso" / "cache"
    cache.mkdir(parents=True)
    (tmp_path / ".aws" / "config").write_text(profile + session + "[default]\nregion = eu-west-1\n")
    (cache / f"{hashlib.sha1(b'hospital').hexdigest()}.json").write_text(json.dumps(cached))  # noqa: S324
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    env = kept | {"HOME": str(tmp_path), "AWS_PROFILE": "archive", "AWS_EC2_METADATA_DISABLED": "true"}
    done = subprocess.run([sys.executable, "-c", STAT], env=env, capture_output=True, text=True, check=True, timeout=60)
    assert "Token has expired and refresh failed; log in again (`aws sso login`), or check AWS_PROFILE" in done.stdout


@pytest.mark.s3
def test_without_credentials_requests_are_unsigned(s3: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    public = f"s3://{s3.public_bucket}/unsigned/open.svs"
    objects.write_bytes(public, b"0123")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert [info.uri for info in objects.list_objects(f"s3://{s3.public_bucket}/unsigned")] == [public]
    assert objects.read_bytes(public) == b"0123"
    assert objects.read_ranges(public, [(1, 2)], etag=objects.stat(public).etag) == [b"1"]
    filesystem, path = objects.pyarrow_filesystem(public)
    assert filesystem.get_file_info(path).size == 4
    with pytest.raises(AccessError, match="anonymous"):
        objects.write_bytes(public, b"x")
    with pytest.raises(AccessError, match="the request was anonymous"):
        objects.stat(f"s3://{s3.bucket}/a.svs")


def test_no_one_at_the_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setattr(s3_module, "TRIES", 2)
    s3_module._connect.cache_clear()
    _assert_all_fail("s3://slides/a.svs", UnreachableError, "check AWS_ENDPOINT_URL")


def test_an_endpoint_that_says_nothing_ends_in_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that takes the connection and never answers: nothing hangs longer than tries times the timeout."""
    monkeypatch.setattr(s3_module, "TRIES", 2)
    monkeypatch.setattr(s3_module, "_READ_TIMEOUT_S", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        s3_module._connect.cache_clear()
        start = time.monotonic()
        with pytest.raises(UnreachableError, match="check AWS_ENDPOINT_URL"):
            objects.read_ranges("s3://slides/a.svs", [(0, 1)], etag=None)
        assert time.monotonic() - start < 20


@pytest.mark.parametrize("endpoint", ["127.0.0.1:9000", "http://"])
def test_an_endpoint_that_is_none(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(InputError, match="AWS_ENDPOINT_URL"):
        objects.stat("s3://slides/a.svs")


@pytest.mark.parametrize("uri", ["s3://", "s3:///a.svs", "s3://bucket", "s3://bucket/", "s3://no such bucket!/a"])
def test_impossible_s3_uris(uri: str) -> None:
    with pytest.raises(InputError, match="s3://"):
        objects.stat(uri)


@pytest.mark.s3
def test_a_server_killed_while_reading_and_started_again(s3: SeaweedServer) -> None:
    """Reads ride out a restart of a few seconds, and every byte is right."""
    uri, data = f"s3://{s3.bucket}/killed.svs", os.urandom(8_000_000)
    objects.write_bytes(uri, data)
    etag = objects.stat(uri).etag
    ranges = [(start, start + 2_000) for start in range(0, 7_900_000, 100_000)]
    stop = threading.Event()

    def read_on() -> int:
        rounds = 0
        while not stop.is_set():
            assert objects.read_ranges(uri, ranges, etag=etag) == [data[a:b] for a, b in ranges]
            rounds += 1
        return rounds

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read_on) for _ in range(2)]
        try:
            time.sleep(0.5)
            s3.kill()
            time.sleep(1)
        finally:
            s3.start()
        time.sleep(1)
        stop.set()
        assert all(reader.result() >= 1 for reader in readers)


@pytest.mark.s3
def test_a_connection_changes_with_the_environment(s3: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert s3_module.connect() is s3_module.connect()
    before = s3_module.connect()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    assert s3_module.connect() is not before


def test_settings_that_only_botocore_knows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config").write_text("[default]\nca_bundle = /etc/hospital.pem\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    assert s3_module.connect().ca_bundle == "/etc/hospital.pem"
