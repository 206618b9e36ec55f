"""Objects in S3: what obstore asks, and where boto3 goes on."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from fault_proxy import FaultProxy, Request
from seaweed import SeaweedServer

from uadray.errors import ChangedError, NotFoundError
from uadray.storage import objects, s3_boto3, s3_client
from uadray.storage.s3 import join_ranges


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
def test_ordinary_requests_go_by_obstore_once(s3: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused conditions and missing objects too: obstore's errors tell of those."""
    monkeypatch.setattr(s3_boto3, "connect", lambda: pytest.fail("boto3 was asked"))
    uri, none = f"s3://{s3.bucket}/once", f"s3://{s3.bucket}/nothing"
    with FaultProxy(s3.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        objects.write_bytes(uri, b"old")
        etag = objects.stat(uri).etag
        assert objects.read_bytes(uri) == b"old"
        assert not objects.put_if_absent(uri, b"new")
        assert objects.replace_if_match(uri, b"new", etag)
        assert not objects.replace_if_match(uri, b"newer", etag)
        with pytest.raises(NotFoundError, match="no such object"):
            objects.read_bytes(none)
        assert not objects.exists(none)
        methods = " ".join(request.method for request in proxy.requests)
        assert methods == "PUT HEAD GET PUT PUT PUT GET HEAD GET"


@pytest.mark.s3
def test_the_type_of_the_content_is_kept(s3: SeaweedServer) -> None:
    objects.write_bytes(f"s3://{s3.bucket}/page", b"<html>", content_type="text/html")
    assert s3_client.connect().client.head_object(Bucket=s3.bucket, Key="page")["ContentType"] == "text/html"


@pytest.mark.s3
@pytest.mark.parametrize("fault", ["SlowDown", "reset", "500 InternalError"])
def test_boto3_goes_on_where_obstore_fails(s3: SeaweedServer, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    uri, new = (f"s3://{s3.bucket}/goes-on/{name}-{fault[:3]}" for name in ("a", "b"))
    objects.write_bytes(uri, b"0123")
    with FaultProxy(s3.endpoint, lambda request: fault if request.number == 1 else None) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        info = objects.stat(uri)
        assert objects.read_bytes(uri) == b"0123"
        assert objects.read_ranges(uri, [(1, 2)], etag=info.etag) == [b"1"]
        assert objects.put_if_absent(new, b"1")
        assert objects.replace_if_match(uri, b"4567", info.etag)
        assert proxy.faults[fault] >= 3
    assert objects.read_bytes(uri) == b"4567"


@pytest.mark.s3
@pytest.mark.parametrize(("written", "is_won"), [(b"mine", True), (b"theirs", False)])
@pytest.mark.parametrize("condition", ["absent", "match"])
def test_of_a_put_whose_answer_got_lost_the_content_decides(
    s3: SeaweedServer, monkeypatch: pytest.MonkeyPatch, written: bytes, is_won: bool, condition: str
) -> None:
    uri = f"s3://{s3.bucket}/lost/{condition}-{is_won}"
    if condition == "match":
        objects.write_bytes(uri, b"before")

    def fault(request: Request) -> str | None:
        if request.method != "PUT" or request.number > 1:
            return None
        objects.write_bytes(uri, written)  # the request arrived, or another writer's did
        return "reset"

    with FaultProxy(s3.endpoint, fault) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        if condition == "match":
            assert objects.replace_if_match(uri, b"mine", objects.stat(uri).etag) == is_won
        else:
            assert objects.put_if_absent(uri, b"mine") == is_won


@pytest.mark.s3
def test_a_conflict_of_two_writers_is_no_refusal(s3: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 answers 409 where a writer or a deleter is at work, and whoever gets it has to try again."""
    uri = f"s3://{s3.bucket}/conflict"
    conflict = "409 ConditionalRequestConflict"
    with FaultProxy(s3.endpoint, lambda request: conflict if request.number < 4 else None) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        assert objects.put_if_absent(uri, b"x")
        assert len(proxy.requests) == 4


FORK = """
import os, sys
from uadray.storage import objects
uri = sys.argv[1]
etag = objects.stat(uri).etag
child = os.fork()
if child == 0:
    done = objects.stat(uri).etag == etag and objects.read_ranges(uri, [(1, 3)], etag=etag) == [b"12"]
    os._exit(0 if done and not objects.put_if_absent(uri, b"x") else 1)
sys.exit(os.waitpid(child, 0)[1])
"""


@pytest.mark.s3
def test_a_fork_asks_by_boto3(s3: SeaweedServer) -> None:
    """Obstore hangs there: the threads it waits for are those of the parent."""
    uri = f"s3://{s3.bucket}/forked"
    objects.write_bytes(uri, b"0123")
    with subprocess.Popen([sys.executable, "-c", FORK, uri], start_new_session=True) as process:
        try:
            assert process.wait(timeout=30) == 0
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
