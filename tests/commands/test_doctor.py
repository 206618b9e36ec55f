"""`uadray doctor`: what is said of a machine, an output folder, a token and a cluster."""

import json
from pathlib import Path

import pytest
from command_line import run
from seaweed import SeaweedServer

from uadray.cluster.finding import Finding
from uadray.commands import doctor
from uadray.storage import objects


def test_doctor_is_content_with_this_machine() -> None:
    done = run("doctor")
    assert done.returncode == 0, done.stdout
    assert json.loads(done.stdout.splitlines()[-1]) == {"ok": True}


@pytest.mark.s3
def test_an_output_folder_that_cannot_be_used(s3_server: SeaweedServer) -> None:
    out = f"s3://{s3_server.bucket}/doctor"
    done = run("doctor", "--out", out, env=s3_server.env)
    assert done.returncode == 0, done.stdout
    assert f"ok       output: {out} can be written, read, replaced under a condition and deleted" in done.stdout
    done = run("doctor", "--out", out, env=s3_server.env | {"AWS_SECRET_ACCESS_KEY": "wrong"})
    assert done.returncode == 1
    assert json.loads(done.stdout.splitlines()[-1]) == {"ok": False}
    bad = [line for line in done.stdout.splitlines() if line.startswith("MISSING") and "SignatureDoesNotMatch" in line]
    assert [line.split()[1] for line in bad] == ["S3:", "output:"]
    assert done.stderr == ""


def test_a_cluster_that_is_not_there() -> None:
    done = run("doctor", env={"RAY_ADDRESS": "127.0.0.1:1"})
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert any("RAY_AUTH_MODE is not token" in line for line in lines)
    assert any(line.startswith("MISSING  cluster: RAY_ADDRESS=127.0.0.1:1: nothing answers there") for line in lines)


def test_the_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    file = tmp_path / ".ray" / "auth_token"
    assert f"{file} does not exist; copy the head's there" in doctor._token().message
    file.parent.mkdir()
    file.write_text("0" * 64)
    file.chmod(0o644)
    assert doctor._token() == Finding("Ray token", False, f"others may read {file}: `chmod 600 {file}`", required=False)
    file.chmod(0o600)
    assert doctor._token() == Finding("Ray token", True, f"in {file}")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    assert doctor._token().ok


@pytest.mark.ray
def test_every_node_is_looked_at(ray_cluster: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import ray

    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    _, cluster, *nodes = doctor._cluster(str(tmp_path))
    assert (cluster.what, cluster.ok) == ("cluster", True)
    assert "1 nodes, 4 CPUs" in cluster.message
    (node,) = [finding for finding in nodes if finding.required]
    assert node.ok, node
    assert node.what.startswith("node ")
    assert f"{tmp_path} can be written, read, replaced" in node.message
    assert list(objects.list_objects(str(tmp_path))) == []
