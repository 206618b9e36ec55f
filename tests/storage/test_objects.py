"""Storage: the same contract in a folder and on a real S3 server."""

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fault_proxy import FaultProxy, Request
from seaweed import SeaweedServer

from uadray.errors import (
    ChangedError,
    InputError,
)
from uadray.storage import objects

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
    assert objects.list_many(root) == list(objects.list_objects(root))
    objects.delete(uri)
    objects.delete(uri)
    assert not objects.exists(uri)


def test_many_are_listed_and_deleted_at_once(root: str) -> None:
    """More than a page; what is not there does not matter."""
    uris = [objects.join(root, f"{i:04d}.{'json' if i % 2 else 'txt'}") for i in range(1100)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda uri: objects.write_bytes(uri, b"x"), uris))
    assert sorted(info.uri for info in objects.list_many(root)) == uris
    assert sorted(info.uri for info in objects.list_many(root, suffixes=(".json",))) == uris[1::2]
    assert len(objects.list_many(root, at_most=7)) == 7
    objects.delete_all([*uris[1:], objects.join(root, "none")])
    assert [info.uri for info in objects.list_many(root)] == uris[:1]
    objects.delete_all([])
    assert objects.list_many(objects.join(root, "no such folder")) == []


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


def test_folders_are_listed_without_what_is_in_them(root: str) -> None:
    assert objects.list_folders(root) == []
    for key in ("b.txt", "a/1.txt", "a/x/2.txt", "ü 1/3.txt", "ab/4.txt"):
        objects.write_bytes(objects.join(root, key), b"x")
    assert sorted(objects.list_folders(root)) == ["a", "ab", "ü 1"]
    assert objects.list_folders(objects.join(root, "a") + "/") == ["x"]
    assert objects.list_folders(objects.join(root, "ab")) == []


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
