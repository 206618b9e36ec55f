"""What is said when S3 refuses, or does not answer: every way to ask fails alike."""

import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fault_proxy import FaultProxy
from seaweed import SeaweedServer, free_port

from uadray.errors import (
    AccessError,
    InputError,
    NoBucketError,
    NotFoundError,
    UnreachableError,
)
from uadray.storage import objects, s3_client


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
    monkeypatch.setattr(s3_client, "TRIES", 2)
    s3_client._connect.cache_clear()
    _assert_all_fail("s3://slides/a.svs", UnreachableError, "check AWS_ENDPOINT_URL")


def test_an_endpoint_that_says_nothing_ends_in_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that takes the connection and never answers: nothing hangs longer than tries times the timeout."""
    monkeypatch.setattr(s3_client, "TRIES", 2)
    monkeypatch.setattr(s3_client, "_READ_TIMEOUT_S", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        s3_client._connect.cache_clear()
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
