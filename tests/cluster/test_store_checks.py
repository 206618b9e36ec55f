"""Stores that refuse, that are others than they seem, or that do not answer, and what is said of each."""

import socket
import time
from pathlib import Path

import pytest
from seaweed import SeaweedServer

from uadray.cluster import store_checks
from uadray.cluster.finding import Finding
from uadray.storage import objects


def good(out: str) -> Finding:
    return Finding("output", True, f"{out} can be written, read, replaced under a condition and deleted")


def test_a_local_folder_and_its_marker(tmp_path: Path) -> None:
    marker = store_checks.Marker(str(tmp_path / "out" / ".m.uadray-tmp"), b"seen")
    out = str(tmp_path / "out")
    finding = store_checks.store(out, marker)
    assert not finding.ok
    assert "is another place here than on the driver's machine: mount it on every node" in finding.message
    objects.write_bytes(marker.uri, b"not")
    assert not store_checks.store(out, marker).ok
    objects.write_bytes(marker.uri, marker.content)
    assert store_checks.store(out, marker) == good(out)


@pytest.mark.s3
def test_a_store_with_wrong_credentials(s3: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    out = f"s3://{s3.bucket}/checks"
    assert store_checks.store(out) == good(out)
    assert store_checks.credentials().message == f"{s3.endpoint} takes the credentials (from env); they see 2 buckets"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    for finding in (store_checks.store(out), store_checks.credentials(), store_checks.readable([f"{out}/a.svs"])):
        assert (finding.ok, finding.required) == (False, True)
        assert "SignatureDoesNotMatch" in finding.message
        assert "AWS_SECRET_ACCESS_KEY" in finding.message
        assert "\n" not in finding.message


def test_a_bundle_in_a_folder_of_the_drivers_machine(tmp_path: Path) -> None:
    uri = str(tmp_path / "bundle.json")
    assert store_checks.readable([uri]).message == (
        f"{uri} is on the driver's machine and not here: copy it to s3:// and name it there, or mount its folder here "
        "under the same path"
    )
    objects.write_bytes(uri, b"{}")
    assert store_checks.readable([uri]).ok
    message = store_checks.readable(["no-such-folder/bundle.json"]).message
    assert message.endswith("under the same path, and name it by its full path")


@pytest.mark.s3
def test_inputs_that_cannot_be_read(s3: SeaweedServer) -> None:
    uri = f"s3://{s3.bucket}/checks/bundle.json"
    assert "no such object" in store_checks.readable([uri]).message
    objects.write_bytes(uri, b"{}")
    assert store_checks.readable([uri]).ok
    objects.delete(uri)


def test_a_store_that_keeps_silent_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """As behind a firewall that drops packets."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
        began = time.monotonic()
        for finding in (store_checks.store("s3://slides/out", timeout_s=1), store_checks.credentials(timeout_s=1)):
            assert (finding.ok, finding.required) == (False, True)
            assert "no answer within 1 s; check network, firewall" in finding.message
        assert time.monotonic() - began < 5
